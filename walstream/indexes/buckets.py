"""Two sets of things compared in constant memory: by sums of their digests, in buckets."""

from __future__ import annotations

import hashlib
import struct
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence

BUCKETS = 1 << 20
"""How many, in 24 MiB. Of a million rows few share one, so that for one that differs few others are looked at."""

_HALVES = struct.Struct("<QQ").unpack
_SIZES = [struct.pack("<i", size) for size in range(-1, 256)]
_MASK = (1 << 64) - 1

Parts = Iterable[bytes | None]


def bucket_of(key: Sequence[bytes], count: int = BUCKETS) -> int:
    """The bucket of everything that belongs to a key."""
    return zlib.crc32(b"\0".join(key)) % count


class Buckets:
    """What is in one set and not in the other, as sums of digests of 128 bits, bucket by bucket.

    What is in both adds nothing, in whatever order it comes; two sets that differ are taken for equal with a
    probability of 2^-128 a bucket.
    """

    def __init__(self, count: int = BUCKETS) -> None:
        self.count = count
        self._low, self._high = array("Q", bytes(8 * count)), array("Q", bytes(8 * count))
        self._size = array("Q", bytes(8 * count))

    def add(self, bucket: int, parts: Parts) -> None:
        """A thing of the first set."""
        low, high = _HALVES(_digest(parts))
        self._low[bucket] = (self._low[bucket] + low) & _MASK
        self._high[bucket] = (self._high[bucket] + high) & _MASK
        self._size[bucket] += 1

    def take(self, bucket: int, parts: Parts) -> None:
        """A thing of the second set."""
        low, high = _HALVES(_digest(parts))
        self._low[bucket] = (self._low[bucket] - low) & _MASK
        self._high[bucket] = (self._high[bucket] - high) & _MASK
        self._size[bucket] += 1

    def differing(self, portion: int) -> Iterator[set[int]]:
        """The buckets in which the sets differ, in groups that have about so many things each."""
        group: set[int] = set()
        size = 0
        nothing = bytes(8 * self.count)
        if self._low.tobytes() == nothing and self._high.tobytes() == nothing:
            return
        for bucket, (low, high) in enumerate(zip(self._low, self._high, strict=True)):
            if low or high:
                group.add(bucket)
                size += self._size[bucket]
                if size >= portion:
                    yield group
                    group, size = set(), 0
        if group:
            yield group


def _digest(parts: Parts) -> bytes:
    """Of parts, each with its size in front of it, so that no two lists have the same bytes."""
    joined = []
    for part in parts:
        if part is None:
            joined.append(_SIZES[0])
        else:
            size = len(part)
            joined.append(_SIZES[size + 1] if size < 256 else struct.pack("<i", size))
            joined.append(part)
    return hashlib.blake2b(b"".join(joined), digest_size=16).digest()
