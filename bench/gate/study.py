"""How often the gate is right on this machine: `python -m dlmbench.bench.gate.study --out DIR`.

Whole gates of suite `ci`, one after another, each with fresh processes: equal programs, and the same with a slowdown
planted in one of the two cells (a busy-wait, see `planted`). Their kinds are mixed, so that an hour in which the
machine is noisy falls on all of them. A line a gate is kept in `gates.jsonl`; the same command goes on where it was
ended, and `--shard 0/2` with `--shard 1/2` share the work, each best kept on a processor of its own: both workers of a
pair then start on one processor, and every gate has the other one for a neighbour. A gate that has the machine to
itself starts the next pair's processes on the other processor and takes little more than half as long: `--only 0.05`
measures those there that are to be found within a time. When the last gate is done, or with `--report`, the summary is
made: shares with their intervals, seconds a gate, and the power of the gate over gates drawn again from the recorded
pairs of equal programs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
from rich.console import Console

from ... import InputError
from ...models.names import AR, MASKED_DIFFUSION
from ...profiles.gate import GateResult, Policy
from ...profiles.host import usable_cpus
from ...profiles.quality.intervals import wilson
from ...reports.fig_gate import gate_figure
from ...reports.plotting import style
from ..handle import Launch
from ..options import RunOptions
from ..plan import Plan, make_plan, only
from ..progress import Progress
from .campaign import Campaign
from .planted import PLANTED, Planted
from .sides import Side
from .simulate import GATES, Row, Scene, curves, power_curves
from .trimmed import Floats

SUITE, LIMIT_S, WANTED_S = "ci", 300.0, 180.0
RECORD, SUMMARY, FIGURE = "gates.jsonl", "gate-study.json", "gate-power-recorded.png"
Verdict = Literal["PASS", "FAIL", "CHANGED", "INCONCLUSIVE", "INVALID"]


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate of the study. `log_ratios` [pairs] of each cell's latency are head over base, as the gate saw them.

    `failed` are the cells that it called slower. `load` is the machine's load average over the minute before, `cpus`
    how many processors the gate might use.
    """

    number: int
    slowdown: float
    where: str | None
    verdict: Verdict
    code: str
    seconds: float
    pairs: int
    log_ratios: dict[str, tuple[float, ...]]
    failed: tuple[str, ...]
    started: str
    load: float | None
    cpus: int | None


def kinds(equal: int, planted: int, slowdowns: Sequence[float], seed: int) -> list[Planted]:
    """What each gate of the study is, by its number: mixed, and the planted ones in either cell alternately."""
    found = [Planted()] * equal
    for slowdown in slowdowns:
        found += [Planted(slowdown, (AR, MASKED_DIFFUSION)[number % 2]) for number in range(planted)]
    random.Random(seed).shuffle(found)
    return found


