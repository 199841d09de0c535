"""How far the build of an index is, as it is noted at the target, and whether the index is ready.

Who builds writes notes to partition 0 of the target's retry topic, and when all rows stand there, ``ready`` to every
partition, behind them. The delivery keeps both as marks. So what is noted is known from its changelog, and what it has
not read yet from the topic itself.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import orjson

from walstream import marks, topics
from walstream.backlog import Backlog
from walstream.control import Control, Kind
from walstream.deadletter import ERROR_HEADER
from walstream.headers import CONTROL_HEADER
from walstream.indexes.pages import LEAST, MOST, RING
from walstream.marks import Noted
from walstream.namespace import Namespace
from walstream.scan import Scanner
from walstream.units import format_rfc3339

SOURCE = "walstream/index"
"""The CloudEvents source of records that a build or a repair writes."""


@dataclass(frozen=True, slots=True)
class Note:
    """How far a build is.

    Parameters
    ----------
    build
        Its name.
    began
        When, ms since the epoch.
    token
        Rows up to this token are on the retry topic; `MOST` is all.
    rows, records
        How many were read, and made of them.
    skipped
        Rows of which no mutation can be made.
    """

    build: str
    began: int
    token: int = LEAST
    rows: int = 0
    records: int = 0
    skipped: int = 0

    @property
    def share(self) -> float:
        """Of the base table."""
        return (self.token - LEAST) / RING

    @property
    def is_complete(self) -> bool:
        """Whether all rows are on the retry topic."""
        return self.token == MOST

    def control(self) -> Control:
        """The same for the target to keep."""
        return Control(Kind.NOTE, reason=orjson.dumps(self).decode())


def read_note(text: str | None) -> Note | None:
    """What was noted, or None where that is nothing of this release."""
    try:
        return Note(**orjson.loads(text or ""))
    except (TypeError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Standing:
    """How an index stands.

    Parameters
    ----------
    note
        Of the last build.
    ready
        The build behind which each partition is, and since when (ms); None where it is behind none.
    waiting
        Records of builds and repairs that are to be tried again.
    dead
        Those that the target has refused, also of earlier builds.
    """

    note: Note | None
    ready: list[tuple[str | None, int] | None]
    waiting: int
    dead: int

    @property
    def state(self) -> str:
        """``unbuilt``; ``building``; ``settling``, when all is on the retry topic; ``ready``."""
        if all(self.ready) and not self.waiting:
            return "ready"
        if self.note is None:
            return "unbuilt"
        return "settling" if self.note.is_complete else "building"

    def is_behind(self, build: str) -> bool:
        """Whether all partitions have everything of a build."""
        return all(mark is not None and mark[0] == build for mark in self.ready)

    def document(self) -> dict[str, Any]:
        """The same for JSON."""
        since = max((mark[1] for mark in self.ready if mark), default=0) if all(self.ready) else None
        build = None
        if self.note is not None:
            build = dataclasses.asdict(self.note) | {"share": round(self.note.share, 4)}
            build["began"] = format_rfc3339(self.note.began * 1000)
        return {
            "state": self.state,
            "ready_since": None if since is None else format_rfc3339(since * 1000),
            "build": build,
            "waiting": self.waiting,
            "dead": self.dead,
        }


def read_standing(scanner: Scanner, namespace: Namespace, target: str) -> Standing:
    """How an index stands now.

    Raises
    ------
    TopicMismatch, Unreachable
        Its topics do not exist, or Kafka does not answer.
    """
    numbers = range(namespace.topics.partitions)
    retries, changelog = topics.retry(namespace, target).name, topics.target_changelogs(namespace, target)["marks"]
    # What was committed is asked for first: what the delivery has taken since then is then seen twice, and never not.
    group = topics.delivery_app_id(namespace, target)
    committed = scanner.admin.committed(group, [(retries, 0)]).get((retries, 0), 0)
    rows = scanner.newest([(changelog.name, number) for number in numbers])
    found: dict[tuple[int, bytes], Noted] = {
        (place[1], name): marks.decode(Noted, row)
        for (place, name), row in rows.items()
        if name in (marks.NOTE, marks.READY)
    }
    noted = found.get((0, marks.NOTE))
    note = None if noted is None else read_note(noted.said)
    begin, end = scanner.bounds([(retries, 0)])[retries, 0]
    for message in scanner.messages({(retries, 0): (max(begin, committed), end)}):
        headers: Any = message.headers() or ()
        if headers and headers[0] == (CONTROL_HEADER, Kind.NOTE.encode()):
            note = read_note((message.value() or b"").decode(errors="replace")) or note
    ready = []
    for number in numbers:
        mark = found.get((number, marks.READY))
        ready.append(None if mark is None else (mark.said, mark.since))
    # The schedule is read behind the marks: what was taken in front of a mark is in it by then, or is done.
    waiting = sum(row.get("log_position") is None for row in Backlog(scanner, namespace, target).retrying())
    return Standing(note, ready, waiting, _dead(scanner, namespace, target))


def _dead(scanner: Scanner, namespace: Namespace, target: str) -> int:
    dlq = topics.target_dlq(namespace, target).name
    bounds = scanner.bounds([(dlq, number) for number in range(namespace.topics.partitions)])
    count = 0
    for found in scanner.records(bounds):
        names = dict(found.headers)
        count += names.get("ce_source") == SOURCE.encode() and ERROR_HEADER in names
    return count
