"""The forwards of a cell before it runs, against those that its generator announces on a network of another size."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from dlmbench import InputError
from dlmbench.bench.forecast import Announced, Forecast, Forecaster
from dlmbench.bench.opened import generator_of, settings_of, shape_of
from dlmbench.bench.options import RunOptions
from dlmbench.bench.plan import Plan, make_plan
from dlmbench.models.catalog import Context, NetworkSource
from dlmbench.models.config import BackboneConfig
from dlmbench.models.costs import Cost
from dlmbench.models.dit_config import DiTConfig
from dlmbench.models.generator import Costed, Request
from dlmbench.models.miniature import miniature
from dlmbench.models.pairs import load_pair
from dlmbench.profiles.record import Cell

LLAMA: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 64, "eos_token_id": 3,
}  # fmt: skip
DIT: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "cond_dim": 8,
    "max_position_embeddings": 64,
}  # fmt: skip


class Seen:
    """Counts what is announced."""

    def __init__(self) -> None:
        self.counts: Counter[Announced] = Counter()

    def forward(self, *announced: Any) -> Any:
        self.counts[Announced(*announced)] += 1
        return torch.inference_mode()

    def write(self, *_: Any, **__: Any) -> None: ...


def plan_of(backbone: BackboneConfig | DiTConfig) -> Plan:
    """A plan of the suite `ci` whose pair has this network on both sides."""
    plan = make_plan(RunOptions(suite="ci", device="cpu"))
    small = plan.pairs["small"]
    sides = {
        name: side.model_copy(update={"backbone": backbone, "weights": "random"})
        for name, side in (("ar", small.ar), ("diffusion", small.diffusion))
    }
    plan.pairs["small"] = small.model_copy(update=sides)
    return plan


def announced(cell: Cell, backbone: BackboneConfig | DiTConfig) -> tuple[Counter[Announced], float, float]:
    """What the cell's generator really announces on a random network of this shape; its FLOPs and bytes."""
    context = Context(backbone, "random", torch.float32, "cpu", 1, partner=NetworkSource(backbone, "random"))
    generator = generator_of(cell, context)
    generator.prepare(shape_of(cell), settings_of(cell))
    seen = Seen()
    prompt = torch.randint(0, 30, (cell.batch, cell.prompt_length), generator=torch.Generator().manual_seed(5))
    generator.generate(Request(prompt, cell.length, settings_of(cell), seed=7), seen)
    assert isinstance(generator, Costed)
    costs = [
        (n, generator.forward_cost(f.network, f.rows, f.q_len, f.kv_len, f.logit_rows, f.mask))
        for f, n in seen.counts.items()
    ]
    return seen.counts, sum(n * c.flops for n, c in costs), sum(n * c.bytes for n, c in costs)


def cell(generator: str, steps: int | None, decode: dict[str, Any] | None = None, **fields: Any) -> Cell:
    side = "ar" if steps is None else "diffusion"
    values = {"pair": "small", "side": side, "generator": generator, "length": 12, "steps": steps, "prompt_length": 4}
    return Cell(**(values | {"batch": 3, "decode": decode or {}} | fields))


EVEN = {"commit_schedule": {"source": "even", "rows": [[2, 2, 2, 2, 2, 2]]}}


@pytest.mark.parametrize(
    "of",
    [
        cell("ar", None),
        cell("ar", None, kv_dtype="bfloat16", engine="compile"),
        cell("ar", None, prompt_length=0),
        cell("masked-diffusion", 12),
        cell("masked-diffusion", 6, {"remasking": "random", "temperature": 1.0, "top_k": 20}),
        cell("masked-diffusion", 6, {"cfg_scale": 1.5}, block_length=6),
        cell("fast-dllm", 6, block_length=4, cache="dual"),
        cell("fast-dllm", 6, block_length=4, cache="prefix"),
        cell("dream", 6, {"sampler": "entropy"}),
        cell("dream", 6, {"sampler": "entropy"}, block_length=4, cache="dual"),
        cell("sdar", 6, {"sampler": "low_confidence_static"}, block_length=4),
        cell("sdar", 6, EVEN | {"sampler": "low_confidence_dynamic"}, block_length=12),
        cell("block-diffusion", 6, block_length=2, cache="none"),
    ],
    ids=lambda of: of.key,
)
def test_a_forecast_is_what_the_generator_announces(of: Cell) -> None:
    """On another network, with other sizes, prompts, seeds and weights, for three rows where one was tried."""
    backbone = BackboneConfig(**LLAMA)
    found = Forecaster(plan_of(backbone))(of)
    counts, flops, moved = announced(of, backbone)
    assert {forward: count for forward, count, _ in found.forwards} == dict(counts)
    assert (found.flops, found.bytes) == (flops, moved)
    assert (found.drawn, found.why) == (False, None)


@pytest.mark.parametrize(
    ("of", "changes"),
    [(cell("ar", None), {"adaln": False}), (cell("bd3lm", 12, {"sampler": "first_hitting"}), {"block_size": 4})],
    ids=["ar", "bd3lm"],
)
def test_so_is_that_of_a_dit(of: Cell, changes: dict[str, Any]) -> None:
    backbone = DiTConfig(**(DIT | changes))
    found = Forecaster(plan_of(backbone))(of)
    counts, flops, moved = announced(of, backbone)
    assert {forward: count for forward, count, _ in found.forwards} == dict(counts)
    assert (found.flops, found.bytes) == (flops, moved)


