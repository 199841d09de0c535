"""A receipt tells what is known about a write, and cannot be taken for more."""

import pytest

from walstream import Durable, NotDurable, Receipt


def receipt(durable: Durable, error: Exception | None = None) -> Receipt:
    return Receipt(durable, "flights", "1", "flights.ingress", error=error)


@pytest.mark.parametrize("durable", Durable)
def test_has_no_truth_value(durable: Durable) -> None:
    with pytest.raises(TypeError, match="durable"):
        bool(receipt(durable))


def test_durable_passes() -> None:
    written = receipt(Durable.TRUE)
    assert written.raise_for_durability() is written


def test_not_written_raises_with_the_cause() -> None:
    cause = ConnectionError("no broker")
    with pytest.raises(NotDurable, match="record 1 of flights was not written: no broker") as caught:
        receipt(Durable.FALSE, cause).raise_for_durability()
    assert caught.value.__cause__ is cause


def test_unknown_raises_and_says_how_to_find_out() -> None:
    with pytest.raises(NotDurable, match=r"may or may not be written.*same id"):
        receipt(Durable.UNKNOWN, TimeoutError("no answer")).raise_for_durability()
