"""murmur2, with which Kafka's Java client, aiokafka and walstream choose the partition of a key.

The hash is the 32-bit MurmurHash2 of Austin Appleby (public domain) with the seed of Kafka's ``Utils.murmur2``.
librdkafka chooses the same partitions with ``partitioner=murmur2_random``.
"""

from __future__ import annotations

import struct

_SEED = 0x9747B28C
_M = 0x5BD1E995
_R = 24
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """The hash of some bytes, as an unsigned number of 32 bits (Java's is the same bits, signed)."""
    length = len(data)
    whole = length & ~3
    h = _SEED ^ length
    for k in struct.unpack_from(f"<{whole >> 2}I", data):
        k = k * _M & _MASK
        h = (h * _M ^ (k ^ k >> _R) * _M) & _MASK
    if whole != length:
        h ^= int.from_bytes(data[whole:], "little")
        h = (h * _M) & _MASK
    h ^= h >> 13
    h = (h * _M) & _MASK
    return h ^ (h >> 15)


def partition_for(key: bytes, partitions: int) -> int:
    """The partition of a key, where the topic has ``partitions`` of them.

    The sign bit is cut off before the division, as Java's ``Utils.toPositive`` does.
    """
    return (murmur2(key) & 0x7FFFFFFF) % partitions
