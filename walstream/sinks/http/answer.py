"""An HTTP answer -> what became of the entry.

=================================== ===================================================================================
status                              so
=================================== ===================================================================================
208                                 skipped: the application has it already
other 2xx                           applied
409                                 tried again: the application still works on the same ``Idempotency-Key``; or
                                    skipped, where the target says ``conflict: skip``
408, 423, 425, 429                  tried again
503                                 the target is down
502, 504                            the target is down where the application answered nothing else meanwhile; else
                                    tried again: a gateway says that it is not there, or does not answer
other 5xx                           tried again
401, 407                            the target is down: it does not take our credentials
3xx                                 the target is down: it is somewhere else
other 4xx                           dead
=================================== ===================================================================================

``Retry-After`` is honoured with each that is tried again, and with 502, 503 and 504.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from walstream.sinks.base import APPLIED, SKIPPED, Dead, Outcome, Retry, TargetDown

EXCERPT = 300
"""Characters of an answer's body that a reason quotes."""

_RETRIED = frozenset({408, 423, 425, 429})
_REFUSED = frozenset({401, 407})
_GATEWAY = frozenset({502, 504})
_SECONDS = re.compile(r"[0-9]{1,9}")


class Unreached(TargetDown):
    """A gateway says that it has no answer of the application: of this request, or of any."""


class Answer(NamedTuple):
    """An HTTP answer.

    Parameters
    ----------
    headers
        Looked up without regard to case.
    body
        Its beginning.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


def outcome(answer: Answer, now: datetime, *, conflict_skips: bool) -> Outcome:
    """What an answer says of its entry.

    Parameters
    ----------
    now
        When it came.
    conflict_skips
        Whether 409 means that the application has the entry already.

    Raises
    ------
    TargetDown
        It says something about the whole target; `Unreached`, if others are answered, about this entry only.
    """
    status = answer.status
    if status == 208 or (status == 409 and conflict_skips):
        return SKIPPED
    if 200 <= status < 300:
        return APPLIED
    reason = f"HTTP {status}"
    if excerpt := " ".join(answer.body.decode(errors="replace").split())[:EXCERPT]:
        reason += f": {excerpt}"
    if status == 503:
        raise TargetDown(reason, retry_after(answer.headers, now))
    if status in _GATEWAY:
        raise Unreached(reason, retry_after(answer.headers, now))
    if status in _REFUSED:
        raise TargetDown(f"the credentials of the connection are not taken: {reason}")
    if 300 <= status < 400:
        where = answer.headers.get("Location", "another place")
        raise TargetDown(f"HTTP {status}: it is at {where[:EXCERPT]}; correct the url or the path")
    if status >= 500 or status == 409 or status in _RETRIED:
        return Retry(reason, retry_after(answer.headers, now))
    return Dead(reason)


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds to wait by the header ``Retry-After`` (RFC 9110, 10.2.3): a number of seconds, or a date.

    A date counts from the answer's own ``Date``, where it has one, so that the two clocks need not agree. What
    cannot be read is left out.
    """
    said = headers.get("Retry-After")
    if said is None:
        return None
    if _SECONDS.fullmatch(said.strip()):
        return float(said)
    until, since = _date(said), _date(headers.get("Date", "")) or now
    return None if until is None else max(0.0, (until - since).total_seconds())


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found
