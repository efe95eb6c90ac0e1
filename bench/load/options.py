"""What a user may ask of a load, checked before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from ... import InputError
from ...profiles.serving.record import OBJECTIVES, Kind, Load

MOST_OPEN = 20_000
MOST_REQUESTS = 5_000_000


def _listed(value: object) -> object:
    """One number is a list of one."""
    return (value,) if isinstance(value, int | float) and not isinstance(value, bool) else value


# Strict: TOML has numbers of its own, so a truth value or a text is a mistake.
_Whole = Annotated[int, Field(strict=True)]
_Number = Annotated[float, Field(strict=True)]
_Flag = Annotated[bool, Field(strict=True)]
_Levels = Annotated[tuple[_Number, ...], BeforeValidator(_listed)]


class _Options(BaseModel):
    """What a user wrote, on a command line or in TOML, where times have no `_s` in their names."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class TargetOptions(_Options):
    """A server and how it is asked: `url` is a base URL or a preset's name, `extra` further fields of every request."""

    url: str
    preset: str | None = None
    model: str | None = None
    side: str | None = None
    api: str = "chat"
    stream: _Flag = True
    diffusing: _Flag = False
    key_env: str | None = None
    key_file: Path | None = None
    extra: dict[str, JsonValue] = Field(default_factory=dict)


class LoadOptions(_Options):
    """A load of one or two servers. Times and objectives are in seconds."""

    targets: tuple[TargetOptions, ...] = Field(alias="endpoint", min_length=1, max_length=2)
    tokenizer: str | None = None
    prompts: Path | None = None
    prompt_tokens: _Whole = 128
    output_tokens: _Whole = 128
    send_ids: _Flag = False
    temperature: _Number | None = None
    concurrency: _Levels | None = None
    rate: _Levels | None = None
    arrivals: str = "poisson"
    sweep: _Flag = False
    requests: _Whole | None = None
    duration_s: _Number = Field(default=60.0, alias="duration")
    ramp_s: _Number = Field(default=0.0, alias="ramp")
    warmup: _Whole | None = None
    rounds: _Whole | None = None
    timeout_s: _Number = Field(default=120.0, alias="timeout")
    retries: _Whole = 0
    fresh: _Flag = False
    objectives: dict[str, _Number] = Field(default_factory=dict)
    together_s: _Number = Field(default=1e-3, alias="together")
    price_prompt: _Number | None = None
    price_output: _Number | None = None
    spend: _Number | None = None
    seed: _Whole = 0

    def beside(self, folder: Path) -> LoadOptions:
        """The options with their files looked for beside the file that they were written in; a tokenizer has a name, or
        lies there."""
        targets = tuple(
            each if each.key_file is None else each.model_copy(update={"key_file": folder / each.key_file})
            for each in self.targets
        )
        prompts = None if self.prompts is None else folder / self.prompts
        tokenizer = self.tokenizer
        if tokenizer is not None and (folder / tokenizer).exists():
            tokenizer = str(folder / tokenizer)
        return self.model_copy(update={"targets": targets, "prompts": prompts, "tokenizer": tokenizer})


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """A load as it will be: its levels in order, and the limits of a window."""

    levels: tuple[Load, ...]
    requests: int | None
    duration_s: float
    ramp_s: float
    warmup: int | None
    rounds: int
    timeout_s: float
    retries: int
    sweep: bool
    objectives: dict[str, float] = field(default_factory=dict)

    @property
    def most_requests(self) -> int | None:
        """The most that one endpoint is asked, over all levels and rounds; None: nobody can tell (a closed loop for a
        time or with a ramp, a sweep)."""
        if self.sweep:
            return None
        total = 0.0
        for load in self.levels:
            warmup = self.warmup if self.warmup is not None else default_warmup(load)
            if load.kind == "closed" and (self.requests is None or self.ramp_s):
                return None
            counted = self.requests if self.requests is not None else load.value * self.duration_s * 1.5 + 10
            ramp = load.value * self.ramp_s * 1.5 + 10 if self.ramp_s else 0
            total += counted + ramp + warmup
        return math.ceil(total * self.rounds * (1 + self.retries))


def default_warmup(load: Load) -> int:
    """Requests that come first and do not count: one a client, so that each has its connection, or a few."""
    return int(load.value) if load.kind == "closed" else 4


