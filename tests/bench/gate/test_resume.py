"""A gate that was cut off: what it says, what it leaves, when it goes on and when it refuses to."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dlmbench import InputError
from dlmbench.bench.folders import locked
from dlmbench.bench.gate import campaign, measured
from dlmbench.bench.gate.repository import find_repository
from dlmbench.bench.gate.resume import Asked, same_gate
from dlmbench.bench.gate.sides import prepared
from dlmbench.profiles.gate import EXIT_CODES, Policy
from dlmbench.profiles.gate_record import read_gate
from dlmbench.profiles.record import Origin
from dlmbench.profiles.store import read_run

# So fine a margin that no look decides: a gate of nine pairs, undecided.
FINE = ("--looks", "6,9", "--margin", "0.01%", "--floor", "latency_s=0")


def at(pair: int, how: Callable[[], object]) -> Callable[[Any], None]:
    """Do something when the workers of a pair have been started."""

    def started(handle: Any) -> None:
        if handle.number == 2 * pair + 1:
            how()

    return started


def ctrl_c() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def cut(gate: Callable[..., Any], tmp_path: Path) -> Path:
    """The folder of a gate that was interrupted in its eighth pair."""
    outcome = gate(*FINE, started=at(7, ctrl_c))
    assert outcome.code == 130
    return tmp_path / "out"


def processes(folder: Path) -> list[int]:
    return sorted({trial.process for trial in read_run(folder).trials})


@pytest.mark.parametrize("how", [ctrl_c, lambda: os.kill(os.getpid(), signal.SIGTERM)], ids=["ctrl-c", "sigterm"])
def test_an_interrupted_gate_goes_on_to_its_verdict(
    gate: Callable[..., Any], command: Callable[..., Any], handles: Any, tmp_path: Path, how: Callable[[], object]
) -> None:
    outcome = gate(*FINE, started=at(7, how))
    folder = tmp_path / "out"
    assert outcome.code == 130
    assert f"interrupted; what was finished is kept, go on with: dlmbench gate --resume {folder}" in outcome.err
    assert handles.started[-1].killed
    before = {side: (folder / side / "trials.jsonl").read_bytes() for side in ("base", "head")}
    started = len(handles.started)
    outcome = command("gate", "--resume", folder, "--junit", tmp_path / "new.xml")
    assert outcome.code == 3, outcome.err
    assert len(handles.started) == started + 4, "pairs 7 and 8 alone"
    for side in ("base", "head"):
        assert (folder / side / "trials.jsonl").read_bytes().startswith(before[side])
        assert processes(folder / side) == list(range(9))
        assert read_run(folder / side).run.finished
    result = read_gate(folder / "gate.json").result
    assert (result.pairs, result.look) == (9, 2)
    assert (tmp_path / "new.xml").exists()


def test_a_verdict_is_given_again_and_nothing_is_measured(
    gate: Callable[..., Any], command: Callable[..., Any], handles: Any, tmp_path: Path
) -> None:
    assert gate(slower=0.1).code == 1
    document = read_gate(tmp_path / "out" / "gate.json")
    started = len(handles.started)
    outcome = command("gate", "--resume", tmp_path / "out", "--json")
    assert outcome.code == 1
    assert len(handles.started) == started
    assert read_gate(tmp_path / "out" / "gate.json") == document


def test_all_pairs_measured_and_no_verdict_written_needs_no_worker(
    gate: Callable[..., Any], command: Callable[..., Any], handles: Any, tmp_path: Path
) -> None:
    gate(*FINE)
    expected = read_gate(tmp_path / "out" / "gate.json").result
    (tmp_path / "out" / "gate.json").unlink()
    started = len(handles.started)
    assert command("gate", "--resume", tmp_path / "out").code == 3
    assert len(handles.started) == started
    assert read_gate(tmp_path / "out" / "gate.json").result == expected


@pytest.mark.parametrize("lines", [41, 36, 3])
def test_a_pair_that_one_side_lacks_is_dropped_on_both(cut: Path, command: Callable[..., Any], lines: int) -> None:
    path = cut / "head" / "trials.jsonl"
    kept = path.read_bytes().splitlines(keepends=True)[:lines]
    path.write_bytes(b"".join(kept))
    assert command("gate", "--resume", cut).code == 3
    for side in ("base", "head"):
        trials = read_run(cut / side).trials
        assert len({(trial.process, trial.key) for trial in trials}) == len(trials) == 9 * 6
    assert path.read_bytes().startswith(b"".join(kept[: lines // 6 * 6]))


@pytest.mark.parametrize(
    "flags", [["--margin", "9%"], ["--against", "main"], ["--out", "x"], ["--seed", "3"], ["quick"]]
)
def test_other_flags_are_refused(cut: Path, command: Callable[..., Any], flags: list[str]) -> None:
    assert (
        "a gate goes on with the flags that it was started with" in command("gate", *flags, "--resume", cut).complaint
    )


def test_a_suite_that_changed_is_refused(cut: Path, command: Callable[..., Any], suite_file: Path) -> None:
    suite_file.write_text(suite_file.read_text().replace("[8, 16]", "[8, 24]"))
    assert "cells" in command("gate", "--resume", cut).complaint
    assert processes(cut / "base") == list(range(7))


def test_a_policy_that_changed_is_refused(
    gate: Callable[..., Any], command: Callable[..., Any], tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[gate]\nalpha = 0.01\n")
    assert gate("--policy", policy, started=at(3, ctrl_c)).code == 130
    policy.write_text("[gate]\nalpha = 0.05\n")
    assert "the policy changed since it was started" in command("gate", "--resume", tmp_path / "out").complaint


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        (Origin(path="p", version="1"), "the workers of base report other code or versions than before"),
        (Origin(path="p", commit="a" * 40, dirty=True), "nothing shows that it is still the same"),
        (Origin(path="p"), "dlmbench at base is of no commit and no version"),
    ],
)
def test_workers_of_other_code_are_refused_before_their_pair_is_kept(
    cut: Path,
    command: Callable[..., Any],
    fakes: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    origin: Origin,
    words: str,
) -> None:
    usual = fakes.info
    monkeypatch.setattr(fakes, "info", lambda pid=1: usual(pid).model_copy(update={"origins": {"dlmbench": origin}}))
    assert words in command("gate", "--resume", cut).err
    assert processes(cut / "base") == processes(cut / "head") == list(range(7))


def test_other_commits_are_refused() -> None:
    before = Asked(options={}, policy=Policy(), commits={"base": "a", "head": "b"}, cwd="/")
    same_gate(Path("g"), before, before)
    with pytest.raises(InputError, match="--resume g: the commit of head changed since it was started"):
        same_gate(Path("g"), before, before.model_copy(update={"commits": {"base": "a", "head": "c"}}))


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_folder_without_a_gate_is_refused(command: Callable[..., Any], tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    assert "there is no gate in it" in command("gate", "--resume", tmp_path / name).complaint


def test_a_run_is_no_gate(command: Callable[..., Any], measure: Callable[[Path], Any], tmp_path: Path) -> None:
    measure(tmp_path / "g" / "base")
    assert "it does not say what the gate was asked" in command("gate", "--resume", tmp_path / "g").complaint


def test_what_is_stopped_before_its_first_pair_leaves_nothing(gate: Callable[..., Any], tmp_path: Path) -> None:
    outcome = gate(started=at(0, ctrl_c))
    assert (outcome.code, outcome.err) == (130, "dlmbench: interrupted\n")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_costs_the_open_pair_and_says_how_to_go_on(
    gate: Callable[..., Any], command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = campaign.append_trials

    def full(folder: Path, trials: Any) -> None:
        if trials[0].process == 3 and folder.name == "head":
            raise OSError(errno.ENOSPC, "No space left on device")
        append(folder, trials)

    with monkeypatch.context() as patch:
        patch.setattr(campaign, "append_trials", full)
        outcome = gate()
    folder = tmp_path / "out"
    assert outcome.code == 2
    assert "No space left on device); what was finished is kept, make room and go on with: " in outcome.err
    assert f"dlmbench gate --resume {folder}" in outcome.err
    assert command("gate", "--resume", folder).code == 0
    assert processes(folder / "base") == processes(folder / "head") == list(range(6))


def test_a_worker_killed_by_the_system_makes_the_gate_invalid(
    gate: Callable[..., Any], fakes: ModuleType, tmp_path: Path
) -> None:
    def kill(handle: Any) -> None:
        if handle.number == 5:
            handle.worker.failures["sample", "small/ar/L=8"] = [fakes.died()] * 3

    assert gate(started=kill).code == 4
    result = read_gate(tmp_path / "out" / "gate.json").result
    assert "the worker was killed (signal 9)" in str(result)


@pytest.mark.parametrize("years", [-30, 30])
def test_a_clock_that_jumps_changes_no_verdict(
    gate: Callable[..., Any], command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    class Jumped(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(days=365 * years)

    def jump() -> None:
        for module in (campaign, measured):
            monkeypatch.setattr(module, "datetime", Jumped)
        monkeypatch.setattr(time, "time", lambda wall=time.time: wall() + 365 * 86400 * years)

    assert gate(started=at(3, jump)).code == 0
    document = read_gate(tmp_path / "out" / "gate.json")
    assert 0 < (document.context.duration_s or 0) < 600
    run = read_run(tmp_path / "out" / "head").run
    assert run.duration_s is not None
    assert 0 < run.duration_s < 600
    for name in ("trend", "show"):
        assert command(name, tmp_path / "out" / ("" if name == "trend" else "head")).code == 0


@pytest.mark.skipif(os.name != "posix", reason="closes a pipe")
@pytest.mark.parametrize("kind", ["gate", "run"])
def test_nobody_reading_changes_neither_record_nor_exit_code(tmp_path: Path, suite_file: Path, kind: str) -> None:
    """`dlmbench gate … | head -1`: it must not end with 0, which means PASS, before it has measured."""
    read, write = os.pipe()
    os.close(read)
    sides = ("--base-cmd", "true base", "--head-cmd", "true head", "--looks", "6") if kind == "gate" else ()
    program = Path(__file__).parents[1] / "fake_workers.py"
    try:
        done = subprocess.run(
            [sys.executable, program, kind, suite_file, *sides, "--device", "cpu", "--threads", "1",
             "--out", tmp_path / "out"],
            stdout=write, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    finally:
        os.close(write)
    assert "Traceback" not in done.stderr
    if kind == "gate":
        verdict = read_gate(tmp_path / "out" / "gate.json").result.verdict
        assert verdict != "PASS", "equal to the last digit: no clock was read"
        assert done.returncode == EXIT_CODES[verdict]
    else:
        assert done.returncode == 0
        assert read_run(tmp_path / "out").run.finished


def test_two_gates_do_not_share_a_folder(cut: Path, command: Callable[..., Any]) -> None:
    with locked(cut):
        assert "another dlmbench run is writing here" in command("gate", "--resume", cut).complaint


@pytest.mark.skipif(os.name != "posix", reason="locks folders")
def test_the_next_gate_removes_what_a_killed_one_left_and_nothing_else(
    scratch: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "tmp"
    monkeypatch.setattr("tempfile.tempdir", str(place))
    hour_ago = time.time() - 3600
    for name in ("dlmbench-gate-dead", "dlmbench-gate-alive", "dlmbench-gate-young", "mine"):
        (place / name / "sub").mkdir(parents=True)
        (place / name / "sub" / "file").write_text("x")
        if not name.endswith("young"):
            os.utime(place / name, (hour_ago, hour_ago))
    (place / "dlmbench-gate-link").symlink_to(place / "mine")
    repo = scratch()
    repo.commit({"a.py": "1"})
    with locked(place / "dlmbench-gate-alive"), prepared(find_repository(repo.root), "HEAD", logs=tmp_path, install=()):
        assert len(list(place.iterdir())) == 5
    assert {p.name for p in place.iterdir()} == {
        "dlmbench-gate-alive", "dlmbench-gate-young", "dlmbench-gate-link", "mine",
    }  # fmt: skip
    assert (place / "mine" / "sub" / "file").exists()
