"""Standbys: stores of partitions that are worked on elsewhere, kept up to date so that this worker can take over."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from walstream.engine.changelog import ChangelogReader, apply
from walstream.engine.store import Store
from walstream.engine.topology import TableSpec, Topology

if TYPE_CHECKING:
    from walstream.engine.engine import Engine

log = logging.getLogger(__name__)


class Standby:
    """Follows the changelogs of some partitions, from one rebalance to the next.

    Parameters
    ----------
    engine
        Gives the folder and the connection.
    parts
        The topologies and partition numbers to follow.
    """

    def __init__(self, engine: Engine, parts: list[tuple[Topology, int]]) -> None:
        self._engine = engine
        self._parts = parts
        self._stores: dict[TopicPartition, tuple[Store, dict[str, TableSpec]]] = {}
        self._runner: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; `close` ends it."""
        self._runner = asyncio.create_task(self._run(), name="walstream standby")

    async def _run(self) -> None:
        while True:
            try:
                await self._follow()
            except (KafkaError, OSError, TimeoutError) as exc:
                log.warning("standbys begin again after %r", exc)
            except Exception as exc:
                # A standby is a help, not a duty: without it the next owner recovers from the changelog.
                log.exception("standbys are off until the next rebalance: %r", exc)
                return
            finally:
                self._close_stores()
            await asyncio.sleep(1)

    async def _follow(self) -> None:
        engine = self._engine
        for topology, partition in self._parts:
            store = engine.open_store(topology, partition)
            tables = {table.changelog: table for table in topology.tables}
            for changelog in tables:
                self._stores[TopicPartition(changelog, partition)] = store, tables
        positions = {tp: store.offset(tp.topic) for tp, (store, _) in self._stores.items()}
        async with ChangelogReader(engine.connection, positions) as reader:
            while True:
                for fetch in await reader.fetch():
                    store, tables = self._stores[TopicPartition(fetch.topic, fetch.partition)]
                    apply(store, tables, fetch)
                    await asyncio.sleep(0)

    def _close_stores(self) -> None:
        for store in {id(store): store for store, _ in self._stores.values()}.values():
            store.close()
        self._stores.clear()

    async def close(self) -> None:
        """End, and release the stores."""
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
