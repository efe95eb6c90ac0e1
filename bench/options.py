"""What a user may ask of `dlmbench run`, and how the answers override a suite."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from .. import InputError
from ..models.pairs import load_pair
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
    samplers: tuple[str, ...] = ()
    caches: tuple[str, ...] = ()
    threshold: float | None = None
    factor: float | None = None
    entropy_bound: float | None = None
    commit_schedule: str | None = None
    cfg_scale: float | None = None
    decode: tuple[str, ...] = ()
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    generators: tuple[str, ...] = ()
    weights: str | None = None
    prompts: Path | None = None
    tokenizer: Path | None = None
    judge: str | None = None
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
    "samplers": "samplers",
    "caches": "caches",
}
_SCALARS = (
    "length_policy", "temperature", "top_k", "top_p", "threshold", "factor", "entropy_bound", "commit_schedule",
    "cfg_scale",
)  # fmt: skip
# What `--set NAME=VALUE` may set, and how its value is read.
_NAMED: dict[str, Callable[[str], object]] = {
    "position_temperature": float,
    "epsilon": float,
    "draw": str,
    "suppress_mask": lambda text: {"true": True, "false": False}[text],
    "idle_steps": str,
}


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
        grid |= named(options.decode)
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


def named(entries: tuple[str, ...]) -> dict[str, object]:
    """The decode settings given as NAME=VALUE. Raises InputError for a name or a value that is none."""
    found: dict[str, object] = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        if not equals or name not in _NAMED:
            raise InputError(f"--set {entry!r}: expected NAME=VALUE with NAME one of {', '.join(_NAMED)}")
        try:
            found[name] = _NAMED[name](text)
        except (KeyError, ValueError):
            raise InputError(f"--set {entry!r}: {text!r} is no value of {name}; see dlmbench run --help") from None
    return found


def _on_pairs(grids: list[dict[str, Any]], wanted: tuple[str, ...]) -> list[dict[str, Any]]:
    """The grids of the wanted pairs, for these alone; a pair that no grid mentions gets those of the next in size."""
    mentioned = list(dict.fromkeys(pair for grid in grids for pair in grid["pairs"]))
    model = {pair: pair if pair in mentioned else _next_in_size(pair, mentioned) for pair in wanted}
    result = []
    for grid in grids:
        pairs = tuple(pair for pair in wanted if model[pair] in grid["pairs"])
        if pairs:
            result.append({**grid, "pairs": pairs})
    return result


def _next_in_size(pair: str, others: list[str]) -> str:
    """The pair of `others` whose parameters differ by the smallest factor: its axes take about as long."""

    def log_size(name: str) -> float:
        return math.log(load_pair(name).ar.backbone.total_parameters)

    return min(others, key=lambda name: abs(log_size(name) - log_size(pair)))


def memory_size(flag: str, text: str) -> int:
    """Bytes of "80GB" or "79.6 GiB". Raises InputError for anything else."""
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?) ?([MGT])(i?)B", text.strip(), re.IGNORECASE)
    size = (
        0.0 if match is None else float(match[1]) * (1024 if match[3] else 1000) ** (2 + "MGT".index(match[2].upper()))
    )
    if size < 1:
        raise InputError(f"{flag} {text!r}: expected a size above 0 such as 80GB or 79.6GiB")
    return int(size)


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
