"""Whatever a file or a command line says: an exit code of the documented ones, and no traceback.

A few examples of each in a usual run of the tests; `DLMBENCH_FUZZ=1000 pytest tests/bench/test_fuzz.py` for a thousand.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# Markup, control characters, what is no Unicode, what is long.
HOSTILE = (
    "<script>alert(1)</script>", "]]>&lt;|`*_[red]x[/red]", "\x1b[31m\x1b]0;title\x07", "\udc80\ufffe\u202e",
    "::error::x%0A\r\n", "[/]", "[bold", "=cmd()", "../../x", "a" * 100_000, "\u0661", "L/0", "1e999", "-1", "nan",
)  # fmt: skip
EXAMPLES = int(os.environ.get("DLMBENCH_FUZZ", "0"))


def examples(usual: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """So many examples, or as many as the environment asks for."""
    return settings(
        max_examples=EXAMPLES or usual, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        print_blob=False,
    )  # fmt: skip


def dlmbench(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command in this process; fails where it has a bug."""
    from dlmbench.bench import cli

    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["dlmbench", *map(str, arguments)]
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cli.main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = argv
    assert code in (0, 1, 2, 3, 4), (code, arguments, err.getvalue()[-3000:])
    assert isinstance(code, int)
    said = err.getvalue()
    assert "Traceback" not in said, (arguments, said[-3000:])
    if code == 2:
        last = said.splitlines()[-1]
        assert last.startswith("dlmbench: "), said[-1000:]
        assert last.isprintable(), said[-1000:]
    return code, out.getvalue(), said


# Records


@dataclass(frozen=True)
class Stored:
    """A place with a run `run`, a load `load`, a gate `gate` that ended and one that was cut off, `cut`."""

    place: Path


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, fakes: Any, serving: Any) -> Iterator[Stored]:
    from dlmbench.bench import floors, run_command, sweep
    from dlmbench.bench.gate import measure
    from dlmbench.bench.serve.scripted import Schedule, Scripted

    place = tmp_path_factory.mktemp("stored")
    suite = place / "tiny.toml"
    suite.write_text(
        'studies = true\nprocesses = 2\nbudget_s = 9\nmax_samples = 3\ntarget_ci = 1e-9\n[[grid]]\npairs = ["small"]\n'
        'lengths = [8]\nsteps = ["L/2"]\n'
    )
    count = 0

    def plan(handle: Any) -> None:
        nonlocal count
        count += 1
        handle.worker.latency = lambda cell, number, mine=count: 0.01 * (1 + 0.001 * ((7 * mine + 3 * number) % 11))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fakes.Handle, "plan", staticmethod(plan))
        patch.setattr(fakes.Handle, "started", [])
        patch.setattr(sweep, "WorkerHandle", fakes.Handle)
        patch.setattr(measure, "WorkerHandle", fakes.Handle)
        patch.setattr(run_command, "write_report", lambda stored: [])
        patch.setattr(floors, "show_what_physics_allows", lambda *_: None)
        patch.setattr(floors, "rates_now", lambda *_: {})
        for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
            patch.delenv(name, raising=False)
        fixed = ("--device", "cpu", "--threads", "1")
        assert dlmbench("run", suite, *fixed, "--out", place / "runs" / "run")[0] == 0
        shutil.copytree(place / "runs" / "run", place / "runs" / "other")
        other = place / "runs" / "other" / "run.json"
        other.write_text(other.read_text().replace('"id": "', '"id": "f'))
        sides = ("--base-cmd", "true base", "--head-cmd", "true head", "--looks", "6")
        dlmbench("gate", suite, *fixed, *sides, "--out", place / "gate")
        shutil.copytree(place / "gate", place / "cut")
        (place / "cut" / "gate.json").unlink()
        path = place / "cut" / "head" / "trials.jsonl"
        path.write_bytes(path.read_bytes()[:-5000])
        with serving.served(Scripted(Schedule(0.0, 0.001, 2))) as url:
            sizes = ("--requests", 2, "--warmup", 0, "--output-tokens", 4, "--prompt-tokens", 4)
            assert dlmbench("load", url, *sizes, "--objective", "ttft=1", "--out", place / "load")[0] == 0
        yield Stored(place)


