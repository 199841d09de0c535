"""The Faust app that runs topologies. Faust gives the group, the assignment, the command line and the web server."""

from __future__ import annotations

import errno
import logging
import socket
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import faust
from faust.types import TP

from walstream.engine.assignor import Assignor
from walstream.engine.engine import Engine
from walstream.engine.tables import Tables, declare
from walstream.engine.topic import FetchTopic
from walstream.engine.topology import Topology
from walstream.engine.transport import FetchTransport
from walstream.errors import ConfigurationError

log = logging.getLogger(__name__)

WEB_PORT = 6066  # Faust's default


def _is_taken(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class App(faust.App):
    """A Faust app whose streams are whole fetches, and whose tasks commit checkpoints as Kafka transactions."""

    engine: Engine

    def _create_directories(self) -> None:
        self.engine.folder.mkdir(parents=True, exist_ok=True)

    def on_rebalance_return(self) -> None:
        super().on_rebalance_return()
        self.on_rebalance_end()  # there is no recovery that would call it later

    async def on_first_start(self) -> None:
        if self.conf.web_enabled and _is_taken(self.conf.web_bind, self.conf.web_port):
            if self.conf.web_port != WEB_PORT:
                self.engine.fail(
                    ConfigurationError(
                        f"the port {self.conf.web_port} of the web server is taken by another program",
                        remedy="give another --web-port, or --without-web",
                    )
                )
            # Several workers on one machine is how a laptop runs them; who wants a certain port says --web-port.
            with warnings.catch_warnings(action="ignore"):  # of a setting that was used before, for the banner
                self.conf.web_port = _free_port(self.conf.web_bind)
            log.warning("port %d is taken; the web server listens on port %d", WEB_PORT, self.conf.web_port)
        await super().on_first_start()

    async def on_start(self) -> None:
        await super().on_start()
        await self.engine.start()

    async def on_stop(self) -> None:
        # An exception out of here would leave threads running, and the process would hang.
        await self.engine.stop()
        try:
            await super().on_stop()
        except Exception:
            log.exception("while stopping")


def make_app(
    app_id: str,
    topologies: Sequence[Topology],
    *,
    brokers: Sequence[str],
    connection: Mapping[str, Any],
    datadir: Path,
    preflight: Callable[[], Mapping[str, str]],
    standbys: int = 1,
) -> App:
    """Make the app.

    Parameters
    ----------
    app_id
        Faust's app id, which is the consumer group.
    topologies
        What it runs.
    brokers
        ``host:port`` of some brokers, for what Faust shows; ``connection`` is what is used.
    connection
        Options for aiokafka that say how to reach the cluster.
    datadir
        Where the stores are, in a folder named after the app; ``faust --datadir`` wins over it. Workers of one app that
        run on one machine need a datadir each.
    preflight
        Checks the topics before anything is read, and gives the id of each.
    standbys
        How many other workers keep a copy of each store.
    """
    app = App(
        app_id,
        broker=[f"kafka://{broker}" for broker in brokers],
        datadir=str(datadir / app_id),
        store="memory://",
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=standbys,
        stream_wait_empty=False,
        broker_commit_interval=3600.0,
        broker_session_timeout=10.0,
        broker_request_timeout=20.0,
        broker_rebalance_timeout=10.0,
        broker_heartbeat_interval=1.0,
        broker_max_poll_interval=86_400.0,
        web_bind="127.0.0.1",
        TableManager=Tables,
        PartitionAssignor=Assignor,
    )
    app.boot_strategy.enable_kafka_producer = False
    app.engine = Engine(app, topologies, connection, datadir, preflight)
    app.transport = FetchTransport([f"kafka://{broker}" for broker in brokers], app)
    for topology in topologies:
        for table in topology.tables:
            declare(app, table, topology.partitions)
    sources = [topic for topology in topologies for topic in topology.sources]

    async def work(stream: Any) -> None:
        async for event in stream.noack().events():
            app.engine.offer(event.value)

    app.agent(FetchTopic(app, topics=sources), name=f"{app_id}.work")(work)

    async def revoked(_: Any, revoked: set[TP], *__: Any, **___: Any) -> None:
        await app.engine.revoked(revoked)

    async def assigned(_: Any, assigned: set[TP], *__: Any, **___: Any) -> None:
        await app.engine.assigned(assigned)

    # Signals are typed as if they took no arguments of their own.
    app.on_partitions_revoked.connect(revoked, weak=False)  # type: ignore[arg-type]
    app.on_partitions_assigned.connect(assigned, weak=False)  # type: ignore[arg-type]
    return app
