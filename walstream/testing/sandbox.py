"""A namespace of its own on real servers, the workers that serve it, and what is read back of it."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from walstream import dead, delivery_tables, topics
from walstream.apply import apply
from walstream.changes import Action
from walstream.config import load_connections, load_namespaces
from walstream.dedup import decode_row, span_of
from walstream.engine.table_writer import SEGMENT
from walstream.engine.topology import TableSpec
from walstream.identity import identity
from walstream.kafka import KafkaConnection
from walstream.router.delayed import Kind, kind_of
from walstream.schedule import MARK
from walstream.testing.history import Answer, Content, History, Observed, Position, Progress, Target, foreign
from walstream.testing.invariants import Violation, explain, violations
from walstream.testing.ledger import Ledger
from walstream.testing.producer import Producer
from walstream.testing.readback import Readback
from walstream.testing.rows import Key, Row, expected_rows, wrong_rows
from walstream.testing.stores import wrong_stores
from walstream.testing.waiting import wait_until
from walstream.testing.worker import Worker
from walstream.testing.workload import KEY, PRIMARY_KEYS, TABLES

COPY, BASE = "copy", "base"
TIMEOUT = 30.0  # s, for one request


@dataclass(frozen=True)
class OwnTarget:
    """A target that a test brings along.

    Parameters
    ----------
    words
        Of the namespace file. If there is a connection, it has the target's name.
    connection
        Of ``connections.yaml``.
    deliveries
        What the target has seen so far, in its order.
    """

    words: Mapping[str, Any]
    connection: Mapping[str, Any] | None = None
    deliveries: Callable[[], Sequence[Observed]] = list

    @classmethod
    def http(cls, url: str, deliveries: Callable[[], Sequence[Observed]], **words: Any) -> Self:
        """An application; its requests end after half a second, and a new owner need not wait for those of the old."""
        options = {"timeout": "500ms", "compares_times": True}
        return cls({"sink": "http", "options": options, **words}, {"sink": "http", "url": url}, deliveries)


class Sandbox:
    """One namespace with a target ``copy`` (a Kafka topic) and, where there is a Cassandra, a target ``base``.

    Parameters
    ----------
    folder
        For the configuration and the workers.
    brokers, cassandra
        Addresses of the servers, ``host:port``.
    partitions
        Of the namespace.
    targets
        These instead, by name; a Cassandra is only there for those that name it.
    seen_by
        Address of the brokers for producers and for who looks on, where it is not that of the workers.
    """

    def __init__(
        self,
        folder: Path,
        brokers: str,
        cassandra: str | None = None,
        *,
        partitions: int = 4,
        targets: Mapping[str, OwnTarget] | None = None,
        seen_by: str | None = None,
    ) -> None:
        self.name = f"t{uuid.uuid4().hex[:8]}"
        self.folder, self.brokers, self.cassandra, self.partitions = folder, brokers, cassandra, partitions
        self.own = dict(targets or {})
        self.targets = tuple(self.own) or ((COPY,) if cassandra is None else (COPY, BASE))
        self.kafka: dict[str, Any] = {"bootstrap.servers": seen_by or brokers}
        self.readback = Readback(self.kafka)
        self._admin = AdminClient(self.kafka)
        self.ledger = Ledger()
        self.workers: list[Worker] = []
        self._samples: list[Progress] = []
        self._session: Any = None
        self._write_configuration()

    # ------------------------------------------------------------------------------------------- names

    @property
    def ingress(self) -> str:
        return f"{self.name}.ingress"

    @property
    def log(self) -> str:
        return f"{self.name}.log"

    @property
    def copy(self) -> str:
        """The topic that the target ``copy`` writes."""
        return f"{self.name}-copy"

    def group(self, stage: str) -> str:
        """The consumer group of ``router`` or of a target."""
        return f"walstream.router.{self.name}" if stage == "router" else f"walstream.{self.name}.{stage}"

    def dlq(self, target: str) -> str:
        """A target's dead-letter topic."""
        return f"{self.name}.{target}.dlq"

    def retries(self, target: str) -> str:
        """A target's retry topic."""
        return f"{self.name}.{target}.retry"

    def source(self, stage: str) -> str:
        """The topic that a stage reads."""
        return self.ingress if stage == "router" else self.log

    # ------------------------------------------------------------------------------------------- setting up

    def _write_configuration(self) -> None:
        config = self.folder / "config"
        config.mkdir(parents=True)
        targets = self.own or {COPY: OwnTarget({"sink": "kafka", "options": {"topic": self.copy}})}
        if self.cassandra is not None and not self.own:
            host, _, port = self.cassandra.rpartition(":")
            targets[BASE] = OwnTarget(
                {"sink": "cassandra", "options": {"keyspace": self.name, "consistency": "ONE"}},
                {"sink": "cassandra", "hosts": [host], "port": int(port)},
            )
        connections = {name: target.connection for name, target in targets.items() if target.connection is not None}
        words = {
            name: {**target.words, **({} if target.connection is None else {"connection": name})}
            for name, target in targets.items()
        }
        document = {
            "version": 1,
            "namespace": self.name,
            "topics": {"partitions": self.partitions, "replication": 1, "min_insync": 1},
            "key": KEY,
            "targets": words,
        }
        for file, content in (("connections", connections), (self.name, document)):
            if content:
                (config / f"{file}.yaml").write_text(json.dumps(content, indent=2) + "\n")  # which is YAML as well

    def apply(self) -> Self:
        """Make the topics, the keyspace and the tables."""
        if self.cassandra is not None:
            replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}"
            self.session.execute(f"CREATE KEYSPACE {self.name} WITH replication = {replication}")
            for statement in TABLES.values():
                self.session.execute(statement.format(keyspace=self.name))
        self._make_topics()
        return self

    def _make_topics(self) -> None:
        if COPY in self.targets:
            self._admin.create_topics([NewTopic(self.copy, self.partitions, 1)])[self.copy].result(TIMEOUT)
        config = self.folder / "config"
        changes = apply(
            load_namespaces(config).values(),
            load_connections(config),
            KafkaConnection((self.brokers,)),
            shard=self.name,
        )
        refused = [change for change in changes if change.action is Action.REFUSE]
        assert not refused, refused

    def recreate(self) -> None:
        """Delete every topic, group and answer, and begin anew; the workers must not run."""
        self._delete_topics()
        groups = [self.group(stage) for stage in ("router", *self.targets)]
        for deleted in self._admin.delete_consumer_groups(groups).values():
            deleted.result(TIMEOUT)
        self.ledger = Ledger()
        self._samples.clear()
        self._make_topics()

    @property
    def session(self) -> Any:
        """A session with Cassandra, of the tests' own."""
        if self._session is None:
            from cassandra.cluster import Cluster

            assert self.cassandra is not None
            host, _, port = self.cassandra.rpartition(":")
            self._session = Cluster([host], port=int(port)).connect()
        return self._session

    def close(self) -> None:
        """Stop the workers, and delete the topics."""
        for worker in self.workers:
            worker.stop()
        if self._session is not None:
            self._session.cluster.shutdown()
        self._delete_topics()

    def _delete_topics(self) -> None:
        topics = self._admin.list_topics(timeout=TIMEOUT).topics
        self.delete(*(name for name in topics if name.startswith((f"{self.name}.", self.copy))))

    def delete(self, *topics: str) -> None:
        """Delete topics."""
        for deleted in self._admin.delete_topics(list(topics)).values() if topics else ():
            deleted.result(TIMEOUT)

    def __enter__(self) -> Self:
        return self.apply()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if value is not None:
            for worker in self.workers:
                value.add_note(f"---- {worker}, status {worker.status}:\n{worker.tail()}")
        self.close()

    # ------------------------------------------------------------------------------------------- running

    def worker(self, stage: str, **environment: str) -> Worker:
        """Make (and do not start) one more worker of the router or of a target."""
        topology = "topologies.router" if stage == "router" else "topologies.delivery"
        variables = {
            "WALSTREAM_BROKERS": self.brokers,
            "WALSTREAM_CONFIG": str(self.folder / "config"),
            "WALSTREAM_NAMESPACES": self.name,
            "WALSTREAM_SHARD": self.name,
            **({} if stage == "router" else {"WALSTREAM_TARGET": f"{self.name}.{stage}"}),
            **environment,
        }
        worker = Worker(topology, self.folder / f"{stage}-{len(self.workers)}", variables)
        self.workers.append(worker)
        return worker

    def start(self, *stages: str) -> list[Worker]:
        """Start one worker of each stage (default: of all), and wait until each has partitions."""
        workers = [self.worker(stage).start() for stage in stages or ("router", *self.targets)]
        for stage in stages or ("router", *self.targets):
            self.wait_ready(stage)
        return workers

    def assigned(self, stage: str) -> dict[str, set[tuple[str, int]]]:
        """Which partitions of its source each member of a stage's group has."""
        return self.readback.assigned(self.group(stage), [self.source(stage)])

    def wait_ready(self, stage: str, members: int = 1, timeout: float = 40.0) -> None:
        """Wait until a stage has so many members, and they all its partitions, each one."""

        def ready() -> bool:
            self.raise_if_crashed()
            assigned = self.assigned(stage)
            partitions = sorted(partition for places in assigned.values() for _, partition in places)
            return len(assigned) == members and partitions == list(range(self.partitions))

        wait_until(ready, timeout, lambda: f"{members} members of {stage}: {self.assigned(stage)}")

    def raise_if_crashed(self) -> None:
        """Fail at once when a worker ended that should run."""
        for worker in self.workers:
            assert not worker.crashed, f"{worker} ended with status {worker.status}:\n{worker.tail()}"

    def producer(self, records: Iterator[tuple[Content, bool]], **options: Any) -> Producer:
        """Make a producer for the ingress, whose answers go to the ledger."""
        return Producer(self.kafka, self.ingress, self.ledger, records, **options)

    def write(self, *contents: Content, understood: bool = True) -> None:
        """Write some records, and wait until they are acknowledged."""
        with self.producer(iter([(content, understood) for content in contents])) as producer:
            producer.join()
        assert all(written.answer is Answer.ACKED for written in self.ledger.written()[-len(contents) :])

    def lag(self, stage: str) -> int:
        """How many offsets a stage is behind its source."""
        return self.readback.lag(self.group(stage), self.source(stage))

    def table(self, name: str) -> dict[tuple[int, bytes], bytes]:
        """The rows of one of the namespace's tables by partition and key, as its changelog has them."""
        rows: dict[tuple[int, bytes], bytes] = {}
        for record in self.readback.records(f"{self.name}.{name}.changelog"):
            if record.value is None:
                rows.pop((record.partition, record.key or b""), None)
            else:
                rows[record.partition, record.key or b""] = record.value
        return rows

    def pending(self) -> int:
        """How many delayed records are in the schedule."""
        return sum(key != MARK and kind_of(value) is Kind.WRITE for (_, key), value in self.table("schedule").items())

    def waiting(self, target: str) -> int:
        """How many records wait at a target: unread on its retry topic, to be tried again, or parked."""
        unread = self.readback.lag(self.group(target), self.retries(target))
        if unread:
            return unread  # what they become is in no table yet
        scheduled = sum(key != MARK for _, key in self.table(f"{target}.schedule"))
        return scheduled + len(self.table(f"{target}.parked"))

    def deaths(self, target: str) -> dict[Position, dead.State]:
        """What became of what died at a target, by its place in the log."""
        rows = self.table(f"{target}.dead")
        return {(partition, dead.position_of(key)): dead.decode(row).state for (partition, key), row in rows.items()}

    @property
    def _waits(self) -> bool:
        """Whether something was written that may be pending."""
        return any(
            name in ("ce_waldelay", "ce_waldeliverat", "ce_waljitter")
            for written in self.ledger.written()
            for name, _ in written.content.headers
        )

    def position(self, stage: str) -> int:
        """Sum of the offsets that a stage has committed; 0 while there is no answer."""
        try:
            return sum(self.readback.committed(self.group(stage), self.source(stage)).values())
        except KafkaException:
            return 0

    def drain(self, timeout: float = 60.0, stages: Sequence[str] = ()) -> float:
        """Wait until everything that was written went through; return after how many seconds.

        Parameters
        ----------
        stages
            Default: all.
        """
        begun = time.monotonic()
        for stage in stages or ("router", *self.targets):  # the router first: what it does is lag of the targets
            if stage != "router" and self._waits:
                wait_until(
                    lambda: self.pending() == 0, timeout, lambda: f"nothing is pending, {self.pending()} are", every=0.5
                )

            def drained(stage: str = stage) -> bool:
                self.raise_if_crashed()
                try:
                    return self.lag(stage) == 0 and (stage == "router" or self.waiting(stage) == 0)
                except KafkaException:  # the broker is away, and comes back
                    return False

            def behind(stage: str = stage) -> str:
                waiting = "" if stage == "router" else f", and {self.waiting(stage)} records wait"
                return f"{stage} drained, it is {self.lag(stage)} behind{waiting}"

            wait_until(drained, timeout - (time.monotonic() - begun), behind)
        return time.monotonic() - begun

    # ------------------------------------------------------------------------------------------- reading back

    def sample(self) -> None:
        """Note what every stage has committed, and how far its outputs reach (see `Progress`)."""
        ends = self.readback.ends
        for stage in ("router", *({COPY} & {*self.targets})):
            outputs = {"log": self.log, "dlq": f"{self.name}.dlq", "answers": f"{self.name}.answers"}
            if stage == COPY:
                outputs = {"target": self.copy, "dlq": self.dlq(COPY)}
            committed = self.readback.committed(self.group(stage), self.source(stage))
            reached = {output: ends(topic, committed=False) for output, topic in outputs.items()}
            if self._goes_on(stage, reached):
                self._samples.append(Progress(stage, committed, reached))

    def _goes_on(self, stage: str, reached: Mapping[str, Mapping[int, int]]) -> bool:
        """Whether no output ends before it did at the sample before.

        A broker that has just started knows its groups before its topics, and these before how far they go.
        """
        before = next((sample.outputs for sample in reversed(self._samples) if sample.stage == stage), {})
        return all(
            end <= reached[output].get(partition, -1)
            for output, ends in before.items()
            for partition, end in ends.items()
        )

    @contextmanager
    def sampling(self, every: float = 0.5) -> Iterator[None]:
        """Take a sample again and again, in a thread."""
        stopping = threading.Event()

        def run() -> None:
            while not stopping.wait(every):
                try:
                    self.sample()
                except (KafkaException, TimeoutError):  # the broker is away
                    continue

        thread = threading.Thread(target=run, name="sampling", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()

    def history(self) -> History:
        """Read everything back."""
        records = self.readback.records
        return History(
            written=self.ledger.written(),
            ingress=[replace(record, headers=foreign(record.headers)) for record in records(self.ingress)],
            log=records(self.log),
            refused=records(f"{self.name}.dlq"),
            targets=[self._seen(target) for target in self.targets if target == COPY or target in self.own],
            progress=list(self._samples),
            lag={stage: self.lag(stage) for stage in ("router", *self.targets)},
            answers=records(f"{self.name}.answers"),
            pending=self.pending(),
            ended=int(time.time() * 1000),
        )

    def _seen(self, name: str) -> Target:
        """What a target got."""
        letters, own = self.readback.records(self.dlq(name)), self.own.get(name)
        if own is None:
            return Target(name, self.readback.records(self.copy), letters, once=True, pending=self.waiting(name))
        deaths = self.deaths(name)
        latest = {letter.log_position: letter for letter in letters}
        dead_ones = [
            letter for position, letter in latest.items() if deaths.get(position) not in (None, dead.State.REDRIVEN)
        ]
        said = self.readback.records(self.retries(name))
        return Target(
            name,
            own.deliveries(),
            dead_ones,
            ordered=own.words.get("ordering", "key") == "key",
            whole=False,
            redriven=[letter for letter in letters if not any(letter is one for one in dead_ones)],
            redrives=Counter(each.log_position for each in said if each.header("walstream-control") == b"redrive"),
            held=own.words.get("on_dead") == "hold",
            pending=self.waiting(name),
        )

    def rows(self, table: str) -> dict[Key, Row]:
        """Rows of a table of Cassandra, each cell with its write time."""
        key = PRIMARY_KEYS[table]
        cells = [name for name in ("seq", "note") if name not in key]
        times = ", ".join(f"writetime({name}) AS t_{name}" for name in cells)
        found = self.session.execute(f"SELECT {', '.join((*key, *cells))}, {times} FROM {self.name}.{table}")
        return {
            tuple(getattr(row, name) for name in key): {
                name: (getattr(row, name), getattr(row, f"t_{name}"))
                for name in cells
                if getattr(row, name) is not None
            }
            for row in found
        }

    def broken(self, history: History) -> list[Violation]:
        """What is broken, by all that can be read back at rest."""
        found = violations(history)
        if BASE in self.targets and not self.own:
            for table, key in PRIMARY_KEYS.items():
                found += wrong_rows(expected_rows(history.log, table, key, BASE), self.rows(table), table)
            for record in self.readback.records(self.dlq(BASE)):
                found.append(Violation(2, f"dead at {BASE}: {record}, {dict(record.headers)}"))
        return found

    def check_stores(self) -> None:
        """Stop all workers, and check their stores against the changelogs, and the dedup table against the log."""
        for worker in self.workers:
            worker.stop()
        namespace = load_namespaces(self.folder / "config")[self.name]
        changelogs = topics.router_changelogs(namespace)
        spans = {"dedup": span_of(namespace.dedup.window)}
        tables = [
            TableSpec(f"{self.name}.{table}", changelog.name, span=spans.get(table, 0))
            for table, changelog in changelogs.items()
        ]
        found: list[Violation] = []
        rows = 0
        for worker in self.workers:
            if worker.topology == "topologies.router":
                folder = worker.data / self.group("router") / f"router.{self.name}"
                found += wrong_stores(folder, tables, self.partitions, self.readback)
        for target in self.targets:
            kept = delivery_tables.specs(namespace, target)
            for worker in self.workers:
                folder = worker.data / self.group(target) / f"{self.name}.{target}"
                found += wrong_stores(folder, kept, self.partitions, self.readback)
        stored = {
            (record.partition, (record.key or b"")[SEGMENT.size :]): record.value
            for record in self.readback.records(changelogs["dedup"].name)
        }
        for record in self.readback.records(self.log):
            assert record.identity is not None
            key = (record.partition, identity(*record.identity))
            row = decode_row(stored[key] or b"") if key in stored else None
            if row != (record.ingress_position, record.offset):
                found.append(Violation(8, f"the dedup table has {row} for {record} from {record.ingress_position}"))
            rows += 1
        assert not found, explain(found)
        assert rows, "there is nothing in the log"

    def check(self, *, least: int = 1) -> History:
        """Drain, and check that everything holds.

        Parameters
        ----------
        least
            As many records must have been acknowledged, so that the check is about something.
        """
        self.drain()
        history = self.history()
        found = self.broken(history)
        assert not found, explain(found)
        assert len(history.log) >= least, f"only {len(history.log)} records in the log: {self.ledger.counts()}"
        return history
