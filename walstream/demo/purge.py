"""The demo's second act: the flights of a day are deleted, each after a delay with jitter; of two it is thought better.

`Purge` is what was asked for and what came of it; `Onlooker` sees it from outside, in the log and in the table.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from walstream import topics
from walstream.admin import Admin
from walstream.answers import Answer
from walstream.client import Write
from walstream.demo.chart import Curve
from walstream.demo.check import Findings
from walstream.demo.watch import Latencies
from walstream.identity import identity
from walstream.kafka import KafkaConnection
from walstream.mutation import delete
from walstream.namespace import Namespace
from walstream.pending import Outcome, due_time

DELAY, JITTER = 2, 10  # seconds
AFTER_ALL = 0.5  # seconds after the last of the others can be due: when the one goes that is rescheduled

_SECOND = 1_000_000  # µs
_POLL = 0.1  # seconds for which the log is waited for
_SAMPLE = 10  # rows of others that are looked at each time

Gone = Callable[[Collection[str]], set[str]]
"""Tells which of some flights have no row in the table."""


@dataclass
class Purge:
    """The deletes of one day, and what came of them.

    Parameters
    ----------
    day
        Such as ``2013-01-01``.
    due
        When each is due, by flight, µs since the epoch. A cancelled one is not in it, and a rescheduled one has its new
        time: as the answers say.
    at
        The write time of all of them, µs.
    written
        How many.
    kept
        The flight whose delete is to be cancelled.
    moved
        The flight whose delete is to be rescheduled.
    pending
        How many deletes the router's schedule had when they were written, and
    left
        how many in the end; None where it did not say.
    answers
        What the router answered.
    sent
        When each came into the log by the broker's clock, ms since the epoch; more than once would be wrong.
    gone
        When each row was seen to be gone, seconds since the epoch.
    early
        Flights whose rows were gone before the delete was due.
    rows
        The comparison of all rows in the end.
    """

    day: str
    at: int
    due: dict[str, int]
    written: int = 0
    kept: str = ""
    moved: str = ""
    pending: int | None = None
    left: int | None = None
    answers: list[Answer] = field(default_factory=list)
    sent: dict[str, list[int]] = field(default_factory=dict)
    gone: dict[str, float] = field(default_factory=dict)
    early: list[str] = field(default_factory=list)
    rows: Findings = field(default_factory=Findings)

    @classmethod
    def of(cls, day: str, flights: Sequence[str], source: str) -> Purge:
        """Plan the deletes of these flights, written now. The two that are due last are for second thoughts."""
        at = time.time_ns() // 1000
        due = {
            flight: due_time(
                at, identity(flight.encode(), source, id_of(flight)), DELAY * _SECOND, None, JITTER * _SECOND
            )
            for flight in flights
        }
        *_, moved, kept = sorted(due, key=due.__getitem__)
        return cls(day, at, due, len(due), kept, moved)

    def writes(self) -> list[Write]:
        """The deletes, as they are handed to the client."""
        return [
            Write(delete(key={"flight": flight}), id=id_of(flight), time=self.at, delay=DELAY, jitter=JITTER)
            for flight in self.due
        ]

    @property
    def moved_to(self) -> int:
        """For when the one is rescheduled, µs since the epoch."""
        return self.at + int((DELAY + JITTER + AFTER_ALL) * _SECOND)

    def answered(self, flight: str, answer: Answer) -> None:
        """Take up what the router says to a cancel or reschedule."""
        self.answers.append(answer)
        if answer.outcome is Outcome.CANCELLED:
            del self.due[flight]
        elif answer.outcome is Outcome.RESCHEDULED and answer.due is not None:
            self.due[flight] = answer.due

    @property
    def waiting(self) -> int:
        """How many are still to be seen to be gone."""
        return len(self.due.keys() - self.gone.keys())

    def curve(self) -> Curve:
        """How many rows went in each half second."""
        begin = self.at / _SECOND
        return Curve.of([at - begin for at in self.gone.values()], at_once=self.written, delay=DELAY, jitter=JITTER)

    def lateness(self) -> Latencies:
        """From when each was due until it was in the log. The broker's clock tells whole milliseconds."""
        late = Latencies()
        for flight, times in self.sent.items():
            if flight in self.due:
                late.add(times[0] - self.due[flight] / 1000)
        return late

    def came(self) -> Findings:
        """Whether each that was not cancelled came into the log once, and none early."""
        findings = Findings()
        for flight, due in self.due.items():
            times = self.sent.get(flight, [])
            if len(times) != 1:
                findings.add(f"the delete of {flight} came {len(times)} times")
            elif times[0] < due // 1000:
                findings.add(f"the delete of {flight} came {due / 1000 - times[0]:.0f} ms before it was due")
            else:
                findings.right += 1
        for flight in self.sent.keys() - self.due.keys():
            findings.add(f"the delete of {flight} came, and should not have")
        return findings

    @property
    def problems(self) -> list[str]:
        """What is wrong, in words; nothing if all is right."""
        found = self.came().problems + [f"row {problem} (after the deletes)" for problem in self.rows.problems]
        found += [f"{flight} was gone from the table before its delete was due" for flight in self.early]
        outcomes = [answer.outcome.value for answer in self.answers]
        if outcomes != ["cancelled", "rescheduled"]:
            found.append(f"a cancel and a reschedule were answered: {', '.join(outcomes) or 'not at all'}")
        if self.left != 0:
            found.append("the schedule still has rows" if self.left else "what the schedule has was not to be seen")
        if not found and not (self.came().ok and self.rows.ok):
            found.append("there was nothing to compare after the deletes")
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "day": self.day, "written": self.written, "pending": self.pending, "left": self.left,
            "answers": [asdict(answer) for answer in self.answers],
            "came": asdict(self.came()), "rows": asdict(self.rows),
            "late_ms": self.lateness().summary(), "gone_per_half_second": self.curve().came,
        }  # fmt: skip


