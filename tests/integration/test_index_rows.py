"""Rows of a real Cassandra read as they are: page by page, with their write times, and made into mutations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest
from cassandra import ReadTimeout
from cassandra.query import BoundStatement

from walstream.connections import CassandraConnection
from walstream.errors import ConfigurationError, SinkError
from walstream.indexes import pages
from walstream.indexes.build import Mutations
from walstream.indexes.index import Index, open_index
from walstream.indexes.lookup import Lookup
from walstream.indexes.pages import WHOLE, Range, Scan
from walstream.indexes.positions import Ends
from walstream.indexes.rows import BaseRows
from walstream.indexes.verify import Verification
from walstream.mutation import parse_mutation
from walstream.namespace import Namespace
from walstream.sinks.cassandra import schema
from walstream.sinks.cassandra.statements import Statements
from walstream.testing.servers import Address

COLUMNS = {
    "id": "text", "seq": "int", "a": "ascii", "b": "blob", "c": "decimal", "d": "double", "e": "date", "f": "inet",
    "g": "set<text>", "h": "map<int, frozen<list<text>>>", "i": "list<double>", "j": "tuple<int, text>", "k": "varint",
    "l": "timestamp", "m": "time", "n": "duration", "o": "frozen<place>", "p": "vector<float, 2>", "q": "uuid",
    "tail": "text",
}  # fmt: skip
SAID = {
    "a": "x", "b": "AAE=", "c": "1.500", "d": "NaN", "e": "2013-01-01", "f": "::1", "g": ["z", "a"],
    "h": {"7": ["x"], "3": []}, "i": ["2.5", "1"], "j": [1, None], "k": "123456789012345678901234567890",
    "l": "2013-01-01T00:00:00.5Z", "m": "05:06:07.123456789", "n": "1y2mo3d4h", "o": {"city": "LA", "floor": None},
    "p": ["1", "2.5"], "q": "12345678-1234-1234-1234-123456789012", "tail": "N1",
}  # fmt: skip

Open = Callable[..., Any]


@pytest.fixture
def opened(cassandra: Address, keyspace: str, cassandra_session: Any) -> Open:
    """Open an index of the table ``rows``."""
    cassandra_session.execute(f"CREATE TYPE {keyspace}.place (city text, floor int)")
    columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    for table in ("rows", "again"):
        cassandra_session.execute(f"CREATE TABLE {keyspace}.{table} ({columns}, PRIMARY KEY (id, seq))")
    cassandra_session.execute(f"CREATE TABLE {keyspace}.by_tail (tail text, id text, seq int, a ascii, PRIMARY KEY (tail, id, seq))")  # fmt: skip  # noqa: E501
    connection = CassandraConnection(sink="cassandra", hosts=[cassandra.host], port=cassandra.port)

    @contextmanager
    def open_one(sink: str = "index", **options: Any) -> Iterator[Index]:
        words = {"keyspace": keyspace, "base": "rows", "table": "by_tail", "by": ["tail"], "consistency": "ONE"}
        target = {"sink": sink, "connection": "store", "options": words | options}
        document = {"version": 1, "namespace": "flights", "key": "{id}", "targets": {"by-tail": target}}
        with open_index(Namespace.model_validate(document), "by-tail", {"store": connection}) as index:
            yield index

    return open_one


def put(session: Any, keyspace: str, table: str, payload: dict[str, Any], time: int) -> None:
    found = schema.read_table(session, keyspace, table)
    assert found is not None
    statement, values, _ = Statements(session, found).bind(parse_mutation(orjson.dumps(payload)), time)
    bound = BoundStatement(statement)
    bound.values = values
    session.execute(bound)


def test_a_row_comes_back_from_its_mutations(opened: Open, keyspace: str) -> None:
    copied = [column for column in COLUMNS if column not in ("id", "seq", "tail", "n")]
    with opened(copy=copied) as index:
        session = index.session
        put(session, keyspace, "rows", {"op": "put", "key": {"id": "r", "seq": -1}, "set": SAID}, 5_000)
        put(session, keyspace, "rows", {"op": "put", "key": {"id": "r", "seq": -1}, "set": {"g": ["y"]}}, 7_000)
        mutations = Mutations(index)
        (row,) = [
            row for page in Scan(index, "rows", mutations.rows.select, ["id"]).pages([WHOLE]) for row in page.rows
        ]
        times = {}
        for _, message in mutations.of(row):
            time = int(dict(message.headers)["walstream-time"] or b"")
            payload = parse_mutation(message.value)
            times[time] = set(payload.set)
            put(session, keyspace, "again", {"op": "put", "key": payload.key, "set": payload.set}, time)
        assert times == {5_000: set(copied) - {"g"} | {"tail"}, 7_000: {"g"}}
        select = ", ".join(("id", "seq", *sorted(set(copied) - {"d"}), "tail"))
        one, other = (session.execute(f"SELECT {select} FROM {keyspace}.{name}").one() for name in ("rows", "again"))
        assert one == other


def test_a_table_is_read_in_pages_whatever_fails_in_between(
    opened: Open, keyspace: str, cassandra_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = cassandra_session.prepare(f"INSERT INTO {keyspace}.rows (id, seq, tail) VALUES (?, ?, ?)")
    wanted = set()
    for number in range(300):
        key = f"r{number % 20}", number
        wanted.add(key)
        cassandra_session.execute(insert, (*key, "N1"))
    monkeypatch.setattr(pages, "PAGE", 7)
    monkeypatch.setattr(pages, "SMALLEST", 3)
    with opened() as index:
        rows = BaseRows(index.definition)
        scan = Scan(index, "rows", rows.select, ["id"])
        answers, ask = [], scan._ask

        def failing(*arguments: Any) -> Any:
            future = ask(*arguments)
            answers.append(future)
            return Failed() if len(answers) % 10 == 0 else future

        monkeypatch.setattr(scan, "_ask", failing)
        monkeypatch.setattr("walstream.indexes.pages.time.sleep", lambda seconds: None)
        found = [row for page in scan.pages(WHOLE.split(5)) for row in page.rows]
        keys = [(str(key[0], "ascii"), int.from_bytes(key[1], "big")) for key in map(rows.key, found)]
        assert len(keys) == 300 and set(keys) == wanted and len(answers) > 43 + 4
        half = Range(WHOLE.after, 0)
        tokens = cassandra_session.execute(f"SELECT token(id) AS place FROM {keyspace}.rows")
        assert sum(len(page.rows) for page in scan.pages([half])) == sum(row.place <= 0 for row in tokens)

        monkeypatch.setattr(scan, "_ask", lambda *arguments: Failed())
        with pytest.raises(SinkError, match="rows cannot be read: ReadTimeout"):
            list(scan.pages([WHOLE]))


class Failed:
    """A page that the server had no time for."""

    def result(self) -> Any:
        raise ReadTimeout("on purpose")


class Here:
    """Targets that have finished everything."""

    def ends(self, targets: Any) -> Ends:
        return Ends({})

    def wait(self, ends: Ends) -> None:
        self.waited = True


def test_what_differs_is_found_by_sums_and_seen_by_key(opened: Open, keyspace: str, cassandra_session: Any) -> None:
    for number in range(200):
        cassandra_session.execute(
            f"INSERT INTO {keyspace}.rows (id, seq, tail, a) VALUES ('r', {number}, 'N{number % 3}', 'x')"
        )
        cassandra_session.execute(
            f"INSERT INTO {keyspace}.by_tail (tail, id, seq, a) VALUES ('N{number % 3}', 'r', {number}, 'x')"
        )
    with opened(copy=["a"]) as index:
        here: Any = Here()
        result = Verification(index, here).run(lambda what, share: None)
        assert (result.rows, result.wanted, result.found, result.differing) == (200, 200, 200, {})
        cassandra_session.execute(f"UPDATE {keyspace}.by_tail SET a = 'y' WHERE tail = 'N1' AND id = 'r' AND seq = 1")
        cassandra_session.execute(f"DELETE FROM {keyspace}.by_tail WHERE tail = 'N2' AND id = 'r' AND seq = 2")
        cassandra_session.execute(f"INSERT INTO {keyspace}.by_tail (tail, id, seq) VALUES ('N9', 'r', 3)")
        cassandra_session.execute(f"INSERT INTO {keyspace}.by_tail (tail, id, seq) VALUES ('N9', 'gone', 4)")
        result = Verification(index, here).run(lambda what, share: None)
        found = {(key[0], key[1][3]): seen for key, seen in result.differing.items()}
        assert found.keys() == {(b"r", 1), (b"r", 2), (b"r", 3), (b"gone", 4)}
        assert found[b"r", 1].wanted == {(b"N1",): (b"x",)} and found[b"r", 1].found == {(b"N1",): (b"y",)}
        assert found[b"r", 2].found == {} and found[b"r", 3].found.keys() == {(b"N0",), (b"N9",)}
        assert found[b"gone", 4].cells is None and found[b"r", 1].latest > 0
        assert result.wanted == 200 and result.found == 201 and result.complete
        key = next(key for key in result.differing if key[0] == b"gone")
        assert Lookup(index).look({key: set()})[key].found == {}, "what nobody knows of is not looked for"
        assert not Verification(index, here, limit=1).run(lambda what, share: None).complete


def test_what_is_no_index_is_said(opened: Open, cassandra_session: Any, keyspace: str) -> None:
    with pytest.raises(ConfigurationError, match="is no index"), opened(sink="cassandra"):
        pass
    with pytest.raises(SinkError, match="there is no table"), opened(base="nothing"):
        pass
    with opened(table="missing") as index, pytest.raises(SinkError, match="walstream apply"):
        Lookup(index)
