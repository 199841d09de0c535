"""Rows -> Cassandra: in batches, and one by one where a batch is refused for one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from walstream.sinks.base import TARGET_DOWN, Verdict
from walstream.sinks.cassandra.batches import Row, batches, statement
from walstream.sinks.cassandra.requests import Requests

# Requests on their way at a time; a few for each of Cassandra's 32 or more writing threads.
IN_FLIGHT = 256


class Writer:
    """Writes rows of one keyspace.

    Parameters
    ----------
    session
        A connected session of the driver.
    verdict
        What an error says (`Sink.verdict`).
    """

    def __init__(self, session: Any, keyspace: str, verdict: Callable[[BaseException], Verdict | None]) -> None:
        self._session, self._keyspace, self._verdict = session, keyspace, verdict
        self._requests = Requests(session, IN_FLIGHT)

    async def write(self, rows: Sequence[Row]) -> dict[int, Exception]:
        """Write rows, and answer with the entries that failed, and why."""
        failed: dict[int, Exception] = {}
        groups = batches(rows, self._nodes(rows[0].key)) if rows else []
        alone: list[Row] = []
        for group, error in zip(groups, await self._run(groups), strict=True):
            if error is None:
                continue
            if len(group) > 1 and self._verdict(error) is not TARGET_DOWN:
                alone.extend(group)  # one row's fault must not be the others'
            else:
                failed |= {row.entry: error for row in group}
        for row, error in zip(alone, await self._run([[row] for row in alone]), strict=True):
            if error is not None:
                failed[row.entry] = error
        return failed

    async def _run(self, groups: Sequence[Sequence[Row]]) -> list[Exception | None]:
        return await self._requests.run([statement(group) for group in groups])

    def _nodes(self, key: bytes) -> Callable[[bytes], frozenset[int] | None]:
        """What says which nodes keep a partition, one of which has this key."""
        nodes = self._replicas(key)
        if nodes is not None and len(nodes) == len(self._session.cluster.metadata.all_hosts()):
            return lambda _: nodes  # all nodes keep all partitions
        return self._replicas

    def _replicas(self, key: bytes) -> frozenset[int] | None:
        """The nodes that keep a partition, each by its object in the driver's map of the cluster."""
        return frozenset(map(id, self._session.cluster.metadata.get_replicas(self._keyspace, key))) or None
