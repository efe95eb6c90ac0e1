"""The fake NVML, shared by the tests of this room."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

_spec = importlib.util.spec_from_file_location("fake_nvml", Path(__file__).with_name("fake_nvml.py"))
assert _spec is not None
assert _spec.loader is not None
_fakes = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _fakes
_spec.loader.exec_module(_fakes)


@pytest.fixture(scope="session")
def nvml() -> ModuleType:
    """The module `fake_nvml`."""
    return _fakes
