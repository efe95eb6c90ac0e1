"""What a user may ask of `dlmbench run`, and how the answers override a suite."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from .. import InputError
from .suites import Suite, checked_suite


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The flags of `dlmbench run`; None or empty: as the suite says. `budget_s` is sampling time for the whole run."""

    suite: str = "quick"
    pairs: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    steps: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    prompt_lengths: tuple[int, ...] = ()
    block_lengths: tuple[str, ...] = ()
    dtype: str | None = None
    engines: tuple[str, ...] = ()
    device: str = "auto"
    threads: int | None = None
    length_policy: str | None = None
    remasking: str | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    generators: tuple[str, ...] = ()
    weights: str = "random"
    prompts: Path | None = None
    tokenizer: Path | None = None
    seed: int | None = None
    processes: int | None = None
    target_ci: float | None = None
    budget_s: float | None = None
    foreign_limit: float | None = None
    out: Path | None = None


_AXES = {
    "lengths": "lengths",
    "steps": "steps",
    "batches": "batches",
    "prompt_lengths": "prompt_lengths",
    "block_lengths": "block_lengths",
    "engines": "engines",
}
_SCALARS = ("length_policy", "temperature", "top_k", "top_p")


def overridden(suite: Suite, options: RunOptions) -> Suite:
    """The suite with the user's flags in place of its own values, checked again."""
    table = suite.model_dump(exclude_unset=True)
    table["name"] = suite.name
    grids: list[dict[str, Any]] = [grid.model_dump(exclude_unset=True) for grid in suite.grid]
    if options.pairs:
        grids = _on_pairs(grids, options.pairs)
    for grid in grids:
        for flag, axis in _AXES.items():
            if getattr(options, flag):
                grid[axis] = getattr(options, flag)
        if options.steps:
            grid.pop("tokens_per_step", None)
        # A user who names points of the grid wants those points: what the suite left out of its own grid is moot.
        if options.lengths or options.steps or options.batches:
            grid.pop("exclude", None)
        for name in _SCALARS:
            if getattr(options, name) is not None:
                grid[name] = getattr(options, name)
        if options.dtype is not None:
            grid["dtypes"] = (options.dtype,)
        if options.remasking is not None:
            grid["remasking"] = (options.remasking,)
        if options.generators:
            grid["generators"] = options.generators
        if options.processes is not None:
            grid.pop("processes", None)
    table["grid"] = grids
    for name in ("processes", "target_ci", "seed", "foreign_limit"):
        if getattr(options, name) is not None:
            table[name] = getattr(options, name)
    return checked_suite(table, f"{suite.name} with the flags given")


def _on_pairs(grids: list[dict[str, Any]], wanted: tuple[str, ...]) -> list[dict[str, Any]]:
    """The grids that mention a wanted pair, for these pairs alone; a pair that none mentions gets every grid's axes."""
    mentioned = {pair for grid in grids for pair in grid["pairs"]}
    result = []
    for grid in grids:
        pairs = tuple(pair for pair in wanted if pair in grid["pairs"] or pair not in mentioned)
        if pairs:
            result.append({**grid, "pairs": pairs})
    return result


def with_budget(suite: Suite, budget_s: float, trials: int) -> Suite:
    """The suite with `budget_s` seconds of sampling spread evenly over its `trials` trials."""
    if not 0 < budget_s < math.inf:
        raise InputError(f"--budget {budget_s:g}: expected a positive number of seconds")
    each = budget_s / trials
    grids = tuple(grid.model_copy(update={"budget_s": each}) for grid in suite.grid)
    return suite.model_copy(update={"budget_s": each, "grid": grids})


def adopted(options: RunOptions, recorded: dict[str, Any]) -> RunOptions:
    """The options of a resumed run: the recorded ones, since a run may not change its question half-way.

    Raises InputError where they are not options (any more).
    """
    known = {name: value for name, value in recorded.items() if name in RunOptions.__dataclass_fields__}
    try:
        return TypeAdapter(RunOptions).validate_python({**known, "out": options.out})
    except ValidationError as error:
        detail = error.errors()[0]
        raise InputError(f"options.{'.'.join(map(str, detail['loc']))}: {detail['msg']}") from None
