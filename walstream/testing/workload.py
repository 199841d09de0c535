"""What test producers write: random CloudEvents made by hand, from a seed.

Mutations of a few rows, put and deleted, often several in one millisecond; opaque payloads for a target that takes
anything; records written twice; and, where asked for, delayed records with cancels and reschedules, and rubbish.
"""

from __future__ import annotations

import json
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from walstream.testing.history import Content, Headers

KEY = "{flight}"
STATE, EVENTS = "state", "events"
TABLES = {
    STATE: "CREATE TABLE {keyspace}.state (flight text PRIMARY KEY, seq bigint, note text)",
    EVENTS: "CREATE TABLE {keyspace}.events (flight text, seq bigint, note text, PRIMARY KEY (flight, seq))",
}
"""``state`` has a row for each key; ``events`` one for each mutation, so that a single one that is lost is missed."""

PRIMARY_KEYS = {STATE: ("flight",), EVENTS: ("flight", "seq")}


def cloud_event(
    key: bytes | None, value: bytes | None, *, id: str, source: str, type: str = "opaque", **attributes: str
) -> Content:
    """A CloudEvent in binary mode, written down header by header."""
    named = {"specversion": "1.0", "id": id, "source": source, "type": type, **attributes}
    headers: Headers = tuple((f"ce_{name}", text.encode()) for name, text in named.items())
    return Content(key, value, headers, None)


def mutation(
    flight: str, body: dict[str, object], *, id: str, source: str, time_us: int | None = None, **attributes: str
) -> Content:
    """A mutation of the row of a flight; ``body`` is the payload without ``key``, unless it says that itself."""
    if time_us is not None:
        attributes["time"] = rfc3339(time_us)
    value = json.dumps({"key": {"flight": flight}, **body}).encode()
    event = cloud_event(flight.encode(), value, id=id, source=source, type="walstream.mutation", **attributes)
    return event._replace(headers=(*event.headers, ("content-type", b"application/json")))


