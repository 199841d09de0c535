from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from walstream.wire import COMPILED

if TYPE_CHECKING:
    from walstream.testing.delivering import DeliveryPartition

# How long one example takes says something about the machine and what else it does, not about the code.
settings.register_profile("walstream", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("walstream")


@pytest.fixture(params=["compiled", "plain"])
def either_wire(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Records are read and written by the compiled module, and again by its twin in Python, on the whole path."""
    if request.param == "compiled" and not COMPILED:
        pytest.skip("walstream was installed without a C compiler")
    module = importlib.import_module(f"walstream.wire.{request.param}")
    monkeypatch.setattr("walstream.wire.batch.RecordReader", module.RecordReader)
    monkeypatch.setattr("walstream.wire.builder.RecordWriter", module.RecordWriter)
    monkeypatch.setattr("walstream.router.processor.plain_event", module.plain_event)
    monkeypatch.setattr("walstream.router.processor.plain_replica", module.plain_replica)
    monkeypatch.setattr("walstream.router.processor.plain_key", module.plain_key)
    monkeypatch.setattr("walstream.entry.plain_entry", module.plain_entry)
    monkeypatch.setattr("walstream.attempt.plain_attempt", module.plain_attempt)
    monkeypatch.setattr("walstream.router.delayed.record_of", module.record_of)
    monkeypatch.setattr("walstream.stored.record_of", module.record_of)
    return module


@pytest.fixture
def make_partition(tmp_path: Path) -> Iterator[Callable[..., Awaitable[DeliveryPartition]]]:
    """Make deliveries' partitions and open them; the options are those of `DeliveryPartition`."""
    from walstream.testing.delivering import DeliveryPartition

    made: list[DeliveryPartition] = []

    async def make(**options: Any) -> DeliveryPartition:
        made.append(DeliveryPartition(tmp_path / str(len(made)), **options))
        return await made[-1].open()

    yield make
    for partition in made:
        partition.close()
