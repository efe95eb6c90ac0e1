"""Whole runs: what they leave on disk, how they stop, how they go on. Workers are fake except in the slow tests."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
from rich.console import Console

from dlmbench import InputError
from dlmbench.bench import run as running
from dlmbench.bench.folders import InterruptedRunError, locked, new_folder
from dlmbench.bench.options import RunOptions
from dlmbench.bench.plan import make_plan
from dlmbench.bench.progress import Progress
from dlmbench.bench.run import resume_run, start_run
from dlmbench.bench.run_command import stored_run
from dlmbench.bench.summary import measurements
from dlmbench.profiles.hardware import Datasheet
from dlmbench.profiles.record import Measurement, Trial
from dlmbench.profiles.store import StoredRun, TornRecordWarning, read_run

FAKE_PROGRAM = Path(__file__).with_name("fake_workers.py")


def silent() -> Progress:
    return Progress(Console(stderr=True), quiet=True)


def resume(folder: Path, **flags: Any) -> StoredRun:
    return resume_run(folder, RunOptions(**flags), suite_given=bool(flags), progress=silent())


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def truncate_trials(folder: Path, pairings: int, torn: bool = False) -> bytes:
    """Cut trials.jsonl after some pairings of three cells, as a kill would have left it; returns what is kept."""
    path = folder / "trials.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    kept = b"".join(lines[: 3 * pairings])
    path.write_bytes(kept + (lines[3 * pairings][:100] if torn else b""))
    (folder / "measurements.jsonl").unlink()
    return kept


# What a run leaves


def test_the_record_is_complete_and_agrees_with_itself(tmp_path: Path, measure: Callable[[Path], StoredRun]) -> None:
    folder = tmp_path / "run"
    stored = measure(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["logs", "measurements.jsonl", "run.json", "trials.jsonl"]
    assert stored.run.finished is not None
    assert stored.run.plan == tuple(p.cells for p in make_plan(RunOptions(suite=stored.run.suite)).pairings)
    # Two shapes of three cells in two processes.
    assert len(stored.trials) == 12
    assert [m.key for m in stored.measurements] == [cell.key for cells in stored.run.plan for cell in cells]
    assert list(stored.measurements) == measurements(stored.trials, plan=stored.run.plan), "made from the trials alone"
    assert all(trial.key == trial.cell.key for trial in stored.trials)


def test_every_line_on_disk_is_strict_json(tmp_path: Path, measure: Callable[[Path], StoredRun]) -> None:
    measure(tmp_path / "run")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for name in ("trials.jsonl", "measurements.jsonl", "run.json"):
        text = (tmp_path / "run" / name).read_text()
        for document in [text] if name == "run.json" else text.splitlines():
            json.loads(document, parse_constant=refuse)


def test_an_existing_folder_is_refused_and_untouched(tmp_path: Path, measure: Callable[[Path], StoredRun]) -> None:
    folder = tmp_path / "run"
    measure(folder)
    before = snapshot(folder)
    with pytest.raises(InputError, match=r"--out .*run: exists and is not an empty folder.*--resume"):
        measure(folder)
    assert snapshot(folder) == before


def test_someone_elses_folder_is_not_offered_for_resuming(tmp_path: Path, measure: Callable[[Path], StoredRun]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    with pytest.raises(InputError) as caught:
        measure(tmp_path / "mine")
    assert "--resume" not in str(caught.value)
    assert (tmp_path / "mine" / "diary.txt").read_text() == "dear diary"


def test_an_empty_folder_may_be_filled(tmp_path: Path, measure: Callable[[Path], StoredRun]) -> None:
    (tmp_path / "run").mkdir()
    assert measure(tmp_path / "run").run.finished


@pytest.mark.parametrize("out", ["/proc/dlmbench-cannot", "/dev/null/x"])
def test_a_folder_that_cannot_be_made_is_refused(out: str) -> None:
    with pytest.raises(InputError, match=r"--out .*cannot be written"):
        new_folder(Path(out), "quick")


def test_a_read_only_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", deny)
    with pytest.raises(InputError, match=r"cannot be written \(Permission denied\)"):
        new_folder(tmp_path / "run", "quick")


# Resuming


# What the device can do


def stating(handles: Any, fakes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake workers whose device has a datasheet: 4e12 FLOP/s in float32 and 2e11 B/s."""
    sheet = Datasheet(name="fake", matmul_flop_s={"float32": 4e12}, memory_b_s=2e11, source="a test")
    monkeypatch.setattr(fakes, "DEVICE", fakes.DEVICE.model_copy(update={"datasheet": sheet, "missing": {}}))


