"""Servers that go wrong every other time: each fault under its name, the answers between them counted all the same."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

_spec = importlib.util.spec_from_file_location("faulty_servers", Path(__file__).with_name("faulty_servers.py"))
assert _spec is not None
assert _spec.loader is not None
faulty: Any = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = faulty
_spec.loader.exec_module(faulty)


@pytest.fixture(autouse=True)
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are other tests' business, and take longer than these loads."""
    monkeypatch.setattr("dlmbench.bench.load.command.write_load_report", lambda _: [])


@pytest.mark.parametrize("name", faulty.CASES)
def test_a_fault_is_counted_under_its_name_and_stops_nothing(name: str, tmp_path: Path) -> None:
    case = faulty.CASES[name]
    with faulty.served(case.answer) as url:
        level, _ = faulty.loaded(url, tmp_path / "load", case.timeout_s)
    assert level["requests"] == faulty.REQUESTS
    assert set(level["faults"]) <= set(case.codes)
    assert faulty.answered(level) == (faulty.REQUESTS // 2 if case.codes else faulty.REQUESTS)


def test_nobody_there(tmp_path: Path) -> None:
    level, _ = faulty.loaded(faulty.nobody(), tmp_path / "load")
    assert level["faults"] == {"refused": faulty.REQUESTS}
