"""What is on its way between the stores of two regions, as their Kafkas know it, and when it has arrived.

A write is on the ingress of its region, then on the log; from there it goes to the region's own store, and to the
ingress of the other region, and so on there. What stood in these topics has passed when each group has committed beyond
it, one topic after the other: one region's, then the other's, and the first one's again, for what came from the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from walstream import topics
from walstream.admin import Admin, Partition
from walstream.connections import Connection, KafkaClusterConnection
from walstream.kafka import KafkaConnection
from walstream.namespace import REPLICATE, Namespace

POLL = 0.1
"""Seconds between two looks."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A topic, and the groups that read it.

    Parameters
    ----------
    admin
        Of its cluster.
    """

    admin: Admin
    topic: str
    groups: Sequence[str]

    def ends(self) -> dict[Partition, int]:
        """Where the partitions end that have something; none where there is no such topic."""
        found = self.admin.describe([self.topic])
        partitions = [(name, number) for name, topic in found.items() for number in range(topic.partitions)]
        begins = self.admin.offsets(partitions, "earliest")
        return {p: end for p, end in self.admin.offsets(partitions, "latest").items() if end > begins[p]}

    def is_beyond(self, ends: Mapping[Partition, int]) -> bool:
        """Whether all groups have committed these positions; one that never committed does not exist here."""
        for group in self.groups:
            committed = self.admin.committed(group, ends)
            if committed and any(committed.get(partition, -1) < end for partition, end in ends.items()):
                return False
        return True


class Passage:
    """The ways between the stores of two targets.

    Parameters
    ----------
    stages
        In the order in which a write passes them.
    regions
        Those whose Kafkas are asked, beside this one.
    monotonic, sleep
        Its clock, seconds.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        regions: Sequence[str],
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.regions = regions
        self._stages, self._monotonic, self._sleep = stages, monotonic, sleep

    def wait(self, deadline: float) -> bool:
        """Wait until all has passed that is on its way now. Blocks.

        Parameters
        ----------
        deadline
            By the clock, seconds.

        Returns
        -------
        bool
            Whether it has.

        Raises
        ------
        Unreachable
            A Kafka does not answer, or refuses.
        """
        for stage in self._stages:
            ends = stage.ends()
            while ends and not stage.is_beyond(ends):
                if self._monotonic() >= deadline:
                    return False
                self._sleep(POLL)
        return True


def passage(
    here: tuple[Namespace, str],
    there: tuple[Namespace, str],
    kafka: KafkaConnection,
    connections: Mapping[str, Connection],
    shard: str | None,
) -> Passage | None:
    """The ways between two targets' stores; None where the first one's namespace sends to no other region.

    Parameters
    ----------
    here, there
        Namespace and target of both.
    kafka
        This region's.
    connections
        The entries of this region's ``connections.yaml``.
    shard
        That of the routers which serve the namespaces.
    """
    own = _stages(*here, Admin(kafka), shard)
    others: list[Stage] = []
    regions = []
    for target in here[0].targets.values():
        if target.sink == REPLICATE:
            connection = connections[str(target.connection)]
            assert isinstance(connection, KafkaClusterConnection)  # as the configuration was checked
            others += _stages(*there, Admin(connection.kafka()), shard)
            regions.append(str(target.options["region"]))
    return Passage([*own, *others, *own], regions) if others else None


def _stages(namespace: Namespace, target: str, admin: Admin, shard: str | None) -> list[Stage]:
    sending = [name for name, words in namespace.targets.items() if words.sink == REPLICATE]
    groups = [topics.delivery_app_id(namespace, name) for name in dict.fromkeys([target, *sending])]
    return [
        Stage(admin, topics.ingress(namespace).name, [topics.router_app_id(shard)]),
        Stage(admin, topics.log(namespace).name, groups),
    ]
