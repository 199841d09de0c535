"""The cassandra sink against a real Cassandra."""

from __future__ import annotations

import asyncio
import base64
import math
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from cassandra import OperationTimedOut, WriteTimeout, WriteType
from cassandra.cluster import NoHostAvailable
from cassandra.util import Duration

from walstream.changes import Action
from walstream.connections import CassandraConnection
from walstream.entry import Entry
from walstream.errors import ConfigurationError, SinkError
from walstream.mutation import Mutation, delete, put
from walstream.sinks.base import APPLIED, TARGET_DOWN, Dead, Retry, Sink, SinkContext
from walstream.sinks.cassandra import CassandraOptions, CassandraSink, session
from walstream.testing.conformance import SinkConformance, entry
from walstream.testing.proxy import Proxy

REPLICATION = {"class": "SimpleStrategy", "replication_factor": 1}


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
    """One for all tests of the module. It goes with the server; dropping it takes seconds."""
    name = f"sink_{uuid.uuid4().hex[:8]}"
    cql.execute(f"CREATE KEYSPACE {name} WITH replication = {REPLICATION}")
    return name


def target(cassandra: str, keyspace: str, table: str | None = None, **options: Any) -> SinkContext:
    return SinkContext(
        "test",
        "base",
        CassandraOptions.model_validate({"keyspace": keyspace, "table": table, **options}),
        CassandraConnection(sink="cassandra", hosts=[cassandra]),
    )


@pytest.fixture
async def opened(cassandra: str, keyspace: str) -> AsyncIterator[CassandraSink]:
    """A sink whose mutations name their table."""
    sink = CassandraSink(target(cassandra, keyspace))
    await sink.open()
    yield sink
    await sink.close()


def log(position: int, mutation: Mutation | bytes, **words: Any) -> Entry:
    payload = mutation if isinstance(mutation, bytes) else mutation.to_bytes()
    return entry(position, **{"key": b"k", "payload": payload, "type": "walstream.mutation", **words})


class TestConformance(SinkConformance):
    last_write_wins = True

    @pytest.fixture
    def context(self, cassandra: str, keyspace: str, request: pytest.FixtureRequest) -> SinkContext:
        table = f"t_{uuid.uuid4().hex[:8]}"
        create = {"columns": {"k": "text", "v": "int"}, "primary_key": {"partition": ["k"]}}
        return target(cassandra, keyspace, table, create=create)

    def make(self, context: SinkContext) -> Sink:
        return CassandraSink(context)

    def entry(self, key: str, value: int, position: int) -> Entry:
        return log(position, put(key={"k": key}, set={"v": value}), key=key.encode())

    def refused(self, key: str, position: int) -> Entry:
        return log(position, put(key={"k": key}, set={"v": "a word"}), key=key.encode())

    def unreachable(self, context: SinkContext) -> SinkContext:
        return replace(context, connection=CassandraConnection(sink="cassandra", hosts=["127.0.0.1:1"]))

    async def state(self, sink: Sink) -> Mapping[str, int]:
        rows = sink._session.execute(f"SELECT k, v FROM {sink.options.keyspace}.{sink.options.table}")  # type: ignore[attr-defined]
        return {row.k: row.v for row in rows}


