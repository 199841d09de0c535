"""What a contender is told: one JSON argument."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass

COMPRESSION = "lz4"
"""Of what everybody writes, since walstream's workers write so; topics keep what the producer chose."""


@dataclass(frozen=True, slots=True)
class Job:
    """Read a topic, and write what is not yet known to another.

    Parameters
    ----------
    source, output, changelog
        Topics of equally many partitions. A contender whose library names its changelog itself does not use ours.
    group
        The consumer group, or what an application is called.
    folder
        For state.
    there
        The brokers of the output, where these are others.
    """

    brokers: str
    source: str
    output: str
    changelog: str
    group: str
    folder: str
    there: str | None = None

    def argument(self) -> str:
        """As it is handed over."""
        return json.dumps(asdict(self))

    @classmethod
    def given(cls) -> Job:
        """The one of this process."""
        return cls(**json.loads(sys.argv[1]))
