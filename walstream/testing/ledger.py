"""The ledger: every answer that producers got, kept by whatever thread the answer comes in."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

from walstream.testing.history import Answer, Content, Written


class Ledger:
    """Collects what was written and what became of it.

    A record stands as `Answer.UNKNOWN` from `sent` until `answered` says more, so that whoever stops in between
    leaves an honest ledger.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._written: list[Written] = []

    def sent(self, content: Content, *, understood: bool = True) -> int:
        """Enter a record that is about to be handed to the client, and return its sequence number."""
        with self._lock:
            sequence = len(self._written)
            self._written.append(Written(content, sequence, Answer.UNKNOWN, understood=understood))
            return sequence

    def answered(
        self, sequence: int, answer: Answer, *, partition: int | None = None, offset: int | None = None
    ) -> None:
        """Enter the answer for a record."""
        with self._lock:
            known = self._written[sequence]
            self._written[sequence] = Written(known.content, sequence, answer, partition, offset, known.understood)

    def written(self) -> Sequence[Written]:
        """Everything so far, in the order of `sent`."""
        with self._lock:
            return list(self._written)

    def counts(self) -> Counter[Answer]:
        """How many records have which answer."""
        with self._lock:
            return Counter(written.answer for written in self._written)

    def __len__(self) -> int:
        return len(self._written)