SCORE = {"time_conditioning": True, "parameterization": "score", "scale_by_sigma": True}


@pytest.mark.parametrize(
    ("of", "changes"),
    [(cell("mdlm", 5, {"sampler": "ddpm", "temperature": 1.0}), {}), (cell("sedd", 5), SCORE)],
    ids=["mdlm", "sedd"],
)
def test_where_logits_are_drawn_all_else_is_exact(of: Cell, changes: dict[str, Any]) -> None:
    """How many positions are still masked at a step is the draws'; how many forwards of which size is not."""
    backbone = DiTConfig(**(DIT | changes))
    found = Forecaster(plan_of(backbone))(of)
    counts, flops, _ = announced(of, backbone)
    sizes: Counter[tuple[Any, ...]] = Counter()
    expected: Counter[tuple[Any, ...]] = Counter()
    for forward, count, _ in found.forwards:
        sizes[forward.phase, forward.rows, forward.q_len, forward.kv_len, forward.mask] += count
    for forward, count in counts.items():
        expected[forward.phase, forward.rows, forward.q_len, forward.kv_len, forward.mask] += count
    assert sizes == expected
    # The head's share of a forward with every position's logits bounds what the draws can change.
    head = 2 * backbone.hidden_size * backbone.vocab_size * of.batch * of.length * found.nfe
    assert abs(found.flops - flops) <= head


def test_draws_that_decide_the_number_of_forwards_are_said_to() -> None:
    """MDLM's cache skips the steps at which no row drew anything: at most T + 1 forwards, and not always as many."""
    of = cell("mdlm", 40, {"sampler": "ddpm_cache", "temperature": 1.0}, batch=1)
    found = Forecaster(plan_of(BackboneConfig(**LLAMA)))(of)
    assert found.drawn
    assert 2 <= found.nfe <= 41


def test_what_the_data_decide_is_unknown() -> None:
    forecast = Forecaster(plan_of(BackboneConfig(**LLAMA)))
    for of in (
        cell("fast-dllm", 12, {"threshold": 0.9}),
        cell("speculative", 12, block_length=4),
        cell("sdar", 12, {"sampler": "entropy_bounded"}, block_length=4).model_copy(update={"steps": None}),
    ):
        found = forecast(of)
        assert found.forwards == ()
        assert found.why is not None
        assert "data" in found.why


def test_a_generator_of_ones_own_is_unknown_and_transformers_generate_is_our_ar() -> None:
    forecast = Forecaster(plan_of(BackboneConfig(**LLAMA)))
    mine = forecast(cell("masked-diffusion", 4).model_copy(update={"generator": "mine.py:make"}))
    assert mine.why is not None
    assert forecast(cell("hf", None)) == forecast(cell("ar", None))


def test_what_a_generator_refuses_is_refused_beforehand() -> None:
    with pytest.raises(InputError, match="block"):
        Forecaster(plan_of(BackboneConfig(**LLAMA)))(cell("masked-diffusion", 5, block_length=5))


def test_every_pair_that_ships_has_a_miniature_or_says_that_it_has_none() -> None:
    from dlmbench.models.pairs import pair_names

    for name in pair_names():
        for side in (load_pair(name).ar, load_pair(name).diffusion):
            if side.backbone.family == "gemma":
                with pytest.raises(InputError, match="gemma"):
                    miniature(side.backbone)
                continue
            small = miniature(side.backbone)
            kept = {"max_position_embeddings", "family"} | ({"block_size"} & set(type(small).model_fields))
            assert all(getattr(small, field) == getattr(side.backbone, field) for field in kept)
            assert small.total_parameters < 1000


def test_the_floor_takes_the_slower_resource_of_each_forward() -> None:
    prefill = Announced("target", "prefill", 1, 4, 4, 1, "causal")
    decode = Announced("target", "decode", 1, 1, 5, 1, "causal")
    draft = Announced("draft", "draft", 1, 4, 4, 4, "bidirectional")
    found = Forecast(((prefill, 1, Cost(100.0, 10.0)), (decode, 3, Cost(10.0, 40.0)), (draft, 2, Cost(1.0, 1.0))))
    # At 10 FLOP/s and 20 B/s: 10 s of arithmetic; 3 x 2 s and 2 x 0.1 s; memory decides 6 s, arithmetic 10.2 s.
    assert found.floor_s(10.0, 20.0) == pytest.approx(10.0 + 6.0 + 0.2)
    assert found.memory_share(10.0, 20.0) == pytest.approx(6.0 / 16.2)
    assert (found.nfe, found.launches) == (4, 6)
    assert (found.flops, found.bytes) == (132.0, 132.0)


def test_a_plan_needs_no_checkpoint_to_be_forecast(tmp_path: Path) -> None:
    """The dry run of an 8B pair: every cell has a floor, and nothing is loaded."""
    plan = make_plan(RunOptions(suite="quick", pairs=("8b",), device="cpu", dtype="bfloat16", engines=("eager",)))
    forecast = Forecaster(plan)
    cells = [of for pairing in plan.pairings for of in pairing.cells]
    assert cells
    for of in cells:
        found = forecast(of)
        # Every forward reads 8B weights of two bytes but the embedding.
        assert found.bytes > found.launches * 2 * 7e9
