"""The synthetic study as a fixture: pytest's importlib mode cannot import a neighbouring file by name."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dlmbench.profiles.store import StoredRun

_spec = importlib.util.spec_from_file_location("reports_synthetic", Path(__file__).with_name("synthetic.py"))
assert _spec is not None
assert _spec.loader is not None
_synthetic = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _synthetic
_spec.loader.exec_module(_synthetic)


@pytest.fixture(scope="session")
def synthetic_run() -> Callable[..., StoredRun]:
    """`synthetic_run(folder, pair=…, message=…, processes=…)` writes a believable run and reads it back."""
    make: Callable[..., StoredRun] = _synthetic.synthetic_run
    return make


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory, synthetic_run: Callable[..., StoredRun]) -> StoredRun:
    """One synthetic run shared by the tests that only read it."""
    return synthetic_run(tmp_path_factory.mktemp("study"))