def test_a_run_records_what_its_device_can_do(
    tmp_path: Path, measure: Callable[[Path], StoredRun], handles: Any, fakes: ModuleType
) -> None:
    stored = measure(tmp_path / "run")
    assert stored.run.device_peaks == fakes.DEVICE.model_copy(update={"matmul": {"float32": fakes.PRODUCT}})
    absent = stored.measurements[0].metrics["mfu_datasheet"]
    assert (absent.value, absent.why) == (
        None,
        "no datasheet of this device, or none of this dtype (profiles/devices.toml)",
    )


def test_what_the_maker_states_enters_the_measurements(
    tmp_path: Path,
    measure: Callable[[Path], StoredRun],
    handles: Any,
    fakes: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stating(handles, fakes, monkeypatch)
    stored = measure(tmp_path / "run")
    # The calibration beside the pairings said 1e12 FLOP/s and 1e11 B/s.
    for m in stored.measurements:
        mfu, mbu = m.metrics["mfu"].value, m.metrics["mbu"].value
        assert mfu is not None
        assert mbu is not None
        assert m.metrics["mfu_datasheet"].value == pytest.approx(mfu / 4)
        assert m.metrics["mbu_datasheet"].value == pytest.approx(mbu / 2)
    # The same numbers from the trials alone, as `show` makes them of a run that was cut off.
    (tmp_path / "run" / "measurements.jsonl").unlink()
    assert stored_run(tmp_path / "run").measurements == stored.measurements


def test_a_resumed_run_keeps_its_peaks(
    tmp_path: Path,
    measure: Callable[[Path], StoredRun],
    handles: Any,
    fakes: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = measure(tmp_path / "run").run.device_peaks
    truncate_trials(tmp_path / "run", 1)
    stating(handles, fakes, monkeypatch)
    again = resume(tmp_path / "run")
    assert again.run.device_peaks == first
    asked = [name for handle in handles.started for name, _ in handle.worker.asked]
    assert asked.count("peaks") == 1


def test_a_run_without_peaks_says_so_and_is_whole(
    tmp_path: Path, measure: Callable[[Path], StoredRun], handles: Any, fakes: ModuleType
) -> None:
    def plan(handle: Any) -> None:
        handle.worker.failures["peaks", ""] = [fakes.refused(message="no memory")]

    handles.plan = staticmethod(plan)
    stored = measure(tmp_path / "run")
    assert stored.run.device_peaks is None
    assert "The device's peaks were not measured: no memory." in stored.run.warnings
    assert {trial.status for trial in stored.trials} == {"ok"}


def test_a_finished_run_is_resumed_without_a_single_sample(
    tmp_path: Path, measure: Callable[[Path], StoredRun], handles: Any
) -> None:
    stored = measure(tmp_path / "run")
    started = len(handles.started)
    again = resume(tmp_path / "run")
    assert len(handles.started) == started
    assert again.trials == stored.trials
    assert again.measurements == stored.measurements


@pytest.mark.parametrize("finished", [0, 1, 3])
@pytest.mark.parametrize("torn", [False, True])
def test_finished_pairings_are_kept_byte_for_byte(
    tmp_path: Path, measure: Callable[[Path], StoredRun], finished: int, torn: bool
) -> None:
    folder = tmp_path / "run"
    stored = measure(folder)
    kept = truncate_trials(folder, finished, torn)
    if torn:
        with pytest.warns(TornRecordWarning, match="torn last line dropped"):
            again = resume(folder)
    else:
        again = resume(folder)
    assert (folder / "trials.jsonl").read_bytes().startswith(kept)
    assert [(t.pairing, t.key) for t in again.trials] == [(t.pairing, t.key) for t in stored.trials]
    assert again.run.id == stored.run.id
    assert [m.key for m in again.measurements] == [m.key for m in stored.measurements]


def test_an_open_pairing_is_measured_again_as_a_whole(tmp_path: Path, measure: Callable[[Path], StoredRun]) -> None:
    folder = tmp_path / "run"
    measure(folder)
    path = folder / "trials.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]))  # one pairing and a third of the next
    again = resume(folder)
    assert len(again.trials) == len({(t.pairing, t.key) for t in again.trials}) == 12


def test_a_corrupted_line_in_the_middle_is_refused_and_nothing_is_changed(
    tmp_path: Path, measure: Callable[[Path], StoredRun]
) -> None:
    folder = tmp_path / "run"
    measure(folder)
    path = folder / "trials.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1][:50] + b"\n", *lines[2:]]))
    before = snapshot(folder)
    with pytest.raises(InputError, match=r"trials\.jsonl:2: .*corrupted"):
        resume(folder)
    assert snapshot(folder) == before


def test_another_suite_is_refused(tmp_path: Path, measure: Callable[[Path], StoredRun]) -> None:
    folder = tmp_path / "run"
    measure(folder)
    before = snapshot(folder)
    with pytest.raises(InputError, match=r"it is a run of suite .*tiny\.toml', not 'lesson'"):
        resume(folder, suite="lesson")
    assert snapshot(folder) == before


def test_a_suite_that_has_changed_since_is_refused(
    tmp_path: Path, measure: Callable[[Path], StoredRun], suite_file: Path
) -> None:
    folder = tmp_path / "run"
    measure(folder)
    suite_file.write_text(suite_file.read_text().replace("[8, 16]", "[8, 24]"))
    with pytest.raises(InputError, match="cells are not those"):
        resume(folder)


def test_other_flags_than_the_recorded_ones_are_not_passed_over_in_silence(
    tmp_path: Path, measure: Callable[[Path], StoredRun], suite_file: Path
) -> None:
    measure(tmp_path / "run")
    with pytest.raises(InputError):
        resume(tmp_path / "run", suite=str(suite_file), lengths=(64,))


def test_a_run_is_resumed_from_another_folder_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handles: Any, suite_file: Path
) -> None:
    (tmp_path / "words.txt").write_text("the model runs quickly . " * 20)
    monkeypatch.chdir(tmp_path)
    options = RunOptions(
        suite=suite_file.name, device="cpu", threads=1, prompts=Path("words.txt"), out=tmp_path / "run"
    )
    start_run(options, make_plan(options), (), silent())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(resume(tmp_path / "run").trials) == 12


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}),
        pytest.param({"options": None}),
        pytest.param({"options": {"device": 5}}),
        {"options": {"lengths": 3}},
    ],
)
def test_a_record_without_usable_options_is_refused(
    tmp_path: Path, measure: Callable[[Path], StoredRun], settings: dict[str, Any]
) -> None:
    measure(tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"settings": settings}))
    with pytest.raises(InputError):
        resume(tmp_path / "run")


