"""walstream: a write-ahead log that any datastore can stand behind.

Everything public is here; modules below may change. Names are imported when they are first used, so that a program
loads only the libraries that it needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from walstream.answers import Answer
    from walstream.client.asynchronous import AsyncClient
    from walstream.client.blocking import Client
    from walstream.client.receipt import Durable, Receipt
    from walstream.client.write import Write
    from walstream.entry import Entry
    from walstream.errors import ConfigurationError, NotDurable, RecordRefused, WalstreamError
    from walstream.kafka import KafkaConnection
    from walstream.mutation import Mutation, delete, put
    from walstream.sinks.base import (
        APPLIED,
        DEAD,
        RETRY,
        SKIPPED,
        TARGET_DOWN,
        UNTRIED,
        Applied,
        Dead,
        Retry,
        Sink,
        StatefulSink,
        TargetDown,
    )
    from walstream.sinks.source.base import Found, Gone, Source, Wanted

__version__ = "0.1.0"

__all__ = [
    "APPLIED",
    "DEAD",
    "RETRY",
    "SKIPPED",
    "TARGET_DOWN",
    "UNTRIED",
    "Answer",
    "Applied",
    "AsyncClient",
    "Client",
    "ConfigurationError",
    "Dead",
    "Durable",
    "Entry",
    "Found",
    "Gone",
    "KafkaConnection",
    "Mutation",
    "NotDurable",
    "Receipt",
    "RecordRefused",
    "Retry",
    "Sink",
    "Source",
    "StatefulSink",
    "TargetDown",
    "WalstreamError",
    "Wanted",
    "Write",
    "__version__",
    "delete",
    "put",
]

_MODULES = {
    "answers": ("Answer",),
    "client.asynchronous": ("AsyncClient",),
    "client.blocking": ("Client",),
    "client.receipt": ("Durable", "Receipt"),
    "client.write": ("Write",),
    "errors": ("ConfigurationError", "NotDurable", "RecordRefused", "WalstreamError"),
    "kafka": ("KafkaConnection",),
    "mutation": ("Mutation", "delete", "put"),
    "entry": ("Entry",),
    "sinks.base": (
        "APPLIED",
        "DEAD",
        "RETRY",
        "SKIPPED",
        "UNTRIED",
        "TARGET_DOWN",
        "Applied",
        "Dead",
        "Retry",
        "Sink",
        "StatefulSink",
        "TargetDown",
    ),
    "sinks.source.base": ("Found", "Gone", "Source", "Wanted"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
