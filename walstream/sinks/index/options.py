"""What a target of the sink ``index`` says: which table is indexed, by what, and which columns go along."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from walstream.namespace import Words, fault
from walstream.sinks.cassandra.sink import Consistency
from walstream.units import format_duration, parse_duration

Function = Literal["", "lower", "bucket", "entries", "keys"]

_BY = re.compile(
    r"(?:(?P<function>[a-z]+)\(\s*(?P<argument>\w+)\s*(?:,\s*(?P<width>\w+)\s*)?\)|(?P<column>\w+))(?:\s+as\s+(?P<name>\w+))?"
)
_SUFFIX: dict[Function, str] = {"": "", "lower": "_lower", "bucket": "_bucket", "entries": "_entry", "keys": "_key"}

OPERATORS = ("<", "<=", ">", ">=", "not")
"""What a condition can say of a column beside ``=``."""


@dataclass(frozen=True, slots=True)
class By:
    """A column of the index's key: a column of the base table, or what a function makes of one.

    Parameters
    ----------
    column
        The base table's column.
    name
        Of the index table's column.
    width
        Of a bucket, ms.
    """

    column: str
    name: str
    function: Function = ""
    width: int = 0

    def __str__(self) -> str:
        if not self.function:
            text = self.column
        else:
            width = f", {format_duration(self.width)}" if self.width else ""
            text = f"{self.function}({self.column}{width})"
        default = f"{self.column}{_SUFFIX[self.function]}"
        return text if self.name == default else f"{text} as {self.name}"


def parse_by(text: str) -> By:
    """Read a word such as ``tailnum``, ``lower(name)``, ``bucket(dep_time, 1d) as day``, ``entries(tags)``.

    Raises
    ------
    ValueError
        It is none.
    """
    match = _BY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is neither a column nor a function of one, such as lower(name)")
    column, function, width = match["column"] or match["argument"], match["function"] or "", match["width"]
    if function not in _SUFFIX:
        raise ValueError(f"there is no function {function}; write lower(…), bucket(…, 1d), entries(…) or keys(…)")
    if (function == "bucket") != (width is not None):
        raise ValueError(
            f"a bucket has a width, such as bucket({column}, 1d)" if width is None else f"{function} takes one column"
        )
    milliseconds = 0 if width is None else parse_duration(width)
    if width is not None and milliseconds == 0:
        raise ValueError("a bucket's width is more than nothing")
    return By(column, match["name"] or f"{column}{_SUFFIX[function]}", function, milliseconds)


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold of one column.

    Parameters
    ----------
    operator
        ``in`` (one of the values, of which None is null), ``not`` (none of them), or an order.
    values
        As a mutation has them; one where the operator is an order.
    """

    column: str
    operator: str
    values: tuple[Any, ...]


def parse_where(where: dict[str, Any]) -> Iterator[Condition]:
    """Read conditions: a value, a list of values, or an object of `OPERATORS`, by column.

    Raises
    ------
    ValueError
        It is none of these.
    """
    for column, said in where.items():
        if not isinstance(said, dict):
            yield Condition(column, "in", _values(column, said))
            continue
        if not said or not said.keys() <= set(OPERATORS):
            raise ValueError(f"{column} is compared by {', '.join(OPERATORS)}, or is a value or a list of values")
        for operator, value in said.items():
            values = _values(column, value)
            if operator != "not" and (isinstance(value, list) or value is None):
                raise ValueError(f"{column} {operator} needs one value")
            yield Condition(column, operator, values)


def _values(column: str, said: Any) -> tuple[Any, ...]:
    values = said if isinstance(said, list) else [said]
    if not values:
        raise ValueError(f"the list of values of {column} is empty, so that nothing would be indexed")
    return tuple(_plain(column, value) for value in values)


def _plain(column: str, value: Any) -> Any:
    """A value of YAML as a mutation would have it."""
    if isinstance(value, float):
        return Decimal(repr(value))
    if isinstance(value, date):  # and datetime
        return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    raise ValueError(f"{column} cannot be compared with {value!r}")


def _one_by(text: str) -> str:
    parse_by(text)
    return text


def _conditions(where: dict[str, Any]) -> dict[str, Any]:
    list(parse_where(where))
    return where


ByText = Annotated[str, AfterValidator(_one_by)]
Where = Annotated[dict[str, Any], AfterValidator(_conditions)]


class IndexOptions(Words):
    """An index of a table of Cassandra.

    Parameters
    ----------
    keyspace, base, table
        Where the base table is, and the index's own in the same keyspace.
    by
        What it is looked up by: columns of the base table, or ``lower``, ``bucket``, ``entries``, ``keys`` of one.
    partition
        How many of ``by`` name a partition; the others order its rows. All by default.
    copy_
        ``copy`` in the file: columns that go along, so that a reader need not ask the base table.
    where
        Which rows are indexed.
    """

    keyspace: str = Field(min_length=1)
    base: str = Field(min_length=1)
    table: str = Field(min_length=1)
    by: list[ByText] = Field(min_length=1)
    partition: int | None = Field(default=None, ge=1)
    copy_: list[str] = Field(default_factory=list, alias="copy")
    where: Where = Field(default_factory=dict)
    consistency: Consistency = "LOCAL_QUORUM"

    @model_validator(mode="after")
    def _check(self) -> IndexOptions:
        if self.base == self.table:
            raise fault("a table cannot be its own index", "table", remedy="give the index a table of its own")
        if self.partition is not None and self.partition > len(self.by):
            raise fault(f"by has {len(self.by)} columns", "partition", remedy="write a smaller number, or leave it out")
        names = [by.name for by in self.columns]
        if len(set(names)) < len(names):
            raise fault("by has two columns of one name", "by", remedy="give one another name: … as NAME")
        if sum(by.function in ("entries", "keys") for by in self.columns) > 1:
            raise fault("only one collection can be indexed entry by entry", "by", remedy="make two indexes")
        if len(set(self.copy_)) < len(self.copy_):
            raise fault("a column stands twice in copy", "copy")
        return self

    @property
    def columns(self) -> list[By]:
        """``by``, read."""
        return [parse_by(text) for text in self.by]

    @property
    def conditions(self) -> list[Condition]:
        """``where``, read."""
        return list(parse_where(self.where))
