"""Kill `dlmbench run` or `dlmbench gate` at random moments, go on, and compare the end with an undisturbed one.

    python tests/bench/kills.py run gate --kills 100

Workers are fake and answer at once, so that a session takes a second; every session is a forked process that gets a
SIGKILL. After each kill all that was finished must lie on disk unchanged; at the end of each run or gate its record
must be the undisturbed one in all but times and process ids. Exit status 1 and a message where that is not so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SUITE = """
processes = 4
budget_s = 9
max_samples = 5
target_ci = 1e-9
[[grid]]
pairs = ["small"]
lengths = [8, 12]
steps = ["L", "L/2"]
"""
CELLS = 6  # of the suite: a gate's pair has a trial of each
# So fine a margin that no look decides, and all pairs are measured.
GATE = ("--looks", "6,8", "--margin", "0.001%", "--floor", "latency_s=0")
GATE += ("--base-cmd", "true base", "--head-cmd", "true head")
FIXED = ("--device", "cpu", "--threads", "1")


def with_fake_workers() -> None:
    """From now on this process and its forks start workers that answer at once, by prompt and cell alone."""
    spec = importlib.util.spec_from_file_location("bench_fake_workers", Path(__file__).with_name("fake_workers.py"))
    assert spec is not None
    assert spec.loader is not None
    fakes = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = fakes
    spec.loader.exec_module(fakes)

    from dlmbench.bench import floors, run_command, sweep
    from dlmbench.bench.gate import command, measure  # noqa: F401

    class Handle(fakes.Handle):  # type: ignore[misc, name-defined]
        """A worker whose latencies depend on what it is asked, not on the session that asks."""

        def ask(self, operation: str, timeout_s: float, **fields: Any) -> Any:
            side = self.launch.command[-1] if self.launch else ""

            def latency(cell: Any, _: int) -> float:
                return 0.01 * (1 + 0.02 * random.Random(f"{side}:{cell.key}:{fields['prompt']}").random())

            self.worker.latency = latency
            return super().ask(operation, timeout_s, **fields)

    # Measuring takes longer than starting.
    fakes.Handle.pause_s = 0.003
    sweep.WorkerHandle = measure.WorkerHandle = Handle  # type: ignore[misc, assignment]
    run_command.write_report = lambda stored: []
    floors.show_what_physics_allows = lambda *_: None  # a second of matrix products


def start(log: Path, *arguments: object) -> int:
    """The process id of a `dlmbench` with these arguments."""
    child = os.fork()
    if child:
        return child
    from dlmbench.bench import cli

    with open(log, "w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    sys.argv = ["dlmbench", *map(str, arguments)]
    code: Any = 70
    try:
        cli.main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.stdout.flush()
        os._exit(code)


def finish(child: int) -> int:
    """The exit status of a process, the signal's number below 0."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def records(kind: str, folder: Path) -> list[Path]:
    return [folder] if kind == "run" else [folder / "base", folder / "head"]


def finished(kind: str, folder: Path) -> list[bytes]:
    """What may not change any more: for each record, the bytes of its whole pairings; of a gate, its whole pairs."""
    texts = []
    for place in records(kind, folder):
        path = place / "trials.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        texts.append([line for line in lines if line.endswith(b"\n")])
    each = 3 if kind == "run" else CELLS
    whole = min(map(len, texts)) // each * each
    return [b"".join(lines[:whole]) for lines in texts]


def without_times(kind: str, folder: Path) -> dict[str, Any]:
    """The record, but for what no two runs share: times, process ids, names of folders."""
    found: dict[str, Any] = {}
    for number, place in enumerate(records(kind, folder)):
        trials = [json.loads(line) for line in (place / "trials.jsonl").read_text().splitlines()]
        for trial in trials:
            del trial["worker"]["pid"]
            for sample in trial["samples"]:
                del sample["started_s"]
        run = json.loads((place / "run.json").read_text())
        for name in ("id", "created", "duration_s", "environment", "after", "command", "settings"):
            del run[name]
        run["finished"] = run["finished"] is not None
        rest = (place / "measurements.jsonl").read_text()
        found |= {f"trials {number}": trials, f"run {number}": run, f"measurements {number}": rest}
    if kind == "gate":
        found["verdict"] = json.loads((folder / "gate.json").read_text())["result"]
    return found


def kill_often(kind: str, kills: int, seed: int, place: Path) -> str:
    """Kill so often; returns a sentence on what was seen. Raises AssertionError where something was lost."""
    (place / "suite.toml").write_text(SUITE)
    draw = random.Random(seed)
    log, folder = place / "log.txt", place / "victim"
    fresh = [kind, place / "suite.toml", *FIXED, *(GATE if kind == "gate" else ())]
    expected_code = 3 if kind == "gate" else 0
    for name in ("cold", "whole"):
        begin = time.monotonic()
        assert finish(start(log, *fresh, "--out", place / name)) == expected_code, log.read_text()
        usual = time.monotonic() - begin
    expected = without_times(kind, place / "whole")
    killed = ended = idle = 0
    kept: list[bytes] = []
    while killed < kills or folder.exists():
        resumable = (records(kind, folder)[0] / "run.json").exists()
        if not resumable:
            shutil.rmtree(folder, ignore_errors=True)
        child = start(log, *([kind, "--resume", folder] if resumable else [*fresh, "--out", folder]))
        if killed < kills:
            time.sleep(draw.uniform(0, usual))
            os.kill(child, signal.SIGKILL)
        code = finish(child)
        killed += code == -signal.SIGKILL
        now = finished(kind, folder)
        assert all(after.startswith(before) for before, after in zip(kept, now, strict=False)), (
            f"after kill {killed} finished cells are gone or others"
        )
        idle += kept == now
        kept = now
        if code != -signal.SIGKILL:
            assert code == expected_code, log.read_text()
            found = without_times(kind, folder)
            for name, value in expected.items():
                assert found[name] == value, f"{name} is not that of the undisturbed one"
            left = [str(path) for path in folder.rglob(".*")]
            assert not left, f"left behind: {left}"
            shutil.rmtree(folder)
            kept, ended = [], ended + 1
    return f"{kind}: {killed} kills, {ended} ended in the undisturbed record; {idle} sessions finished no cell"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="+", choices=["run", "gate"])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    with_fake_workers()
    for kind in flags.kinds:
        with tempfile.TemporaryDirectory(prefix="dlmbench-kills-") as place:
            try:
                print(kill_often(kind, flags.kills, flags.seed, Path(place)))
            except AssertionError as error:
                sys.exit(f"{kind}: {error}")


if __name__ == "__main__":
    main()
