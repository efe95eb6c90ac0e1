"""A gate's policy from a TOML file and from flags, and written back as one.

[gate]
alpha = 0.01                        # the chance of any false FAIL in a gate
looks = [6, 9, 13, 18]              # pairs of processes after which it looks
ungated = ["launches"]              # reported, not gated

[gate.margins.latency_s]            # given margins replace the default one; with none at all no time is gated
relative = 0.025
floor = 5e-5                        # seconds, the metric's own unit

[gate.counters]
memory_peak_b = 0.05                # a relative tolerance; counters that are not listed must be equal

[[gate.cells]]                      # for cells whose key matches; later entries win
match = "small/ar/*"
margins.latency_s.relative = 0.05
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ... import InputError
from ...profiles.gate import Policy
from ...profiles.metrics import METRICS
from ...reports.plain import plain
from ..summary import FROM_SAMPLE
from .options import GateOptions


def read_policy(path: Path) -> Policy:
    """The policy of a TOML file whose only table is `gate`. Raises InputError naming file, key and expectation."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"policy {path}: cannot be read ({error}); give a readable TOML file") from None
    if unknown := sorted(set(table) - {"gate"}):
        raise InputError(f"policy {path}: {unknown[0]}: unknown key; expected one table, [gate]")
    if not isinstance(table.get("gate"), dict):
        raise InputError(f"policy {path}: gate: expected a table [gate]; found {_found(table.get('gate'))}")
    return _checked(table["gate"], f"policy {path}: gate")


def policy_of(options: GateOptions) -> Policy:
    """The policy of the file given, or the default one, with the flags given."""
    policy = Policy() if options.policy is None else read_policy(options.policy)
    return overridden(
        policy,
        alpha=options.alpha,
        looks=options.looks,
        margins=options.margins,
        floors=options.floors,
        accept_changed=True if options.accept_changed else None,
    )


def overridden(
    policy: Policy,
    *,
    alpha: float | None = None,
    looks: str | None = None,
    margins: Sequence[str] = (),
    floors: Sequence[str] = (),
    ungated: Sequence[str] = (),
    accept_changed: bool | None = None,
) -> Policy:
    """The policy with what flags ask for: `looks` as "6,9,13", a margin as "0.05", "5%" or "ttft_s=0.05", a floor as
    "latency_s=0.0001"; a margin or floor without a name is latency_s's. Raises InputError naming the flag."""
    table = policy.model_dump(mode="json")
    if alpha is not None:
        table["alpha"] = alpha
    if looks is not None:
        table["looks"] = [_whole(entry, looks) for entry in looks.split(",")]
    for text in margins:
        metric, value = _assignment("--margin", text)
        table["margins"].setdefault(metric, {})["relative"] = value
    for text in floors:
        metric, value = _assignment("--floor", text)
        if metric not in table["margins"]:
            raise InputError(f"--floor {text!r}: {metric} has no margin; give it one with --margin {metric}=0.05")
        table["margins"][metric]["floor"] = value
    table["ungated"] = [*table["ungated"], *ungated]
    if accept_changed is not None:
        table["accept_changed"] = accept_changed
    return _checked(table, "gate flags")


def policy_toml(policy: Policy, comments: Iterable[str] = ()) -> str:
    """The policy as a file that `read_policy` reads back; `comments` stand before it, a line each."""
    # A cell's name may hold anything, and a comment ends with its line.
    lines = [f"# {plain(comment)}" for comment in comments]
    lines += ["[gate]", f"alpha = {policy.alpha!r}", f"level = {policy.level!r}", f"looks = {list(policy.looks)}"]
    lines += [f"ungated = {_text(policy.ungated)}", f"accept_changed = {json.dumps(policy.accept_changed)}"]
    # Present even if empty: a file without margins has the default one.
    lines += ["", "[gate.margins]"]
    for metric, margin in policy.margins.items():
        lines += [f"{_key(metric)} = {_inline(margin.model_dump())}"]
    lines += ["", "[gate.counters]", *(f"{_key(name)} = {value!r}" for name, value in policy.counters.items())]
    for cell in policy.cells:
        changes = {metric: change.model_dump(exclude_none=True) for metric, change in cell.margins.items()}
        lines += ["", "[[gate.cells]]", f"match = {_text(cell.match)}", f"ungated = {_text(cell.ungated)}"]
        lines += [f"margins.{_key(metric)} = {_inline(change)}" for metric, change in changes.items()]
        lines += [f"counters.{_key(name)} = {value!r}" for name, value in cell.counters.items()]
    return "\n".join(lines) + "\n"


def _checked(table: dict[str, Any], place: str) -> Policy:
    """A policy from plain data; InputError names `place`, the key, what was expected and what was found."""
    try:
        policy = Policy.model_validate(table)
    except ValidationError as error:
        detail = error.errors()[0]
        key = "".join(f".{part}" for part in detail["loc"] if part != "[key]")
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden":
            message = "unknown key; remove it"
        found = "" if detail["type"] in ("missing", "value_error") else f"; found {_found(detail['input'])}"
        raise InputError(f"{place}{key}: {message}{found}") from None
    for key, names, kind in _names(policy):
        for name in names:
            _known(name, kind, f"{place}{key}")
    return policy


def _names(policy: Policy) -> Iterable[tuple[str, Iterable[str], str]]:
    yield ".margins", policy.margins, "time"
    yield ".counters", policy.counters, "counter"
    yield ".ungated", policy.ungated, "any"
    for number, cell in enumerate(policy.cells):
        yield f".cells.{number}.margins", cell.margins, "time"
        yield f".cells.{number}.counters", cell.counters, "counter"
        yield f".cells.{number}.ungated", cell.ungated, "any"


def _known(name: str, kind: str, place: str) -> None:
    """Raises InputError for a name that is not of the kind: `time` is read from samples and has a better direction.

    Counters may also be some that no metric declares, such as a certificate's; a name near to a declared one is taken
    for a typing error.
    """
    times = [
        m.name for m in METRICS.values() if m.kind == "time" and m.direction != "neutral" and m.name in FROM_SAMPLE
    ]
    counters = [m.name for m in METRICS.values() if m.kind == "counter"]
    choices = {"time": times, "counter": counters, "any": times + counters}[kind]
    if name in choices:
        return
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.65)
    if kind == "time" or near or name in METRICS:
        expected = {"time": "a timed metric", "counter": "a counter", "any": "a metric"}[kind]
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(choices)}"
        raise InputError(f"{place}.{name}: expected the name of {expected}; {hint}")


def _assignment(flag: str, text: str) -> tuple[str, float]:
    """("latency_s", 0.05) of "0.05", "5%" or "latency_s=5%"."""
    name, equals, value = text.rpartition("=")
    number = value.strip()
    try:
        parsed = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        raise InputError(f"{flag} {text!r}: expected a number, or NAME=NUMBER; found {value!r}") from None
    return (name.strip() if equals else "latency_s"), parsed


def _whole(entry: str, looks: str) -> int:
    if not re.fullmatch(r"\s*[0-9]{1,4}\s*", entry):
        raise InputError(f"--looks {looks!r}: expected rising numbers of pairs such as 6,9,13,18; found {entry!r}")
    return int(entry)


def _found(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)


def _text(value: object) -> str:
    """Text or a list of texts: TOML writes them as JSON does, but allows no half characters and no raw DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _inline(table: Mapping[str, float]) -> str:
    return "{ " + ", ".join(f"{name} = {value!r}" for name, value in table.items()) + " }"
