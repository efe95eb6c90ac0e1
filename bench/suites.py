"""Suites: named sweeps in TOML, checked key by key, and expanded into pairings of cells.

A suite holds the measuring loop's settings and one or more `[[grid]]` tables, each the product of its axes. Axes may be
relative to L: `steps = ["L", "L/2", "16"]`, `block_lengths = ["L", "32"]`, `tokens_per_step = [1, 2, 4]`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .. import InputError
from ..models.architecture import Config
from ..models.names import (
    BUILT_IN,
    DIFFUSION_GEMMA,
    DREAM,
    DREAM_BLOCK,
    GPT2,
    HF_DYNAMIC,
    HF_STATIC,
    MDLM,
    RANDOM,
    SPECULATIVE,
    TIMELESS_SAMPLERS,
)
from ..models.pairs import Pair
from ..models.plugins import side_of
from ..models.schedule import steps_per_block
from ..models.tables import read_table, shipped
from ..profiles.record import Cell, CommitSchedule, Decode, LengthPolicy
from .load.options import LoadOptions
from .schedules import Frame, adaptive, drafted, even_schedule, read_schedule

_RELATIVE = re.compile(r"L(?:/([1-9][0-9]{0,8}))?|[1-9][0-9]{0,8}")

# Strict: TOML has numbers of its own, so a truth value or a text is a mistake. No axis needs more than 10^9.
Positive = Annotated[int, Field(ge=1, le=10**9, strict=True)]
PositiveReal = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Engine = Literal["auto", "eager", "compile", "cudagraph", "compile+cudagraph"]
Kernel = Literal["auto", "flash", "efficient", "cudnn", "math"]


def relative(expression: int | str, length: int) -> int:
    """Evaluate an axis entry at L: "L" is L, "L/4" a quarter of it (exactly), "16" or 16 itself."""
    text = str(expression)
    match = _RELATIVE.fullmatch(text)
    if match is None:
        raise InputError(f"{text!r} is not an axis entry; expected a positive integer, L or L/n")
    if not text.startswith("L"):
        return int(text)
    divisor = int(match[1] or 1)
    if length % divisor:
        raise InputError(f"{text!r} is not a whole number at L={length}; choose another divisor")
    return length // divisor


def _expression(value: int | str) -> int | str:
    if isinstance(value, bool) or not _RELATIVE.fullmatch(str(value)):
        raise ValueError("expected a positive integer, L or L/n")
    return value


Relative = Annotated[int | str, AfterValidator(_expression)]


class Exclusion(BaseModel):
    """Cells to leave out: those that match every field given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    length: int | None = None
    steps: int | None = None
    batch: int | None = None
    prompt_length: int | None = None
    block_length: int | None = None
    side: Literal["ar", "diffusion"] | None = None
    generator: str | None = None
    engine: str | None = None

    @model_validator(mode="after")
    def _not_everything(self) -> Exclusion:
        if not self.model_dump(exclude_none=True):
            raise ValueError("an empty exclusion matches every cell; give at least one field")
        return self

    def matches(self, cell: Cell) -> bool:
        return all(getattr(cell, name) == value for name, value in self.model_dump(exclude_none=True).items())


