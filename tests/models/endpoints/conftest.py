"""The module `wire`: servers of raw bytes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

_spec = importlib.util.spec_from_file_location("endpoints_wire", Path(__file__).with_name("wire.py"))
assert _spec is not None
assert _spec.loader is not None
_wire = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _wire
_spec.loader.exec_module(_wire)


@pytest.fixture(scope="session")
def wire() -> ModuleType:
    return _wire
