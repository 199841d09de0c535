"""The index's table: made where it is missing, compared with the definition where it exists.

The definition stands in the table's comment. It cannot change: what is in the table was made by the old one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from walstream.changes import Action, Change
from walstream.errors import SinkError
from walstream.sinks.cassandra import schema
from walstream.sinks.cassandra.provision import key_words, table_cql
from walstream.sinks.index.definition import BadDefinition, Definition
from walstream.sinks.index.options import IndexOptions
from walstream.sinks.index.table import read_definition

_COMMENT = "SELECT comment FROM system_schema.tables WHERE keyspace_name=%s AND table_name=%s"
_OTHER = "take another table, and another target that fills it; a definition cannot change"


def provision(session: Any, options: IndexOptions, *, dry_run: bool) -> Sequence[Change]:
    """Make the table, or say what is wrong. Blocks.

    Raises
    ------
    SinkError
        There is no base table, and this is no dry run.
    """
    name = f"{options.keyspace}.{options.table}"
    try:
        definition = read_definition(session, options)
    except BadDefinition as error:
        return [Change(Action.REFUSE, "table", name, f"the index cannot be: {error}")]
    if definition is None:
        base = f"{options.keyspace}.{options.base}"
        if not dry_run:
            raise SinkError(f"there is no table {base} to index; make it, or let a target of sink: cassandra create it")
        # Another target may be about to make it.
        return [Change(Action.CREATE, "table", name, f"as an index of {base}, as soon as that exists")]
    change = _change(session, name, definition)
    if change.action is Action.CREATE and not dry_run:
        session.execute(change.settings["cql"])
    return [change]


def _change(session: Any, name: str, definition: Definition) -> Change:
    options = definition.options
    found = schema.read_table(session, options.keyspace, options.table)
    wanted, text = definition.create(), definition.describe()
    if found is None:
        comment = text.replace("'", "''")
        cql = f"{table_cql(options.keyspace, options.table, wanted)} WITH comment = '{comment}'"
        return Change(Action.CREATE, "table", name, f"an index of {definition.base}", {"cql": cql})
    comment = session.execute(_COMMENT, (options.keyspace, options.table)).one().comment or ""
    if comment.startswith("walstream index ") and comment != text:
        return Change(Action.REFUSE, "table", name, f"it is a {comment}, and this is a {text}; {_OTHER}")
    if (found.partition, found.clustering) != (definition.partition, definition.clustering):
        is_, asked = (
            key_words(found.partition, found.clustering),
            key_words(definition.partition, definition.clustering),
        )
        return Change(Action.REFUSE, "table", name, f"its primary key is {is_}, and the index's {asked}; {_OTHER}")
    types = {column: schema.normal_type(kind) for column, kind in wanted.columns.items()}
    different = [
        f"{column} is {found.columns.get(column, 'missing')}, not {kind}"
        for column, kind in types.items()
        if schema.normal_type(found.columns.get(column, "")) != kind
    ]
    if different:
        return Change(Action.REFUSE, "table", name, f"{'; '.join(different)}; {_OTHER}")
    return Change(Action.NONE, "table", name, f"an index of {definition.base}")
