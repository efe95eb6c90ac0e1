"""What a cell will ask of the hardware, before anything is loaded: its forwards, FLOPs and bytes, and the least time.

The cell's own generator runs once on a miniature of its network (`models.miniature`) and announces its forwards; each
is then priced on the real shape by the same analytic cost that the measured forwards are priced with. No formula stands
in for what a sampler does. Imports torch.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..models.catalog import Context, NetworkSource, build, outlined
from ..models.costs import Cost
from ..models.gemma_config import GemmaConfig
from ..models.generator import Costed, Generator, Phase, Promising, Request, Settings, Shape
from ..models.miniature import miniature
from ..models.names import AR, HF_DYNAMIC, HF_STATIC, RANDOM
from ..models.pairs import Pair, SideSpec
from ..profiles.record import Cell
from .opened import generator_of, settings_of, shape_of
from .plan import Plan
from .schedules import is_adaptive

# Where draws decide how many forwards run, all rows take part: beyond this many draws counting would take seconds.
_MOST_DRAWS = 1 << 20


class Announced(NamedTuple):
    """A forward as it is announced to an observer."""

    network: str
    phase: Phase
    rows: int
    q_len: int
    kv_len: int
    logit_rows: int
    mask: str


@dataclass(frozen=True, slots=True)
class Forecast:
    """The forwards of one generation, each with how often it runs and its cost; none, and a reason `why`, if unknown.

    `drawn`: how many there are depends on the draws, so that another seed would run some more or fewer. How many logits
    a forward computes may depend on them too (MDLM, SEDD): these are then one draw's.
    """

    forwards: tuple[tuple[Announced, int, Cost], ...] = ()
    drawn: bool = False
    why: str | None = None

    @property
    def nfe(self) -> int:
        """Forwards of the target network."""
        return sum(count for forward, count, _ in self.forwards if forward.network != "draft")

    @property
    def launches(self) -> int:
        """Forwards of all networks."""
        return sum(count for _, count, _ in self.forwards)

    @property
    def flops(self) -> float:
        return sum(count * cost.flops for _, count, cost in self.forwards)

    @property
    def bytes(self) -> float:
        return sum(count * cost.bytes for _, count, cost in self.forwards)

    def floor_s(self, flop_s: float, byte_s: float) -> float:
        """The least latency at these peaks (FLOP/s, B/s), in seconds: every forward takes its slower resource."""
        return sum(count * cost.floor_s(flop_s, byte_s) for _, count, cost in self.forwards)

    def memory_share(self, flop_s: float, byte_s: float) -> float:
        """The part of that time which goes to forwards that memory limits, not arithmetic."""
        memory = sum(n * c.bytes / byte_s for _, n, c in self.forwards if c.bytes / byte_s > c.flops / flop_s)
        return memory / self.floor_s(flop_s, byte_s)


class _Tally:
    """An observer that counts equal forwards."""

    def __init__(self) -> None:
        self.counts: Counter[Announced] = Counter()

    def forward(
        self, network: str, phase: Phase, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str
    ) -> AbstractContextManager[object]:
        self.counts[Announced(network, phase, rows, q_len, kv_len, logit_rows, mask)] += 1
        return nullcontext()

    def write(
        self, row_mask: Tensor | None, token_ids: Tensor, step: int, *, offset: int = 0, committed: bool = True
    ) -> None: ...


_Counts = tuple[tuple[Announced, int], ...]


class Forecaster:
    """Forecasts the cells of a plan; what cells share is made once."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._outlines: dict[tuple[str, str, str], Context] = {}
        self._announced = functools.cache(_announced)

    def __call__(self, cell: Cell) -> Forecast:
        """The forecast of a cell. Raises InputError for one that its generator would refuse when it is opened."""
        pair = self._plan.pairs[cell.pair]
        own, other = (pair.ar, pair.diffusion) if cell.side == "ar" else (pair.diffusion, pair.ar)
        twin = _twin(cell, own)
        if twin is None:
            return Forecast(why="its generator or its network is not ours to ask before it is loaded")
        generator = generator_of(twin, self._outline(twin, pair, own, other))
        shape, settings = shape_of(twin), settings_of(twin)
        promised = generator.promised_nfe(shape, settings) if isinstance(generator, Promising) else None
        if is_adaptive(cell):
            return Forecast(why="how many forwards it takes depends on the data")
        if promised is None and shape.batch * shape.length * (settings.steps or shape.length) > _MOST_DRAWS:
            return Forecast(why="how many forwards it takes depends on its draws, too many to try")
        # The same forwards serve any number of rows, unless the draws of all rows decide which are run.
        rows = shape.batch if promised is None else 1
        counts = self._announced(
            twin.generator, _small(own), _small(other), replace(shape, batch=rows), _plain(settings)
        )
        return _priced(generator, counts, shape.batch // rows, drawn=promised is None)

    def _outline(self, cell: Cell, pair: Pair, own: SideSpec, other: SideSpec) -> Context:
        kind = (pair.name, cell.side, cell.dtype)
        if kind not in self._outlines:
            self._outlines[kind] = Context(
                own.backbone, own.weights, getattr(torch, cell.dtype), "cpu", self._plan.suite.seed,
                partner=NetworkSource(other.backbone, other.weights), outline=True,
            )  # fmt: skip
        return self._outlines[kind]


def _twin(cell: Cell, own: SideSpec) -> Cell | None:
    """The cell on a generator that can run on a miniature: how forwards are launched changes none of them, and
    transformers' generate runs those of our AR generator. None where there is none."""
    if isinstance(own.backbone, GemmaConfig):
        return None
    name = AR if cell.generator in (HF_DYNAMIC, HF_STATIC) else cell.generator
    return cell.model_copy(update={"generator": name, "engine": "eager"}) if outlined(name) else None


def _small(side: SideSpec) -> NetworkSource:
    return NetworkSource(miniature(side.backbone), RANDOM)


def _plain(settings: Settings) -> Settings:
    """Without what changes tokens but no forward, and would not fit a vocabulary of few ids; no text ends early."""
    return replace(settings, top_k=0, top_p=1.0, length_policy="fixed")


def _priced(generator: Generator, counts: _Counts, scale: int, *, drawn: bool) -> Forecast:
    """The forwards with `scale` times the rows, at the cost that the generator states for its real network."""
    assert isinstance(generator, Costed)  # as all are that can be outlined
    priced = []
    for forward, count in counts:
        scaled = forward._replace(rows=forward.rows * scale, logit_rows=forward.logit_rows * scale)
        network, _, rows, q_len, kv_len, logit_rows, mask = scaled
        priced.append((scaled, count, generator.forward_cost(network, rows, q_len, kv_len, logit_rows, mask)))
    return Forecast(tuple(priced), drawn=drawn)


@contextmanager
def one_thread() -> Iterator[None]:
    """A team of threads takes longer to meet than a miniature's products take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
@torch.inference_mode()
def _announced(name: str, own: NetworkSource, other: NetworkSource, shape: Shape, settings: Settings) -> _Counts:
    """The forwards of one generation on miniatures, counted."""
    generator = build(name, Context(own.config, own.weights, torch.float32, "cpu", 0, partner=other))
    generator.prepare(shape, settings)
    prompt = torch.zeros((shape.batch, shape.prompt_length), dtype=torch.int64)
    tally = _Tally()
    generator.generate(Request(prompt, shape.length, settings, seed=0), tally)
    return tuple(tally.counts.items())
