"""Ports of workers, which are taken seconds after they were chosen."""

from __future__ import annotations

import socket
from itertools import islice
from pathlib import Path

import pytest

from walstream.cli import run


def test_two_supervisors_choose_other_ports_and_give_them_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.tempfile, "gettempdir", lambda: str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: int = server.getsockname()[1]
        monkeypatch.setattr(run, "FIRST_PORT", min(taken, 65_000))
        with run.free_ports() as first, run.free_ports() as second:
            mine, others = list(islice(first, 3)), list(islice(second, 3))
        assert len({*mine, *others} - {taken}) == 6
        with run.free_ports() as third:
            assert next(third) <= mine[0]
