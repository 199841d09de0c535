"""One region of the demo: its configuration, its workers, who writes there, and its store."""

from __future__ import annotations

import importlib.resources
import json
import string
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from walstream.client import Client
from walstream.config import load_connections, load_namespaces, make_sink
from walstream.demo.regions.conflicts import RANKS, Said
from walstream.demo.regions.traffic import Traffic
from walstream.demo.scenario import make_all, write_all
from walstream.demo.workers import Workers
from walstream.kafka import KafkaConnection
from walstream.replication import Replication, replications
from walstream.sinks.base import Sink
from walstream.sinks.rocksdb import Reader

NAMESPACE, STORE = "flights", "store"
RATE = 800  # writes a second; two cores have time left then, so that latencies say something
CHUNK = 0.05  # seconds of writes that go out together


class Region:
    """A region that is set up.

    Parameters
    ----------
    name, other
        Its name, and that of the region to which it sends.
    folder
        Where everything of it is kept.
    brokers, way
        Where its own Kafka answers, and where it finds the other region's.
    partitions
        Of its topics.

    Attributes
    ----------
    written
        How many writes were acknowledged.
    """

    def __init__(self, name: str, other: str, folder: Path, *, brokers: str, way: str, partitions: int) -> None:
        self.name, self.other, self.folder = name, other, folder / name
        self.config = self.folder / "config"
        self.kafka = KafkaConnection(brokers=(brokers,))
        self.settings = {
            "WALSTREAM_BROKERS": brokers,
            "WALSTREAM_CONFIG": str(self.config),
            "WALSTREAM_DATADIR": str(self.folder / "data"),
            "WALSTREAM_REGION": name,
            "WALSTREAM_REGION_RANK": str(RANKS[name]),
        }
        self.config.mkdir(parents=True)
        template = importlib.resources.files("walstream.demo.regions").joinpath("namespace.yaml").read_text()
        words = {"partitions": str(partitions), "store": str(self.folder / "store"), "other": other}
        (self.config / f"{NAMESPACE}.yaml").write_text(string.Template(template).substitute(words))
        connection = {"sink": "kafka", "brokers": [way], "rank": RANKS[other]}
        (self.config / "connections.yaml").write_text(json.dumps({other: connection}))
        self.namespace = load_namespaces(self.config)[NAMESPACE]
        self.traffic = Traffic(name, self.kafka, self.namespace)
        self.written = 0
        self.workers: Workers | None = None
        self._reader = Reader(self.folder / "store" / f"{NAMESPACE}.{STORE}", max_age=0)
        self._writer: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._ended = threading.Event()

    @property
    def sender(self) -> str:
        """The target that sends to the other region."""
        return f"to-{self.other}"

    def apply(self) -> int:
        """Make topics and offsets, and tell how many."""
        return make_all(self.config, self.kafka, (self.name, RANKS[self.name]))

    def start(self) -> Workers:
        """Start `walstream run`."""
        self.workers = Workers(self.folder, self.settings, detach=False)
        return self.workers

    def write(self, writes: Sequence[Said]) -> None:
        """Write all of it, in a thread of its own."""
        self._writer = threading.Thread(target=self._write, args=(writes,), name=f"demo-write-{self.name}", daemon=True)
        self._writer.start()

    @property
    def is_writing(self) -> bool:
        """Whether there is more to be written."""
        return self._writer is not None and self._writer.is_alive()

    def check(self) -> None:
        """Raise what has stopped the writer or the onlooker, if something has."""
        self.traffic.check()
        if self._failure is not None:
            raise self._failure

    def _write(self, writes: Sequence[Said]) -> None:
        size = int(RATE * CHUNK)
        begin = time.monotonic()
        try:
            with Client(connection=self.kafka, config=self.config, source=f"walstream/demo/{self.name}") as client:
                for first in range(0, len(writes), size):
                    chunk = writes[first : first + size]
                    write_all(client, [said.write() for said in chunk])
                    self.written += len(chunk)
                    if self._ended.wait(max(0.0, begin + (first + size) / RATE - time.monotonic())):
                        return
        except BaseException as error:
            self._failure = error

    def rows(self) -> dict[bytes, bytes]:
        """All rows of the store, each as one JSON object."""
        return dict(self._reader.scan())

    def sink(self) -> Sink:
        """The store's sink, by which it can be compared."""
        return make_sink(self.namespace, STORE, load_connections(self.config))

    def replication(self) -> Replication:
        """How far the other region is behind, as `walstream replication status` says."""
        (found,) = replications([self.namespace], self.kafka, load_connections(self.config))
        return found

    def close(self) -> None:
        """End the writer and the workers."""
        self._ended.set()
        if self._writer is not None:
            self._writer.join()
        if self.workers is not None:
            self.workers.stop()
        self._reader.close()
