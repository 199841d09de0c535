"""Faust's table manager, without its recovery: the tasks recover their stores themselves.

The tables stay Faust tables, so that Faust knows them, co-locates changelogs with sources, and plans standbys.
Faust's recovery waits for the offset before the high watermark, which is a transaction's marker, for ever.
"""

from __future__ import annotations

from typing import Any

import faust
from faust.tables import TableManager
from faust.types import TP

from walstream.engine.topic import FetchTopic
from walstream.engine.topology import TableSpec


def declare(app: faust.App, spec: TableSpec, partitions: int) -> faust.Table[Any, Any]:
    """Make a table known to Faust. Its rows are in the task's store, not in Faust's."""
    changelog = FetchTopic(app, topics=[spec.changelog], partitions=partitions)
    table: faust.Table[Any, Any] = faust.Table(
        app, name=spec.name, partitions=partitions, changelog_topic=changelog, store="memory://", help=spec.help
    )
    app.tables.add(table)
    return table


class Tables(TableManager):
    """Registers the changelogs with the consumer, and lets the streams go on after a rebalance."""

    app: Any

    async def on_start(self) -> None:
        await self._update_channels()

    async def _update_channels(self) -> None:
        self._tables_finalized.set()
        for table in self.values():
            if table not in self._channels:
                channel = table.changelog_topic.clone_using_queue(self.changelog_queue)
                self.app.topics.add(channel)
                self._channels[table] = channel
        self._tables_registered.set()

    def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Nothing: there is no recovery to stop."""

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        app = self.app
        await app.on_rebalance_complete.send()
        app.flow_control.resume()
        app.consumer.resume_flow()
        await app._fetcher.maybe_start()
        self.on_actives_ready()
        self.on_standbys_ready()

    async def on_stop(self) -> None:
        await self.app._fetcher.stop()

    async def wait_until_recovery_completed(self) -> bool:
        return False
