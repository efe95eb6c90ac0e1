"""What a plan takes a generator to keep and feed, against what the generator announces and holds on a miniature."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from dlmbench.bench.demand import Demand, demand_of, keeps_keys
from dlmbench.bench.opened import settings_of, shape_of
from dlmbench.models.architecture import Config
from dlmbench.models.catalog import Context, NetworkSource, build
from dlmbench.models.generator import Generator, Holding, Request
from dlmbench.models.miniature import miniature
from dlmbench.models.names import BUILT_IN
from dlmbench.models.pairs import load_pair
from dlmbench.profiles.record import Cell, CommitSchedule, Decode


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tiny operations gain nothing from threads, and on a busy machine wait for each other's."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cell(generator: str, **fields: Any) -> Cell:
    side = BUILT_IN[generator].side
    steps = fields.pop("steps", 8) if side == "diffusion" else None
    values = {"pair": "small", "side": side, "generator": generator, "length": 64, "prompt_length": 30, "batch": 3}
    return Cell(**(values | {"steps": steps} | fields))


class Heard:
    """An observer that keeps the size of every forward: network, rows, q_len, logit_rows."""

    def __init__(self) -> None:
        self.forwards: list[tuple[str, int, int, int]] = []

    def forward(
        self, network: str, phase: str, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str
    ) -> Heard:
        self.forwards.append((network, rows, q_len, logit_rows))
        return self

    def write(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def ran(of: Cell, config: Config, partner: Config) -> tuple[Generator, list[tuple[str, int, int, int]]]:
    """The cell's generator after one generation, and the forwards that it announced."""
    context = Context(config, "random", torch.float32, "cpu", 0, partner=NetworkSource(partner, "random"))
    generator, heard = build(of.generator, context), Heard()
    generator.prepare(shape_of(of), settings_of(of))
    prompt = torch.zeros((of.batch, of.prompt_length), dtype=torch.int64)
    generator.generate(Request(prompt, of.length, settings_of(of), 0), heard)  # type: ignore[arg-type]
    return generator, heard.forwards


def both(of: Cell, pair: str = "small") -> tuple[Demand, Generator, list[tuple[str, int, int, int]]]:
    sides = load_pair(pair)
    ar, diffusion = miniature(sides.ar.backbone), miniature(sides.diffusion.backbone)
    own, other = (ar, diffusion) if of.side == "ar" else (diffusion, ar)
    return demand_of(of, own, other), *ran(of, own, other)


EXACT = [
    cell("ar"),
    cell("ar", prompt_length=0),
    cell("hf-static"),
    cell("hf"),
    cell("masked-diffusion"),
    cell("masked-diffusion", steps=1),
    cell("masked-diffusion", block_length=16),
    cell("masked-diffusion", block_length=16, decode=Decode(remasking="random")),
    cell("masked-diffusion", steps=6, decode=Decode(remasking="random")),
    cell("masked-diffusion", decode=Decode(remasking="random", draw="gumbel32", temperature=1.0)),
    cell("masked-diffusion", decode=Decode(cfg_scale=1.0)),
    cell("masked-diffusion", block_length=16, decode=Decode(suppress_mask=False)),
    cell("masked-diffusion", decode=Decode(remasking="random", commit_schedule=CommitSchedule(
        source="test", rows=((20, 24, 20), (4, 30, 30))))),
    cell("fast-dllm", block_length=16),
    cell("fast-dllm", block_length=16, cache="prefix"),
    cell("fast-dllm", block_length=16, cache="dual"),
    cell("fast-dllm", block_length=16, cache="dual", decode=Decode(threshold=0.9)),
    cell("dream", decode=Decode(sampler="entropy")),
    cell("dream", length=16, steps=4, decode=Decode(threshold=0.9)),
    cell("dream", cache="prefix"),
    cell("dream", cache="dual", block_length=16),
    cell("dream", cache="dual", block_length=16, steps=4),
    cell("mdlm", decode=Decode(draw="gumbel32", temperature=1.0)),
    cell("bd3lm", steps=None, block_length=16),
    cell("bd3lm", steps=None, block_length=16, cache="none"),
    cell("bd3lm", steps=None, block_length=16, decode=Decode(draw="gumbel64", temperature=1.0)),
    cell("sdar", steps=15, block_length=16),
    cell("sdar", steps=15, block_length=16, decode=Decode(sampler="sequential")),
    cell("sdar", steps=15, block_length=16, cache="none"),
    cell("block-diffusion", steps=15, block_length=16),
    cell("block-diffusion", steps=None, length=8),
    cell("speculative", steps=None),
    cell("speculative", steps=16, length=32, block_length=8),
    cell("speculative", steps=None, length=16, cache="none"),
]  # fmt: skip


