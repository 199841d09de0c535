"""A target's delivery as a Faust app."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from walstream import delivery_tables, topics
from walstream.config import load_connections, load_namespaces, with_source
from walstream.connections import Connection
from walstream.delivery.dispatch import Dispatcher
from walstream.delivery.metrics import DeliveryMetrics, TargetCollector
from walstream.delivery.processor import DeliveryProcessor
from walstream.engine.app import App, make_app
from walstream.engine.topology import Topology
from walstream.errors import ConfigurationError
from walstream.kafka import KafkaConnection
from walstream.metrics import serve
from walstream.namespace import Namespace
from walstream.preflight import preflight
from walstream.settings import Settings
from walstream.sinks.base import Sink, SinkContext
from walstream.sinks.registry import sink_class

GATHERED = 10  # ms that a record waits here, or as long as commits ask for (`Pace`): the router has gathered before


def sink_context(
    namespace: Namespace, target: str, connection: Connection | None, settings: Settings
) -> tuple[type[Sink], SinkContext]:
    """The class of a target's sink, and what it is told."""
    description = namespace.targets[target]
    kind = sink_class(description.sink)
    return kind, SinkContext(
        namespace=namespace.name,
        target=target,
        options=kind.Options.model_validate(description.options),
        connection=connection,
        partitions=namespace.topics.partitions,
        key_template=namespace.key,
        max_record=namespace.topics.max_record,
        remember=namespace.remember(target),
        ordered=description.ordering == "key",
        hold=description.on_dead == "hold",
        extra={
            "kafka": KafkaConnection.from_settings(settings),
            "region": settings.region,
            "rank": settings.region_rank,
        },
    )


def topology(namespace: Namespace, target: str, dispatcher: Dispatcher, metrics: DeliveryMetrics) -> Topology:
    """What the delivery to a target does."""
    return Topology(
        name=f"{namespace.name}.{target}",
        # What people said and what is to be tried again comes before what is new.
        sources=(topics.retry(namespace, target).name, topics.log(namespace).name),
        partitions=namespace.topics.partitions,
        tables=delivery_tables.specs(namespace, target),
        processor=lambda partition: DeliveryProcessor(namespace, target, partition, dispatcher, metrics),
        latency=min(namespace.latency, GATHERED),
    )


def find_target(settings: Settings) -> tuple[Namespace, str]:
    """The namespace and the target that `WALSTREAM_TARGET` names.

    Raises
    ------
    ConfigurationError
        It names none, or one that does not exist.
    """
    namespaces = load_namespaces(settings.config)
    known = sorted(f"{name}.{target}" for name, namespace in namespaces.items() for target in namespace.targets)
    if settings.target not in known:
        said = "is not set" if settings.target is None else f"is {settings.target!r}, which does not exist"
        raise ConfigurationError(
            f"WALSTREAM_TARGET {said}", remedy=f"set it to one of: {', '.join(known) or '(there is no target)'}"
        )
    name, _, target = settings.target.partition(".")
    return namespaces[name], target


def make_delivery(settings: Settings) -> App:
    """The Faust app of the delivery to a target."""
    namespace, target = find_target(settings)
    kafka = KafkaConnection.from_settings(settings)
    connection_name = namespace.targets[target].connection
    connection = load_connections(settings.config)[connection_name] if connection_name is not None else None
    kind, context = sink_context(namespace, target, connection, settings)
    kind = with_source(kind, context, namespace.targets[target], settings.config)
    kind.for_context(context)  # refuses what cannot be before anything runs
    registry = CollectorRegistry()
    metrics = DeliveryMetrics(registry)
    dispatcher = Dispatcher(context, kind, namespace.targets[target], metrics)
    registry.register(TargetCollector(namespace.name, target, dispatcher))
    app = make_app(
        topics.delivery_app_id(namespace, target),
        [topology(namespace, target, dispatcher, metrics)],
        brokers=kafka.brokers,
        connection=kafka.aiokafka(),
        datadir=settings.datadir,
        preflight=preflight(kafka, [topics.log(namespace), *topics.target_topics(namespace, target)]),
    )
    serve(app, registry)
    return app
