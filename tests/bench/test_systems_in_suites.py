"""Samplers, caches, blocks and schedules of single systems: what a cell of theirs is called, and that it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dlmbench import InputError
from dlmbench.bench.suites import checked_suite, expand
from dlmbench.models.config import BackboneConfig
from dlmbench.models.dit_config import DiTConfig
from dlmbench.models.names import BUILT_IN, DIFFUSION_GEMMA
from dlmbench.models.pairs import Pair, SideSpec, load_pair
from dlmbench.profiles.record import Cell, CommitSchedule, Decode

LLAMA = BackboneConfig(
    vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, eos_token_id=3,
)  # fmt: skip
DIT = DiTConfig(
    vocab_size=61, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, cond_dim=8, eos_token_id=3
)  # fmt: skip
SHAPES: dict[str, BackboneConfig | DiTConfig] = {
    "dream": LLAMA.model_copy(update={"shifted_logits": True}),
    "sdar": LLAMA.model_copy(update={"block_size": 4}),
    "mdlm": DIT,
    "sedd": DIT.model_copy(update={"time_conditioning": True, "parameterization": "score", "scale_by_sigma": True}),
    "bd3lm": DIT.model_copy(update={"block_size": 4}),
}
GENERATORS = [name for name, entry in BUILT_IN.items() if entry.side == "diffusion" and name != DIFFUSION_GEMMA]


def tiny(generator: str, weights: str = "random") -> Pair:
    """A pair of the family that the generator is for, of a size that runs at once."""
    shape = SHAPES.get(generator, LLAMA)
    causal = shape if isinstance(shape, BackboneConfig) else DIT.model_copy(update={"adaln": False})
    return Pair(
        name="tiny",
        ar=SideSpec(generator="ar", backbone=causal, weights=weights),
        diffusion=SideSpec(generator=generator, backbone=shape, weights=weights),
    )


def cells(generator: str, weights: str = "random", **grid: Any) -> list[Cell]:
    """Diffusion cells of a grid at L = 8."""
    table = {"pairs": ["tiny"], "lengths": [8], "steps": ["L"], "prompt_lengths": [0], **grid}
    suite = checked_suite({"name": "mine", "grid": [table]}, "mine.toml")
    pairings = expand(suite, {"tiny": tiny(generator, weights)}, "cpu")
    return [cell for pairing in pairings for cell in pairing.cells if cell.side == "diffusion"]


def axes(generator: str, **grid: Any) -> list[str]:
    """What the keys of these cells say after L and T."""
    keys = [cell.key.replace(",T=8", "") for cell in cells(generator, prompt_lengths=[32], **grid)]
    return [key.partition(f"/{generator}/L=8")[2] for key in keys]


# Keys


@pytest.mark.parametrize(
    ("generator", "grid", "expected"),
    [
        ("mdlm", {}, ""),
        ("mdlm", {"samplers": ["ddpm"]}, ",sampler=ddpm"),
        ("mdlm", {"caches": ["none"]}, ""),
        ("mdlm", {"draw": "gumbel64", "epsilon": 1e-5}, ",epsilon=1e-05,draw=gumbel64"),
        ("fast-dllm", {"caches": ["dual"]}, ",cache=dual"),
        ("masked-diffusion", {"cfg_scale": 1.5, "suppress_mask": False}, ",cfg=1.5,suppress_mask=False"),
        ("masked-diffusion", {"idle_steps": "run"}, ",idle_steps=run"),
        ("dream", {"samplers": ["entropy"], "position_temperature": 0.5},
         ",sampler=entropy,position_temperature=0.5"),
        ("bd3lm", {"caches": ["kv"]}, ",block=4"),
        ("bd3lm", {"caches": ["none"]}, ",block=4,cache=none"),
        ("bd3lm", {"block_lengths": ["L"]}, ",block=8"),
        ("block-diffusion", {}, ",block=8"),
        ("block-diffusion", {"block_lengths": ["2"]}, ",block=2"),
        ("masked-diffusion", {"commit_schedule": "constant:3"}, ",schedule=constant:3"),
    ],
)  # fmt: skip
def test_a_key_lists_only_what_leaves_its_default(generator: str, grid: dict[str, Any], expected: str) -> None:
    """A native block length is always said: it is the network's, and other networks have others."""
    assert axes(generator, **grid) == [expected]


