"""A namespace with a base table and an index of it, rows that were there before the log, and writes that race."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cassandra.concurrent import execute_concurrent_with_args

from walstream.admin import Admin
from walstream.client import Client, Write
from walstream.kafka import KafkaConnection
from walstream.mutation import delete, put
from walstream.testing.sandbox import Sandbox
from walstream.testing.waiting import wait_until

BASE, INDEX = "base", "by-tail"
CREATE = "CREATE TABLE {keyspace}.flights (id text PRIMARY KEY, tail text, dest text, tags set<text>, note text)"
TAILS, DESTS = 40, ("LAX", "SFO", "ORD", None)
Entries = dict[tuple[str, str], tuple[Any, ...]]
"""``(tail, id)`` -> what is copied along."""


class IndexedSandbox(Sandbox):
    """A table ``flights`` with a target of its own, and its index by ``tail``, where ``dest`` is not ``ORD``.

    Parameters
    ----------
    seed
        Rows and writes follow from it.
    """

    def __init__(self, folder: Path, brokers: str, cassandra: str, seed: int, *, partitions: int = 4) -> None:
        self.random = random.Random(f"{seed} indexed")
        super().__init__(folder, brokers, cassandra, partitions=partitions)
        self.targets = (BASE, INDEX)

    def _write_configuration(self) -> None:
        assert self.cassandra is not None
        host, _, port = self.cassandra.rpartition(":")
        options = {"keyspace": self.name, "consistency": "ONE"}
        by_tail = {"base": "flights", "table": "by_tail", "by": ["tail"], "copy": ["dest", "tags"]}
        document = {
            "version": 1,
            "namespace": self.name,
            "topics": {"partitions": self.partitions, "replication": 1, "min_insync": 1},
            "key": "{id}",
            "targets": {
                BASE: {"sink": "cassandra", "connection": "store", "options": options | {"table": "flights"}},
                INDEX: {
                    "sink": "index",
                    "connection": "store",
                    "options": options | by_tail | {"where": {"dest": {"not": "ORD"}}},
                    "retry": {"initial": "100ms", "max": "500ms"},
                },
            },
        }
        config = self.folder / "config"
        config.mkdir(parents=True)
        (config / f"{self.name}.yaml").write_text(json.dumps(document))
        store = {"sink": "cassandra", "hosts": [host], "port": int(port)}
        (config / "connections.yaml").write_text(json.dumps({"store": store}))

    def apply(self) -> IndexedSandbox:
        """Make the keyspace, the tables and the topics."""
        replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}"
        self.session.execute(f"CREATE KEYSPACE {self.name} WITH replication = {replication}")
        self.session.execute(CREATE.format(keyspace=self.name))
        self._make_topics()
        return self

    def close(self) -> None:
        self.session.execute(f"DROP KEYSPACE IF EXISTS {self.name}")
        super().close()

    @property
    def environment(self) -> dict[str, str]:
        """For commands."""
        return {
            "WALSTREAM_BROKERS": self.brokers,
            "WALSTREAM_CONFIG": str(self.folder / "config"),
            "WALSTREAM_SHARD": self.name,
        }

    def load(self, count: int) -> None:
        """Rows that are there before the log: some written in parts, at several times; some with little in them."""
        now = int(time.time() * 1_000_000) - 3_600_000_000
        rows, later = [], []
        for number in range(count):
            tail, dest, tags = self._columns()
            rows.append((f"f{number}", tail, dest, tags, now + number))
            if self.random.random() < 0.3:
                later.append((f"f{number}", self._columns()[0], now + count + number))
        table = f"{self.name}.flights"
        whole = self.session.prepare(
            f"INSERT INTO {table} (id, tail, dest, tags) VALUES (?, ?, ?, ?) USING TIMESTAMP ?"
        )
        part = self.session.prepare(f"INSERT INTO {table} (id, tail) VALUES (?, ?) USING TIMESTAMP ?")
        for statement, values in ((whole, rows), (part, later)):
            execute_concurrent_with_args(self.session, statement, values, concurrency=100)

    def _columns(self) -> tuple[str | None, str | None, set[str] | None]:
        draw = self.random
        tail = f"N{draw.randrange(TAILS)}" if draw.random() < 0.9 else None
        return tail, draw.choice(DESTS), set(draw.sample("zyxwv", 2)) if draw.random() < 0.5 else None

    @contextmanager
    def writing(self, count: int, rate: float = 400.0) -> Iterator[list[int]]:
        """Write puts, some of them in part, and deletes of the first `count` rows meanwhile; all are acknowledged.

        It gives a list that holds how many were written, at the end.
        """
        stop, written, failures = threading.Event(), [0], list[BaseException]()

        def run() -> None:
            try:
                with Client(self.brokers, config=self.folder / "config") as client:
                    while not stop.is_set():
                        batch = [self._write(count) for _ in range(20)]
                        for receipt in client.write_many(self.name, batch):
                            receipt.raise_for_durability()
                        written[0] += len(batch)
                        stop.wait(len(batch) / rate)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield written
        finally:
            stop.set()
            thread.join()
        if failures:
            raise failures[0]

    def _write(self, count: int) -> Write:
        draw, key = self.random, {"id": f"f{self.random.randrange(count)}"}
        tail, dest, tags = self._columns()
        kind = draw.random()
        if kind < 0.1:
            return Write(delete(table="flights", key=key))
        columns: dict[str, Any] = {"tail": tail} if kind < 0.4 else {"tail": tail, "dest": dest, "tags": tags}
        if kind > 0.9:
            columns = {"note": "of no interest to the index"}
        return Write(put(table="flights", key=key, set=columns))

    def replay(self) -> None:
        """Kill the index's workers, and start them with all of the log and of the retry topic in front of them."""
        workers = [worker for worker in self.workers if worker.folder.name.startswith(f"{INDEX}-")]
        for worker in workers:
            worker.kill()
        topics = self.source(INDEX), self.retries(INDEX)
        first = {(topic, number): 0 for topic in topics for number in range(self.partitions)}
        admin = Admin(KafkaConnection((self.brokers,)))
        wait_until(lambda: admin.commit(self.group(INDEX), first), 60, lambda: "the group has members still")
        for worker in workers:
            worker.start()

    # What there is, as the driver reads it

    def wanted(self) -> Entries:
        """The entries that the index should have, by a plain look at the base table."""
        rows = self.session.execute(f"SELECT id, tail, dest, tags FROM {self.name}.flights")
        return {
            (row.tail, row.id): (row.dest, frozenset(row.tags or ()))
            for row in rows
            if row.tail is not None and row.dest != "ORD"
        }

    def found(self) -> Entries:
        """The entries that it has."""
        rows = self.session.execute(f"SELECT tail, id, dest, tags FROM {self.name}.by_tail")
        return {(row.tail, row.id): (row.dest, frozenset(row.tags or ())) for row in rows}

    def is_quiet(self) -> bool:
        """Whether everybody has finished what is there."""
        return not any(self.lag(stage) for stage in ("router", BASE, INDEX)) and not self.waiting(INDEX)
