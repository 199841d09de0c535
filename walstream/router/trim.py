"""Trims the topics in which records wait: below what everybody has finished, and only once their retention is over.

Nothing waiting is ever deleted by age, so Kafka's own retention is off for these topics, and this is what keeps them
from growing for ever. An adopted ingress belongs to others and is left alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from walstream import topics
from walstream.admin import Admin, Partition
from walstream.namespace import Namespace
from walstream.topics import Topic

log = logging.getLogger(__name__)


def trim_points(aged: Mapping[Partition, int], finished: Sequence[Mapping[Partition, int]]) -> dict[Partition, int]:
    """The first offset to keep of each partition.

    Parameters
    ----------
    aged
        The first offset whose retention is not over.
    finished
        What each reading group has committed. A partition for which one of them has nothing is left alone.
    """
    points = {}
    for partition, offset in aged.items():
        committed = [offsets.get(partition) for offsets in finished]
        if all(position is not None for position in committed):
            points[partition] = min([offset, *(position for position in committed if position is not None)])
    return points


def readers(namespace: Namespace, shard: str | None) -> list[tuple[Topic, list[str]]]:
    """The topics to trim, each with the groups that read it."""
    groups = {target: topics.delivery_app_id(namespace, target) for target in namespace.targets}
    read = [(topics.log(namespace), list(groups.values()))]
    read += [(topics.retry(namespace, target), [group]) for target, group in groups.items()]
    if not topics.ingress(namespace).adopted:
        read.append((topics.ingress(namespace), [topics.router_app_id(shard)]))
    return read


def trim(
    admin: Admin, namespace: Namespace, shard: str | None = None, now: float | None = None
) -> dict[Partition, int]:
    """Trim a namespace's topics.

    Parameters
    ----------
    now
        Seconds since the epoch; the present by default.

    Returns
    -------
    dict
        The first offset of each partition that was trimmed.
    """
    until = int(((time.time() if now is None else now) * 1000 - namespace.topics.retention) * 1000)
    trimmed: dict[Partition, int] = {}
    for topic, groups in readers(namespace, shard):
        partitions = [(topic.name, number) for number in range(topic.partitions)]
        points = trim_points(admin.offsets(partitions, until), [admin.committed(group, partitions) for group in groups])
        first = admin.offsets(partitions, "earliest")
        trimmed |= {partition: offset for partition, offset in points.items() if offset > first[partition]}
    admin.delete_before(trimmed)
    if trimmed:
        log.info("%s: trimmed %d partitions", namespace.name, len(trimmed))
    return trimmed
