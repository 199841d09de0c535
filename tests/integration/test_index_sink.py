"""The index sink against a real Cassandra: what is in the index is what its base table says."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from cassandra import InvalidRequest, WriteTimeout, WriteType

from walstream.changes import Action
from walstream.connections import CassandraConnection
from walstream.entry import Entry
from walstream.errors import ConfigurationError, SinkError
from walstream.mutation import Mutation, delete, put
from walstream.sinks.base import SKIPPED, Applied, Dead, Retry, Sink, SinkContext
from walstream.sinks.cassandra import CassandraOptions, CassandraSink, session
from walstream.sinks.index import IndexOptions, IndexReader, IndexSink
from walstream.sinks.index.repair import TYPE, Repair
from walstream.testing.conformance import TIME_0, Rows, SinkConformance, entry

REPLICATION = {"class": "SimpleStrategy", "replication_factor": 1}
BASE = """CREATE TABLE {} (flight text, leg int, tailnum text, dest text, gate text, late boolean, dep timestamp,
    tags set<text>, fares map<text, int>, delay int, PRIMARY KEY (flight, leg))"""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "CONNECT_FOR_S", 1.0)
    monkeypatch.setattr(session, "REQUEST_TIMEOUT_S", 2.0)


@pytest.fixture(scope="module")
def cql(cassandra_session: Any) -> Any:
    """A session to look with."""
    return cassandra_session


@pytest.fixture(scope="module")
def keyspace(cql: Any) -> str:
    """One for all tests of the module, with one base table. It goes with the server; dropping it takes seconds."""
    name = f"index_{uuid.uuid4().hex[:8]}"
    cql.execute(f"CREATE KEYSPACE {name} WITH replication = {REPLICATION}")
    cql.execute(BASE.format(f"{name}.flights"))
    return name


def context(cassandra: str, keyspace: str, **words: Any) -> SinkContext:
    options = {"keyspace": keyspace, "base": "flights", "table": f"i_{uuid.uuid4().hex[:8]}", "by": ["tailnum"]}
    return SinkContext(
        "test",
        "index",
        IndexOptions.model_validate(options | words),
        CassandraConnection(sink="cassandra", hosts=[cassandra]),
        key_template="{flight}",
    )


def log(position: int, mutation: Mutation | bytes, **words: Any) -> Entry:
    payload = mutation if isinstance(mutation, bytes) else mutation.to_bytes()
    return entry(position, **{"key": b"k", "payload": payload, "type": "walstream.mutation", **words})


def row(number: int = 1, **columns: Any) -> Mutation:
    return put(key={"flight": f"UA{number}", "leg": 1}, set=columns)


async def opened(kind: type[Sink], where: SinkContext) -> Any:
    sink = kind(where)
    assert all(change.action is Action.CREATE for change in await sink.provision(dry_run=False))
    await sink.open()
    return sink


@pytest.fixture
async def sink(cassandra: str, keyspace: str) -> AsyncIterator[IndexSink]:
    """By tail number, with a copy."""
    sink = await opened(IndexSink, context(cassandra, keyspace, copy=["dest"]))
    yield sink
    await sink.close()


@pytest.fixture
def table() -> Rows:
    return Rows()


def found(cql: Any, sink: IndexSink, columns: str = "tailnum, flight, dest") -> set[tuple[Any, ...]]:
    rows = cql.execute(f"SELECT {columns} FROM {sink.options.keyspace}.{sink.options.table}")
    return {tuple(row) for row in rows}


class TestConformance(SinkConformance):
    last_write_wins = True

    @pytest.fixture
    def context(self, cassandra: str, cql: Any, keyspace: str) -> SinkContext:
        name = f"b_{uuid.uuid4().hex[:8]}"
        cql.execute(f"CREATE TABLE {keyspace}.{name} (k text PRIMARY KEY, v int)")
        return replace(context(cassandra, keyspace, base=name, by=["v"]), key_template="{k}")

    def make(self, context: SinkContext) -> Sink:
        return IndexSink(context)

    def entry(self, key: str, value: int, position: int) -> Entry:
        return log(position, put(key={"k": key}, set={"v": value}), key=key.encode())

    def refused(self, key: str, position: int) -> Entry:
        return log(position, put(key={"k": key}, set={"v": "a word"}), key=key.encode())

    def unreachable(self, context: SinkContext) -> SinkContext:
        return replace(context, connection=CassandraConnection(sink="cassandra", hosts=["127.0.0.1:1"]))

    async def state(self, sink: Sink) -> Mapping[str, int]:
        rows = sink._session.execute(f"SELECT k, v FROM {sink.options.keyspace}.{sink.options.table}")  # type: ignore[attr-defined]
        return {row.k: row.v for row in rows}


INDEXES: dict[str, tuple[dict[str, Any], str]] = {
    # name: options, and the columns that are read: those of `by`, then the copies
    "tail": ({"by": ["tailnum"], "copy": ["dest", "tags"]}, "tailnum, dest, tags"),
    "day": ({"by": ["dest", "bucket(dep, 1d) as day"], "partition": 1, "copy": ["dep"]}, "dest, day, dep"),
    "lower": ({"by": ["lower(dest)"]}, "dest_lower"),
    "tags": ({"by": ["entries(tags)"], "copy": ["gate"]}, "tags_entry, gate"),
    "fares": ({"by": ["entries(fares) as fare"]}, "fare"),
    "classes": ({"by": ["keys(fares)", "dest"]}, "fares_key, dest"),
    "late": ({"by": ["tailnum"], "where": {"late": True, "delay": {">": 10, "<=": 40}}}, "tailnum"),
    "leg": ({"by": ["leg"], "copy": ["gate"]}, "leg, gate"),
    "nowhere": ({"by": ["gate"], "where": {"dest": None, "tailnum": {"not": ["A"]}}}, "gate"),
}


def wanted(name: str, base: Any) -> list[tuple[Any, ...]]:
    """The rows of an index for a row of the base table: made of the driver's values, by other means than the sink's."""
    day = None if base.dep is None else base.dep.replace(hour=0, minute=0, second=0, microsecond=0)
    tags, fares = base.tags or set(), base.fares or {}
    rows: dict[str, list[tuple[Any, ...]]] = {
        "tail": [(base.tailnum, base.dest, base.tags)] if base.tailnum else [],
        "day": [(base.dest, day, base.dep)] if base.dest and day else [],
        "lower": [(base.dest.lower(),)] if base.dest else [],
        "tags": [(tag, base.gate) for tag in tags],
        "fares": [(pair,) for pair in fares.items()],
        "classes": [(fare, base.dest) for fare in fares if base.dest is not None],
        "late": [(base.tailnum,)] if base.tailnum and base.late and base.delay and 10 < base.delay <= 40 else [],
        "leg": [(base.leg, base.gate)],
        "nowhere": [(base.gate,)] if base.gate and base.dest is None and base.tailnum != "A" else [],
    }
    return [(base.flight, base.leg, *map(repr, row)) for row in rows[name]]


def some_mutation(chance: random.Random, key: dict[str, Any]) -> Mutation:
    if chance.random() < 0.15:
        return delete(key=key)
    values: dict[str, list[Any]] = {
        "tailnum": [None, "A", "B", "C"],
        "dest": [None, "", "ORD", "ord", "LAX"],
        "gate": [None, "1", "2"],
        "late": [None, True, False],
        "dep": [None, "2013-01-01T05:00:00Z", "2013-01-01T23:00:00Z", "2013-01-02T00:00:00Z", "1969-12-31T23:00:00Z"],
        "tags": [None, [], ["x"], ["x", "y"], ["z", "y"]],
        "fares": [None, {"eco": 100}, {"eco": 120, "first": 900}],
        "delay": [None, 5, 15, 40, 41],
    }
    named = chance.sample(sorted(values), chance.randint(0, 4))
    return put(key=key, set={column: chance.choice(values[column]) for column in named})


async def test_random_histories_leave_what_the_base_says(cassandra: str, cql: Any, keyspace: str, seed: int) -> None:
    chance = random.Random(seed)
    name = f"b_{uuid.uuid4().hex[:8]}"
    cql.execute(BASE.format(f"{keyspace}.{name}"))
    base = await opened_base(cassandra, keyspace, name)
    where = {each: context(cassandra, keyspace, base=name, **options) for each, (options, _) in INDEXES.items()}
    sinks: dict[str, IndexSink] = {each: await opened(IndexSink, it) for each, it in where.items()}
    keys = [{"flight": f"UA{i % 8}", "leg": i // 8} for i in range(16)]
    entries = [log(i, some_mutation(chance, chance.choice(keys))) for i in range(400)]
    for i in range(0, len(entries), 5):  # some come late
        entries[i : i + 5] = chance.sample(entries[i : i + 5], len(entries[i : i + 5]))
    entries = [*entries[:200], *entries[150:]]  # and some again
    tables = {each: Rows() for each in sinks}
    at = 0
    while at < len(entries):
        batch = entries[at : at + chance.randint(1, 60)]
        at += len(batch)
        await base.write(batch)
        for each, sink in sinks.items():
            if chance.random() < 0.3:
                await sink.write_with(batch, tables[each])  # a worker that died before it wrote the state
            outcomes = await sink.write_with(batch, tables[each])
            assert {type(outcome) for outcome in outcomes} <= {Applied, type(SKIPPED)}
            tables[each].settle(outcomes)
    rows = list(cql.execute(f"SELECT * FROM {keyspace}.{name}"))
    assert rows
    for each, sink in sinks.items():
        columns = INDEXES[each][1]
        select = f"SELECT flight, leg, {columns} FROM {keyspace}.{sink.options.table}"
        index = sorted((flight, leg, *map(repr, row)) for flight, leg, *row in cql.execute(select))
        assert index == sorted(line for row in rows for line in wanted(each, row)), each
    for each in (base, *sinks.values()):
        await each.close()


async def opened_base(cassandra: str, keyspace: str, name: str) -> CassandraSink:
    connection = CassandraConnection(sink="cassandra", hosts=[cassandra])
    base = CassandraSink(SinkContext("test", "base", CassandraOptions(keyspace=keyspace, table=name), connection))
    await base.open()
    return base


async def test_a_stale_entry_goes_and_a_copy_changes(sink: IndexSink, table: Rows, cql: Any) -> None:
    table.settle(await sink.write_with([log(0, row(tailnum="N1", dest="ORD")), log(1, row(tailnum="N2"))], table))
    assert found(cql, sink) == {("N2", "UA1", "ORD")}
    table.settle(await sink.write_with([log(2, row(dest="LAX"))], table))
    assert found(cql, sink) == {("N2", "UA1", "LAX")}
    table.settle(await sink.write_with([log(3, row(dest=None))], table))
    assert found(cql, sink) == {("N2", "UA1", None)}
    table.settle(await sink.write_with([log(4, delete(key={"flight": "UA1", "leg": 1}))], table))
    assert found(cql, sink) == set()


async def test_what_does_not_matter_is_skipped(sink: IndexSink, table: Rows) -> None:
    other = put(table="airports", key={"code": "ORD"}, set={"name": "O'Hare"})
    first, gate, elsewhere = await sink.write_with(
        [log(0, row(tailnum="N1")), log(1, row(gate="B2")), log(2, other)], table
    )
    assert isinstance(first, Applied)
    assert first.rows is not None and len(first.rows) == 1
    assert (gate, elsewhere) == (SKIPPED, SKIPPED)
    table.settle([first])
    assert await sink.write_with([log(0, row(tailnum="N1"))], table) == [SKIPPED]
    (same,) = await sink.write_with([log(3, row(tailnum="N1"))], table)
    assert isinstance(same, Applied), "the state has a newer time"


async def test_what_the_base_table_cannot_take_is_dead(sink: IndexSink, table: Rows, cql: Any) -> None:
    bad = [
        row(nonsense=1),
        row(delay="soon"),  # not indexed, but the base table refuses it
        put(key={"flight": "UA1"}, set={"tailnum": "N1"}),
        b"no mutation",
    ]
    outcomes = await sink.write_with([log(i, each) for i, each in enumerate(bad)], table)
    assert all(isinstance(outcome, Dead) for outcome in outcomes), outcomes
    assert found(cql, sink) == set()


async def test_a_column_that_is_added_is_known_at_once(cassandra: str, cql: Any, keyspace: str, table: Rows) -> None:
    name = f"b_{uuid.uuid4().hex[:8]}"
    cql.execute(BASE.format(f"{keyspace}.{name}"))
    sink = await opened(IndexSink, context(cassandra, keyspace, base=name))
    cql.execute(f"ALTER TABLE {keyspace}.{name} ADD crew int")
    (outcome,) = await sink.write_with([log(0, row(tailnum="N1", crew=5))], table)
    assert isinstance(outcome, Applied)
    await sink.close()


@pytest.mark.parametrize("hold", [False, True])
async def test_an_entry_that_is_refused_is_dead_and_leaves_what_there_was(
    cassandra: str, keyspace: str, table: Rows, cql: Any, monkeypatch: pytest.MonkeyPatch, hold: bool
) -> None:
    sink = await opened(IndexSink, replace(context(cassandra, keyspace, copy=["dest"]), hold=hold))
    run = sink._writer._requests.run

    async def strict(statements: Sequence[Any]) -> Any:
        """As a Cassandra with a guardrail: it takes the DELETE of a step, and not its INSERT, for what it copies."""
        refused = [any(value == b"BAD" for value in statement.values) for statement in statements]
        taken = [statement for statement, bad in zip(statements, refused, strict=True) if not bad]
        errors = iter(await run(taken))
        return [InvalidRequest("too large") if bad else next(errors) for bad in refused]

    monkeypatch.setattr(sink._writer, "_replicas", lambda key: None)  # each travels alone
    monkeypatch.setattr(sink._writer._requests, "run", strict)
    batch = [
        log(0, row(tailnum="N1", dest="BOS")),
        log(1, row(tailnum="N2", dest="BAD")),
        log(2, row(tailnum="N4")),
        log(3, row(2, tailnum="N3")),
    ]
    outcomes = await sink.write_with(batch, table)
    third = Retry if hold else Applied
    assert [type(outcome) for outcome in outcomes] == [Applied, Dead, third, Applied]
    assert found(cql, sink) == {("N1" if hold else "N4", "UA1", "BOS"), ("N3", "UA2", None)}
    await sink.close()


async def test_what_is_too_long_for_a_key_has_no_entry(sink: IndexSink, table: Rows, cql: Any) -> None:
    for number, tailnum in enumerate(("N1", "N" * 70_000, "", "N2")):
        outcomes = await sink.write_with([log(number, row(tailnum=tailnum))], table)
        assert isinstance(outcomes[0], Applied)
        table.settle(outcomes)
        assert found(cql, sink) == ({(tailnum, "UA1", None)} if 0 < len(tailnum) < 9 else set())


async def test_a_row_whose_statements_fail_is_tried_again(
    sink: IndexSink, table: Rows, cql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeout = WriteTimeout("timed out", write_type=WriteType.SIMPLE)
    run = sink._writer._requests.run
    fail = {0}

    async def broken(statements: Any) -> Any:
        return [timeout if i in fail else error for i, error in enumerate(await run(statements))]

    monkeypatch.setattr(sink._writer, "_replicas", lambda key: None)  # each travels alone
    with monkeypatch.context() as patch:
        patch.setattr(sink._writer._requests, "run", broken)
        batch = [log(0, row(1, tailnum="A")), log(1, row(2, tailnum="B")), log(2, row(1, tailnum="C"))]
        first, second, third = await sink.write_with(batch, table)
        assert (type(first), type(second), type(third)) == (Retry, Applied, Retry)
        fail = {0, 1}
        with pytest.raises(WriteTimeout):
            await sink.write_with(batch[:1], table)
    table.settle([second])
    table.settle(await sink.write_with([batch[0], batch[2]], table))
    assert found(cql, sink) == {("B", "UA2", None), ("C", "UA1", None)}


async def test_a_repair_mends_what_was_damaged(sink: IndexSink, table: Rows, cql: Any) -> None:
    table.settle(await sink.write_with([log(0, row(tailnum="N1", dest="ORD"))], table))
    name = f"{sink.options.keyspace}.{sink.options.table}"
    cql.execute(f"DELETE FROM {name} WHERE tailnum = 'N1'")
    cql.execute(f"INSERT INTO {name} (tailnum, flight, leg) VALUES ('N9', 'UA1', 1)")
    assert found(cql, sink) == {("N9", "UA1", None)}
    cells, now = {"tailnum": (b"N1", TIME_0), "dest": (b"LAX", TIME_0 + 1)}, int(datetime.now().timestamp() * 1_000_000)
    repair = Repair("flights", {"flight": "UA1", "leg": 1}, now, now, cells, [(b"N9",)])
    record = log(-1, repair.to_bytes(), type=TYPE)
    for _ in range(2):
        outcomes = await sink.write_with([record], table)
        assert isinstance(outcomes[0], Applied)
        table.settle(outcomes)
        assert found(cql, sink) == {("N1", "UA1", "LAX")}
    other = Repair("flights", {"flight": "UA1", "leg": 1}, now, now, {"gate": (b"1", 1)}, [])
    (outcome,) = await sink.write_with([log(-1, other.to_bytes(), type=TYPE)], table)
    assert isinstance(outcome, Dead)


async def test_a_copied_collection_is_in_cassandras_order(cassandra: str, cql: Any, keyspace: str, table: Rows) -> None:
    sink = await opened(IndexSink, context(cassandra, keyspace, copy=["tags", "fares"]))
    await sink.write_with([log(0, row(tailnum="N1", tags=["c", "a", "b", "a"], fares={"z": 1, "a": 2}))], table)
    raw = cql.execute(f"SELECT tags, fares FROM {keyspace}.{sink.options.table}").one()
    assert list(raw.tags) == ["a", "b", "c"]
    assert list(raw.fares.items()) == [("a", 2), ("z", 1)]
    await sink.close()


class TestProvision:
    async def change(self, sink: IndexSink, *, dry_run: bool = False) -> tuple[Action, str]:
        (change,) = await sink.provision(dry_run=dry_run)
        return change.action, change.detail

    async def test_makes_the_table_of_the_bases_types(self, cassandra: str, keyspace: str, cql: Any) -> None:
        words = {"by": ["dest", "bucket(dep, 1h) as hour", "entries(fares)"], "partition": 2, "copy": ["tags"]}
        where = context(cassandra, keyspace, **words)
        assert (await self.change(IndexSink(where)))[0] is Action.CREATE
        columns = cql.execute(
            "SELECT column_name, type, kind FROM system_schema.columns WHERE keyspace_name=%s AND table_name=%s",
            (keyspace, where.options.table),
        )
        assert {tuple(column) for column in columns} == {
            ("dest", "text", "partition_key"),
            ("hour", "timestamp", "partition_key"),
            ("fares_entry", "frozen<tuple<text, int>>", "clustering"),
            ("flight", "text", "clustering"),
            ("leg", "int", "clustering"),
            ("tags", "frozen<set<text>>", "regular"),
        }
        assert (await self.change(IndexSink(where)))[0] is Action.NONE

    @pytest.mark.parametrize(
        ("other", "reason"),
        [
            ({"by": ["dest"]}, "by tailnum"),
            ({"copy": ["gate", "dest"]}, "copy gate"),
            ({"where": {"late": True}}, "where"),
        ],
    )
    async def test_refuses_another_definition(
        self, cassandra: str, keyspace: str, other: dict[str, Any], reason: str
    ) -> None:
        where = context(cassandra, keyspace, copy=["gate"])
        await IndexSink(where).provision(dry_run=False)
        words = {"table": where.options.table, "copy": ["gate"], **other}
        action, detail = await self.change(IndexSink(context(cassandra, keyspace, **words)))
        assert action is Action.REFUSE
        assert reason in detail

    @pytest.mark.parametrize(
        ("columns", "reason"),
        [
            ("tailnum text, flight text, leg int, PRIMARY KEY (tailnum, leg, flight)", "primary key"),
            ("tailnum text, flight text, leg bigint, PRIMARY KEY (tailnum, flight, leg)", "leg is bigint, not int"),
            ("tailnum text, flight text, leg int, PRIMARY KEY (tailnum, flight, leg)", "gate is missing"),
        ],
    )
    async def test_refuses_a_table_that_does_not_fit(
        self, cassandra: str, keyspace: str, cql: Any, columns: str, reason: str
    ) -> None:
        where = context(cassandra, keyspace, copy=["gate"])
        cql.execute(f"CREATE TABLE {keyspace}.{where.options.table} ({columns})")
        action, detail = await self.change(IndexSink(where))
        assert action is Action.REFUSE
        assert reason in detail

    @pytest.mark.parametrize(
        ("words", "reason"),
        [
            ({"by": ["colour"]}, "no column colour"),
            ({"by": ["tags"]}, "entries(tags)"),
            ({"by": ["bucket(dest, 1d)"]}, "timestamp"),
            ({"by": ["lower(delay)"]}, "text"),
            ({"by": ["tailnum as flight"]}, "another name"),
            ({"copy": ["leg"]}, "in the index anyway"),
            ({"where": {"delay": "soon"}}, "where: delay"),
            ({"where": {"tags": {"<": "x"}}}, "where: tags"),
        ],
    )
    async def test_refuses_what_cannot_be(
        self, cassandra: str, keyspace: str, words: dict[str, Any], reason: str
    ) -> None:
        action, detail = await self.change(IndexSink(context(cassandra, keyspace, **words)))
        assert action is Action.REFUSE
        assert reason in detail

    async def test_waits_for_a_base_table_that_another_target_makes(self, cassandra: str, keyspace: str) -> None:
        missing = IndexSink(context(cassandra, keyspace, base="nowhere"))
        assert (await self.change(missing, dry_run=True))[0] is Action.CREATE
        with pytest.raises(SinkError, match="nowhere"):
            await missing.provision(dry_run=False)

    async def test_without_its_table_the_sink_does_not_open(self, cassandra: str, keyspace: str) -> None:
        sink = IndexSink(context(cassandra, keyspace))
        with pytest.raises(SinkError, match="walstream apply"):
            await sink.open()
        await sink.close()


def test_a_namespace_that_makes_no_keys_has_no_index(cassandra: str, keyspace: str) -> None:
    with pytest.raises(ConfigurationError, match="key"):
        IndexSink(replace(context(cassandra, keyspace), key_template=None))


class TestReader:
    @pytest.fixture
    async def sink(self, cassandra: str, keyspace: str, cql: Any) -> AsyncIterator[IndexSink]:
        """Of a base table of its own, by destination and day."""
        name = f"b_{uuid.uuid4().hex[:8]}"
        cql.execute(BASE.format(f"{keyspace}.{name}"))
        words = {"by": ["lower(dest)", "bucket(dep, 1d) as day"], "partition": 1, "copy": ["dest", "tags"]}
        sink = await opened(IndexSink, context(cassandra, keyspace, base=name, **words))
        yield sink
        await sink.close()

    async def write(self, cql: Any, sink: IndexSink, table: Rows, *mutations: Mutation) -> None:
        options = sink.options
        base = await opened_base(sink.context.connection.hosts[0], options.keyspace, options.base)
        entries = [log(i, mutation) for i, mutation in enumerate(mutations)]
        await base.write(entries)
        table.settle(await sink.write_with(entries, table))
        await base.close()

    async def test_finds_rows_by_all_or_the_first_columns(self, sink: IndexSink, table: Rows, cql: Any) -> None:
        morning, evening, next_day = (
            f"2013-01-0{day}T{hour}:30:00Z" for day, hour in ((1, "05"), (1, "23"), (2, "00"))
        )
        rows = [row(i, dest="ORD", dep=dep, tags=["a"]) for i, dep in enumerate((morning, evening, next_day))]
        await self.write(cql, sink, table, *rows, row(4, dest="LAX", dep=morning))
        reader = IndexReader(cql, sink.options)
        day = datetime(2013, 1, 1, 12)
        for check in (False, True):
            assert [each["flight"] for each in reader.find(dest_lower="Ord", day=day, check=check)] == ["UA0", "UA1"]
            found = list(reader.find(dest_lower="ord", check=check))
            assert [each["flight"] for each in found] == ["UA0", "UA1", "UA2"]
            assert (found[0]["dest"], found[0]["tags"], found[0]["leg"]) == ("ORD", {"a"}, 1)
        assert list(reader.find(dest_lower="nowhere", check=True)) == []
        for values in ({}, {"day": day}, {"dest_lower": "ord", "gate": "1"}):
            with pytest.raises(ValueError, match="dest_lower, day"):
                list(reader.find(**values))

    async def test_a_checked_row_is_never_stale(self, sink: IndexSink, table: Rows, cql: Any) -> None:
        mutations = [row(i, dest="ORD", dep="2013-01-01T05:30:00Z") for i in range(4)]
        await self.write(cql, sink, table, *mutations)
        options, key = sink.options, "WHERE flight = %s AND leg = 1"
        cql.execute(f"UPDATE {options.keyspace}.{options.base} SET dest = 'LAX' {key}", ("UA0",))
        cql.execute(f"DELETE FROM {options.keyspace}.{options.base} {key}", ("UA1",))
        cql.execute(f"UPDATE {options.keyspace}.{options.base} SET dest = 'Ord', tags = {{'b'}} {key}", ("UA2",))
        reader = IndexReader(cql, options)
        assert len(list(reader.find(dest_lower="ord"))) == 4
        checked = [(each["flight"], each["dest"], each["tags"]) for each in reader.find(dest_lower="ord", check=True)]
        assert checked == [("UA2", "Ord", {"b"}), ("UA3", "ORD", None)]