def planned(options: LoadOptions) -> LoadPlan:
    """The plan of a load. Raises InputError naming the flag."""
    _check_numbers(options)
    levels = _levels(options)
    pair = len(options.targets) == 2
    rounds = options.rounds if options.rounds is not None else 5 if pair else 1
    if options.sweep and len(levels) > 1:
        raise InputError("--sweep: doubles the load from one level on; give one --concurrency or --rate")
    if options.sweep and pair:
        raise InputError("--sweep: a sweep looks for one server's saturation; give one target, or list --concurrency")
    requests = options.requests
    if requests is None and not options.sweep and all(load.kind == "closed" for load in levels):
        # Enough for a median and a p90 with intervals, at every concurrency.
        requests = max(100, *(4 * int(load.value) for load in levels))
        requests = math.ceil(requests / rounds) if pair else requests
    for load in levels:
        if load.kind != "closed" and load.value * (options.duration_s + options.ramp_s) > MOST_REQUESTS:
            raise InputError(f"--rate {load.value:g}: more than {MOST_REQUESTS:,} requests in a window; shorten it")
    return LoadPlan(
        levels=levels,
        requests=requests,
        duration_s=options.duration_s,
        ramp_s=options.ramp_s,
        warmup=options.warmup,
        rounds=rounds,
        timeout_s=options.timeout_s,
        retries=options.retries,
        sweep=options.sweep,
        objectives=dict(options.objectives),
    )


def _check_numbers(options: LoadOptions) -> None:
    least: Sequence[tuple[str, float | None, float, float]] = (
        ("--prompt-tokens", options.prompt_tokens, 1, 1e7),
        ("--output-tokens", options.output_tokens, 1, 1e6),
        ("--requests", options.requests, 1, 1e8),
        ("--duration", options.duration_s, 0.1, 86400),
        ("--ramp", options.ramp_s, 0, 3600),
        ("--warmup", options.warmup, 0, 1e6),
        ("--rounds", options.rounds, 1, 1000),
        ("--timeout", options.timeout_s, 0.01, 86400),
        ("--retries", options.retries, 0, 10),
        ("--together", options.together_s, 0, 10),
        ("--price-prompt", options.price_prompt, 0, 1e6),
        ("--price-output", options.price_output, 0, 1e6),
        ("--spend", options.spend, 0, 1e9),
        ("--seed", options.seed, 0, 2**32 - 1),
        ("--temperature", options.temperature, 0, 100),
    )
    for flag, value, low, high in least:
        if value is not None and not low <= value <= high:
            raise InputError(f"{flag} {value:g}: expected {low:g} to {high:g}")
    if options.arrivals not in ("poisson", "constant"):
        raise InputError(f"--arrivals {options.arrivals[:40]!r}: expected poisson or constant")
    for target in options.targets:
        if target.api not in ("chat", "completions"):
            raise InputError(f"--api {target.api[:40]!r}: expected chat or completions")
        if options.send_ids and target.api != "completions":
            raise InputError("--send-ids: token ids are a prompt of --api completions alone")
    if (options.price_prompt is None) != (options.price_output is None):
        raise InputError("--price-prompt and --price-output: give both, in money a million tokens")
    for name, seconds in options.objectives.items():
        if name not in OBJECTIVES or not 0 < seconds < math.inf:
            raise InputError(
                f"--objective {name[:40]}={seconds:g}: expected NAME=SECONDS with a name of {', '.join(OBJECTIVES)}"
            )


def _levels(options: LoadOptions) -> tuple[Load, ...]:
    if options.concurrency is not None and options.rate is not None:
        raise InputError("--concurrency and --rate: a load is closed or open; give one of them")
    if options.rate is not None:
        kind: Kind = "constant" if options.arrivals == "constant" else "poisson"
        return tuple(Load(kind=kind, value=value) for value in _within("--rate", options.rate, 1e-3, 1e5))
    values = _within("--concurrency", (1,) if options.concurrency is None else options.concurrency, 1, MOST_OPEN)
    if any(value % 1 for value in values):
        raise InputError(f"--concurrency {min(v for v in values if v % 1):g}: expected whole numbers of requests")
    return tuple(Load(kind="closed", value=value) for value in values)


def _within(flag: str, values: Sequence[float], low: float, high: float) -> Sequence[float]:
    for value in values:
        if not low <= value <= high:
            raise InputError(f"{flag} {value:g}: expected numbers from {low:g} to {high:g}, with commas")
    if not values:
        raise InputError(f"{flag}: expected a number at least")
    if len(set(values)) < len(values):
        raise InputError(f"{flag} {values[0]:g}, …: the same level twice; --rounds repeats all of them")
    return values