def run_gate(number: int, planted: Planted) -> Gate:
    """Measure and judge one gate in a temporary folder."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    begin = time.monotonic()
    policy, (options, plan), sides = Policy(), planted_plan(number), planted_sides(planted)
    quiet = Progress(Console(file=sys.stderr), quiet=True)
    with tempfile.TemporaryDirectory(prefix="dlmbench-study-") as folder:
        campaign = Campaign(plan, sides, Path(folder), quiet, options, ("dlmbench", "gate"))
        result = campaign.run(policy, LIMIT_S)
        evidence = campaign.evidence(policy)
    return Gate(
        number=number,
        slowdown=planted.slowdown,
        where=planted.where,
        verdict=result.verdict,
        code=result.outcome.code,
        seconds=round(time.monotonic() - begin, 2),
        pairs=result.pairs,
        log_ratios={
            cell.key: tuple(round(ratio, 6) for ratio in timed.log_ratios) for cell in evidence for timed in cell.timed
        },
        failed=_failed(result),
        started=started,
        load=load,
        cpus=len(usable_cpus() or ()) or None,
    )


def planted_plan(seed: int) -> tuple[RunOptions, Plan]:
    """Suite `ci` with the two generators in which a slowdown can be planted, and none besides."""
    options = RunOptions(suite=SUITE, generators=tuple(PLANTED.values()), device="cpu", threads=1, seed=seed)
    return options, only(make_plan(options), options.generators)


def planted_sides(planted: Planted) -> tuple[Side, Side]:
    """This dlmbench against itself, with what is planted at head."""
    return Side("base", Launch()), Side("head", Launch(variables=planted.variables))


def _failed(result: GateResult) -> tuple[str, ...]:
    return tuple(cell.key for cell in result.cells if cell.outcome.verdict == "FAIL")


def append_gate(folder: Path, gate: Gate) -> None:
    """Add a line in one write, so that two shards may share the file."""
    line = json.dumps(asdict(gate)).encode() + b"\n"
    descriptor = os.open(folder / RECORD, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def read_gates(folder: Path) -> list[Gate]:
    """The gates recorded so far, by number."""
    path = folder / RECORD
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = []
    for number, line in enumerate(lines, 1):
        try:
            fields = json.loads(line)
            fields["failed"] = tuple(fields["failed"])
            fields["log_ratios"] = {key: tuple(values) for key, values in fields["log_ratios"].items()}
            found.append(Gate(**fields))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path}:{number}: not a gate of this study ({error}); remove the line") from None
    return sorted(found, key=lambda gate: gate.number)


def slower_in_truth(gate: Gate, key: str) -> bool:
    """Whether the slowdown was planted in this cell."""
    return Planted(gate.slowdown, gate.where).is_in(key)


def found_it(gate: Gate) -> bool:
    """Whether the gate failed, and for the cell that is slower in truth alone."""
    return gate.verdict == "FAIL" and all(slower_in_truth(gate, key) for key in gate.failed)


def summary(gates: Sequence[Gate], policy: Policy) -> list[dict[str, Any]]:
    """A row a slowdown: counts of verdicts, shares with 95 % Wilson intervals, seconds and pairs a gate."""
    rows = []
    for slowdown in sorted({gate.slowdown for gate in gates}):
        some = [gate for gate in gates if gate.slowdown == slowdown]
        row: dict[str, Any] = {"slowdown": slowdown, "gates": len(some)}
        wanted: dict[str, Callable[[Gate], bool]] = {
            "fail": lambda gate: gate.verdict == "FAIL",
            "passed": lambda gate: gate.verdict == "PASS",
            "inconclusive": lambda gate: gate.verdict == "INCONCLUSIVE",
            "invalid": lambda gate: gate.verdict in ("INVALID", "CHANGED"),
        }
        if slowdown:
            wanted["found_in_the_right_cell"] = found_it
        for name, holds in wanted.items():
            count = sum(map(holds, some))
            row[name] = {"count": count, "share": count / len(some), "interval_95": wilson(count, len(some))}
        row["seconds"] = {
            "median": median(gate.seconds for gate in some),
            "max": max(gate.seconds for gate in some),
            "within_3_min": sum(gate.seconds <= WANTED_S for gate in some),
        }
        row["processors_a_gate"] = sorted({gate.cpus for gate in some if gate.cpus is not None})
        row["pairs"] = {"mean": float(np.mean([gate.pairs for gate in some])), "max": max(g.pairs for g in some)}
        row["change_seen"] = {
            "planted": _change(some, slower_in_truth),
            "equal": _change(some, lambda gate, key: not slower_in_truth(gate, key)),
        }
        rows.append(row)
    return rows


def _change(gates: Sequence[Gate], wanted: Callable[[Gate, str], bool]) -> float | None:
    """The mean change over all pairs of the cells wanted, as the gate measured it (0.05: 5 % slower)."""
    ratios = [r for gate in gates for key, values in gate.log_ratios.items() if wanted(gate, key) for r in values]
    return float(np.expm1(np.mean(ratios))) if ratios else None


def recorded_pairs(gates: Sequence[Gate]) -> Floats:
    """Log-ratios [pairs, cells] of all gates of equal programs."""
    blocks = [
        np.array(list(gate.log_ratios.values())).T
        for gate in gates
        if not gate.slowdown and len({len(values) for values in gate.log_ratios.values()}) == 1
    ]
    return np.concatenate(blocks)


def report(folder: Path, planned: int, again: int, seed: int) -> list[str]:
    """Write the summary and the figure; returns the table's lines. Raises InputError without a gate of equal ones."""
    gates, policy = read_gates(folder), Policy()
    if not any(not gate.slowdown and gate.log_ratios for gate in gates):
        raise InputError(f"{folder / RECORD}: no gate of equal programs is recorded yet; run the study first")
    pairs = recorded_pairs(gates)
    scene = Scene.of_record("recorded pairs", pairs)
    rows = curves([scene], policy, again, seed)
    document = {
        "command": "python -m dlmbench.bench.gate.study",
        "suite": SUITE,
        "policy": policy.model_dump(mode="json"),
        "gates": len(gates),
        "planned": planned,
        "first": min(gate.started for gate in gates),
        "last": max(gate.started for gate in gates),
        "hours_of_gates": round(sum(gate.seconds for gate in gates) / 3600, 2),
        "rows": summary(gates, policy),
        "recorded_pairs": len(pairs),
        "pair_sd": scene.pair_sd,
        "pair_sd_of_cells": dict(
            zip(gates[0].log_ratios, (float(sd) for sd in pairs.std(axis=0, ddof=1)), strict=True)
        ),
        "drawn_again": {"gates": again, "seed": seed, "rows": [asdict(row) for row in rows]},
    }
    (folder / SUMMARY).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    with style():
        gate_figure(power_curves(rows), policy.margins["latency_s"].relative, folder / FIGURE)
    return [*_table(document["rows"]), "", *_redrawn(rows)]


