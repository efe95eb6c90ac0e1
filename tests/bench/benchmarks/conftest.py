"""What the benchmarks share: the environment that they run in, the variants' weights, and the table at the end.

`make bench` measures and prints; it judges nothing. The targets in the table are the project's own.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dlmbench.models.backbone import Backbone

    from .interleave import Quartiles, Rounds, Variant

_spec = importlib.util.spec_from_file_location("benchmarks_interleave", Path(__file__).with_name("interleave.py"))
assert _spec is not None
assert _spec.loader is not None
_interleave = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _interleave
_spec.loader.exec_module(_interleave)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table: a measured ratio and what it is wished to be."""

    what: str
    measured: Quartiles
    unit: str
    target: str

    def __str__(self) -> str:
        scale = 100 if self.unit == "%" else 1
        low, median, high = (scale * value for value in (self.measured.low, self.measured.median, self.measured.high))
        return f"{self.what:<68}{median:>9.3g} {self.unit} [{low:.3g}, {high:.3g}]".ljust(102) + self.target


_LINES = pytest.StashKey[list[Line]]()
_LOAD = pytest.StashKey[str]()


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Start over with the variables that a worker gets: an allocator and OpenMP read theirs once, at their start."""
    if not config.getoption("benchmark_only"):
        return None
    from dlmbench.bench.handle import worker_variables
    from dlmbench.bench.plan import choose_threads

    config.stash[_LOAD] = _load()
    missing = worker_variables(choose_threads(None), "cpu")
    if not missing:
        return None
    command = [sys.executable, "-m", "pytest", *config.invocation_params.args]
    return subprocess.run(command, env=os.environ | missing, cwd=config.invocation_params.dir, check=False).returncode


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print what was measured, under which conditions."""
    lines = config.stash.get(_LINES, [])
    if not lines:
        return
    import torch

    prefixes = ("MALLOC_", "OMP_", "MKL_", "KMP_")
    shown = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(prefixes)]
    terminalreporter.section("ratios of interleaved rounds")
    terminalreporter.write_line(f"torch {torch.__version__}, {torch.get_num_threads()} of {os.cpu_count()} cores")
    terminalreporter.write_line(f"variables: {', '.join(shown) or 'none'}")
    terminalreporter.write_line(f"load: {config.stash.get(_LOAD, 'unknown')} before, {_load()} after")
    terminalreporter.write_line("median [quartiles] and target; 'A over B' says how many times as fast A is")
    for line in lines:
        terminalreporter.write_line(str(line))


def _load() -> str:
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"


@pytest.fixture(autouse=True, scope="session")
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Threads as a run has them: one fewer than the cores."""
    if not request.config.getoption("benchmark_only"):
        yield
        return
    import torch

    from dlmbench.bench.plan import choose_threads

    before = torch.get_num_threads()
    torch.set_num_threads(choose_threads(None))
    yield
    torch.set_num_threads(before)


@pytest.fixture
def interleave(benchmark: Any) -> Callable[..., Rounds]:
    """`interleave({name: variant, …}, rounds=…)`: see `interleave.py`; the last variant is the benchmark's target."""
    # A group of its own: pytest-benchmark compares all that share one, and these have nothing in common.
    benchmark.group = benchmark.name
    run: Callable[[Any, dict[str, Variant], int], Rounds] = _interleave.interleave
    return functools.partial(run, benchmark)


@pytest.fixture
def quartiles() -> Callable[..., Quartiles]:
    """Median and quartiles of one number a round."""
    make: Callable[..., Quartiles] = _interleave.Quartiles.of
    return make


@pytest.fixture
def tell(benchmark: Any, pytestconfig: pytest.Config) -> Callable[..., None]:
    """`tell(what, measured, unit, target)`: a line for the table and for the benchmark's `extra_info`."""

    def add(what: str, measured: Quartiles, unit: str, target: str = "") -> None:
        line = Line(what, measured, unit, target)
        pytestconfig.stash.setdefault(_LINES, []).append(line)
        ratios = benchmark.extra_info.setdefault("ratios", {})
        ratios[what] = {**asdict(measured), "unit": "1" if unit == "%" else unit, "target": target}

    return add


@pytest.fixture
def network() -> Callable[..., Backbone]:
    """A function from a pair's name (and changes to its shape) to its backbone in float32 with weights that have
    something to say."""

    def make(pair: str, **changes: object) -> Backbone:
        import torch

        from dlmbench.models.pairs import load_pair
        from dlmbench.models.weights import random_network

        made = random_network(load_pair(pair).ar.backbone.model_copy(update=changes), 0, torch.float32, "cpu")
        # As drawn, the embedding outshines the layers and every greedy token repeats the one before it: no check of
        # anything. Four times as large, the layers speak, and the best logit still leads by far more than rounding.
        for name, parameter in made.named_parameters():
            if name.startswith("layers") and parameter.dim() == 2:
                parameter.mul_(4)
        return made

    return make
