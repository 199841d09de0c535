"""What acceptance tests share: sandboxes on the session's servers, and a seed."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from walstream.testing.sandbox import Sandbox

MakeSandbox = Callable[..., Sandbox]


@pytest.fixture(scope="session")
def seed() -> int:
    """What all randomness is drawn from; `WALSTREAM_SEED` repeats a run, and every failure says it."""
    return int(os.environ.get("WALSTREAM_SEED") or random.SystemRandom().randrange(1_000_000))


@pytest.fixture(autouse=True)
def _tell_the_seed(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> None:
    if "seed" in request.fixturenames:
        seed = request.getfixturevalue("seed")
        record_property("seed", seed)
        print(f"repeat with WALSTREAM_SEED={seed}")


@pytest.fixture(scope="module")
def make_sandbox(brokers: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeSandbox]:
    """Make sandboxes that are cleaned up at the end of the module."""
    with ExitStack() as stack:

        def make(cassandra: str | None = None, **options: object) -> Sandbox:
            folder: Path = tmp_path_factory.mktemp("sandbox")
            return stack.enter_context(Sandbox(folder, brokers, cassandra, **options))

        yield make