@pytest.mark.parametrize(
    ("generator", "grid"),
    [
        ("fast-dllm", {"threshold": 0.9}),
        ("fast-dllm", {"factor": 1.0, "caches": ["prefix"]}),
        ("sdar", {}),
        ("sdar", {"samplers": ["entropy_bounded"], "entropy_bound": 0.1}),
        ("dream", {"threshold": 0.9}),
    ],
)
def test_a_rule_that_depends_on_the_data_gets_an_even_schedule_on_random_weights(
    generator: str, grid: dict[str, Any]
) -> None:
    (cell,) = cells(generator, **grid)
    assert cell.key.endswith(",schedule=even")
    assert cell.decode.commit_schedule is not None
    assert [sum(row) for row in cell.decode.commit_schedule.rows] == [8]
    (trained,) = cells(generator, weights="/a/folder", **grid)
    assert trained.decode.commit_schedule is None
    assert "schedule" not in trained.key


def test_a_fixed_rule_has_no_schedule() -> None:
    for generator in ("masked-diffusion", "mdlm", "dream", "sedd", "bd3lm", "block-diffusion"):
        assert all(cell.decode.commit_schedule is None for cell in cells(generator)), generator


def test_blocks_of_a_schedule_begin_where_the_prompts_last_one_ends() -> None:
    """SDAR's blocks are aligned to position 0: after 5 prompt tokens the first has 3 places left, then 4, then 1."""
    (cell,) = cells("sdar", prompt_lengths=[5], commit_schedule="constant:4")
    assert cell.decode.commit_schedule == CommitSchedule(source="constant:4", rows=((3, 4, 1),))
    (cell,) = cells("fast-dllm", prompt_lengths=[5], commit_schedule="constant:4", block_lengths=["4"])
    assert cell.decode.commit_schedule == CommitSchedule(source="constant:4", rows=((4, 4),))


def test_speculation_needs_to_be_told_how_much_is_accepted() -> None:
    with pytest.raises(InputError, match="speculative: how many draft tokens are accepted depends on the data"):
        cells("speculative")
    assert cells("speculative", commit_schedule="constant:4")
    assert cells("speculative", weights="/a/folder")


def test_speculation_depends_on_both_sides_weights() -> None:
    """A trained drafter against a random target is accepted by chance as well."""
    pair = tiny("speculative", weights="/a/folder")
    pair = pair.model_copy(update={"ar": pair.ar.model_copy(update={"weights": "random"})})
    grid = {"pairs": ["tiny"], "lengths": [8], "steps": ["L"]}
    with pytest.raises(InputError, match="speculative"):
        expand(checked_suite({"name": "mine", "grid": [grid]}, "mine.toml"), {"tiny": pair}, "cpu")


def test_samplers_and_caches_multiply() -> None:
    found = axes("dream", samplers=["maskgit_plus", "entropy"], caches=["none", "dual"])
    assert found == [
        ",sampler=maskgit_plus", ",cache=dual,sampler=maskgit_plus", ",sampler=entropy", ",cache=dual,sampler=entropy",
    ]  # fmt: skip


# Old records


def test_a_cell_recorded_before_these_axes_keeps_its_key() -> None:
    old = {
        "pair": "small", "side": "diffusion", "generator": "masked-diffusion", "length": 16, "steps": 4,
        "block_length": None, "prompt_length": 32, "batch": 1, "dtype": "float32", "kv_dtype": None, "engine": "eager",
        "attention": "auto",
        "decode": {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "remasking": "low_confidence"},
        "length_policy": "fixed",
    }  # fmt: skip
    cell = Cell.model_validate(old)
    assert cell.key == "small/masked-diffusion/L=16,T=4"
    assert cell.decode == Decode()
    assert Cell.model_validate_json(cell.model_dump_json()) == cell