def test_a_run_that_ends_while_it_is_being_resumed_loses_nothing(
    tmp_path: Path, measure: Callable[[Path], StoredRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process writes its last pairing after this one has read the trials and before it has the lock."""
    folder = tmp_path / "run"
    measure(folder)
    path = folder / "trials.jsonl"
    whole = path.read_bytes()
    truncate_trials(folder, 3)
    plan = make_plan

    def slow(options: RunOptions) -> Any:
        path.write_bytes(whole)
        return plan(options)

    monkeypatch.setattr(running, "make_plan", slow)
    resume(folder)
    assert path.read_bytes() == whole


# Two at once


def test_two_runs_do_not_share_a_folder(tmp_path: Path, measure: Callable[[Path], StoredRun]) -> None:
    folder = tmp_path / "run"
    measure(folder)
    with locked(folder):
        for _ in range(3):  # a refusal must not open the door for the next one
            with pytest.raises(InputError, match="another dlmbench run is writing here"):
                resume(folder)
    resume(folder)


# Stopping


def test_an_interrupted_run_keeps_what_was_finished_and_says_how_to_go_on(
    tmp_path: Path, measure: Callable[[Path], StoredRun], handles: Any
) -> None:
    folder = tmp_path / "run"

    def plan(handle: Any) -> None:
        if handle.number == 2:  # the first worker of the second process round
            raise KeyboardInterrupt

    handles.plan = staticmethod(plan)
    with pytest.raises(InterruptedRunError, match="run"):
        measure(folder)
    stored = read_run(folder)
    assert len(stored.trials) == 6
    assert stored.run.finished is None
    assert len(stored.measurements) == 6
    handles.plan = staticmethod(lambda _: None)
    again = resume(folder)
    assert again.run.finished
    assert len(again.trials) == 12


def test_a_full_disk_costs_the_open_pairing(
    tmp_path: Path, measure: Callable[[Path], StoredRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    write, calls = os.write, []

    def full(descriptor: int, data: Any) -> int:
        target = os.readlink(f"/proc/self/fd/{descriptor}")
        if target.endswith("trials.jsonl"):
            calls.append(target)
            if len(calls) == 3:
                return write(descriptor, bytes(data[:50]))
            if len(calls) > 3:
                raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\).*--resume"):
        measure(folder)
    monkeypatch.undo()
    stored = read_run(folder)
    assert len(stored.trials) == 6, "two pairings of three cells, no torn third"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("cannot mount a small file system here")
    yield place
    subprocess.run(["umount", place], check=True)


def fill(place: Path) -> None:
    with open(place / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 512)
        except OSError:
            pass


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_really_full_disk_ends_in_one_line_and_keeps_what_was_finished(
    small_disk: Path, measure: Callable[[Path], StoredRun], handles: Any
) -> None:
    def plan(handle: Any) -> None:
        if handle.number == 2:
            fill(small_disk)

    handles.plan = staticmethod(plan)
    with pytest.raises(InputError, match=r"No space left on device.*--resume"):
        measure(small_disk / "run")
    assert len(read_run(small_disk / "run").trials) == 6
    (small_disk / "filler").unlink()
    handles.plan = staticmethod(lambda _: None)
    assert len(resume(small_disk / "run").trials) == 12


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_disk_without_room_is_refused_before_measuring(
    small_disk: Path, measure: Callable[[Path], StoredRun], handles: Any
) -> None:
    fill(small_disk)
    with pytest.raises(InputError, match="choose a folder with space"):
        measure(small_disk / "run")
    assert handles.started == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_killed_at_any_moment_is_resumed_without_measuring_twice(tmp_path: Path, seed: int) -> None:
    """kill -9 of a whole `dlmbench run` with fake workers; what it had finished must stay as it was."""
    suite, folder = tmp_path / "many.toml", tmp_path / "run"
    suite.write_text(
        "processes = 6\nbudget_s = 9\nmax_samples = 5\ntarget_ci = 1e-9\n"
        '[[grid]]\npairs = ["small"]\nlengths = [8, 12, 16, 20]\nsteps = ["L", "L/2"]\n'
    )
    command = [sys.executable, FAKE_PROGRAM, "run"]
    victim = subprocess.Popen(
        [*command, suite, "--device", "cpu", "--threads", "1", "--out", folder],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    path = folder / "trials.jsonl"
    while not path.exists():
        assert victim.poll() is None
        time.sleep(0.005)
    time.sleep(random.Random(seed).uniform(0, 0.5))
    victim.kill()
    victim.wait()
    before = path.read_bytes()
    torn = before.rpartition(b"\n")[2]
    complete = [line for line in before.splitlines(keepends=True) if line.endswith(b"\n")]
    kept = b"".join(complete[: len(complete) // 3 * 3])
    assert len(kept) < len(before) or not torn
    done = subprocess.run([*command, "--resume", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    after = path.read_bytes()
    assert after.startswith(kept)
    trials = [Trial.model_validate_json(line) for line in after.splitlines()]
    assert len({(t.pairing, t.key) for t in trials}) == len(trials) == 6 * 4 * 3
    assert [t.process for t in trials] == sorted(t.process for t in trials)
    prompts = [s.prompt for t in trials if t.cell.length == 8 and t.cell.side == "ar" for s in t.samples]
    assert len(set(prompts)) == len(prompts)


# Real workers

TINY = """
processes = 1
budget_s = 0.05
max_samples = 4
warmup_s = 0.3
foreign_limit = 1000  # whatever else this machine does

[[grid]]
pairs = ["small"]
lengths = [8]
steps = ["L/2", "L/4"]
"""


@pytest.mark.slow
def test_a_real_run_leaves_a_report_and_one_json_document(tmp_path: Path) -> None:
    """`dlmbench run --json` as a user's script sees it."""
    suite, folder = tmp_path / "tiny.toml", tmp_path / "run"
    suite.write_text(TINY)
    done = subprocess.run(
        [sys.executable, "-m", "dlmbench.bench.cli", "run", suite, "--device", "cpu", "--threads", "1", "--json",
         "--out", folder],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["ok_cells"] == 3
    assert document["folder"] == str(folder)
    for name in ("run.json", "trials.jsonl", "measurements.jsonl", "report.html", "summary.md"):
        assert (folder / name).stat().st_size, name
    assert all(png.read_bytes().startswith(b"\x89PNG") for png in (folder / "figures").glob("*.png"))
    assert {str(p) for p in (folder / "figures").glob("*.png")} < set(document["files"])
    stored = read_run(folder)
    assert [Measurement.model_validate(m) for m in document["measurements"]] == list(stored.measurements)
    assert document["run"] == json.loads((folder / "run.json").read_text())
    ar, half, quarter = stored.trials
    assert [t.counters["nfe"] for t in (ar, half, quarter)] == [8, 4, 2]
    assert ar.worker is not None
    assert half.worker is not None
    assert ar.worker.pid != half.worker.pid == (quarter.worker and quarter.worker.pid)
    assert not psutil.pid_exists(ar.worker.pid)
    by_round = [[s.prompt for s in t.samples] for t in stored.trials]
    assert all(prompts == by_round[0][: len(prompts)] for prompts in by_round)
    summary, page = (folder / "summary.md").read_text(), (folder / "report.html").read_text()
    for text in (summary, page):
        assert "small" in text
    assert "http-equiv" not in page.replace('http-equiv="Content', "")
    assert not list(folder.glob("**/.*"))


def _command_line(process: psutil.Process) -> list[str]:
    """Its words; none of a child that ended between being listed and being asked, as git does."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_workers_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    suite, folder = tmp_path / "tiny.toml", tmp_path / "run"
    suite.write_text(TINY)
    process = subprocess.Popen(
        [sys.executable, "-m", "dlmbench.bench.cli", "run", suite, "--device", "cpu", "--threads", "1",
         "--out", folder],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    parent, workers = psutil.Process(process.pid), []
    while len(workers) < 2:
        assert process.poll() is None
        workers = [child for child in parent.children() if "dlmbench.bench.worker" in " ".join(_command_line(child))]
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"go on with: dlmbench run --resume {folder}" in err
    assert "Traceback" not in err
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive


TROUBLE = """
import os, time, torch

class Good:
    side = "ar"
    def __init__(self, context): pass
    def prepare(self, shape, settings): pass
    def generate(self, request, observer):
        self.trouble()
        out = torch.zeros(request.prompt_ids.shape[0], request.length, dtype=torch.int64)
        with observer.forward("target", "decode", 1, request.length, request.length, 1, "causal"):
            time.sleep(0.001)
        observer.write(None, out, 0)
        return out
    def trouble(self): pass
class Diffusion(Good):
    side = "diffusion"
class Exits(Good):
    def trouble(self): os._exit(7)
class Hangs(Good):
    def trouble(self): time.sleep(3600)
"""


@pytest.mark.slow
def test_an_exit_and_a_hang_cost_one_cell_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlmbench.bench import sweep
    from dlmbench.bench.handle import WorkerHandle
    from dlmbench.models.pairs import load_pair

    class Impatient(WorkerHandle):
        """Gives up on a warm-up after a second; loading may take its time on a busy machine."""

        def ask(self, operation: str, timeout_s: float, **fields: Any) -> dict[str, Any]:
            return super().ask(operation, 1.0 if operation == "warmup" else timeout_s, **fields)

    monkeypatch.setattr(sweep, "WorkerHandle", Impatient)
    plug, pair = tmp_path / "plug.py", tmp_path / "mine.toml"
    plug.write_text(TROUBLE)
    shape = load_pair("small").ar.backbone.model_dump(exclude_none=True)
    table = "\n".join(f"{name} = {json.dumps(value)}" for name, value in shape.items())
    pair.write_text(
        f'[backbone]\n{table}\n[ar]\ngenerator = "{plug}:Good"\n[diffusion]\ngenerator = "{plug}:Diffusion"\n'
    )
    suite = tmp_path / "trouble.toml"
    wrong = json.dumps([f"{plug}:{name}" for name in ("Exits", "Hangs")])
    suite.write_text(TINY.replace('"small"', json.dumps(str(pair))) + f"generators = {wrong}\n")
    options = RunOptions(suite=str(suite), device="cpu", threads=1, out=tmp_path / "run")
    stored = start_run(options, make_plan(options), (), silent())
    found = {}
    for trial in stored.trials:
        name = trial.cell.generator.rpartition(":")[2]
        found.setdefault(name, []).append((trial.status, trial.reason and trial.reason.code))
    assert found == {
        "Good": [("ok", None)],
        "Diffusion": [("ok", None)] * 2,
        "Exits": [("failed", "crash")],
        "Hangs": [("failed", "hang")],
    }
    reasons = {t.cell.generator.rpartition(":")[2]: t.reason.message for t in stored.trials if t.reason}
    assert "exit code 7" in reasons["Exits"]
    speedups = [m.metrics["speedup"].value for m in stored.measurements if m.status == "ok"]
    assert all(value is not None for value in speedups)


def test_progress_never_draws_inside_a_sample(
    tmp_path: Path, handles: Any, suite_file: Path, fakes: ModuleType
) -> None:
    """The display is fed by the measuring loop: nothing is written while a worker has a sample to take."""
    import io

    stream, sizes = io.StringIO(), []
    asked = handles.ask

    def watched(self: Any, operation: str, timeout_s: float, **fields: Any) -> Any:
        before = stream.tell()
        reply = asked(self, operation, timeout_s, **fields)
        if operation == "sample":
            sizes.append(stream.tell() - before)
        return reply

    handles.ask = watched
    try:
        options = RunOptions(suite=str(suite_file), device="cpu", threads=1, out=tmp_path / "run")
        console = Console(file=stream, force_terminal=True, width=80)
        start_run(options, make_plan(options), (), Progress(console))
    finally:
        handles.ask = asked
    assert sizes
    assert set(sizes) == {0}
    assert "\x1b[?25l" not in stream.getvalue() or stream.getvalue().count("\x1b[?25h") >= 1, "the cursor is back"


def test_options_survive_the_record(tmp_path: Path, handles: Any, suite_file: Path) -> None:
    options = RunOptions(suite=str(suite_file), device="cpu", threads=1, budget_s=1.0, out=tmp_path / "run")
    stored = start_run(options, make_plan(options), (), silent())
    from dlmbench.bench.options import adopted

    assert adopted(RunOptions(), stored.run.settings["options"]) == replace(options, out=None), (
        "a moved run is resumed where it lies"
    )
