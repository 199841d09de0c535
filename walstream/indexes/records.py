"""Records for a target's retry topic that come from outside the log: the delivery tries them at once."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from walstream.attempt import retry_message
from walstream.entry import Entry
from walstream.headers import TIME_HEADER, Header
from walstream.indexes.standing import SOURCE
from walstream.mutation import CONTENT_TYPE
from walstream.record import Message, encode


class Shape:
    """All that such records of one type have in common.

    Parameters
    ----------
    target
        The target's full name.
    type
        The CloudEvents type.
    """

    def __init__(self, target: str, type: str) -> None:
        now = int(time.time() * 1000)
        event = encode(b"", key=None, id="id", source=SOURCE, type=type, time=None, content_type=CONTENT_TYPE)
        entry = Entry(0, -1, None, None, event.headers, now, 0, -1)
        self._headers: list[Header] = retry_message(
            entry, target=target, count=0, age=0, due=0, reason=None, first=None, now=now
        ).headers
        names = [name for name, _ in self._headers]
        self._time, self._id = names.index(TIME_HEADER), names.index("ce_id")

    def message(self, key: bytes, payload: bytes, time: int, id: bytes) -> Message:
        """A record.

        Parameters
        ----------
        time
            Its effective time, µs.
        """
        headers = self._headers.copy()
        headers[self._time] = (TIME_HEADER, b"%d" % time)
        headers[self._id] = ("ce_id", id)
        return Message(key, payload, headers)


def row_id(key: Any, time: int) -> bytes:
    """The id of what a row has of one write: the same whenever it is read."""
    return b"%s-%d" % (hashlib.blake2b(b"\0".join(key), digest_size=12).hexdigest().encode(), time)