class Onlooker:
    """Sees the deletes come into the log, and their rows go.

    Parameters
    ----------
    purge
        Where what it sees is kept.
    gone
        Looks into the table.
    """

    def __init__(self, purge: Purge, gone: Gone) -> None:
        self._purge, self._gone = purge, gone
        self._flights = {id_of(flight).encode(): flight for flight in purge.due}
        self._followed: set[str] = set()  # in the log, and not yet seen to be gone
        self._consumer: Consumer

    @contextmanager
    def looking(self, kafka: KafkaConnection, namespace: Namespace) -> Iterator[None]:
        """Look on at what comes into the log from now on, for the length of a with statement."""
        log = topics.log(namespace).name
        ends = Admin(kafka).offsets([(log, number) for number in range(namespace.topics.partitions)], "latest")
        self._consumer = Consumer(
            kafka.librdkafka()
            | {
                "group.id": "walstream-demo",  # needed by the client; nothing is committed
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "log_level": 2,
            }
        )
        try:
            self._consumer.assign([TopicPartition(*partition, end) for partition, end in ends.items()])
            yield
        finally:
            self._consumer.close()

    def look(self) -> None:
        """See what has come into the log, which is waited for a little, and which of those rows are gone."""
        for message in self._consumer.consume(2_000, timeout=_POLL):
            error = message.error()
            if error is not None:
                if error.fatal() or not error.retriable():
                    raise KafkaException(error)
                continue
            headers: dict[str, Any] = dict(message.headers() or ())
            flight = self._flights.get(headers.get("ce_id", b""))
            if flight is not None:
                self._purge.sent.setdefault(flight, []).append(message.timestamp()[1])
                self._followed.add(flight)
        self._look_at_rows()

    def _look_at_rows(self) -> None:
        """See which rows are gone of those whose delete is in the log, and of some whose delete should not be."""
        others = [flight for flight in self._purge.due if flight not in self._purge.sent]
        sample = set(random.sample(others, min(_SAMPLE, len(others))))
        gone = self._gone(self._followed | sample)
        now = time.time()  # afterwards: so what falls due meanwhile is not taken for early
        self._purge.early += [flight for flight in gone & sample if self._purge.due[flight] > now * _SECOND]
        self._purge.gone.update(dict.fromkeys(gone & self._followed, now))
        self._followed -= gone


def id_of(flight: str) -> str:
    """The id of a flight's delete, by which it can be cancelled."""
    return f"{flight}/deleted"
