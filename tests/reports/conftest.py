"""The synthetic study and gates as fixtures: pytest's importlib mode cannot import a neighbouring file by name."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dlmbench.profiles.store import StoredRun


def _neighbour(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"reports_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_synthetic = _neighbour("synthetic")


@pytest.fixture(scope="session")
def synthetic_run() -> Callable[..., StoredRun]:
    """`synthetic_run(folder, pair=…, message=…, processes=…)` writes a believable run and reads it back."""
    make: Callable[..., StoredRun] = _synthetic.synthetic_run
    return make


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory, synthetic_run: Callable[..., StoredRun]) -> StoredRun:
    """One synthetic run shared by the tests that only read it."""
    return synthetic_run(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def histories() -> ModuleType:
    """The module `histories`: folders of small invented runs."""
    return _neighbour("histories")


@pytest.fixture(scope="session")
def gates() -> ModuleType:
    """The module `gate_documents`: verdicts, cells and whole documents of a gate, made by hand."""
    return _neighbour("gate_documents")
