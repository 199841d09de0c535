"""What a comparison found, for people and programs: which entries are missing, stale or wrong, and what explains it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from walstream.backlog import Backlog
from walstream.errors import RecordRefused
from walstream.indexes.index import Index
from walstream.indexes.lookup import Seen
from walstream.indexes.pages import Row
from walstream.indexes.rows import BaseRows, Entries, Key
from walstream.indexes.values import Decode, NoForm, decoder
from walstream.indexes.verify import Result
from walstream.letters import DeadLetters, Wanted
from walstream.scan import Scanner

KINDS = ("missing", "stale", "wrong")


@dataclass(frozen=True, slots=True)
class Difference:
    """An entry that is not as it should be.

    Parameters
    ----------
    kind
        ``missing``; ``stale``, which should not be there; ``wrong``, into which something else is copied.
    key, entry
        The base row's key, and what it is found by.
    expected, found
        The copies that differ, of a wrong one.
    """

    kind: str
    key: Mapping[str, Any]
    entry: Mapping[str, Any]
    expected: Mapping[str, Any] | None = None
    found: Mapping[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        """The same for JSON."""
        document: dict[str, Any] = {"kind": self.kind, "key": self.key, "entry": self.entry}
        if self.kind == "wrong":
            document |= {"expected": self.expected, "found": self.found}
        return document


@dataclass(frozen=True, slots=True)
class Death:
    """A dead letter of a base row.

    Parameters
    ----------
    target, place
        Whose it is, and where in the log; None of what came from outside the log.
    of_base
        Whether the base table lacks it; else the index does.
    """

    target: str
    place: str | None
    error: str
    of_base: bool


@dataclass(slots=True)
class Report:
    """A comparison, explained.

    Parameters
    ----------
    result
        What was found.
    differences
        By base row, of those that nothing explains.
    dead
        Base rows that differ and of which a mutation is dead, each with its dead letters and differences.
    waiting
        Base rows that differ and of whose key something is to be tried again; they are no differences yet.
    """

    result: Result
    differences: dict[Key, list[Difference]] = field(default_factory=dict)
    dead: dict[Key, tuple[list[Death], list[Difference]]] = field(default_factory=dict)
    waiting: dict[Key, list[Difference]] = field(default_factory=dict)

    @property
    def counts(self) -> Counter[str]:
        """How many entries differ, by kind; without those that something explains."""
        return Counter(found.kind for several in self.differences.values() for found in several)

    @property
    def is_clean(self) -> bool:
        """Whether nothing differs, explained or not, but for what is on its way."""
        return not self.differences and not self.dead

    def document(self) -> dict[str, Any]:
        """The same for JSON."""
        counts, result = self.counts, self.result
        return {
            "rows": result.rows,
            "entries_wanted": result.wanted,
            "entries_found": result.found,
            **{kind: counts[kind] for kind in KINDS},
            "dead": len(self.dead),
            "waiting": len(self.waiting),
            "undecided": len(result.undecided),
            "complete": result.complete,
            "differences": [found.document() for several in self.differences.values() for found in several],
            "dead_rows": [
                {
                    "key": differences[0].key,
                    "letters": [{"target": d.target, "position": d.place, "error": d.error} for d in deaths],
                    "differences": [found.document() for found in differences],
                }
                for deaths, differences in self.dead.values()
            ],
            "waiting_rows": [several[0].key for several in self.waiting.values()],
        }


class Reporter:
    """Explains comparisons of an index.

    Parameters
    ----------
    index
        Which.
    scanner
        The namespace's Kafka.
    """

    def __init__(self, index: Index, scanner: Scanner) -> None:
        self._index, self._scanner = index, scanner
        definition = index.definition
        self._rows, entries = BaseRows(definition), Entries(definition)
        select = f"SELECT {', '.join(entries.select)} FROM {index.quoted(index.options.table)}"
        kinds = {column[2]: column[3] for column in index.session.prepare(select).result_metadata}
        self._entry = [(name, decoder(kinds[name])) for name in entries.names]
        self._copied = [(column, decoder(kinds[column])) for column in definition.copied]

    def explain(self, result: Result) -> Report:
        """Describe what differs, and see what is known of its keys.

        Raises
        ------
        Unreachable
            Kafka does not answer.
        """
        report = Report(result)
        if not result.differing:
            return report
        kafka_keys = {key: self._kafka_key(key) for key in result.differing}
        waiting, deaths = self._waiting(), self._deaths({key for key in kafka_keys.values() if key is not None})
        for key, seen in result.differing.items():
            differences, kafka_key = list(self._differences(key, seen)), kafka_keys[key]
            if kafka_key is not None and kafka_key.decode(errors="backslashreplace") in waiting:
                report.waiting[key] = differences
            elif kafka_key is not None and kafka_key in deaths:
                report.dead[key] = deaths[kafka_key], differences
            else:
                report.differences[key] = differences
        return report

    def _kafka_key(self, key: Key) -> bytes | None:
        try:
            return self._index.template.render(self._rows.key_json(key))
        except (NoForm, RecordRefused):
            return None

    def _waiting(self) -> set[str]:
        """Keys of which something is to be tried again, by the index or a target of the base table."""
        found: set[str] = set()
        for target in (self._index.target, *self._index.bases):
            backlog = Backlog(self._scanner, self._index.namespace, target)
            found |= {row["key"] for rows in (backlog.retrying(), backlog.blocked()) for row in rows if row.get("key")}
        return found

    def _deaths(self, keys: set[bytes]) -> dict[bytes, list[Death]]:
        found: dict[bytes, list[Death]] = {}
        for target in (self._index.target, *self._index.bases):
            full = f"{self._index.namespace.name}.{target}"
            for letter in DeadLetters(self._scanner, self._index.namespace, target).read(Wanted()):
                key = letter.found.key
                if key in keys:
                    place = None if letter.position is None else f"{letter.partition}:{letter.position}"
                    death = Death(full, place, letter.error, of_base=target != self._index.target)
                    found.setdefault(key, []).append(death)
        return found

    def _differences(self, key: Key, seen: Seen) -> Iterable[Difference]:
        try:
            shown: Mapping[str, Any] = self._rows.key_json(key)
        except NoForm:
            shown = dict(zip(self._index.definition.base.key, (part.hex() for part in key), strict=True))
        for entry in sorted(seen.wanted.keys() | seen.found.keys()):
            wanted, found = seen.wanted.get(entry), seen.found.get(entry)
            described = _show(self._entry, entry)
            if found is None:
                yield Difference("missing", shown, described)
            elif wanted is None:
                yield Difference("stale", shown, described)
            elif wanted != found:
                expected, is_ = _show(self._copied, wanted), _show(self._copied, found)
                places = [column for column, one, other in zip(expected, wanted, found, strict=True) if one != other]
                yield Difference(
                    "wrong", shown, described, {c: expected[c] for c in places}, {c: is_[c] for c in places}
                )


def _show(columns: Sequence[tuple[str, Decode]], values: Row) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for (column, decode), value in zip(columns, values, strict=True):
        try:
            shown[column] = None if value is None else decode(value)
        except NoForm:
            shown[column] = value.hex() if value is not None else None
    return shown