EVERY_TYPE: dict[str, tuple[str, Any, Any]] = {
    # column: type, JSON value, what the driver reads
    "a": ("ascii", "plain", "plain"),
    "b": ("bigint", 2**62, 2**62),
    "c": ("blob", base64.b64encode(b"\x00\x01\xff").decode(), b"\x00\x01\xff"),
    "d": ("boolean", False, False),
    "e": ("date", "2013-01-31", "2013-01-31"),
    "f": ("decimal", Decimal("1234567890.12345678901234567890"), Decimal("1234567890.12345678901234567890")),
    "g": ("double", Decimal("0.1"), 0.1),
    "h": ("double", "NaN", math.nan),
    "i": ("duration", "P1Y2M3DT4H", Duration(14, 3, 4 * 3600 * 10**9)),
    "j": ("float", Decimal("0.25"), 0.25),
    "k": ("inet", "2001:db8::1", "2001:db8::1"),
    "l": ("int", -7, -7),
    "m": ("list<text>", ["b", "a", "b"], ["b", "a", "b"]),
    "n": ("map<int, frozen<list<double>>>", {"1": [Decimal("0.5"), 2]}, {1: [0.5, 2.0]}),
    "o": (
        "set<uuid>",
        ["6ba7b810-9dad-11d1-80b4-00c04fd430c8"] * 2,
        {uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")},
    ),
    "p": ("smallint", 32767, 32767),
    "q": ("text", "ünï", "ünï"),
    "r": ("time", "23:59:59.123456789", "23:59:59.123456789"),
    "s": ("timestamp", "2013-01-01T05:15:00.250Z", "2013-01-01 05:15:00.250000"),
    "t": ("timeuuid", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")),
    "u": ("tinyint", -128, -128),
    "v": ("tuple<int, text, boolean>", [1, None, True], (1, None, True)),
    "w": ("varint", 10**40, 10**40),
    "x": ("frozen<place>", {"name": "hall", "codes": [1, 2]}, ("hall", [1, 2], None)),
    "y": ("place", {"name": "hall"}, ("hall", None, None)),
    "z": ("list<frozen<map<text, frozen<set<int>>>>>", [{"a": [2, 1]}], [{"a": {1, 2}}]),
    "empty": ("text", "", ""),
    "vec": ("vector<float, 3>", [1, Decimal("0.5"), -1], [1.0, 0.5, -1.0]),
    "words": ("vector<text, 2>", ["a", "bcd"], ["a", "bcd"]),
}


async def test_every_type_arrives(opened: CassandraSink, cql: Any, keyspace: str) -> None:
    cql.execute(f"CREATE TYPE {keyspace}.place (name text, codes frozen<list<int>>, open boolean)")
    types = ", ".join(
        f"{column} {kind}".replace("place", f"{keyspace}.place") for column, (kind, *_) in EVERY_TYPE.items()
    )
    cql.execute(f"CREATE TABLE {keyspace}.every (id int PRIMARY KEY, {types})")
    values = {column: value for column, (_, value, _) in EVERY_TYPE.items()}
    assert await opened.write([log(0, put(table="every", key={"id": 1}, set=values))]) == [APPLIED]
    row = cql.execute(f"SELECT * FROM {keyspace}.every WHERE id = 1").one()
    for column, (kind, _, expected) in EVERY_TYPE.items():
        found = getattr(row, column)
        if kind in ("date", "time", "timestamp"):
            found = str(found)
        if kind == "double" and math.isnan(expected):
            assert math.isnan(found)
            continue
        if "map<" in kind and kind.startswith("list"):
            found = [{name: set(item) for name, item in element.items()} for element in found]
        if kind.startswith("vector"):
            found = list(found)
        assert (found if "place" not in kind else tuple(found)) == expected, f"{column} {kind}"


@pytest.fixture(scope="module")
def table(cql: Any, keyspace: str) -> str:
    cql.execute(
        f'CREATE TABLE {keyspace}.pairs (p text, c int, a int, "B" text, l list<int>, s int STATIC, PRIMARY KEY (p, c))'
    )
    return "pairs"


async def write(sink: CassandraSink, *mutations: Mutation) -> list[Any]:
    """Write mutations to rows of their own log, later ones at later times."""
    return list(await sink.write([log(i, mutation) for i, mutation in enumerate(mutations)]))


def pairs(cql: Any, keyspace: str, partition: str) -> list[dict[str, Any]]:
    return [
        dict(row._asdict())
        for row in cql.execute(f"SELECT c, a, l, s FROM {keyspace}.pairs WHERE p = %s", (partition,))
    ]


async def test_an_absent_column_is_untouched_and_null_deletes(opened: Any, cql: Any, keyspace: str, table: str) -> None:
    key = {"p": "absent", "c": 1}
    await write(
        opened,
        put(table=table, key=key, set={"a": 1, "l": [1, 2], "s": 5}),
        put(table=table, key=key, set={"l": [3]}),
        put(table=table, key=key, set={"a": None}),
    )
    assert pairs(cql, keyspace, "absent") == [{"c": 1, "a": None, "l": [3], "s": 5}]


async def test_no_tombstone_is_written_for_an_absent_column(opened: Any, cql: Any, keyspace: str, table: str) -> None:
    key = {"p": "unset", "c": 1}
    await opened.write([log(9, put(table=table, key=key, set={}))])
    await opened.write([log(1, put(table=table, key=key, set={"a": 1}))])  # older, and yet there is nothing newer
    assert pairs(cql, keyspace, "unset") == [{"c": 1, "a": 1, "l": None, "s": None}]


async def test_a_put_of_nothing_makes_the_row(opened: Any, cql: Any, keyspace: str, table: str) -> None:
    assert await write(opened, put(table=table, key={"p": "bare", "c": 1})) == [APPLIED]
    assert pairs(cql, keyspace, "bare") == [{"c": 1, "a": None, "l": None, "s": None}]


async def test_delete_and_put_by_effective_time(opened: Any, cql: Any, keyspace: str, table: str) -> None:
    one, two = {"p": "deleted", "c": 1}, {"p": "deleted", "c": 2}
    await opened.write(
        [
            log(3, put(table=table, key=one, set={"a": 1})),
            log(2, delete(table=table, key=one)),  # older than the put
            log(4, put(table=table, key=two, set={"a": 2})),
            log(5, delete(table=table, key=two)),
        ]
    )
    assert [row["c"] for row in pairs(cql, keyspace, "deleted")] == [1]


async def test_the_effective_time_is_the_cells_time(opened: Any, cql: Any, keyspace: str, table: str) -> None:
    await opened.write([log(0, put(table=table, key={"p": "time", "c": 1}, set={"a": 1}), time=1_357_017_300_123_450)])
    row = cql.execute(f"SELECT writetime(a) AS time FROM {keyspace}.pairs WHERE p = 'time'").one()
    assert row.time == 1_357_017_300_123_450


async def test_many_rows_of_one_partition(opened: Any, cql: Any, keyspace: str, table: str) -> None:
    rows = [put(table=table, key={"p": "many", "c": i % 400}, set={"a": i}) for i in range(1000)]
    assert await write(opened, *rows) == [APPLIED] * 1000
    expected = {i % 400: i for i in range(1000)}
    assert {row["c"]: row["a"] for row in pairs(cql, keyspace, "many")} == expected


async def test_bad_mutations_are_dead_one_by_one(opened: Any, cql: Any, keyspace: str, table: str) -> None:
    good = put(table=table, key={"p": "dead", "c": 1}, set={"a": 1})
    batch = [
        log(0, good),
        log(1, b"not json"),
        log(2, put(table=table, key={"p": "dead", "c": 2}, set={"a": "x"})),
        log(3, put(table=table, key={"p": "dead", "c": 2}, set={"nope": 1})),
        log(4, put(table=table, key={"p": "dead"}, set={"a": 1})),
        log(5, put(table=table, key={"p": "dead", "c": 1, "a": 3}, set={})),
        log(6, put(table="nowhere", key={"p": "dead", "c": 1}, set={})),
        log(7, put(key={"p": "dead", "c": 1}, set={})),
        log(8, good, type="something.else"),
        log(9, b"", payload=None),
        log(10, put(table=table, key={"p": "", "c": 1}, set={"a": 1})),
        log(11, put(table=table, key={"p": "x" * 70_000, "c": 1}, set={"a": 1})),
        log(12, put(table=table, key={"p": "dead", "c": 12}, set={"a": 12})),
    ]
    outcomes = await opened.write(batch)
    reasons = [
        "",
        "bad-mutation",
        "column a (int): expected an integer",
        "has no column nope",
        "column c of the primary key is missing",
        "not in the primary key",
        f"there is no table {keyspace}.nowhere",
        "names no `table`",
        "something.else",
        "bad-mutation",
        "Key may not be empty",
        "Key length of 70000",
        "",
    ]
    for i, (outcome, reason) in enumerate(zip(outcomes, reasons, strict=True)):
        if reason:
            assert isinstance(outcome, Dead), i
            assert reason in outcome.reason, i
        else:
            assert outcome is APPLIED, i
    assert [row["c"] for row in pairs(cql, keyspace, "dead")] == [1, 12]


async def test_one_bad_row_of_a_partition_does_not_spoil_the_others(opened: Any, cql: Any, keyspace: str) -> None:
    cql.execute(f"CREATE TABLE {keyspace}.long (p text, c text, a int, PRIMARY KEY (p, c))")
    outcomes = await write(
        opened,
        put(table="long", key={"p": "x", "c": "1"}, set={"a": 1}),
        put(table="long", key={"p": "x", "c": "2" * 70_000}, set={"a": 2}),  # only the server knows that limit
        put(table="long", key={"p": "x", "c": "3"}, set={"a": 3}),
    )
    assert [type(outcome) for outcome in outcomes] == [type(APPLIED), Dead, type(APPLIED)]
    assert [row.c for row in cql.execute(f"SELECT c FROM {keyspace}.long WHERE p = 'x'")] == ["1", "3"]


async def test_one_bad_partition_of_a_batch_does_not_spoil_the_others(opened: Any, cql: Any, keyspace: str) -> None:
    cql.execute(f"CREATE TABLE {keyspace}.several (p text PRIMARY KEY, a int)")
    keys = ["1", "", "3"]  # only the server knows that a partition key must not be empty
    outcomes = await write(opened, *(put(table="several", key={"p": p}, set={"a": 1}) for p in keys))
    assert [type(outcome) for outcome in outcomes] == [type(APPLIED), Dead, type(APPLIED)]
    assert sorted(row.p for row in cql.execute(f"SELECT p FROM {keyspace}.several")) == ["1", "3"]


async def test_rows_of_several_partitions_keep_their_effective_times(opened: Any, cql: Any, keyspace: str) -> None:
    cql.execute(f"CREATE TABLE {keyspace}.times (p text PRIMARY KEY, a int)")
    keys = ["x", "y", "x", "z", "y"]
    await write(opened, *(put(table="times", key={"p": p}, set={"a": i}) for i, p in enumerate(keys)))
    await write(
        opened, *(put(table="times", key={"p": p}, set={"a": i}) for i, p in enumerate(keys[:2]))
    )  # again, late
    found = {row.p: row.a for row in cql.execute(f"SELECT p, a FROM {keyspace}.times")}
    assert found == {"x": 2, "y": 4, "z": 3}


async def test_a_table_that_changes_while_we_write(opened: Any, cql: Any, keyspace: str) -> None:
    cql.execute(f"CREATE TYPE {keyspace}.growing (x int)")
    cql.execute(
        f"CREATE TABLE {keyspace}.changing (id int PRIMARY KEY, a int, u frozen<growing>)".replace(
            "<g", f"<{keyspace}.g"
        )
    )
    key = {"id": 1}
    assert await write(opened, put(table="changing", key=key, set={"a": 1})) == [APPLIED]
    cql.execute(f"ALTER TABLE {keyspace}.changing ADD b int")
    assert await write(opened, put(table="changing", key=key, set={"b": 2})) == [APPLIED]
    cql.execute(f"ALTER TYPE {keyspace}.growing ADD y int")
    assert await write(opened, put(table="changing", key=key, set={"u": {"y": 3}})) == [APPLIED]
    cql.execute(f"ALTER TABLE {keyspace}.changing DROP a")
    ok, dead = await write(
        opened, put(table="changing", key=key, set={"b": 4}), put(table="changing", key=key, set={"a": 4})
    )
    assert ok is APPLIED
    assert isinstance(dead, Dead)
    cql.execute(f"DROP TABLE {keyspace}.changing")
    cql.execute(f"CREATE TABLE {keyspace}.changing (id text PRIMARY KEY, b text)")
    assert await write(opened, put(table="changing", key={"id": "one"}, set={"b": "4"})) == [APPLIED]
    assert cql.execute(f"SELECT b FROM {keyspace}.changing WHERE id = 'one'").one().b == "4"


async def test_names_are_taken_as_they_are(opened: Any, cql: Any, keyspace: str, table: str) -> None:
    ok, dead = await write(
        opened,
        put(table=table, key={"p": "case", "c": 1}, set={"B": "upper"}),
        put(table=table, key={"p": "case", "c": 2}, set={"b": "lower"}),
    )
    assert ok is APPLIED
    assert isinstance(dead, Dead)
    cql.execute(f'CREATE TABLE {keyspace}."OddName" ("select" int PRIMARY KEY, "ä b" int)')
    assert await write(opened, put(table="OddName", key={"select": 1}, set={"ä b": 2})) == [APPLIED]


async def test_a_target_with_a_table_refuses_mutations_for_others(cassandra: str, keyspace: str, table: str) -> None:
    sink = CassandraSink(target(cassandra, keyspace, table))
    await sink.open()
    try:
        ok, also, dead = await write(
            sink,
            put(key={"p": "own", "c": 1}),
            put(table=table, key={"p": "own", "c": 1}),
            put(table="others", key={"p": "own", "c": 1}),
        )
    finally:
        await sink.close()
    assert ok is also is APPLIED
    assert isinstance(dead, Dead)
    assert "for the table others" in dead.reason


async def test_a_dropped_table_is_no_records_fault(cassandra: str, keyspace: str, cql: Any) -> None:
    cql.execute(f"CREATE TABLE {keyspace}.gone (id int PRIMARY KEY)")
    sink = CassandraSink(target(cassandra, keyspace, "gone"))
    await sink.open()
    try:
        cql.execute(f"DROP TABLE {keyspace}.gone")
        with pytest.raises(SinkError, match=r"no table .*gone"):
            await write(sink, put(key={"id": 1}))
        cql.execute(f"CREATE TABLE {keyspace}.gone (id int PRIMARY KEY)")
        assert await write(sink, put(key={"id": 1})) == [APPLIED]
    finally:
        await sink.close()


async def test_open_names_a_missing_table_and_counters(cassandra: str, keyspace: str, cql: Any) -> None:
    cql.execute(f"CREATE TABLE {keyspace}.counts (id int PRIMARY KEY, n counter)")
    for table, reason in (("missing", "there is no table"), ("counts", "counters")):
        sink = CassandraSink(target(cassandra, keyspace, table))
        with pytest.raises(SinkError, match=reason):
            await sink.open()
        await sink.close()
    (change,) = [
        c
        for c in await CassandraSink(target(cassandra, keyspace, "counts")).provision(dry_run=True)
        if c.kind == "table"
    ]
    assert change.action is Action.REFUSE


async def test_a_connection_that_breaks_is_the_target_down_and_heals(cassandra: str, keyspace: str, table: str) -> None:
    host, _, port = cassandra.rpartition(":")
    async with Proxy(host, int(port)) as proxy:
        sink = CassandraSink(target(proxy.address, keyspace, table))
        await sink.open()
        try:
            row = put(key={"p": "broken", "c": 1}, set={"a": 1})
            assert await write(sink, row) == [APPLIED]

            proxy.cut()  # nothing comes through, and nobody says so
            with pytest.raises(OperationTimedOut) as silent:
                await write(sink, row)
            assert sink.verdict(silent.value) is TARGET_DOWN

            proxy.refuse()
            proxy.reset()
            with pytest.raises(NoHostAvailable) as refused:
                await write(sink, row)
            assert sink.verdict(refused.value) is TARGET_DOWN

            proxy.heal()
            async with asyncio.timeout(20):
                while True:
                    try:
                        assert await write(sink, row) == [APPLIED]
                        break
                    except (NoHostAvailable, OperationTimedOut):
                        await asyncio.sleep(0.1)
        finally:
            await sink.close()


async def test_a_timeout_of_one_row_is_a_retry_and_of_all_the_target_down(
    opened: CassandraSink, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeout = WriteTimeout("timed out", write_type=WriteType.SIMPLE)
    run = opened._writer._requests.run
    fail = {1}

    async def broken(statements: Any) -> Any:
        errors = await run(statements)
        return [timeout if i in fail else error for i, error in enumerate(errors)]

    monkeypatch.setattr(opened._writer._requests, "run", broken)
    monkeypatch.setattr(opened._writer, "_replicas", lambda key: None)  # each row travels alone
    rows = [put(table=table, key={"p": f"timeout-{i}", "c": 1}) for i in range(3)]
    first, second, third = await write(opened, *rows)
    assert first is third is APPLIED
    assert isinstance(second, Retry)
    fail = {0, 1, 2}
    with pytest.raises(WriteTimeout):
        await write(opened, *rows)


async def test_a_call_that_is_given_up_leaves_nothing_behind(
    opened: CassandraSink, table: str, monkeypatch: Any
) -> None:
    assert await write(opened, put(table=table, key={"p": "before", "c": 1})) == [APPLIED]
    monkeypatch.setattr(opened._writer._requests, "_limit", 1)
    rows = [log(i, put(table=table, key={"p": f"cancel-{i}", "c": 1})) for i in range(200)]
    call = asyncio.create_task(opened.write(rows))
    await asyncio.sleep(0)  # it runs until it waits for answers
    assert opened._writer._requests._waiting
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await write(opened, put(table=table, key={"p": "after", "c": 1})) == [APPLIED]
    assert opened._writer._requests._in_flight == 0
    assert not opened._writer._requests._waiting


FLIGHTS = {
    "columns": {"flight": "text", "day": "date", "delay": "int", "tags": "Set<VARCHAR>"},
    "primary_key": {"partition": ["flight"], "clustering": ["day"], "order": {"day": "desc"}},
}


async def test_provision_makes_checks_and_refuses(cassandra: str, cql: Any) -> None:
    keyspace = f"sink_{uuid.uuid4().hex[:8]}"

    async def provision(create: Any, *, dry_run: bool = False) -> dict[str, Any]:
        sink = CassandraSink(target(cassandra, keyspace, "flights", create=create))
        return {change.kind: change for change in await sink.provision(dry_run=dry_run)}

    try:
        changes = await provision(FLIGHTS)
        assert {change.action for change in changes.values()} == {Action.REFUSE, Action.CREATE}
        assert "options.create.replication" in changes["keyspace"].detail
        assert cql.execute("SELECT * FROM system_schema.keyspaces WHERE keyspace_name=%s", (keyspace,)).one() is None

        wanted = {**FLIGHTS, "replication": REPLICATION}
        planned = await provision(wanted, dry_run=True)
        assert await provision(wanted) == planned
        assert {change.action for change in planned.values()} == {Action.CREATE}
        assert "CLUSTERING ORDER BY (day DESC)" in planned["table"].settings["cql"]
        assert {change.action for change in (await provision(wanted)).values()} == {Action.NONE}

        more = {**wanted, "columns": {**FLIGHTS["columns"], "Gate": "text"}}
        assert (await provision(more))["table"].action is Action.ALTER
        assert {change.action for change in (await provision(more)).values()} == {Action.NONE}

        other_type = {**wanted, "columns": {**FLIGHTS["columns"], "delay": "bigint"}}
        refused = (await provision(other_type))["table"]
        assert (refused.action, refused.detail) == (
            Action.REFUSE,
            "a column's type cannot change: delay is int, not bigint",
        )

        other_key = {**wanted, "primary_key": {"partition": ["flight", "day"]}}
        assert (
            "((flight), day), and the target asks for ((flight, day))" in (await provision(other_key))["table"].detail
        )
        other_replication = {**wanted, "replication": {**REPLICATION, "replication_factor": 2}}
        assert (await provision(other_replication))["keyspace"].action is Action.REFUSE

        assert {change.action for change in (await provision(None)).values()} == {Action.NONE}
        cql.execute(f"DROP TABLE {keyspace}.flights")
        assert "options.create" in (await provision(None))["table"].detail
    finally:
        cql.execute(f"DROP KEYSPACE IF EXISTS {keyspace}")


def test_a_target_without_a_connection_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="connection"):
        CassandraSink(SinkContext("test", "base", CassandraOptions(keyspace="k")))
