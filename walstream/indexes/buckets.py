"""Two sets of things compared in constant memory: by sums of their digests, in buckets."""

from __future__ import annotations

import hashlib
import marshal
import zlib
from array import array
from collections.abc import Iterator, Sequence

BUCKETS = 1 << 20
"""How many, in 60 MB at most. Of a million rows few share one, so that few are looked at for one that differs."""

Parts = tuple[bytes | None, ...]


def bucket_of(key: Sequence[bytes], count: int = BUCKETS) -> int:
    """The bucket of everything that belongs to a key."""
    return zlib.crc32(b"\0".join(key)) % count


class Buckets:
    """What is in one set and not in the other, as sums of digests of 128 bits, bucket by bucket.

    What is in both adds nothing, in whatever order it comes; two sets that differ are taken for equal with a
    probability of 2^-128 a bucket.
    """

    def __init__(self, count: int = BUCKETS) -> None:
        self._sums, self._sizes = [0] * count, array("Q", bytes(8 * count))

    def add(self, bucket: int, parts: Parts) -> None:
        """A thing of the first set."""
        self._sums[bucket] += _digest(parts)
        self._sizes[bucket] += 1

    def take(self, bucket: int, parts: Parts) -> None:
        """A thing of the second set."""
        self._sums[bucket] -= _digest(parts)
        self._sizes[bucket] += 1

    def differing(self, portion: int) -> Iterator[set[int]]:
        """The buckets in which the sets differ, in groups that have about so many things each."""
        group: set[int] = set()
        size = 0
        for bucket, total in enumerate(self._sums):
            if total:
                group.add(bucket)
                size += self._sizes[bucket]
                if size >= portion:
                    yield group
                    group, size = set(), 0
        if group:
            yield group


def _digest(parts: Parts) -> int:
    # Version 2 of the format names each part's size, and knows no references, which would depend on identities.
    return int.from_bytes(hashlib.blake2b(marshal.dumps(parts, 2), digest_size=16).digest(), "big")