READ = {
    "show": lambda place: ("show", place / "runs" / "run"),
    "show --json": lambda place: ("show", place / "runs" / "run", "--json"),
    "compare": lambda place: ("compare", place / "runs" / "other", place / "runs" / "run"),
    "compare --json": lambda place: ("compare", place / "runs" / "run", place / "runs" / "other", "--json"),
    "stored gate": lambda place: (
        "gate", "--baseline", place / "runs" / "run", "--current", place / "runs" / "other", "--json",
    ),
    "trend": lambda place: ("trend", place / "runs", "--out", place / "trend"),
    "run --resume": lambda place: ("run", "--resume", place / "runs" / "run"),
    "gate --resume of a verdict": lambda place: ("gate", "--resume", place / "gate"),
    "gate --resume": lambda place: ("gate", "--resume", place / "cut"),
    "report": lambda place: ("report", place / "runs" / "run"),
    "show of a load": lambda place: ("show", place / "load"),
    "report of a load": lambda place: ("report", place / "load"),
}  # fmt: skip
RUN_FILES = ["run.json", "trials.jsonl", "measurements.jsonl", "studies.json"]
LOAD_FILES = ["load/load.json", "load/requests.jsonl"]
FILES = {
    "show of a load": LOAD_FILES,
    "report of a load": LOAD_FILES,
    "gate --resume of a verdict": ["gate/gate.json", "gate/base/run.json"],
    "gate --resume": [f"cut/{side}/{name}" for side in ("base", "head") for name in ("run.json", "trials.jsonl")],
}
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 3), st.sampled_from([10**30, -1.5, 0.0, 1e308, 5e-324, "", "x", [], {}]),
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([math.nan, math.inf]), st.text(max_size=8),
    st.sampled_from(HOSTILE),
)  # fmt: skip


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Something that happens to a file's bytes."""
    kind = draw(st.sampled_from(["cut", "flip", "splice", "line", "leaf", "leaf", "leaf"]))
    where, more, leaf = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(0, 2**31)), draw(LEAVES)
    piece = draw(st.binary(max_size=6))

    def hurt(raw: bytes) -> bytes:
        at = int(where * len(raw))
        if kind == "cut":
            return raw[:at]
        if kind == "flip":
            return raw[:at] + bytes([raw[at] ^ (1 << more % 8)]) + raw[at + 1 :]
        if kind == "splice":
            return raw[:at] + piece + raw[at + more % 40 :]
        lines = raw.splitlines(keepends=True)
        if kind == "line":
            number = more % len(lines)
            return b"".join(lines[:number] + lines[number : number + 1] * (more % 3) + lines[number + 1 :])
        if len(lines) > 1 and not raw.startswith((b"[", b"{\n")):  # JSON lines
            number = more % len(lines)
            lines[number] = _with_leaf(lines[number], where, leaf) + b"\n"
            return b"".join(lines)
        return _with_leaf(raw, where, leaf)

    hurt.__qualname__ = f"{kind} at {where} {more} {leaf!r} {piece!r}"
    return hurt


def _with_leaf(raw: bytes, where: float, leaf: object) -> bytes:
    try:
        document = json.loads(raw)
    except ValueError:  # torn before
        return raw
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, entry in entries:
            places.append((node, key))
            walk(entry)

    walk(document)
    if places:
        node, key = places[int(where * len(places))]
        node[key] = leaf
    return json.dumps(document).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("command", list(READ))
def test_a_damaged_record_is_read_or_refused(stored: Stored, tmp_path: Path, command: str) -> None:
    numbers = iter(range(10**9))

    @examples(1 if command.startswith("report") else 4 if command in ("trend", "gate --resume") else 10)
    @given(st.sampled_from(FILES.get(command, [f"runs/run/{name}" for name in RUN_FILES])), damage())
    def read(name: str, hurt: Callable[[bytes], bytes]) -> None:
        place = tmp_path / str(next(numbers))
        shutil.copytree(stored.place, place)
        try:
            path = place / name
            path.write_bytes(hurt(path.read_bytes()))
            dlmbench(*READ[command](place))
        finally:
            shutil.rmtree(place)

    read()


# Suites and policies


