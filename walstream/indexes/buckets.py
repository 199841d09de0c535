"""Two sets compared in constant memory, and what is in one of them only named, if that is not too much.

Every thing has a name, and is added to a bucket of each of two tables, as h and h times its name, where h is a hash of
all of it: what is in both sets adds nothing. Of a bucket in which all that is left is of one name, the quotient of the
two sums is that name. It is taken out of its bucket in the other table, where another may be alone then, and so on.
That is an invertible Bloom lookup table: Goodrich and Mitzenmacher, "Invertible Bloom Lookup Tables", 2011.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Iterator

BUCKETS = 1 << 18
"""Buckets of a table. The two take 120 MB at most, and nearly always name what differs if that is below 200,000."""

LONGEST = 160
"""Bytes of a name that are added up; what has a longer one is known by its bucket only."""

Name = tuple[bytes, ...]
Values = tuple[bytes | None, ...]

_BITS = 96  # of the first sum, with its sign: 2^32 hashes of 64 bits
_HALF, _LOW = 1 << _BITS - 1, (1 << _BITS) - 1
_ONE = (1).to_bytes(_BITS // 8, "big")


class Buckets:
    """What is in one set and not in the other.

    The hashes have 64 bits, and are not the same in another process. So a difference is overlooked with a probability
    of about 2^-63.
    """

    def __init__(self, count: int = BUCKETS) -> None:
        self.count = count
        self._tables = [0] * count, [0] * count  # a bucket is its second sum times 2^_BITS, and its first sum

    def add(self, things: Iterable[tuple[Name, Values]]) -> None:
        """Things of the first set."""
        self._sum_up(things, 1)

    def take(self, things: Iterable[tuple[Name, Values]]) -> None:
        """Things of the second set."""
        self._sum_up(things, -1)

    def _sum_up(self, things: Iterable[tuple[Name, Values]], sign: int) -> None:
        first, second = self._tables
        count, dumps, number, one = self.count, marshal.dumps, int.from_bytes, _ONE
        for thing in things:
            name = thing[0]
            text = dumps(name, 2)
            total = sign * hash(thing) * (number(text + one, "big") if len(text) <= LONGEST else 1)
            place = hash(name)
            first[place % count] += total
            second[(place >> 32) % count] += total

    def bucket(self, name: Name) -> int:
        """The bucket of a name in the first table."""
        return hash(name) % self.count

    def names(self) -> Iterator[Name]:
        """Name what differs, and forget it. Some may be left, which is then in the buckets that `left` answers with."""
        count, tables = self.count, self._tables
        todo = [(at, bucket) for at, table in enumerate(tables) for bucket, total in enumerate(table) if total]
        while todo:
            at, bucket = todo.pop()
            total = tables[at][bucket]
            name = _name_of(total) if total else None
            if name is None:
                continue
            place = hash(name)
            places = place % count, (place >> 32) % count
            if places[at] != bucket:
                continue  # it is not a name, but the quotient of sums of several
            yield name
            for table, where in zip(tables, places, strict=True):
                table[where] -= total
            todo.append((1 - at, places[1 - at]))

    def left(self) -> set[int]:
        """The buckets of the first table in which the sets differ."""
        return {bucket for bucket, total in enumerate(self._tables[0]) if total}


def _name_of(total: int) -> Name | None:
    """The name of all that a bucket holds, if it is one."""
    first = (total + _HALF & _LOW) - _HALF
    if not first:
        return None
    number, rest = divmod(total - first >> _BITS, first)
    if rest or number <= 0:
        return None
    try:
        name = marshal.loads(number.to_bytes((number.bit_length() + 7) // 8, "big"))
    except (ValueError, EOFError, TypeError):
        return None
    return name if isinstance(name, tuple) and all(isinstance(part, bytes) for part in name) else None
