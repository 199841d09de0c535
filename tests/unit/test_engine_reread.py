"""What is read again: all that can be read, in order, and the exact place of what cannot."""

from __future__ import annotations

import pytest
from aiokafka.structs import TopicPartition

from walstream.engine.reread import decode
from walstream.errors import Unreadable
from walstream.testing.raw_batch import RawRecord, encode_batch

TP0 = TopicPartition("topic", 0)
GOOD = RawRecord(b"key", b"value", [(b"h", b"1")])
BAD = RawRecord(b"key", b"value", [(b"b\xffd", b"2")])


def spoilt(base: int, count: int = 1) -> bytes:
    """A batch that Kafka takes, and no decoder of ours reads."""
    return encode_batch([GOOD] * count, base=base, compression="gzip", trailing=b"rubbish")


def decoded(raw: bytes, offset: int = 0) -> tuple[list[int], int, Unreadable | None]:
    batches, behind, error = decode(TP0, raw, [], offset, "group")
    return [record.offset for batch in batches for record in batch], behind, error


def test_every_batch_is_read_by_whoever_can() -> None:
    raw = encode_batch([GOOD, GOOD]) + encode_batch([GOOD, BAD, GOOD], base=2) + encode_batch([GOOD], base=9)
    assert decoded(raw) == ([0, 1, 2, 3, 4, 9], 10, None)


def test_nothing_is_at_the_end() -> None:
    assert decoded(b"", 5) == ([], 5, None)


def test_it_ends_where_no_decoder_reads() -> None:
    raw = encode_batch([BAD, GOOD]) + spoilt(2, 3) + encode_batch([GOOD], base=5)
    offsets, behind, error = decoded(raw)
    assert (offsets, behind) == ([0, 1], 2)
    text = str(error)
    assert "topic-0: offsets 2 to 4 cannot be read (BadGzipFile" in text and "Nothing is skipped" in text
    assert "--group group --topic topic:0 --reset-offsets --to-offset 5" in text


def test_a_position_inside_the_batch_that_is_unreadable() -> None:
    offsets, behind, error = decoded(spoilt(2, 3), 3)
    assert (offsets, behind) == ([], 3)
    assert "offsets 3 to 4 " in str(error)


@pytest.mark.parametrize("gap", [0, 10])
def test_a_damaged_batch_is_named_as_far_as_it_says(gap: int) -> None:
    damaged = bytearray(encode_batch([GOOD] * 3, base=2 + gap))
    damaged[-1] ^= 1
    offsets, behind, error = decoded(encode_batch([BAD, GOOD]) + bytes(damaged) + encode_batch([GOOD], base=20))
    assert (offsets, behind) == ([0, 1], 2)
    assert f"offsets 2 to {4 + gap} cannot be read (CorruptRecordException" in str(error)
    assert f"wrong checksum at offset {2 + gap}" in str(error)
