"""Reads what is left of a fetch once more, where aiokafka could not decode it.

aiokafka does not give out the bytes that it fetched, so they are fetched again. Batches that it can decode are decoded
by it; the others by `record_batch`, which can do more. What it cannot read either is kept apart, so that all before it
can be finished first.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.errors import KafkaError, LeaderNotAvailableError, NoError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from walstream.engine.fetch import Broken, Fetch, KafkaRecord, read_batches
from walstream.engine.record_batch import decode_batch, last_offset, split_batches
from walstream.errors import Unreadable

log = logging.getLogger(__name__)

FETCH_SIZE = 1 << 20  # bytes; a batch that is larger comes whole
REQUEST_TIMEOUT = 15_000  # ms


async def reread(connection: Mapping[str, Any], fetch: Fetch, group: str) -> list[Fetch]:
    """Read the rest of a fetch again.

    Parameters
    ----------
    connection
        Options for aiokafka that say how to reach the cluster.
    fetch
        A fetch that raised `Unreadable`. What was taken out of it does not come again.
    group
        The consumer group, for the message of what cannot be read.

    Returns
    -------
    list
        What stands for it, in order: a fetch with all that can be read up to the first batch that cannot, and, if there
        is such a one, a fetch that raises `Unreadable` for exactly its offsets.

    Raises
    ------
    KafkaError, OSError
        The broker did not answer, or not with these records.
    """
    tp = TopicPartition(fetch.topic, fetch.partition)
    batches: list[Sequence[KafkaRecord]] = []
    position, broken = fetch.position, None
    client = AIOKafkaClient(**connection, client_id=f"{group}.reread", request_timeout_ms=REQUEST_TIMEOUT)
    try:
        await client.bootstrap()
        await client._wait_on_metadata(tp.topic)
        while position < fetch.next_offset and broken is None:
            raw, aborted = await _fetch(client, tp, position)
            decoded, behind, broken = decode(tp, raw, aborted, position, group)
            if behind == position and broken is None:
                raise KafkaError(f"{tp.topic}-{tp.partition} has nothing at offset {position} any more")
            batches += decoded
            position = behind
    finally:
        await client.close()
    end = min(position, fetch.next_offset)
    kept = [[record for record in batch if fetch.position <= record.offset < end] for batch in batches]
    misnamed = sum(bool(getattr(record, "misnamed", ())) for batch in kept for record in batch)
    log.warning(
        "%s-%d: offsets %d to %d were read again; %d records have headers whose names are not UTF-8",
        tp.topic, tp.partition, fetch.position, end - 1, misnamed,
    )  # fmt: skip
    parts = []
    if end > fetch.position:
        parts.append(Fetch(tp.topic, tp.partition, fetch.position, end, kept, fetch.size, fetch.epoch, is_reread=True))
    if broken is not None and end < fetch.next_offset:
        parts.append(
            Fetch(tp.topic, tp.partition, end, fetch.next_offset, [Broken(broken)], 0, fetch.epoch, is_reread=True)
        )
    return parts


async def _fetch(client: AIOKafkaClient, tp: TopicPartition, offset: int) -> tuple[bytes, list[tuple[int, int]]]:
    """Fetch bytes from an offset on, and the aborted transactions among them: producer and first offset."""
    leader = client.cluster.leader_for_partition(tp)
    if leader is None or leader == -1:
        raise LeaderNotAvailableError(f"{tp.topic}-{tp.partition} has no leader")
    partitions = [(tp.topic, [(tp.partition, offset, FETCH_SIZE)])]
    response = await client.send(leader, FetchRequest(0, 1, FETCH_SIZE, READ_COMMITTED, partitions))
    ((_, (answer,)),) = response.topics
    _, error_code, *_, raw = answer
    if (error := for_code(error_code)) is not NoError:
        raise error(f"{tp.topic}-{tp.partition} at offset {offset}")
    aborted = answer[5] if response.API_VERSION >= 5 else answer[4]
    return bytes(raw or b""), aborted or []


def decode(
    tp: TopicPartition, raw: bytes, aborted: list[tuple[int, int]], offset: int, group: str
) -> tuple[list[Sequence[KafkaRecord]], int, Unreadable | None]:
    """Decode what a broker sent, markers and aborted transactions left out.

    Parameters
    ----------
    raw, aborted
        Whole batches, perhaps with a part of one behind them, and the aborted transactions.
    offset
        What was asked for.
    group
        The consumer group, for the message of what cannot be read.

    Returns
    -------
    tuple
        The records by batch; the position behind them; and the error where the batch at this position is unreadable.
    """
    pieces = split_batches(raw)
    part = PartitionRecords(tp, MemoryRecords(raw), aborted, offset, None, None, True, READ_COMMITTED)
    decoded: list[Sequence[KafkaRecord]] = []
    for batch in read_batches(part):
        try:
            decoded.append(list(batch))
            continue
        except Exception as exc:
            cause = exc
        if isinstance(batch, Broken):
            # It is damaged, and begins where the one before it ends; gaps are nobody's. Its length is a guess.
            first = part.next_fetch_offset - 1
            ends = (last_offset(piece) for piece in pieces.values())
            last = next((last for last in ends if last >= first), first)
            return decoded, first, _unreadable(tp, first, last, cause, group)
        try:
            decoded.append(decode_batch(pieces[batch.base_offset]))
        except Exception as exc:
            first = max(batch.base_offset, offset)
            return decoded, first, _unreadable(tp, first, batch.next_offset - 1, exc, group)
    return decoded, part.next_fetch_offset, None


def _unreadable(tp: TopicPartition, first: int, last: int, cause: Exception, group: str) -> Unreadable:
    return Unreadable(
        f"{tp.topic}-{tp.partition}", first, last, cause,
        "all before them is done. If another replica of the partition is sound, make it the leader. To give them up, "
        f"stop the workers of the group, and: kafka-consumer-groups.sh --bootstrap-server … --group {group} "
        f"--topic {tp.topic}:{tp.partition} --reset-offsets --to-offset {last + 1} --execute",
    )  # fmt: skip
