"""Ids for records that are given none."""

from __future__ import annotations

import os
import time


class Ids:
    """Makes UUIDs of version 7 (RFC 9562): unique, and in the order in which they were made.

    Within a millisecond a number that starts at random counts up (RFC 9562, 6.2, method 2, with a step of one), so that
    the time in an id stays true however many are made.
    """

    def __init__(self) -> None:
        self._milliseconds = 0
        self._low = 0

    def new(self) -> str:
        """Make the next id."""
        milliseconds = time.time_ns() // 1_000_000
        if milliseconds > self._milliseconds:
            self._milliseconds = milliseconds
            self._low = int.from_bytes(os.urandom(9))  # 72 of 74 bits: the counter never overflows within a millisecond
        else:
            self._low += 1
        low = self._low
        bits = self._milliseconds << 80 | 0x7 << 76 | (low >> 62) << 64 | 0b10 << 62 | low & 0x3FFFFFFFFFFFFFFF
        text = f"{bits:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