def _table(rows: Any) -> list[str]:
    """The summary as lines of Markdown."""
    lines = [
        "| planted | gates | FAIL | PASS | INCONCLUSIVE | right cell | CPUs | median s | max s | in 3 min | pairs |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        right = row.get("found_in_the_right_cell")
        lines.append(
            f"| {100 * row['slowdown']:g} % | {row['gates']} | {_share(row['fail'])} | {_share(row['passed'])} | "
            f"{_share(row['inconclusive'])} | {_share(right) if right else '-'} | "
            f"{'/'.join(map(str, row['processors_a_gate'])) or '-'} | {row['seconds']['median']:.0f} | "
            f"{row['seconds']['max']:.0f} | {row['seconds']['within_3_min']} | {row['pairs']['mean']:.1f} |"
        )
    return lines


def _share(cell: Any) -> str:
    low, high = cell["interval_95"]
    return f"{cell['count']} ({100 * cell['share']:.1f} % [{100 * low:.1f}, {100 * high:.1f}])"


def _redrawn(rows: Sequence[Row]) -> list[str]:
    shown = [row for row in rows if row.slowdown in (0.0, 0.025, 0.05, 0.1)]
    return [
        f"drawn again, {row.where} slower by {100 * row.slowdown:g} %: FAIL {100 * row.fail[0]:.2f} %, PASS "
        f"{100 * row.passed[0]:.2f} %, INCONCLUSIVE {100 * row.inconclusive[0]:.2f} %, {row.mean_pairs:.1f} pairs"
        for row in shown
    ]


def _shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected I/N with I below N, such as 0/2")
    return int(part), int(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing of the study, or of a shard of it; report when nothing is."""
    parser = argparse.ArgumentParser(prog="python -m dlmbench.bench.gate.study", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the record, the summary and the figure")
    parser.add_argument("--equal", type=int, default=100, help="gates of equal programs (default %(default)s)")
    parser.add_argument("--planted", type=int, default=30, help="gates a planted slowdown (default %(default)s)")
    parser.add_argument("--slowdown", type=float, nargs="*", default=[0.05, 0.10], help="what is planted (0.05: 5 %%)")
    parser.add_argument("--shard", type=_shard, default=(0, 1), metavar="I/N", help="do every Nth gate from the Ith on")
    parser.add_argument("--only", type=float, nargs="*", help="measure gates of these slowdowns alone (0: equal)")
    parser.add_argument("--most", type=int, default=10**9, help="end after so many gates")
    parser.add_argument("--again", type=int, default=GATES, help="gates drawn again a point (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", action="store_true", help="measure nothing: report what is recorded")
    flags = parser.parse_args(arguments)
    flags.out.mkdir(parents=True, exist_ok=True)
    planned = kinds(flags.equal, flags.planted, flags.slowdown, flags.seed)
    part, parts = flags.shard
    try:
        done = {gate.number for gate in read_gates(flags.out)}
        wanted = [n for n, kind in enumerate(planned) if flags.only is None or kind.slowdown in flags.only]
        missing = [number for number in wanted[part::parts] if number not in done]
        for number in [] if flags.report else missing[: flags.most]:
            gate = run_gate(number, planned[number])
            append_gate(flags.out, gate)
            print(f"{number}: {gate.slowdown:.0%} {gate.verdict} {gate.pairs} pairs {gate.seconds:.0f} s", flush=True)
        if flags.report or len(read_gates(flags.out)) >= len(planned):
            for line in report(flags.out, len(planned), flags.again, flags.seed):
                print(line)
    except InputError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
