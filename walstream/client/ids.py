"""Ids for records that are given none."""

from __future__ import annotations

import os
import time


class Ids:
    """Makes UUIDs of version 7 (RFC 9562): unique, and in the order in which they were made.

    Every millisecond starts with random bits, of which the last 48 count up (RFC 9562, 6.2, method 2, with a step of
    one), so that the time in an id stays true however many are made.
    """

    def __init__(self) -> None:
        self._milliseconds = 0
        self._start = ""
        self._count = 0

    def new(self) -> str:
        """Make the next id."""
        milliseconds = time.time_ns() // 1_000_000
        if milliseconds > self._milliseconds:
            self._milliseconds = milliseconds
            start = int.from_bytes(os.urandom(10))
            self._count = start & 0x7FFFFFFFFFFF  # 47 bits of 48: it does not overflow within a millisecond
            bits = milliseconds << 32 | 0x7 << 28 | (start >> 64 & 0xFFF) << 16 | 0b10 << 14 | start >> 48 & 0x3FFF
            text = f"{bits:020x}"
            self._start = f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:]}-"
        self._count += 1
        return f"{self._start}{self._count:012x}"
