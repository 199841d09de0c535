"""CQL statements against the local Cassandra, for who wants to look into a table without installing cqlsh."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from walstream.errors import ServerError

# What may hold a semicolon that ends nothing: strings, quoted names, function bodies, comments. An open one reaches to
# the end.
TOKEN = re.compile(
    r"'(?:[^']|'')*(?:'|\Z)"
    r'|"(?:[^"]|"")*(?:"|\Z)'
    r"|\$\$.*?(?:\$\$|\Z)"
    r"|(?P<comment>(?:--|//)[^\n]*|/\*.*?(?:\*/|\Z))"
    r"|(?P<end>;)"
    r"|.",
    re.DOTALL,
)


def split(text: str) -> tuple[list[str], str]:
    """Split text into the statements that a semicolon ends, and the rest; comments are left out."""
    statements: list[str] = []
    current = ""
    for match in TOKEN.finditer(text):
        if match["end"]:
            statements.append(current.strip())
            current = ""
        elif not match["comment"]:
            current += match[0]
    return [each for each in statements if each], current.strip()


@dataclass(frozen=True, slots=True)
class Rows:
    """What a statement gave: names of columns, none if it gave no rows, and the rows."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


class Session:
    """A connection that runs statements one after another."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def run(self, statement: str) -> Rows:
        """Run one statement.

        Raises
        ------
        ServerError
            Cassandra refuses it, or does not answer.
        """
        from cassandra import DriverException

        try:
            result = self._session.execute(statement)
            return Rows(list(result.column_names or []), [tuple(row) for row in result])
        except DriverException as error:
            raise ServerError(f"{statement}\n  {error}") from error


@contextlib.contextmanager
def connect(address: str) -> Iterator[Session]:
    """Connect to a Cassandra at ``host:port``.

    Raises
    ------
    ServerError
        It does not answer.
    """
    from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
    from cassandra.policies import WhiteListRoundRobinPolicy
    from cassandra.query import tuple_factory

    host, _, port = address.rpartition(":")
    profile = ExecutionProfile(WhiteListRoundRobinPolicy([host]), row_factory=tuple_factory, request_timeout=60)
    profiles = {EXEC_PROFILE_DEFAULT: profile}
    cluster = Cluster([host], port=int(port), protocol_version=5, execution_profiles=profiles)
    try:
        yield Session(cluster.connect())
    except NoHostAvailable as error:
        raise ServerError(f"No Cassandra answers at {address}: walstream local up") from error
    finally:
        cluster.shutdown()
