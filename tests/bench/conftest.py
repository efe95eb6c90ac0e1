"""Fake workers and an in-process command line, shared by the tests of this room."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dlmbench.profiles.store import StoredRun


def _beside(name: str) -> ModuleType:
    """The module in a file of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_fakes = _beside("fake_workers")

SUITE = """
processes = 2
budget_s = 0.05
max_samples = 4

[[grid]]
pairs = ["small"]
lengths = [8, 16]
steps = ["L/2", "L/4"]
"""


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line of a refused command; fails where there is anything else."""
        assert self.code == 2, (self.code, self.err)
        assert self.out == ""
        assert self.err.startswith("dlmbench: ")
        assert self.err.count("\n") == 1, self.err
        assert self.err[:-1].isprintable(), self.err
        return self.err[:-1]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Peaks measured in tests are kept for tests, not for the user who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLMBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def serving() -> ModuleType:
    """The module `serving`: a server of ours in a thread."""
    return _beside("serving")


@pytest.fixture(scope="session")
def fakes() -> ModuleType:
    """The module `fake_workers`."""
    return _fakes


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`command("run", "--lengths", "8")` runs `dlmbench` in this process."""
    from dlmbench.bench import cli

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["dlmbench", *map(str, arguments)])
        capsys.readouterr()
        code: object = 0
        try:
            cli.main()
        except SystemExit as error:
            code = error.code or 0
        assert isinstance(code, int)
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture
def handles(monkeypatch: pytest.MonkeyPatch) -> type:
    """Sweeps in this test start fake workers: the class `Handle`, whose lists and hooks are fresh."""
    from dlmbench.bench import sweep
    from dlmbench.bench.gate import measure as pairs

    monkeypatch.setattr(_fakes.Handle, "started", [])
    for hook in ("plan", "ready"):
        monkeypatch.setattr(_fakes.Handle, hook, staticmethod(lambda _: None))
    monkeypatch.setattr(sweep, "WorkerHandle", _fakes.Handle)
    monkeypatch.setattr(pairs, "WorkerHandle", _fakes.Handle)
    return _fakes.Handle


@pytest.fixture
def suite_file(tmp_path: Path) -> Path:
    """Two shapes of `small`, three cells each, two processes."""
    path = tmp_path / "tiny.toml"
    path.write_text(SUITE)
    return path


@pytest.fixture
def measure(handles: type, suite_file: Path) -> Callable[[Path], StoredRun]:
    """`measure(folder)` makes a run of the suite file with fake workers: no report."""
    from rich.console import Console

    from dlmbench.bench.options import RunOptions
    from dlmbench.bench.plan import make_plan
    from dlmbench.bench.progress import Progress
    from dlmbench.bench.run import start_run

    def make(folder: Path) -> StoredRun:
        options = RunOptions(suite=str(suite_file), device="cpu", threads=1, out=folder)
        with open(os.devnull, "w") as nowhere:
            progress = Progress(Console(file=nowhere), quiet=True)
            return start_run(options, make_plan(options), ("dlmbench", "run"), progress)

    return make
