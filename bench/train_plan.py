"""What `dlmbench train` was asked for, checked, and the folder that remembers it: `train.json`, the whole question."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .. import InputError
from ..models.tokenizer import read_file, shown
from ..models.training.files import write_whole
from ..models.training.recipe import Recipe
from ..models.training.shapes import MODELS, Model, Size
from ..profiles.host import usable_cpus

PLAN_FILE = "train.json"
QUICK = {"steps": 1200, "warmup": 120, "held_out_rows": 128, "held_out_passes": 4}
# Wider projections take a path through `models.linear` that has no gradient; the DiT's canvas ends at 1024.
_MOST = {"hidden": 352, "layers": 64, "length": 1024, "batch": 4096, "steps": 10**7}


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """The flags of `dlmbench train`; None: the default recipe's."""

    out: Path | None = None
    resume: Path | None = None
    models: tuple[str, ...] = ()
    steps: int | None = None
    batch: int | None = None
    length: int | None = None
    lr: float | None = None
    seed: int | None = None
    hidden: int | None = None
    layers: int | None = None
    save_every: int | None = None
    corpus: Path | None = None
    tokenizer: Path | None = None
    quick: bool = False
    dtype: str | None = None
    threads: int | None = None
    jobs: int | None = None


class TrainPlan(BaseModel):
    """Everything that decides the trained weights; `threads` does so in the last bits. `corpus` None: the source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    models: tuple[Model, ...]
    recipe: Recipe
    hidden: int = Field(ge=32, le=_MOST["hidden"], multiple_of=32)
    layers: int = Field(ge=1, le=_MOST["layers"])
    dtype: Literal["bf16", "fp32"]
    threads: int = Field(ge=1)
    corpus: str | None = None
    tokenizer: str | None = None
    data_sha256: str | None = None


def make_plan(options: TrainOptions) -> TrainPlan:
    """The plan that the flags ask for. Raises InputError that names the flag."""
    for name in options.models:
        if name not in MODELS:
            raise InputError(f"--model {name!r} is unknown; choose from {', '.join(MODELS)}")
    if options.tokenizer is not None and options.corpus is None:
        raise InputError("--tokenizer: the embedded source has its own; give --corpus FILE too, or leave it out")
    for name, most in _MOST.items():
        value = getattr(options, name)
        if value is not None and not 1 <= value <= most:
            raise InputError(f"--{name} {value}: expected 1 to {most}")
    given = ("steps", "batch", "length", "lr", "seed", "save_every")
    recipe = {name: getattr(options, name) for name in given if getattr(options, name) is not None}
    try:
        return TrainPlan(
            models=tuple(model for model in MODELS if not options.models or model in options.models),
            recipe=Recipe(**((QUICK if options.quick else {}) | recipe)),
            hidden=options.hidden or Size().hidden,
            layers=options.layers or Size().layers,
            dtype=options.dtype or "fp32",
            threads=_threads(options.threads, several=len(options.models) != 1),
            corpus=None if options.corpus is None else str(options.corpus.resolve()),
            tokenizer=None if options.tokenizer is None else str(options.tokenizer.resolve()),
        )
    except ValidationError as error:
        raise InputError(_problem(error)) from None


def resumed(options: TrainOptions) -> tuple[Path, TrainPlan]:
    """The folder of --resume and its plan, on other --threads or for some of its models if asked for.

    Raises InputError.
    """
    folder = options.resume
    assert folder is not None
    for name in TrainOptions.__slots__:
        if name not in ("resume", "threads", "jobs", "models") and getattr(options, name) not in (None, (), False):
            raise InputError(
                f"--{name.replace('_', '-')}: --resume goes on with what {shown(folder / PLAN_FILE)} says; leave it out"
            )
    data = read_file(folder / PLAN_FILE, "the folder of a training, written by `dlmbench train`")
    try:
        plan = TrainPlan.model_validate_json(data)
    except ValidationError as error:
        place = shown(folder / PLAN_FILE)
        raise InputError(f"{place}: {_problem(error, flags=False)}; restore it or train again") from None
    if options.threads is not None:
        plan = plan.model_copy(update={"threads": _threads(options.threads)})
    unknown = [name for name in options.models if name not in plan.models]
    if unknown:
        place = shown(folder / PLAN_FILE)
        raise InputError(f"--model {unknown[0]}: {place} has {', '.join(plan.models)}; choose from these")
    if options.models:
        plan = plan.model_copy(update={"models": tuple(name for name in plan.models if name in options.models)})
    return folder, plan


def choose_jobs(wanted: int | None, plan: TrainPlan) -> int:
    """How many models train at once: as many as there are cores for their threads, unless asked otherwise."""
    if wanted is not None and wanted < 1:
        raise InputError(f"--jobs {wanted}: expected at least 1")
    return wanted or max(1, _cores() // plan.threads)


def new_folder(out: Path | None) -> Path:
    """A folder to train in: `out`, or one named after the time. Raises InputError where it is taken."""
    folder = out or Path("runs") / f"train-{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}"
    try:
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise InputError(f"--out {shown(folder)}: cannot be read ({error.strerror}); choose another folder") from None
    if taken:
        hint = f"; --resume {shown(folder)} goes on with it" if (folder / PLAN_FILE).exists() else ""
        raise InputError(f"--out {shown(folder)}: exists and is not an empty folder; choose another{hint}")
    return folder


def write_plan(folder: Path, plan: TrainPlan) -> None:
    """Write `train.json`. Raises InputError where the folder cannot be written."""
    write_whole(folder / PLAN_FILE, (plan.model_dump_json(indent=1) + "\n").encode())


def _cores() -> int:
    return len(usable_cpus() or ()) or os.cpu_count() or 1


def _threads(wanted: int | None, *, several: bool = False) -> int:
    """Unless asked otherwise one each where `several` models train side by side, and all cores for a single one."""
    cores = _cores()
    if wanted is not None and not 1 <= wanted <= cores:
        raise InputError(f"--threads {wanted}: this process may use {cores} cores; choose 1 to {cores}")
    return wanted or (1 if several else cores)


def _problem(error: ValidationError, *, flags: bool = True) -> str:
    """The first problem in one line, under the flag's name."""
    first: Any = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ").splitlines()[0]
    name = str(first["loc"][-1]) if first["loc"] else "recipe"
    if name == "recipe" or not first["loc"]:
        return f"--length: {message}" if flags else message
    value = repr(first["input"])[:60]
    return f"--{name.replace('_', '-')} {value}: {message}" if flags else f"{name} is {value}: {message}"