@pytest.mark.parametrize("of", EXACT, ids=lambda of: of.key)
def test_the_largest_logits_and_the_largest_forward_are_those_announced(of: Cell) -> None:
    demand, generator, forwards = both(of)
    assert demand.logit_rows == max(logit_rows for *_, logit_rows in forwards)
    most = max(rows * q_len for _, rows, q_len, _ in forwards)
    # A drafter without a cache is taken to feed its whole canvas at once, which it reaches only in its last rounds.
    slack = of.batch * (1 + (of.block_length or 4)) if of.generator == "speculative" and of.cache == "none" else 0
    assert most <= max(fed.rows * fed.q_len for fed in demand.forwards) <= most + slack
    assert isinstance(generator, Holding)
    held = generator.held()
    assert held is not None
    if of.generator == "hf":  # grows
        assert held.grown_b == sum(n * size * c.kv_bytes_per_token("float32") for c, n, size in demand.caches)
    else:
        allocated = sum(t.numel() * 4 for t in held.kv)
        assert allocated == sum(n * size * c.kv_bytes_per_token("float32") for c, n, size in demand.caches)


@pytest.mark.parametrize(
    "of",
    [
        cell("mdlm", batch=8),
        cell("mdlm", batch=8, steps=64),
        cell("mdlm", batch=8, steps=1),
        cell("dream", batch=8),
        cell("bd3lm", batch=8, block_length=16, steps=25, decode=Decode(sampler="ddpm")),
    ],
    ids=lambda of: of.key,
)
def test_where_lots_decide_the_largest_step_is_met_within_a_third(of: Cell) -> None:
    demand, _, forwards = both(of)
    seen = max(logit_rows for *_, logit_rows in forwards)
    assert seen / 1.33 <= demand.logit_rows <= seen * 1.33


def test_scores_need_the_logits_of_every_mask() -> None:
    demand, _, forwards = both(cell("sedd"), "small-sedd")
    assert demand.logit_rows == max(logit_rows for *_, logit_rows in forwards) == 3 * 64


def test_a_canvas_longer_than_the_model_goes_in_windows() -> None:
    """MDLM's own pair has 1024 positions: 30 + 2000 are denoised 1024 at a time."""
    sides = load_pair("mdlm-small")
    demand = demand_of(cell("mdlm", length=2000), sides.diffusion.backbone, sides.ar.backbone)
    assert [(fed.rows, fed.q_len) for fed in demand.forwards] == [(3, 1024)]


def test_canvases_of_gemma() -> None:
    """300 new tokens are two canvases of 256, before the last of which prompt and one canvas are encoded."""
    sides = load_pair("diffusiongemma-26b-a4b")
    demand = demand_of(cell("diffusion-gemma", length=300), sides.diffusion.backbone, sides.ar.backbone)
    assert demand.logit_rows == 3 * 256
    assert [(rows, positions) for _, rows, positions in demand.caches] == [(3, 30 + 256)]
    assert [(fed.q_len, fed.kv_len) for fed in demand.forwards] == [(256, 286), (256, 542)]


@pytest.mark.parametrize(
    ("generator", "cache", "expected"),
    [
        ("ar", None, True),
        ("masked-diffusion", None, False),
        ("fast-dllm", None, False),
        ("fast-dllm", "dual", True),
        ("dream", "prefix", True),
        ("mdlm", None, False),
        ("bd3lm", None, True),
        ("bd3lm", "none", False),
        ("sdar", None, True),
        ("speculative", None, True),
        ("diffusion-gemma", None, True),
        ("hf", None, True),
    ],
)
def test_who_keeps_keys_and_values(generator: str, cache: Any, expected: bool) -> None:
    assert keeps_keys(cell(generator, cache=cache)) is expected


def test_a_generator_of_ones_own_is_taken_to_keep_them() -> None:
    base = cell("masked-diffusion").model_dump()
    mine = Cell.model_validate(base | {"generator": "mine.py:make"})
    assert keeps_keys(mine)
    config = load_pair("small").diffusion.backbone
    assert demand_of(mine, config, config).caches == ((config, 3, 94),)
