"""Requests of Kafka's second transaction protocol, which aiokafka does not know.

With it a partition, or a group's offsets, becomes part of a transaction by what is written to it. So two of the five
requests of a transaction are not needed; and each transaction has a producer epoch of its own, which the answer to its
end tells. A cluster speaks it when its feature ``transaction.version`` is 2, as it is where it began with Kafka 4.

Sources: KIP-890 (the protocol), KIP-482 (compact fields and tags), KIP-584 (features), and the message definitions of
Kafka 4.1 (``clients/src/main/resources/common/message``).
"""

# mypy: disable-error-code="misc"
# aiokafka has no types, and requests are classes of its.
from __future__ import annotations

import io
from typing import Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.api import Request, RequestStruct, Response, ResponseHeader_v0
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactBytes,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

FEATURE: Final = "transaction.version"
SECOND: Final = 2
NO_TAGS: Final[dict[int, bytes]] = {}
FINALIZED: Final = 2
"""The tag of an answer to ``ApiVersions`` under which the features of the cluster stand."""

_text = CompactString("utf-8")
_tags = ("tags", TaggedFields)


class _ApiVersionsAnswer(Response):
    API_KEY = 18
    API_VERSION = 3
    SCHEMA = Schema(
        ("error_code", Int16),
        ("api_keys", CompactArray(("api_key", Int16), ("min_version", Int16), ("max_version", Int16), _tags)),
        ("throttle_time_ms", Int32),
        _tags,
    )


class _ApiVersions(RequestStruct):
    API_KEY = 18
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _ApiVersionsAnswer
    SCHEMA = Schema(("client_software_name", _text), ("client_software_version", _text), _tags)

    def parse_response_header(self, read_buffer: Any) -> Any:
        return ResponseHeader_v0.decode(read_buffer)  # in the form that every client can read


class FeaturesRequest(Request[_ApiVersions]):
    """Asks a broker for the features of its cluster; see `features`."""

    API_KEY = 18

    def build(self, request_struct_class: type[_ApiVersions]) -> _ApiVersions:
        return request_struct_class("walstream", "1", NO_TAGS)


class _ProduceAnswer(Response):
    API_KEY = 0
    API_VERSION = 12
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(
                ("topic", _text),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("offset", Int64),
                        ("timestamp", Int64),
                        ("log_start_offset", Int64),
                        ("record_errors", CompactArray(("batch_index", Int32), ("message", _text), _tags)),
                        ("error_message", _text),
                        _tags,
                    ),
                ),
                _tags,
            ),
        ),
        ("throttle_time_ms", Int32),
        _tags,
    )


class _Produce(RequestStruct):
    API_KEY = 0
    API_VERSION = 12
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _ProduceAnswer
    SCHEMA = Schema(
        ("transactional_id", _text),
        ("required_acks", Int16),
        ("timeout", Int32),
        (
            "topics",
            CompactArray(
                ("topic", _text),
                ("partitions", CompactArray(("partition", Int32), ("records", CompactBytes), _tags)),
                _tags,
            ),
        ),
        _tags,
    )


class ProduceRequest(Request[_Produce]):
    """Writes a batch to each of some partitions, which become part of the transaction.

    Parameters
    ----------
    timeout
        ms.
    topics
        By topic the numbers of its partitions, each with a record batch.
    """

    API_KEY = 0
    required_acks = -1

    def __init__(self, transactional_id: str, timeout: int, topics: list[tuple[str, list[tuple[int, bytes]]]]) -> None:
        self._transactional_id, self._timeout, self._topics = transactional_id, timeout, topics

    def build(self, request_struct_class: type[_Produce]) -> _Produce:
        topics = [(topic, [(*part, NO_TAGS) for part in parts], NO_TAGS) for topic, parts in self._topics]
        return request_struct_class(self._transactional_id, self.required_acks, self._timeout, topics, NO_TAGS)


class _TxnOffsetCommitAnswer(Response):
    API_KEY = 28
    API_VERSION = 5
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "errors",
            CompactArray(
                ("topic", _text),
                ("partition_errors", CompactArray(("partition", Int32), ("error_code", Int16), _tags)),
                _tags,
            ),
        ),
        _tags,
    )


class _TxnOffsetCommit(RequestStruct):
    API_KEY = 28
    API_VERSION = 5
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _TxnOffsetCommitAnswer
    SCHEMA = Schema(
        ("transactional_id", _text),
        ("group_id", _text),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation_id", Int32),
        ("member_id", _text),
        ("group_instance_id", _text),
        (
            "topics",
            CompactArray(
                ("topic", _text),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32), ("offset", Int64), ("leader_epoch", Int32), ("metadata", _text), _tags
                    ),
                ),
                _tags,
            ),
        ),
        _tags,
    )


class TxnOffsetCommitRequest(Request[_TxnOffsetCommit]):
    """Commits offsets of a group, which become part of the transaction.

    Parameters
    ----------
    topics
        By topic the numbers of its partitions, each with its offset and a note.
    """

    API_KEY = 28

    def __init__(
        self,
        transactional_id: str,
        group: str,
        producer_id: int,
        epoch: int,
        topics: list[tuple[str, list[tuple[int, int, str]]]],
    ) -> None:
        self._first = transactional_id, group, producer_id, epoch
        self._topics = topics

    def build(self, request_struct_class: type[_TxnOffsetCommit]) -> _TxnOffsetCommit:
        topics = [
            (topic, [(number, offset, -1, note, NO_TAGS) for number, offset, note in parts], NO_TAGS)
            for topic, parts in self._topics
        ]
        # Of no generation and no member: it is the epoch that fences.
        return request_struct_class(*self._first, -1, "", None, topics, NO_TAGS)


class _EndTxnAnswer(Response):
    API_KEY = 26
    API_VERSION = 5
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        _tags,
    )


class _EndTxn(RequestStruct):
    API_KEY = 26
    API_VERSION = 5
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _EndTxnAnswer
    SCHEMA = Schema(
        ("transactional_id", _text),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("committed", Boolean),
        _tags,
    )


class EndTxnRequest(Request[_EndTxn]):
    """Commits a transaction; the answer has the producer's id and epoch for the next one."""

    API_KEY = 26

    def __init__(self, transactional_id: str, producer_id: int, epoch: int) -> None:
        self._fields = transactional_id, producer_id, epoch

    def build(self, request_struct_class: type[_EndTxn]) -> _EndTxn:
        return request_struct_class(*self._fields, True, NO_TAGS)


async def features(client: AIOKafkaClient) -> dict[str, int]:
    """The features that a cluster has, each with its level; none where a broker cannot tell.

    Raises
    ------
    KafkaError
        No broker answers.
    """
    try:
        answer = await client.send(client.get_random_node(), FeaturesRequest())
    except NotImplementedError:  # as aiokafka says that the broker is too old for it
        return {}
    return _levels(dict(answer.tags).get(FINALIZED))


def _levels(tagged: bytes | None) -> dict[str, int]:
    if tagged is None:
        return {}
    levels = CompactArray(("name", _text), ("max_level", Int16), ("min_level", Int16), _tags)
    return {name: level for name, level, *_ in levels.decode(io.BytesIO(tagged)) or ()}
