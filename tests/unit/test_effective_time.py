from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstream.errors import RecordRefused, StateMismatch
from walstream.router.effective_time import EffectiveTimes, check_ahead

START = 1_356_998_400_000_000

# Write times that collide a lot: in one millisecond, in one step of 10 us, in a row.
write_times = st.sampled_from([0, 1, 9, 10, 11, 20, 30, 40, 5110, 5120, 5130, 1000, 2000]).map(
    START.__add__
) | st.integers(START, START + 300)
# None is a checkpoint
histories = st.lists(write_times | st.none(), max_size=80)


class Model:
    """Effective times in the plainest way: all that was given is kept, and rows are pairs."""

    def __init__(self, rank: int, capacity: int) -> None:
        self.rank, self.capacity = rank, capacity
        self.rows: list[list[tuple[int, int, int]]] = [[]]  # position, write time, time

    def assign(self, write_time: int, position: int) -> int:
        given = [entry for row in self.rows for entry in row]
        for known, _, time in given:
            if known == position:
                return time
        wanted = write_time // 10 * 10
        before = [time // 10 * 10 for _, asked, time in given if asked // 10 * 10 == wanted]
        taken = {time // 10 * 10 for _, _, time in given}
        step = max(before) + 10 if before else wanted
        while step in taken:
            step += 10
        self.rows[-1].append((position, write_time, step + self.rank))
        return step + self.rank

    def checkpoint(self) -> None:
        if not self.rows[-1]:
            return
        self.rows[-1] = self.rows[-1][-self.capacity :]
        while sum(map(len, self.rows[1:])) >= self.capacity:
            del self.rows[0]
        self.rows.append([])


class Store:
    """What a changelogged table holds."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def checkpoint(self, times: EffectiveTimes) -> None:
        row = times.take_row()
        if row is not None:
            assert row[0] not in self.rows
            self.rows[row[0]] = row[1]
        for key in times.take_expired():
            del self.rows[key]

    def restored(self, rank: int, capacity: int) -> EffectiveTimes:
        times = EffectiveTimes(rank, capacity)
        times.restore(reversed(self.rows.items()))
        return times


@given(histories, st.integers(0, 9), st.integers(1, 12))
def test_it_gives_what_the_model_gives(history: list[int | None], rank: int, capacity: int) -> None:
    times, model, store = EffectiveTimes(rank, capacity), Model(rank, capacity), Store()
    for position, write_time in enumerate(history):
        if write_time is None:
            store.checkpoint(times)
            model.checkpoint()
        else:
            assert times.assign(write_time, position) == model.assign(write_time, position)


@given(st.lists(write_times | st.sampled_from(["checkpoint", "crash"]), max_size=80), st.integers(1, 12))
def test_a_restored_one_goes_on_as_the_one_before(events: list[int | str], capacity: int) -> None:
    times, store = EffectiveTimes(3, capacity), Store()
    written: list[int] = []
    committed: list[int] = []  # what the positions got, as far as the last checkpoint
    pending: list[int] = []
    for event in events:
        if event == "checkpoint":
            store.checkpoint(times)
            committed, pending = committed + pending, []
        elif event == "crash":  # what is behind the last checkpoint is read again
            times = store.restored(3, capacity)
            start = len(committed)
            again = [times.assign(write_time, start + n) for n, write_time in enumerate(written[start:])]
            assert again == pending
        else:
            assert isinstance(event, int)
            pending.append(times.assign(event, len(written)))
            written.append(event)


@given(st.lists(write_times, max_size=100), st.integers(0, 9))
def test_times_are_unique_and_close_and_have_the_rank(history: list[int], rank: int) -> None:
    times = EffectiveTimes(rank)
    given_ = [times.assign(write_time, position) for position, write_time in enumerate(history)]
    assert len(set(given_)) == len(given_)
    for write_time, time in zip(history, given_, strict=True):
        assert time % 10 == rank
        assert 0 <= time // 10 - write_time // 10 <= len(history)


@given(st.lists(st.integers(0, 10**6), unique=True, max_size=100))
def test_write_times_that_differ_are_kept(steps: list[int]) -> None:
    times = EffectiveTimes()
    for position, step in enumerate(steps):
        assert times.assign(START + 10 * step + 7, position) == START + 10 * step


@given(st.integers(1, 9), st.lists(st.sampled_from(["write", "checkpoint", "restore"]), max_size=100))
def test_of_equal_write_times_the_later_wins_however_many_there_are(capacity: int, actions: list[str]) -> None:
    times, store = EffectiveTimes(0, capacity), Store()
    last = START - 1
    for position, action in enumerate(actions):
        if action == "write":
            time = times.assign(START, position)
            assert time > last
            last = time
        else:
            store.checkpoint(times)
            if action == "restore":
                times = store.restored(0, capacity)


def test_a_redelivery_gets_the_same_time() -> None:
    times, store = EffectiveTimes(0, 1000), Store()
    given_ = {position: times.assign(START + position // 7, position) for position in range(0, 900, 3)}
    assert {position: times.assign(START + position // 7, position) for position in given_} == given_
    store.checkpoint(times)
    times = store.restored(0, 1000)
    assert {position: times.assign(START + position // 7, position) for position in given_} == given_


def test_a_redelivery_keeps_its_time_when_the_rank_is_another() -> None:
    times, store = EffectiveTimes(1), Store()
    time = times.assign(START, 5)
    store.checkpoint(times)
    times = store.restored(2, 10_000)
    assert times.assign(START, 5) == time == START + 1
    assert times.assign(START, 6) == START + 12


@pytest.mark.parametrize("per_checkpoint", [1, 7, 250])
def test_what_is_kept_is_bounded(per_checkpoint: int) -> None:
    capacity = 100
    times, store = EffectiveTimes(0, capacity), Store()
    for position in range(3000):
        times.assign(START + position // 50 * 1000, position)
        if position % per_checkpoint == 0:
            store.checkpoint(times)
            entries = sum(len(value) // 16 for value in store.rows.values())
            assert entries <= 2 * (capacity + min(per_checkpoint, capacity))
            assert len(store.rows) <= capacity
    assert len(store.restored(0, capacity)._next) <= capacity + per_checkpoint


def test_a_checkpoint_without_times_has_no_row() -> None:
    times = EffectiveTimes()
    assert times.take_row() is None
    times.assign(START, 1)
    assert times.take_row() is not None
    assert times.take_row() is None
    assert times.take_expired() == []


def test_rows_of_a_newer_format_are_refused() -> None:
    times = EffectiveTimes()
    times.assign(START, 1)
    row = times.take_row()
    assert row is not None
    with pytest.raises(StateMismatch, match="has format 2; this version of walstream reads format 1"):
        EffectiveTimes().restore([(row[0], b"\x02" + row[1][1:])])


@pytest.mark.parametrize("cut", [0, 1, 8, 9, 20, 24])
def test_what_is_no_row_is_refused(cut: int) -> None:
    times = EffectiveTimes()
    times.assign(START, 1)
    row = times.take_row()
    assert row is not None
    with pytest.raises(StateMismatch):
        EffectiveTimes().restore([(row[0], row[1][:cut])])
    with pytest.raises(StateMismatch):
        EffectiveTimes().restore([(row[0][:cut], row[1] + b"x")])


@pytest.mark.parametrize(("rank", "capacity"), [(-1, 1), (10, 1), (0, 0)])
def test_parameters_that_cannot_be_are_refused(rank: int, capacity: int) -> None:
    with pytest.raises(ValueError, match=r"must be|is a digit"):
        EffectiveTimes(rank, capacity)


def test_a_write_time_may_be_five_minutes_ahead_and_no_more() -> None:
    append_ms = START // 1000
    check_ahead(START + 300_000_999, append_ms)
    check_ahead(0, append_ms)
    with pytest.raises(RecordRefused, match="301 s ahead of the broker's append time; at most 300 s") as caught:
        check_ahead(START + 301_000_000, append_ms)
    assert caught.value.code == "time-ahead"
