"""A log sent to another region as one would do it by hand: the loop of `copy`, with the headers that travel.

Partitions keep their numbers, so keys are not hashed.
"""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.contenders.copy import PREFIX, run
from benchmarks.contenders.job import Job
from benchmarks.contenders.loop import Headers

PATH = ("walstream-path", b"east")


def sent(record: Any) -> tuple[int, Headers]:
    """The original timestamp, and the headers that travel."""
    ours = dict(record.headers[:4])
    headers: Headers = [
        ("walstream-version", ours["walstream-version"]),
        ("walstream-time", ours["walstream-time"]),
        ("walstream-timestamp", ours["walstream-timestamp"]),
        PATH,
    ]
    headers += [header for header in record.headers if not header[0].startswith(PREFIX)]
    return int(ours["walstream-timestamp"]), headers


if __name__ == "__main__":
    asyncio.run(run(Job.given(), sent))