def rfc3339(time_us: int) -> str:
    """A time of microseconds as RFC 3339, exactly."""
    return datetime.fromtimestamp(time_us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + (
        f".{time_us % 1_000_000:06}Z"
    )


class Workload:
    """An endless sequence of records.

    Parameters
    ----------
    seed
        Equal seeds give equal records, but for times.
    source
        ``ce_source`` of all of them; one per producer.
    keys
        How many keys there are; the first gets a tenth of the records.
    again
        Share of records that are one of the last thousand, written once more.
    rubbish
        Share of records that the router must refuse.
    opaque_to
        The target that opaque payloads are meant for; None leaves them out.
    delayed
        Share of records that have a delay, a time, a jitter or an expiry. About a third as many cancels and reschedules
        are about them: newer and older ones, after the record and before it.
    longest
        The longest delay, s; the longest jitter is half of it.
    """

    def __init__(
        self,
        seed: int,
        *,
        source: str = "/test/0",
        keys: int = 40,
        again: float = 0.05,
        rubbish: float = 0.0,
        opaque_to: str | None = "copy",
        delayed: float = 0.0,
        longest: float = 3.0,
    ) -> None:
        self._random = random.Random(f"{seed} {source}")
        self._source, self._keys, self._again, self._rubbish = source, keys, again, rubbish
        self._opaque_to, self._delayed, self._longest = opaque_to, delayed, longest
        self._count = 0
        self._last_us = 0
        self._recent: deque[Content] = deque(maxlen=1_000)
        self._waiting: deque[Content] = deque(maxlen=200)  # delayed, and have a key: something may be said about them
        self._held: deque[Content] = deque()  # about which something was said before they are written

    def __iter__(self) -> Iterator[tuple[Content, bool]]:
        return self

    def __next__(self) -> tuple[Content, bool]:
        """A record, and whether it can be understood."""
        rng = self._random
        if self._recent and rng.random() < self._again:
            return rng.choice(self._recent), True
        self._count += 1
        if rng.random() < self._rubbish:
            return rng.choice(RUBBISH)(f"{self._source}/rubbish", f"{self._count}"), False
        if self._held and rng.random() < 0.3:
            content = self._held.popleft()
        elif self._waiting and rng.random() < self._delayed / 3:
            content = self._action(rng.choice(self._waiting))
        else:
            content = self._opaque() if self._opaque_to is not None and rng.random() < 0.2 else self._mutation()
            if rng.random() < self._delayed:
                content = self._later(content)
        self._recent.append(content)
        return content, True

    def _later(self, content: Content) -> Content:
        """The record with a delay; or an action about it, where it is to come later."""
        rng, now = self._random, time.time_ns() // 1_000
        attributes: dict[str, str] = rng.choice(
            (
                {"waldelay": self._amount(self._longest)},
                {"waldelay": self._amount(self._longest)},
                {"waldeliverat": rfc3339(now + self._moment())},
                {"waljitter": self._amount(self._longest / 2)},
            )
        )
        if rng.random() < 0.3:
            attributes["waljitter"] = self._amount(self._longest / 2)
        if rng.random() < 0.15:
            attributes["expirytime"] = rfc3339(now + self._moment())
        content = _with(content, attributes)
        if content.key is None:
            return content
        self._waiting.append(content)
        if rng.random() < 0.1:
            self._held.append(content)
            return self._action(content)
        return content

    def _action(self, about: Content) -> Content:
        """A cancel or a reschedule, mostly written just now, sometimes long ago or when the record was."""
        rng, now = self._random, time.time_ns() // 1_000
        self._count += 1
        given = {name: text.decode() for name, text in about.headers if name.startswith("ce_") and text is not None}
        when = rng.choice((rfc3339(now), rfc3339(now), rfc3339(now - 3_600_000_000), given.get("ce_time")))
        attributes = {"walref": given["ce_id"]} | ({} if when is None else {"time": when})
        if rng.random() < 0.5:
            attributes["walaction"] = "cancel"
        else:
            later = {"waldelay": self._amount(self._longest)}, {"waldeliverat": rfc3339(now + self._moment())}
            attributes |= {"walaction": "reschedule", **rng.choice(later)}
            if rng.random() < 0.3:
                attributes["waljitter"] = self._amount(self._longest / 2)
        return cloud_event(about.key, None, id=f"{self._count}", source=self._source, **attributes)

    def _amount(self, most: float) -> str:
        return f"PT{self._random.uniform(0, most):.3f}S"

    def _moment(self) -> int:
        """Microseconds from now, or that have passed."""
        return int(self._random.uniform(-0.3, 1) * self._longest * 1_000_000)

    def _flight(self) -> str:
        return f"{self._source}/{0 if self._random.random() < 0.1 else self._random.randrange(self._keys)}"

    def _time(self) -> int | None:
        """Mostly now, in whole milliseconds; often the same as the time before; sometimes none."""
        draw = self._random.random()
        if draw < 0.1:
            return None
        if draw < 0.7 or not self._last_us:
            self._last_us = time.time_ns() // 1_000_000 * 1_000
        return self._last_us

    def _mutation(self) -> Content:
        rng, flight = self._random, self._flight()
        note = rng.randbytes(rng.randrange(5, 80)).hex()
        body: dict[str, object]
        if rng.random() < 0.4:
            body = {"op": "put", "table": EVENTS, "key": {"flight": flight, "seq": self._count}, "set": {"note": note}}
        elif rng.random() < 0.15:
            body = {"op": "delete", "table": STATE}
        else:
            columns: dict[str, object] = {"seq": self._count, "note": rng.choice((note, note, note, None))}
            if rng.random() < 0.2:
                del columns["note"]
            body = {"op": "put", "table": STATE, "set": columns}
        return mutation(flight, body, id=f"{self._count}", source=self._source, time_us=self._time())

    def _opaque(self) -> Content:
        rng = self._random
        key = None if rng.random() < 0.1 else self._flight().encode()
        value = rng.choice((None, b"", rng.randbytes(rng.randrange(300))))
        attributes = {"waltargets": str(self._opaque_to), "traceparent": f"00-{rng.randbytes(16).hex()}-01"}
        if (time_us := self._time()) is not None:
            attributes["time"] = rfc3339(time_us)
        event = cloud_event(key, value, id=f"{self._count}", source=self._source, **attributes)
        return event._replace(
            headers=(*event.headers, ("twice", b"\xff\x00"), ("twice", None), ("walstream-time", b"1"))
        )


def _with(content: Content, attributes: Mapping[str, str]) -> Content:
    added: Headers = tuple((f"ce_{name}", text.encode()) for name, text in attributes.items())
    return content._replace(headers=content.headers + added)


def _without(content: Content, name: str) -> Content:
    return content._replace(headers=tuple(header for header in content.headers if header[0] != name))


RUBBISH: list[Callable[[str, str], Content]] = [
    lambda source, id: Content(b"k", b"\xff\xfe no event at all", (), None),
    lambda source, id: Content(None, None, (), None),
    lambda source, id: Content(b"k", b'{"specversion": "1.0"', (), None),
    lambda source, id: _without(cloud_event(b"k", b"", id=id, source=source), "ce_id"),
    lambda source, id: _without(cloud_event(b"k", b"", id=id, source=source), "ce_type"),
    lambda source, id: cloud_event(b"k", b"", id=id, source=source, specversion="7.3"),
    lambda source, id: cloud_event(b"k", b"", id=id, source=source, time="yesterday"),
    lambda source, id: cloud_event(b"k", b"", id=id, source=source, time="2013-02-30T00:00:00Z"),
    lambda source, id: cloud_event(b"k", b"", id=id, source=source, time="2999-01-01T00:00:00Z"),
    lambda source, id: cloud_event(b"k", b"", id=id, source=source, waltargets="nowhere"),
    lambda source, id: cloud_event(b"k", b"", id=id, source=source, walnonsense="1"),
    lambda source, id: cloud_event(
        b"k", b"", id=id, source=source, waldelay="PT1S", waldeliverat="2013-01-01T00:00:00Z"
    ),
    lambda source, id: cloud_event(b"k", b"", id=id, source=source, waldelay="-PT1S"),
    lambda source, id: cloud_event(b"k", b"", id=id, source=source, waldelay="P1M"),
    lambda source, id: cloud_event(b"k", b"", id=id, source=source, waldelay="P420000W"),
    lambda source, id: cloud_event(b"k", b"", id=id, source=source, waljitter="PT"),
    lambda source, id: cloud_event(b"k", b"", id=id, source=source, waldeliverat="2027-02-29T00:00:00Z"),
    lambda source, id: cloud_event(b"k", b"", id=id, source=source, walaction="cancel"),
    lambda source, id: cloud_event(b"k", b"", id=id, source=source, walaction="reschedule", walref="1"),
    lambda source, id: cloud_event(b"k", b"", id=id, source=source, walref="1"),
    lambda source, id: cloud_event(b"k", b"not JSON", id=id, source=source, type="walstream.mutation"),
    lambda source, id: mutation("wrong", {"op": "put", "table": STATE, "set": {}}, id=id, source=source)._replace(
        key=b"another key than the row's"
    ),
    lambda source, id: cloud_event(b"k", b"", id=id, source=source)._replace(
        headers=(*cloud_event(b"k", b"", id=id, source=source).headers, ("ce_id", b"a second one"))
    ),
]
"""Records that the router must refuse, each made from a source and an id."""
