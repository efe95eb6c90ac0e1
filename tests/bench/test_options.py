"""How flags override a suite, and how a resumed run gets its flags back."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from dlmbench import InputError
from dlmbench.bench.options import RunOptions, adopted, overridden, with_budget
from dlmbench.bench.run import _plain
from dlmbench.bench.suites import Suite, checked_suite, load_suite

TWO_GRIDS = checked_suite(
    {
        "name": "mine",
        "processes": 5,
        "grid": [
            {"pairs": ["small"], "lengths": [16, 64], "tokens_per_step": [4], "exclude": [{"length": 16}]},
            {"pairs": ["5m", "1b"], "lengths": [32], "steps": ["L"], "processes": 1, "budget_s": 2.0},
        ],
    },
    "mine.toml",
)


def overrides(**flags: Any) -> Suite:
    return overridden(TWO_GRIDS, RunOptions(**flags))


def test_without_flags_the_suite_is_as_written() -> None:
    for name in ("lesson", "quick", "standard", "ci", "gpu", "gpu-systems"):
        suite = load_suite(name)
        assert overridden(suite, RunOptions()) == suite


@pytest.mark.parametrize(
    ("flag", "axis", "value"),
    [
        ("lengths", "lengths", (8, 24)),
        ("steps", "steps", ("L/2", "4")),
        ("batches", "batches", (3,)),
        ("prompt_lengths", "prompt_lengths", (0, 7)),
        ("block_lengths", "block_lengths", ("L/2",)),
        ("engines", "engines", ("compile",)),
        ("length_policy", "length_policy", "natural"),
        ("temperature", "temperature", 0.5),
        ("top_k", "top_k", 3),
        ("top_p", "top_p", 0.5),
        ("generators", "generators", ("hf",)),
    ],
)
def test_a_flag_takes_the_place_of_its_axis_in_every_grid(flag: str, axis: str, value: Any) -> None:
    assert [getattr(grid, axis) for grid in overrides(**{flag: value}).grid] == [value, value]


@pytest.mark.parametrize("value", [0.0, 0])
def test_zero_is_a_value_not_an_absent_flag(value: float) -> None:
    suite = checked_suite({"name": "m", "grid": [{**TWO_GRIDS.grid[1].model_dump(), "temperature": 0.7}]}, "m.toml")
    assert overridden(suite, RunOptions(temperature=value)).grid[0].temperature == 0


def test_dtype_and_remasking_become_axes_of_one() -> None:
    suite = overrides(dtype="bfloat16", remasking="random")
    assert {grid.dtypes for grid in suite.grid} == {("bfloat16",)}
    assert {grid.remasking for grid in suite.grid} == {("random",)}


def test_steps_replace_tokens_per_step_too() -> None:
    assert overrides(steps=("8",)).grid[0].tokens_per_step == ()


@pytest.mark.parametrize("flags", [{"lengths": (16,)}, {"steps": ("8",)}, {"batches": (1,)}])
def test_points_that_a_user_names_are_measured_although_the_suite_excludes_them(flags: dict[str, Any]) -> None:
    assert overrides(**flags).grid[0].exclude == ()
    assert overrides(temperature=1.0).grid[0].exclude != ()


def test_a_pair_of_the_suite_selects_its_grids() -> None:
    suite = overrides(pairs=("5m",))
    assert [grid.pairs for grid in suite.grid] == [("5m",)]
    assert suite.grid[0].lengths == (32,)


def test_a_pair_that_the_suite_does_not_know_gets_the_grids_of_the_pair_next_in_size() -> None:
    # The suite has small (2M) and, in one grid, 5m and 1b (1.2B): 8B are nearer to 1.2B, 124M are nearer to 1.2B than
    # to 5M (factors of 10 and 23).
    assert [grid.pairs for grid in overrides(pairs=("8b",)).grid] == [("8b",)]
    assert [grid.pairs for grid in overrides(pairs=("8b", "small")).grid] == [("small",), ("8b",)]
    (grid,) = overrides(pairs=("gpt2-size",)).grid
    assert (grid.pairs, grid.lengths) == (("gpt2-size",), (32,))


def test_processes_override_the_grids_own() -> None:
    suite = overrides(processes=3)
    assert suite.processes == 3
    assert [grid.processes for grid in suite.grid] == [None, None]


def test_settings_of_the_loop() -> None:
    suite = overrides(target_ci=0.1, seed=9, foreign_limit=2.0)
    assert (suite.target_ci, suite.seed, suite.foreign_limit) == (0.1, 9, 2.0)


@pytest.mark.parametrize(
    "flags",
    [
        {"engines": ("warp",)},
        {"dtype": "int3"},
        {"steps": ("x",)},
        {"lengths": (0,)},
        {"seed": -1},
        {"target_ci": 1.0},
        {"target_ci": math.nan},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_p": 0.0},
        {"length_policy": "short"},
        {"remasking": "none"},
        {"processes": 0},
    ],
)
def test_flags_are_checked_like_a_suite(flags: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="mine with the flags given"):
        overrides(**flags)


def test_a_budget_is_spread_over_the_trials() -> None:
    suite = with_budget(TWO_GRIDS, 30.0, trials=60)
    assert suite.budget_s == 0.5
    assert [grid.budget_s for grid in suite.grid] == [0.5, 0.5]


@pytest.mark.parametrize(
    "budget",
    [
        0.0,
        -1.0,
        -math.inf,
        pytest.param(math.nan),
        pytest.param(math.inf),
    ],
)
def test_a_budget_is_a_positive_number_of_seconds(budget: float) -> None:
    with pytest.raises(InputError, match="--budget"):
        with_budget(TWO_GRIDS, budget, trials=1)


FULL = RunOptions(
    suite="lesson",
    pairs=("small", "mine.toml"),
    lengths=(8, 16),
    steps=("L", "4"),
    batches=(1, 2),
    prompt_lengths=(0, 32),
    block_lengths=("L/2",),
    dtype="bfloat16",
    engines=("eager",),
    device="cpu",
    threads=1,
    length_policy="natural",
    remasking="random",
    temperature=0.5,
    top_k=7,
    top_p=0.9,
    generators=("hf",),
    weights="/some/folder",
    prompts=Path("/some/prompts.txt"),
    tokenizer=Path("/some/tokenizer.json"),
    judge="trained:ar",
    seed=5,
    processes=2,
    target_ci=0.1,
    budget_s=60.0,
    foreign_limit=0.5,
    samplers=("entropy",),
    caches=("dual",),
    threshold=0.9,
    factor=1.5,
    entropy_bound=0.1,
    commit_schedule="constant:2",
    cfg_scale=1.5,
    decode=("draw=gumbel64", "suppress_mask=false"),
    out=Path("/some/out"),
)


@pytest.mark.parametrize("options", [RunOptions(), FULL], ids=["defaults", "every flag"])
def test_recorded_options_come_back_equal(options: RunOptions) -> None:
    for name in RunOptions.__dataclass_fields__:
        assert options is not FULL or getattr(FULL, name) != getattr(RunOptions(), name), f"{name} is not exercised"
    recorded = json.loads(json.dumps(_plain(asdict(options))))
    assert adopted(RunOptions(), recorded) == replace(options, out=None), "all but the folder, which may move"


def test_recorded_options_win_over_flags_and_newer_ones_are_passed_over() -> None:
    recorded = json.loads(json.dumps(_plain(asdict(FULL)))) | {"colour": "red"}
    assert adopted(replace(FULL, lengths=(99,)), recorded) == FULL
