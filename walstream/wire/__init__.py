"""Kafka's record format 2 on the wire: batches as they are fetched and sent, and the records in them.

Compiled where a C compiler was there at the installation, and else in Python: the same, but slower. `COMPILED` says
which.
"""

from __future__ import annotations

try:
    from walstream.wire.compiled import (
        Record,
        RecordReader,
        RecordWriter,
        partition_of,
        plain_attempt,
        plain_entry,
        plain_event,
        plain_key,
        plain_mutation,
        plain_replica,
        record_of,
    )

    COMPILED = True
except ImportError:
    from walstream.wire.plain import (  # type: ignore[assignment]
        Record,
        RecordReader,
        RecordWriter,
        partition_of,
        plain_attempt,
        plain_entry,
        plain_event,
        plain_key,
        plain_mutation,
        plain_replica,
        record_of,
    )

    COMPILED = False

__all__ = [
    "COMPILED",
    "Record",
    "RecordReader",
    "RecordWriter",
    "partition_of",
    "plain_attempt",
    "plain_entry",
    "plain_event",
    "plain_key",
    "plain_mutation",
    "plain_replica",
    "record_of",
]
