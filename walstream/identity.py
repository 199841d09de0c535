"""The identity of a record: 16 bytes that stand for its key, source and id.

CloudEvents makes source and id together unique; deduplication is by partition and so by key, which is why the key
belongs to it. The bytes are stored in dedup tables and travel between regions, so how they are made is fixed for ever.
"""

from __future__ import annotations

from hashlib import blake2b

SIZE = 16
"""Bytes of an identity. At 128 bits two of 10^12 identities meet with a probability of 10^-15."""


def identity(key: bytes | None, source: str | bytes, id: str | bytes) -> bytes:
    """The identity of a record.

    Parameters
    ----------
    key
        The record's key; no key is something else than an empty one.
    source, id
        The CloudEvents attributes, as text or as the UTF-8 of it.

    Returns
    -------
    bytes
        BLAKE2b of 16 bytes over ``<length of key> <length of source> `` (decimal, in bytes; ``-1`` for no key),
        followed by key, source and id.
    """
    if isinstance(source, str):
        source = source.encode()
    if isinstance(id, str):
        id = id.encode()
    if key is None:
        return blake2b(b"-1 %d %b%b" % (len(source), source, id), digest_size=SIZE).digest()
    return blake2b(b"%d %d %b%b%b" % (len(key), len(source), key, source, id), digest_size=SIZE).digest()
