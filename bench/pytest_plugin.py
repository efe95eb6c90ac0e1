"""A pytest plug-in: one cell of a generator as a test, exact on its counters.

    def test_work(dlmbench_cell):
        cell = dlmbench_cell("mine.py:Mine", length=16)
        assert cell.nfe == 16
        assert cell.model_flops is None or cell.model_flops < 2e7
        print(cell.latency())   # with its interval, within this process; the gate is for judging time

pytest loads it by the entry point `dlmbench`; importing it does not import torch. A generator that breaks its contract,
and a cell that cannot be made, fail the test in one line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import pytest

from .. import InputError

if TYPE_CHECKING:
    from ..profiles.record import Value
    from .opened import OpenCell

CellFactory = Callable[..., "CountedCell"]


@dataclass(frozen=True, slots=True)
class CountedCell:
    """A cell that was generated for three prompts and seeds. A counter that they disagree about, or that the generator
    cannot state, is None: it is no fact of the code."""

    key: str
    counters: Mapping[str, float]
    _opened: OpenCell

    @property
    def nfe(self) -> float | None:
        """Forwards of the target network."""
        return self.counters.get("nfe")

    @property
    def forward_tokens(self) -> float | None:
        """Rows x new positions, summed over all forwards."""
        return self.counters.get("forward_tokens")

    @property
    def output_tokens(self) -> float | None:
        """Tokens emitted, summed over rows."""
        return self.counters.get("output_tokens")

    @property
    def model_flops(self) -> float | None:
        """Analytic, multiply-add = 2; None where the generator has no `forward_cost`."""
        return self.counters.get("model_flops")

    @property
    def model_bytes(self) -> float | None:
        """Weights, keys, values and logits moved; None where the generator has no `forward_cost`."""
        return self.counters.get("model_bytes")

    def latency(self, samples: int = 20) -> Value:
        """Seconds of one generation: the median of `samples` after a warm-up, with its interval within this process.

        A machine that is busy with other tests makes it longer: read it, and let `dlmbench gate` judge it.
        """
        from .counting import REQUESTS, take
        from .forecast import one_thread
        from .statistics import over_processes, within_process

        with _told(), one_thread():
            self._opened.warm_up(limit_s=2.0, hard_limit_s=10.0)
            taken = [take(self._opened, number) for number in range(REQUESTS, REQUESTS + samples)]
        seconds = [sample.latency_s for sample in taken]
        return over_processes([median(seconds)], within_process(seconds))


@pytest.fixture
def dlmbench_cell(request: pytest.FixtureRequest) -> CellFactory:
    """`dlmbench_cell("mine.py:Mine", length=16, steps="L/4")` generates one cell and counts what it does.

    The generator is a FILE.py:FACTORY beside the test or in the working folder, a module:factory, an entry point or a
    built-in name. The rest is as in `dlmbench run`: `pair`, `length`, `steps` (of diffusion), `batch`, `prompt_length`,
    `block_length`, `temperature`, `device`.
    """

    def make(
        generator: str,
        *,
        pair: str = "small",
        length: int = 16,
        steps: int | str = "L/4",
        batch: int = 1,
        prompt_length: int = 32,
        block_length: int | str | None = None,
        temperature: float = 0.0,
        device: str = "cpu",
    ) -> CountedCell:
        from .counting import Counting
        from .options import RunOptions
        from .plan import make_plan

        name = _beside(request.path.parent, generator)
        with _told():
            plan = make_plan(
                RunOptions(
                    suite="ci",
                    pairs=(pair,),
                    lengths=(length,),
                    steps=(str(steps),),
                    batches=(batch,),
                    prompt_lengths=(prompt_length,),
                    block_lengths=() if block_length is None else (str(block_length),),
                    temperature=temperature,
                    device=device,
                    engines=("eager",),
                    generators=(name,),
                )
            )
            cells = [cell for pairing in plan.pairings for cell in pairing.cells if cell.generator == name]
            opened, counters = Counting(plan).counted(cells[0])
        return CountedCell(cells[0].key, counters, opened)

    return make


def _beside(folder: Path, generator: str) -> str:
    """A generator's file is looked for beside the test first."""
    place, _, factory = generator.rpartition(":")
    if place.endswith(".py") and (folder / place).is_file():
        return f"{folder / place}:{factory}"
    return generator


@contextmanager
def _told() -> Iterator[None]:
    """What the user gave, or the user's generator did wrong, fails the test in one line."""
    from .opened import WorkDiffersError

    try:
        yield
    except WorkDiffersError as error:
        pytest.fail(f"dlmbench_cell: the generator broke its contract: it {error}", pytrace=False)
    except InputError as error:
        pytest.fail(f"dlmbench_cell: {error}", pytrace=False)
