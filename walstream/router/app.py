"""The router's Faust app: which namespaces it serves, and what it does for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry

from walstream import topics
from walstream.admin import Admin
from walstream.config import load_namespaces
from walstream.engine.app import App, make_app
from walstream.engine.topology import Topology
from walstream.errors import ConfigurationError
from walstream.kafka import KafkaConnection
from walstream.metrics import serve
from walstream.namespace import Namespace
from walstream.preflight import preflight
from walstream.router import tables
from walstream.router.metrics import RouterMetrics
from walstream.router.processor import RouterProcessor
from walstream.router.trim import trim
from walstream.settings import Settings


def topology(
    namespace: Namespace,
    rank: int,
    metrics: RouterMetrics,
    upkeep: Callable[[], object] | None = None,
    region: str | None = None,
) -> Topology:
    """What the router does for a namespace, with what it does now and then."""
    return Topology(
        name=f"router.{namespace.name}",
        sources=(topics.ingress(namespace).name,),
        partitions=namespace.topics.partitions,
        tables=tables.specs(namespace),
        processor=lambda partition: RouterProcessor(namespace, partition, rank, metrics, region),
        tracked=(topics.log(namespace).name,),
        upkeep=upkeep,
        latency=namespace.latency,
    )  # fmt: skip


def served(settings: Settings) -> Mapping[str, Namespace]:
    """The namespaces that a router serves: those of `WALSTREAM_NAMESPACES`, or all.

    Raises
    ------
    ConfigurationError
        There is none, or one that was named does not exist.
    """
    namespaces = load_namespaces(settings.config)
    if settings.namespaces:
        if missing := sorted(set(settings.namespaces) - set(namespaces)):
            raise ConfigurationError(
                f"WALSTREAM_NAMESPACES names {', '.join(missing)}, and {settings.config} has no such namespace",
                remedy=f"name some of: {', '.join(sorted(namespaces))}",
            )
        namespaces = {name: namespaces[name] for name in settings.namespaces}
    if not namespaces:
        raise ConfigurationError(f"{settings.config} has no namespace", remedy="make one with: walstream init NAME")
    return namespaces


def require_region(namespace: Namespace, region: str | None) -> None:
    """Refuse to serve a namespace with other regions where this one has no name: its records would circle.

    Raises
    ------
    ConfigurationError
        It has none.
    """
    if namespace.replicates and region is None:
        raise ConfigurationError(
            f"the namespace {namespace.name} is replicated to other regions, and this one has no name",
            remedy="set WALSTREAM_REGION and WALSTREAM_REGION_RANK, for all workers of the region",
        )


def _trim(connection: KafkaConnection, namespace: Namespace, shard: str | None) -> None:
    trim(Admin(connection), namespace, shard)


def make_router(settings: Settings) -> App:
    """The Faust app of a router."""
    namespaces = served(settings)
    for namespace in namespaces.values():
        require_region(namespace, settings.region)
    connection = KafkaConnection.from_settings(settings)
    registry = CollectorRegistry()
    metrics = RouterMetrics(registry)
    app = make_app(
        topics.router_app_id(settings.shard),
        [
            topology(
                namespace,
                settings.region_rank,
                metrics,
                partial(_trim, connection, namespace, settings.shard),
                settings.region,
            )
            for namespace in namespaces.values()
        ],
        brokers=connection.brokers,
        connection=connection.aiokafka(),
        datadir=settings.datadir,
        preflight=preflight(
            connection, [topic for namespace in namespaces.values() for topic in topics.router_topics(namespace)]
        ),
    )
    serve(app, registry)
    return app