class Grid(BaseModel):
    """The product of its axes. `processes` and `budget_s` override the suite's for these cells.

    `block_lengths`, `samplers` and `caches` left out mean each generator's own default. The settings after them belong
    to single systems (see `models.generator.Settings`); `commit_schedule` is "constant:K", a schedule's file or a run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: tuple[str, ...] = Field(min_length=1)
    lengths: tuple[Positive, ...] = Field(min_length=1)
    steps: tuple[Relative, ...] = ()
    tokens_per_step: tuple[Positive, ...] = ()
    block_lengths: tuple[Relative, ...] = ()
    batches: tuple[Positive, ...] = Field(default=(1,), min_length=1)
    prompt_lengths: tuple[Annotated[int, Field(ge=0, le=10**9, strict=True)], ...] = Field(default=(32,), min_length=1)
    dtypes: tuple[Dtype, ...] = Field(default=("auto",), min_length=1)
    kv_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    engines: tuple[Engine, ...] = Field(default=("auto",), min_length=1)
    attention: tuple[Kernel, ...] = Field(default=("auto",), min_length=1)
    remasking: tuple[Literal["low_confidence", "random"], ...] = Field(default=("low_confidence",), min_length=1)
    samplers: tuple[str, ...] = ()
    caches: tuple[Literal["none", "prefix", "dual", "kv"], ...] = ()
    threshold: float | None = Field(default=None, ge=0, le=1)
    factor: PositiveReal | None = None
    entropy_bound: PositiveReal | None = None
    commit_schedule: str | None = None
    cfg_scale: float = Field(default=0.0, ge=0, strict=True, allow_inf_nan=False)
    position_temperature: float = Field(default=0.0, ge=0, strict=True, allow_inf_nan=False)
    epsilon: float | None = Field(default=None, gt=0, le=0.99, strict=True)
    draw: Literal["exact", "gumbel64", "gumbel32"] = "exact"
    suppress_mask: bool = Field(default=True, strict=True)
    idle_steps: Literal["skip", "run"] = "skip"
    temperature: float = Field(default=0.0, ge=0, le=100, strict=True)
    top_k: int = Field(default=0, ge=0, strict=True)
    top_p: float = Field(default=1.0, gt=0, le=1, strict=True)
    length_policy: LengthPolicy = "fixed"
    generators: tuple[str, ...] = ()
    exclude: tuple[Exclusion, ...] = ()
    processes: Positive | None = None
    budget_s: PositiveReal | None = None

    @field_validator("steps", "block_lengths", mode="before")
    @classmethod
    def _no_floats(cls, value: object) -> object:
        if isinstance(value, list | tuple) and any(isinstance(entry, float) for entry in value):
            raise ValueError("expected integers or strings such as 'L/4'")
        return value

    @model_validator(mode="after")
    def _some_steps(self) -> Grid:
        if not self.steps and not self.tokens_per_step:
            raise ValueError("give steps or tokens_per_step: diffusion needs a number of denoising steps")
        return self


class Suite(BaseModel):
    """A named sweep. `budget_s` is seconds of sampling per cell and process, pooled over a pairing, warm-up apart.

    `target_ci` is the relative half-width of the within-process interval of the median at which a cell is done;
    `foreign_limit` the processor time beyond the free cores, in cores, above which a sample is discarded (null: never).
    `quality_texts` are the texts that are judged of a cell whose weights can be (0: none), in about `quality_s` seconds
    at most. `studies`: also what needs no cell (the lesson's sentence, tasks, infilling, likelihood), once a pair.
    `hardware`: replay each cell once under the torch profiler and, where energy or device counters can be read, back to
    back for `window_s` seconds, all in the first process; `traces`: keep each profile as a Perfetto trace.
    `extrapolate`: the report says what a line through three or more T predicts for T = L. `load`: servers to put under
    load once the cells are measured (see `bench.load.options`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str = ""
    processes: Positive = 5
    budget_s: PositiveReal = 5.0
    target_ci: float = Field(default=0.02, gt=0, lt=1, strict=True)
    min_samples: Positive = 3
    max_samples: int = Field(default=200, ge=1, le=2000, strict=True)
    warmup_s: PositiveReal = 10.0
    hang_s: PositiveReal = 900.0
    foreign_limit: PositiveReal | None = 0.25
    quality_texts: int = Field(default=256, ge=0, le=100_000, strict=True)
    quality_s: PositiveReal = 1.0
    studies: bool = Field(default=False, strict=True)
    hardware: bool = Field(default=False, strict=True)
    window_s: PositiveReal = 2.0
    traces: bool = Field(default=False, strict=True)
    extrapolate: bool = Field(default=False, strict=True)
    seed: int = Field(default=0, ge=0, lt=2**63, strict=True)
    grid: tuple[Grid, ...] = Field(min_length=1)
    load: LoadOptions | None = None

    @model_validator(mode="after")
    def _sample_bounds(self) -> Suite:
        if self.max_samples < self.min_samples:
            raise ValueError("max_samples must be at least min_samples")
        return self


class Pairing(BaseModel):
    """Cells that share a shape, measured by live workers that alternate; `processes` fresh process sets of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    cells: tuple[Cell, ...]
    processes: int
    budget_s: float


def suite_names() -> list[str]:
    """Names of the suites that ship."""
    return shipped(__package__, "suites")


def load_suite(reference: str) -> Suite:
    """A shipped suite by name, or one from a `.toml` file. Raises InputError naming file, key and expectation."""
    name, table, place = read_table(reference, kind="suite", package=__package__, folder="suites")
    if "name" in table:
        raise InputError(f"suite {place}: name: a suite is named by its file; remove the key")
    suite = checked_suite({"name": name, **table}, place)
    return suite if suite.load is None else suite.model_copy(update={"load": suite.load.beside(Path(place).parent)})


def checked_suite(table: dict[str, Any], place: str) -> Suite:
    """A suite from plain data; InputError names `place`, the key, what was found and what was expected."""
    try:
        return Suite.model_validate(table)
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(str(part) for part in detail["loc"] if part not in ("int", "str")) or "suite"
        # What stands in a load may be a key that should not be there: it is not repeated.
        silent = detail["type"] in ("missing", "value_error") or detail["loc"][:1] == ("load",)
        found = "" if silent else f"; found {detail['input']!r}"
        message = detail["msg"].removeprefix("Value error, ")
        raise InputError(f"suite {place}: {key}: {message}{found}") from None


def expand(suite: Suite, pairs: dict[str, Pair], device: str) -> list[Pairing]:
    """The pairings of a suite on `device`, in order. Raises InputError for a cell that its sampler cannot run."""
    pairings: dict[str, Pairing] = {}
    for number, grid in enumerate(suite.grid):
        place = f"suite {suite.name}, grid {number}"
        for reference, prompt, length, batch, dtype in itertools.product(
            grid.pairs, grid.prompt_lengths, grid.lengths, grid.batches, grid.dtypes
        ):
            pair = pairs[reference]
            try:
                cells = [c for c in _cells(grid, pair, prompt, length, batch, dtype, device) if not _excluded(grid, c)]
            except InputError as error:
                raise InputError(f"{place}: {error}") from None
            if not cells:
                continue
            name = f"{pair.name}/P={prompt},L={length},B={batch},{cells[0].dtype}"
            if grid.kv_dtype is not None:
                name += f",kv={grid.kv_dtype}"
            if grid.length_policy != "fixed":
                name += f",{grid.length_policy}"
            known = pairings.get(name)
            merged = tuple(dict.fromkeys((*(known.cells if known else ()), *cells)))
            pairings[name] = Pairing(
                name=name,
                cells=tuple(sorted(merged, key=lambda cell: cell.side)),
                processes=max(grid.processes or suite.processes, known.processes if known else 0),
                budget_s=max(grid.budget_s or suite.budget_s, known.budget_s if known else 0.0),
            )
    if not pairings:
        raise InputError(f"suite {suite.name}: no cell is left; every one is excluded")
    return list(pairings.values())


def _excluded(grid: Grid, cell: Cell) -> bool:
    return any(exclusion.matches(cell) for exclusion in grid.exclude)


def _cells(grid: Grid, pair: Pair, prompt: int, length: int, batch: int, dtype: str, device: str) -> Iterator[Cell]:
    """The cells of one shape: AR on every engine and kernel, diffusion on every T and decode setting too."""
    cuda = device.startswith("cuda")
    if dtype == "auto":
        dtype = "bfloat16" if cuda else "float32"
    limit = min(pair.ar.backbone.max_position_embeddings, pair.diffusion.backbone.max_position_embeddings)
    # MDLM goes on in windows of its model's length.
    if prompt + length > limit and pair.diffusion.generator != MDLM:
        raise InputError(f"prompt {prompt} + length {length} exceeds the {limit} positions of pair {pair.name}")
    automatic = ("eager", "cudagraph") if cuda else ("eager",)
    engines = [e for entry in grid.engines for e in (automatic if entry == "auto" else (entry,))]
    common: dict[str, Any] = {
        "pair": pair.name, "length": length, "prompt_length": prompt, "batch": batch, "dtype": dtype,
        "kv_dtype": grid.kv_dtype, "length_policy": grid.length_policy,
    }  # fmt: skip
    drawn = {"temperature": grid.temperature, "top_k": grid.top_k, "top_p": grid.top_p}
    for generator in dict.fromkeys((pair.ar.generator, pair.diffusion.generator, *pair.rivals, *grid.generators)):
        side = side_of(generator)
        for engine, kernel in itertools.product(_engines(generator, pair, engines, cuda), grid.attention):
            base = common | {"side": side, "generator": generator, "engine": engine, "attention": kernel}
            if side == "ar":
                yield Cell(**base, decode=Decode(**drawn))
                continue
            rivals = (pair.diffusion.generator, *grid.generators)
            for axes in _diffusion_axes(_known_to(grid, generator, rivals), generator, prompt, length, pair):
                axes["decode"] = Decode(**drawn, **axes["decode"])
                yield Cell(**base, **axes)


def _engines(generator: str, pair: Pair, asked: Sequence[str], cuda: bool) -> Sequence[str]:
    """The engines that a generator is measured on: those asked for where it is ours, what transformers has where it
    is its own."""
    if generator == pair.ar.generator == HF_STATIC and cuda:
        return ("eager", "compile")
    ours = generator in BUILT_IN or generator in (pair.ar.generator, pair.diffusion.generator)
    theirs = generator.partition(":")[0] in (HF_DYNAMIC, HF_STATIC, GPT2, DIFFUSION_GEMMA)
    return tuple(dict.fromkeys(asked)) if ours and not theirs else ("eager",)


def _diffusion_axes(grid: Grid, generator: str, prompt: int, length: int, pair: Pair) -> Iterator[dict[str, Any]]:
    """T, block length, cache and decode settings of every diffusion cell of one generator.

    Raises InputError for a sampler, cache or block length that does not fit the generator.
    """
    entry, shape = BUILT_IN.get(generator), pair.diffusion.backbone
    # A draft is accepted by both models.
    sources = (pair.ar.weights, pair.diffusion.weights) if generator == SPECULATIVE else (pair.diffusion.weights,)
    random = RANDOM in sources
    first = entry.samplers[0] if entry is not None and entry.samplers else ""
    for sampler, cache in itertools.product(grid.samplers or (None,), grid.caches or (None,)):
        if entry is not None:
            _fits("sampler", sampler, entry.samplers, generator)
            _fits("cache", cache, entry.caches, generator)
        for block, remasking in itertools.product(_blocks(grid, generator, cache, length, shape), grid.remasking):
            native = entry is not None and entry.native_block
            count = len(Frame(prompt, length, block).blocks) if native and not grid.block_lengths else 1
            # A given schedule is as long as it is, whatever T.
            given = grid.commit_schedule is not None and generator != SPECULATIVE
            for steps in (None,) if given else _steps(grid, length, sampler or first, count):
                if (
                    entry is not None
                    and entry.blocks
                    and not entry.native_block
                    and grid.idle_steps == "skip"
                    and steps
                ):
                    steps_per_block(length, steps, block)
                decode: dict[str, Any] = {name: getattr(grid, name) for name in _SPECIAL}
                decode |= {"sampler": sampler, "remasking": remasking}
                frame = Frame(prompt if native else 0, length, block, steps or length)
                if generator == SPECULATIVE:
                    frame = drafted(length)
                if generator == DREAM and cache in ("prefix", "dual"):
                    frame = replace(frame, opening=True)
                decode["commit_schedule"] = _schedule(grid, generator, random, frame, decode)
                yield {
                    "steps": steps,
                    "block_length": None if block == length and not native else block,
                    "cache": cache if entry is None or cache != entry.caches[0] else None,
                    "decode": decode,
                }


def _known_to(grid: Grid, generator: str, generators: Sequence[str]) -> Grid:
    """The grid as it holds for one generator: a setting that it does not know, and another generator of the grid does,
    keeps its default here. Raises InputError for one that none of them knows."""
    entry = BUILT_IN.get(generator)
    if entry is None:
        return grid
    others = [BUILT_IN.get(name) for name in generators]
    changes: dict[str, Any] = {}
    for axis, known in (("samplers", "samplers"), ("caches", "caches")):
        asked = getattr(grid, axis)
        mine = tuple(value for value in asked if value in getattr(entry, known))
        for value in asked:
            if value not in mine and not any(o is None or value in getattr(o, known) for o in others):
                _fits(axis.rstrip("s"), value, getattr(entry, known), generator)
        changes[axis] = mine
    # Random remasking has no confidence for a rule to go by. Whether a user's flag fits any generator, the plan asks.
    rule = any(name in entry.rules and getattr(grid, name) is not None for name in ("threshold", "factor"))
    if "remasking" not in entry.rules or rule:
        changes["remasking"] = ("low_confidence",)
    for name in ("threshold", "factor", "entropy_bound", "cfg_scale", "position_temperature", "commit_schedule"):
        default = Grid.model_fields[name].default
        if name in entry.rules or getattr(grid, name) == default:
            continue
        if not any(o is None or name in o.rules for o in others):
            knowing = ", ".join(key for key, o in BUILT_IN.items() if name in o.rules)
            raise InputError(f"{name} {getattr(grid, name)!r} does not fit generator {generator!r}; it fits {knowing}")
        changes[name] = default
    return grid.model_copy(update=changes)


def _fits(what: str, asked: str | None, known: tuple[str, ...], generator: str) -> None:
    if asked is not None and asked not in known:
        fits = f"choose from {', '.join(known)}" if known else "it has one only; leave it out"
        raise InputError(f"{what} {asked!r} does not fit generator {generator!r}; {fits}")


# Decode settings that a grid holds under the same name.
_SPECIAL = (
    "threshold", "factor", "entropy_bound", "cfg_scale", "position_temperature", "epsilon", "draw", "suppress_mask",
    "idle_steps",
)  # fmt: skip


def _schedule(
    grid: Grid, generator: str, random: bool, frame: Frame, decode: Mapping[str, Any]
) -> CommitSchedule | None:
    """The commit schedule of a cell: the one asked for, or an even one for a data-dependent rule on random weights."""
    if grid.commit_schedule is not None:
        return read_schedule(grid.commit_schedule, frame)
    if not random or not adaptive(generator, decode):
        return None
    if generator == SPECULATIVE:
        raise InputError(
            "speculative: how many draft tokens are accepted depends on the data, which random weights do not have; "
            "give --commit-schedule constant:K, a schedule's file or a run on trained weights"
        )
    return even_schedule(frame)


def _blocks(grid: Grid, generator: str, cache: str | None, length: int, shape: Config) -> Sequence[int]:
    if grid.block_lengths:
        return tuple(dict.fromkeys(relative(entry, length) for entry in grid.block_lengths))
    if generator == DREAM and cache in ("prefix", "dual"):
        return (min(DREAM_BLOCK, length),)
    entry = BUILT_IN.get(generator)
    native = getattr(shape, "block_size", None) if entry is not None and entry.native_block else None
    return (native or length,)


def _steps(grid: Grid, length: int, sampler: str, blocks: int = 1) -> Sequence[int | None]:
    """T of every cell. Where a generator's own block length was left as it is, T is at least one step a block."""
    if sampler in TIMELESS_SAMPLERS:
        return (length if TIMELESS_SAMPLERS[sampler] == "L" else None,)
    per_step = (relative(f"L/{tokens}", length) for tokens in grid.tokens_per_step)
    entries = {*(relative(entry, length) for entry in grid.steps), *per_step}
    return sorted({max(entry, blocks) for entry in entries}, reverse=True)
