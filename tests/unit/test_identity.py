from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from walstream.identity import SIZE, identity

parts = st.tuples(st.none() | st.binary(max_size=5), st.text("a1 -", max_size=5), st.text("a1 -", max_size=5))


@given(parts, parts)
def test_identities_are_equal_only_for_equal_parts(
    one: tuple[bytes | None, str, str], other: tuple[bytes | None, str, str]
) -> None:
    assert (identity(*one) == identity(*other)) == (one == other)


@given(st.binary(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_text_and_its_utf8_are_the_same(key: bytes, source: str, id_: str) -> None:
    name = identity(key, source, id_)
    assert name == identity(key, source.encode(), id_.encode())
    assert len(name) == SIZE


def test_no_key_is_not_an_empty_key() -> None:
    assert identity(None, "s", "i") != identity(b"", "s", "i")


def test_it_is_what_stored_tables_hold() -> None:
    assert identity(b"UA1545", "/flights", "1").hex() == "6b9e0e136a6771d3c1f7a23995984a32"
    assert identity(None, "/flights", "1").hex() == "86f39d767b6fccad0d4d38d3ad24477f"