@pytest.mark.parametrize(
    "fields",
    [{"threshold": 1.1}, {"threshold": -0.1}, {"factor": 0}, {"epsilon": 1}, {"draw": "gumbel16"}, {"colour": 1}],
)
def test_an_impossible_setting_cannot_be_recorded(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Decode.model_validate(fields)


# Refusals


@pytest.mark.parametrize(
    ("generator", "grid", "words"),
    [
        ("mdlm", {"samplers": ["entropy"]}, ["sampler 'entropy'", "'mdlm'", "choose from ddpm_cache, ddpm, analytic"]),
        ("sedd", {"samplers": ["ddpm"]}, ["sampler 'ddpm'", "'sedd'", "choose from analytic, euler"]),
        ("masked-diffusion", {"samplers": ["ddpm"]}, ["sampler 'ddpm'", "it has one only; leave it out"]),
        ("mdlm", {"caches": ["dual"]}, ["cache 'dual'", "'mdlm'", "choose from none"]),
        ("sdar", {"caches": ["prefix"]}, ["cache 'prefix'", "'sdar'", "choose from kv"]),
        ("fast-dllm", {"caches": ["kv"]}, ["cache 'kv'", "choose from none, prefix, dual"]),
        ("fast-dllm", {"block_lengths": ["3"]}, ["L=8", "not divisible by 3"]),
        ("fast-dllm", {"block_lengths": ["2"], "steps": [6]}, ["T=6", "4 blocks", "multiple of 4"]),
        ("fast-dllm", {"commit_schedule": "constant:x"}, ["commit schedule 'constant:x'", "expected constant:K"]),
    ],
)
def test_what_does_not_fit_the_system_is_refused(generator: str, grid: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        cells(generator, **grid)
    for word in ["suite mine, grid 0: ", *words]:
        assert word in str(caught.value)


def context_of(generator: str) -> Any:
    """What a worker would build these cells on."""
    import torch

    from dlmbench.models.catalog import Context, NetworkSource

    pair = tiny(generator)
    partner = NetworkSource(pair.ar.backbone, "random")
    return Context(pair.diffusion.backbone, "random", torch.float32, "cpu", 0, partner=partner)


@pytest.mark.parametrize(
    ("generator", "grid"),
    [
        ("mdlm", {"threshold": 0.9}),
        ("mdlm", {"block_lengths": ["4"]}),
        ("sedd", {"cfg_scale": 1.0}),
        ("sedd", {"block_lengths": ["4"]}),
        ("masked-diffusion", {"factor": 1.0}),
        ("fast-dllm", {"entropy_bound": 0.1}),
        ("dream", {"draw": "gumbel64"}),
        ("dream", {"block_lengths": ["4"]}),
        ("bd3lm", {"threshold": 0.9}),
        ("sdar", {"factor": 1.0}),
        ("block-diffusion", {"threshold": 0.9}),
        # After 5 prompt tokens, blocks of 4 hold 8 tokens in three parts.
        ("block-diffusion", {"prompt_lengths": [5], "block_lengths": ["4"], "steps": [4]}),
        ("speculative", {"commit_schedule": "constant:4", "cfg_scale": 1.0}),
    ],
)
def test_what_no_sampler_can_run_is_refused_before_anything_is_timed(generator: str, grid: dict[str, Any]) -> None:
    """By the plan, or by the worker as soon as it has the cells."""
    from dlmbench.bench.opened import check_cell

    def check() -> None:
        for cell in cells(generator, **grid):
            check_cell(cell, context_of(generator))

    with pytest.raises(InputError):
        check()


# What expands can be prepared and run

_FITTING: dict[str, list[dict[str, Any]]] = {
    "masked-diffusion": [{"block_lengths": ["4"]}, {"cfg_scale": 1.0}, {"remasking": ["random"]}],
    "llada": [{"draw": "gumbel64", "temperature": 0.7}],
    "fast-dllm": [
        {"caches": ["prefix"], "block_lengths": ["4"]}, {"caches": ["dual"], "block_lengths": ["4"], "threshold": 0.9},
        {"factor": 1.0},
    ],
    "dream": [
        {"samplers": ["maskgit_plus"]}, {"samplers": ["entropy"], "caches": ["dual"], "block_lengths": ["4"]},
        {"threshold": 0.9}, {"threshold": 0.9, "caches": ["prefix"], "steps": ["L"]},
    ],
    "mdlm": [{"samplers": ["ddpm"]}, {"samplers": ["analytic"]}, {"draw": "gumbel32"}],
    "sedd": [{"samplers": ["euler"]}, {"epsilon": 1e-3}],
    "bd3lm": [{"caches": ["none"]}, {"block_lengths": ["8"]}],
    "sdar": [{"samplers": ["sequential"], "steps": [6]}, {"samplers": ["entropy_bounded"], "entropy_bound": 0.5}],
    "block-diffusion": [{"block_lengths": ["4"], "steps": [6]}, {"block_lengths": ["1"]}],
    "speculative": [{"caches": ["none"]}, {"steps": ["4"]}],
}  # fmt: skip


def generated(generator: str, prompt: int = 0, **grid: Any) -> None:
    """Every cell of the grid prepares, generates and keeps its promise of forwards."""
    import torch

    from dlmbench.bench.opened import settings_of
    from dlmbench.bench.verify.tally import Tally
    from dlmbench.models.catalog import build
    from dlmbench.models.generator import Promising, Request, Shape

    context = context_of(generator)
    random = torch.Generator().manual_seed(0)
    found = cells(generator, prompt_lengths=[prompt], **grid)
    assert found
    for cell in found:
        made, settings = build(cell.generator, context), settings_of(cell)
        shape = Shape(cell.batch, prompt, 8)
        made.prepare(shape, settings)
        tally = Tally()
        ids = torch.randint(60, (cell.batch, prompt), generator=random)
        tokens = made.generate(Request(ids, 8, settings, 1), tally)
        assert tokens.shape == (cell.batch, 8)
        if generator != "speculative":  # see below
            assert not (tokens == 60).any(), f"{cell.key} left a mask"
        if isinstance(made, Promising):
            promised = made.promised_nfe(shape, settings)
            assert promised in (None, tally.nfe), cell.key


@pytest.mark.parametrize("prompt", [0, 5])
@pytest.mark.parametrize(
    ("generator", "grid"),
    [(name, grid) for name in GENERATORS for grid in ({}, {"batches": [3], "temperature": 0.8}, *_FITTING[name])],
)
def test_a_cell_that_expands_can_run(generator: str, grid: dict[str, Any], prompt: int) -> None:
    if generator == "speculative":
        grid = {"commit_schedule": "constant:3", **grid}
    generated(generator, prompt, **grid)


@pytest.mark.parametrize(
    "grid", [{"threshold": 0.9, "steps": ["L/2"]}, {"commit_schedule": "constant:2"}, {"commit_schedule": "constant:8"}]
)
@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_schedules_fit_dreams_cached_blocks(grid: dict[str, Any], cache: str) -> None:
    generated("dream", caches=[cache], **grid)


class _Verified:
    """Says that it is the target's: ids with the mask's among them."""

    side = "diffusion"

    def prepare(self, shape: Any, settings: Any) -> None: ...

    def generate(self, request: Any, observer: Any) -> Any:
        tokens = request.prompt_ids.new_tensor([[1, 2, 60, 4, 5, 6, 7, 8]])
        with observer.forward("target", "verify", 1, 8, 8, 8, "causal"):
            pass
        observer.write(None, tokens, 0)
        return tokens


def test_a_mask_that_the_target_drew_is_no_mask_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speculation keeps the AR network's law, in which the mask is an id like any other: 1 of V on random weights."""
    import torch

    from dlmbench.bench import opened as opening
    from dlmbench.models.catalog import Context
    from dlmbench.models.prompts import default_prompts
    from dlmbench.models.tokenizer import embedded_tokenizer
    from dlmbench.profiles.clocks import HostClock

    (cell,) = cells("speculative", commit_schedule="constant:4")
    monkeypatch.setattr(opening, "build", lambda name, context: _Verified())
    context = Context(LLAMA, "random", torch.float32, "cpu", 0)
    opened = opening.OpenCell(cell, context, default_prompts(embedded_tokenizer()), HostClock(), 0.0)
    sample = opened.sample(order=0, round_index=0, prompt=0, seed=0, started_s=0.0)
    assert sample.output_tokens == 8


# The command line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--pair", "mdlm-small", "--sampler", "entropy"], ["sampler 'entropy'", "ddpm_cache, ddpm, analytic"]),
        (["--pair", "mdlm-small", "--cache", "dual"], ["cache 'dual'", "choose from none"]),
        (["--pair", "dream-7b", "--set", "draw=exac"], ["draw", "gumbel64", "found 'exac'"]),
        (["--pair", "sdar-4b", "--set", "colour=red"], ["--set 'colour=red'", "position_temperature", "idle_steps"]),
        (["--generator", "speculative", "--weights", "random"], ["speculative", "--commit-schedule constant:K"]),
        (["--commit-schedule", "nosuch.json"], ["nosuch.json", "expected constant:K"]),
        (["--pair", "llada-8b", "--block-lengths", "5"], ["not divisible by 5"]),
        (["--pair", "mdlm-small", "--weights", "diffusion="], ["--weights", "expected ar=CHECKPOINT"]),
    ],
)
def test_the_command_refuses_in_one_line_and_leaves_nothing(
    command: Any, flags: list[str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    complaint = command("run", "lesson", "--device", "cpu", *flags).complaint
    for word in words:
        assert word in complaint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["sedd-small", "bd3lm-small"])  # MDLM goes on in windows
def test_every_dit_pair_stops_at_its_positions(name: str) -> None:
    pair = load_pair(name)
    suite = checked_suite({"name": "m", "grid": [{"pairs": [name], "lengths": [1000], "steps": ["L"]}]}, "m.toml")
    with pytest.raises(InputError, match=rf"prompt 32 \+ length 1000 exceeds the 1024 positions of pair {name}"):
        expand(suite, {name: pair}, "cpu")