def toml(value: object) -> str:
    """A value as TOML writes it inline."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return str(value) if isinstance(value, int) else json.dumps(value)


def document(tables: dict[str, Any]) -> bytes:
    text = "".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in tables.items() if value is not None)
    return text.encode("utf-8", "surrogatepass")


SUITES = Path(__file__).parents[2] / "bench" / "suites"
POLICY = {
    "gate": {
        "alpha": 0.01, "level": 0.95, "looks": [6, 9], "margins": {"latency_s": {"relative": 0.03, "floor": 5e-5}},
        "counters": {"nfe": 0.1}, "ungated": ["ttft_s"], "accept_changed": False,
        "cells": [{"match": "small/*", "margins": {"latency_s": {"relative": 0.1}}, "ungated": ["nfe"]}],
    }
}  # fmt: skip


def mutated(draw: st.DrawFn, tables: dict[str, Any]) -> dict[str, Any]:
    """The tables with up to three entries replaced, removed, doubled or added."""
    tables = json.loads(json.dumps(tables))
    for _ in range(draw(st.integers(1, 3))):
        places: list[tuple[Any, Any]] = []

        def walk(node: Any) -> None:
            entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
            for key, entry in entries:
                places.append((node, key))  # noqa: B023 - called below, in this round
                walk(entry)

        walk(tables)
        node, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["leaf", "leaf", "drop", "wrap", "add"]))
        if kind == "leaf":
            node[key] = draw(LEAVES)
        elif kind == "drop":
            del node[key]
        elif kind == "wrap":
            node[key] = [node[key], node[key]]
        elif isinstance(node, dict):
            node[draw(st.sampled_from([*HOSTILE[:9], "name", "budget_s"]))] = draw(LEAVES)
    return tables


def test_any_suite_is_planned_or_refused(stored: Stored, tmp_path: Path) -> None:
    import tomllib

    shipped = [tomllib.loads(path.read_text()) for path in sorted(SUITES.glob("*.toml"))]
    assert shipped

    @examples(6)
    @given(st.data())
    def plan(data: st.DataObject) -> None:
        tables = mutated(data.draw, data.draw(st.sampled_from(shipped)))
        path = tmp_path / "suite.toml"
        path.write_bytes(document(tables))
        dlmbench("run", path, "--dry-run", "--json", "--device", "cpu", "--threads", "1")

    plan()


def test_any_policy_is_read_or_refused(stored: Stored, tmp_path: Path) -> None:
    runs = stored.place / "runs"

    @examples(15)
    @given(st.data())
    def read(data: st.DataObject) -> None:
        path = tmp_path / "policy.toml"
        path.write_bytes(document(mutated(data.draw, POLICY)))
        dlmbench("gate", "--policy", path, "--baseline", runs / "run", "--current", runs / "other", "--json")

    read()


def test_any_benchmark_file_is_read_or_refused(stored: Stored, tmp_path: Path) -> None:
    from dlmbench import InputError
    from dlmbench.bench.gate.benchmark_json import benchmark_evidence, read_benchmarks
    from dlmbench.bench.gate.decision import decide
    from dlmbench.profiles.gate import Policy
    from dlmbench.profiles.store import read_run
    from dlmbench.reports.exports import write_pytest_benchmark_json

    whole = tmp_path / "whole.json"
    write_pytest_benchmark_json(read_run(stored.place / "runs" / "run"), whole)
    base = read_benchmarks([whole])

    @examples(40)
    @given(damage())
    def read(hurt: Callable[[bytes], bytes]) -> None:
        path = tmp_path / "hurt.json"
        path.write_bytes(hurt(whole.read_bytes()))
        try:
            decide(benchmark_evidence(base, read_benchmarks([path])), Policy())
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017 - most files are fine

    read()


# Command lines

TEXT = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_characters="\x00"), max_size=12))
NUMBER = st.one_of(st.integers(-2, 99).map(str), st.sampled_from(["nan", "inf", "1e400", "0", "9" * 40, "1,2", "L/2"]))
FLAGS = {
    name: [f"--{flag}" for flag in flags.split()]
    for name, flags in {
        "run": "pair lengths steps batches prompt-lengths block-lengths dtype engine length-policy remasking sampler "
        "cache threshold factor entropy-bound commit-schedule cfg-scale set temperature top-k top-p generator weights "
        "prompts tokenizer judge seed processes target-ci budget foreign-limit device-memory",
        "gate": "policy margin floor looks alpha budget pair lengths generator out junit markdown against base-cmd "
        "head-cmd baseline current resume install seed",
        "trend": "metric out",
        "compare": "",
        "report": "archive",
        "show": "",
        "load": "preset model side api key-env key-file concurrency rate arrivals requests warmup prompt-tokens "
        "output-tokens tokenizer prompts temperature extra objective timeout together price-prompt price-output spend "
        "seed out",
        "serve": "pair generator steps block-length weights dtype device threads seed longest waiting schedule host "
        "port",
    }.items()
}


@pytest.mark.parametrize("command", list(FLAGS))
def test_any_command_line_is_obeyed_or_refused(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run = stored.place / "runs" / "run"
    fixed = {
        "run": ["lesson", "--dry-run", "--device", "cpu", "--threads", "1", "--pair", "small"],
        "gate": ["--baseline", run, "--current", run],
        "trend": [stored.place / "runs"],
        "compare": [run],
        "report": [],
        "show": [],
        # Nobody is there: every request is refused at once.
        "load": ["http://127.0.0.1:9/v1", "--model", "m", "--duration", "0.1"],
        "serve": ["--schedule", "first=0,every=0,size=1", "--port", "0"],
    }[command]

    async def nothing(*_: object) -> None:
        """What could be served is not: a test would wait for it."""

    monkeypatch.setattr("dlmbench.bench.serve.command._serve", nothing)

    @examples(2 if command == "trend" else 8)
    @given(st.data())
    def obey(data: st.DataObject) -> None:
        words: list[object] = []
        for flag in data.draw(st.lists(st.sampled_from(FLAGS[command]), max_size=3)) if FLAGS[command] else []:
            words += [flag, data.draw(st.one_of(TEXT, NUMBER))]
        if data.draw(st.booleans()) or not fixed:
            words.append(data.draw(TEXT))
        dlmbench(command, *(fixed if data.draw(st.integers(0, 4)) else []), *words)

    obey()
