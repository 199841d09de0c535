"""Any topology of regions, cut and mended at random: nothing circles, nothing doubles, and all end with the same."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstream.headers import Header, sent_headers
from walstream.identity import identity
from walstream.replica import onward, read_replica, regions_of
from walstream.router.effective_time import EffectiveTimes

NAMES = ("a", "b", "c", "d", "e")
KEYS = (b"k0", b"k1", b"k2")
Edge = tuple[str, str]


@dataclass
class Logged:
    key: bytes
    id: str
    time: int
    path: bytes


@dataclass
class Region:
    """A region as its router makes it: a log of what is new, with the times that it gives or finds."""

    name: str
    rank: int
    log: list[Logged] = field(default_factory=list)
    known: set[bytes] = field(default_factory=set)
    counted: Counter[str] = field(default_factory=Counter)
    position: int = 0

    def __post_init__(self) -> None:
        self.times = EffectiveTimes(self.rank)

    def take(self, key: bytes, id: str, written: int, headers: list[Header]) -> None:
        """What a router does with a record of its ingress."""
        self.position += 1
        replica = read_replica(headers)
        if replica is not None and self.name in regions_of(replica.path):
            self.counted["circled"] += 1
            return
        name = identity(key, "s", id)
        if name in self.known:
            self.counted["duplicate"] += 1
            return
        self.known.add(name)
        if replica is None:
            self.log.append(Logged(key, id, self.times.assign(written, self.position), b""))
        else:
            self.log.append(Logged(key, id, replica.time, replica.path))

    def rows(self) -> dict[bytes, str]:
        """What a store holds that takes the last write by effective time."""
        rows: dict[bytes, tuple[int, str]] = {}
        for entry in self.log:
            rows[entry.key] = max(rows.get(entry.key, (-1, "")), (entry.time, entry.id))
        return {key: id for key, (_, id) in rows.items()}


@dataclass
class Link:
    """A replicate target: reads the log, sends at least once, may be cut off, and repeats what was not committed."""

    source: Region
    target: Region
    forward: bool
    read: int = 0
    committed: int = 0

    def send(self, most: int) -> None:
        for entry in self.source.log[self.read : self.read + most]:
            self.read += 1
            path = onward(entry.path, own=self.source.name, to=self.target.name, forward=self.forward)
            if path is not None:
                assert self.target.name not in regions_of(path)
                time, stamp = b"%d" % entry.time, b"%d" % self.read
                self.target.take(entry.key, entry.id, 0, sent_headers([], time=time, timestamp=stamp, path=path))

    @property
    def is_done(self) -> bool:
        return self.committed == len(self.source.log)


class World:
    """Regions with links, by chance of a seed."""

    def __init__(self, edges: dict[Edge, bool], seed: int) -> None:
        self.random = random.Random(seed)
        names = sorted({name for edge in edges for name in edge})
        self.edges = edges
        self.regions = {name: Region(name, rank) for rank, name in enumerate(names)}
        self.links = [Link(self.regions[a], self.regions[b], forward) for (a, b), forward in edges.items()]
        self.written: list[tuple[str, str]] = []  # region and id

    def run(self, steps: int) -> None:
        chance = self.random
        for number in range(steps):
            region = chance.choice(list(self.regions.values()))
            id = f"{number}"
            # Clocks are a little off, and many write at the same time.
            region.take(chance.choice(KEYS), id, 1_000_000 + 10 * (number // 3) + chance.randrange(20), [])
            self.written.append((region.name, id))
            for link in self.links:
                match chance.randrange(6):
                    case 0 | 1:
                        link.send(chance.randrange(1, 6))
                    case 2:
                        link.committed = link.read
                    case 3:
                        link.read = link.committed  # it died, and begins anew
        while not all(link.is_done for link in self.links):
            for link in chance.sample(self.links, len(self.links)):
                link.send(1_000)
                link.committed = link.read

    def reached(self, origin: str) -> set[str]:
        """Where what is written in a region must come to."""
        found, todo = {origin}, [origin]
        while todo:
            here = todo.pop()
            for (a, b), forward in self.edges.items():
                if a == here and b not in found and (forward or a == origin):
                    found.add(b)
                    todo.append(b)
        return found

    def check(self) -> None:
        times: dict[str, set[int]] = {}
        for name, region in self.regions.items():
            assert region.counted["circled"] == 0
            ids = [entry.id for entry in region.log]
            expected = {id for origin, id in self.written if name in self.reached(origin)}
            assert len(ids) == len(set(ids)), f"{name} has some twice"
            assert set(ids) == expected, name
            for entry in region.log:
                assert entry.path == b"" or name not in regions_of(entry.path)
                times.setdefault(entry.id, set()).add(entry.time)
        assert all(len(given) == 1 for given in times.values()), "a record has another time elsewhere"
        if all(len(self.reached(name)) == len(self.regions) for name in self.regions):
            rows = [region.rows() for region in self.regions.values()]
            assert all(row == rows[0] for row in rows)


def ring(count: int, *, both: bool = False) -> dict[Edge, bool]:
    edges = {(NAMES[i], NAMES[(i + 1) % count]): True for i in range(count)}
    return edges | {(b, a): True for a, b in edges} if both else edges


def mesh(count: int, *, forward: bool = False) -> dict[Edge, bool]:
    return dict.fromkeys(permutations(NAMES[:count], 2), forward)


def hub(count: int) -> dict[Edge, bool]:
    """All by way of the first: only it sends on."""
    out = {(NAMES[0], name): True for name in NAMES[1:count]}
    return out | {(name, NAMES[0]): False for name in NAMES[1:count]}


KNOWN = {
    "pair": mesh(2),
    "ring of 3": ring(3),
    "ring of 5": ring(5),
    "ring both ways": ring(4, both=True),
    "mesh of 3": mesh(3),
    "mesh of 5": mesh(5),
    "mesh that forwards": mesh(4, forward=True),
    "hub": hub(5),
}


@pytest.mark.parametrize("edges", KNOWN.values(), ids=KNOWN)
@pytest.mark.parametrize("seed", range(5))
def test_a_known_topology_brings_everything_everywhere_once(edges: dict[Edge, bool], seed: int) -> None:
    world = World(edges, seed)
    assert all(world.reached(name) == set(world.regions) for name in world.regions)
    world.run(60)
    world.check()


@given(
    st.dictionaries(st.sampled_from(list(permutations(NAMES, 2))), st.booleans(), min_size=1, max_size=20),
    st.integers(0, 10_000),
)
def test_any_topology_neither_circles_nor_doubles(edges: dict[Edge, bool], seed: int) -> None:
    world = World(edges, seed)
    world.run(25)
    world.check()


def test_a_region_under_another_name_than_its_own_is_found_out() -> None:
    """What the drop before dedup is for: a target that names its region wrongly sends back what was written there."""
    a, b = Region("a", 0), Region("b", 1)
    there, back = Link(a, b, True), Link(b, a, True)
    a.take(b"k0", "1", 5, [])
    there.send(10)
    back.target = Region("misnamed", 0)
    back.send(10)
    ((_, id, time, path),) = [(e.key, e.id, e.time, e.path) for e in back.target.log]
    a.known.clear()  # it was away for longer than its window
    a.take(b"k0", id, 0, sent_headers([], time=b"%d" % time, timestamp=b"1", path=path))
    assert a.counted["circled"] == 1 and len(a.log) == 1
