"""`dlmbench calibrate`: document and table, what is remembered, bad input, and a device that does not answer."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlmbench.bench import calibrate_command as calibrating
from dlmbench.bench.handle import WorkerFailedError
from dlmbench.bench.station import Worker, answer
from dlmbench.profiles.datasheets import with_datasheet
from dlmbench.profiles.hardware import DevicePeaks, Peak

Command = Callable[..., Any]
KEYS = {
    "device", "name", "threads", "identity", "measured", "before", "peaks", "missing", "datasheet", "findings", "notes",
    "why",
}  # fmt: skip
ROW = {"name", "unit", "burst", "sustained", "size", "datasheet", "share", "before", "change", "ridge"}


class InProcess:
    """A worker's handle that answers in this process, in a third of a second instead of four."""

    def __init__(self, log: Path, threads: int, device: str) -> None:
        self.worker = Worker()

    def ask(self, operation: str, timeout_s: float, **fields: Any) -> dict[str, Any]:
        reply = json.loads(json.dumps(answer(self.worker, {"op": operation, **fields, "budget_s": 0.3})))
        if not reply.pop("ok"):
            raise WorkerFailedError(reply["code"], reply["message"], fatal=False)
        return dict(reply)

    def end(self) -> None: ...


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Calibrations in this process, remembered in the folder returned, as on a machine that nobody else uses."""
    monkeypatch.setattr(calibrating, "WorkerHandle", InProcess)
    monkeypatch.setattr("dlmbench.profiles.peaks.kept_waiting_s", lambda: 0.0)
    monkeypatch.setenv("DLMBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def replying(monkeypatch: pytest.MonkeyPatch, peaks: DevicePeaks, before: DevicePeaks | None = None) -> None:
    reply = {
        "peaks": peaks.model_dump(),
        "before": None if before is None else before.model_dump(),
        "remembered": False,
        "notes": [],
    }
    monkeypatch.setattr(calibrating, "_ask_worker", lambda *_, **__: reply)


def h100(rate: float = 700e12) -> DevicePeaks:
    return with_datasheet(
        DevicePeaks(
            device="cuda",
            name="NVIDIA H100 80GB HBM3",
            identity={"device": "cuda", "name": "NVIDIA H100 80GB HBM3", "float32": "ieee"},
            threads=8,
            measured="2026-03-01T10:15:00+00:00",
            matmul={
                "float32": Peak(burst=52e12, sustained=50e12, size=4096),
                "bfloat16": Peak(burst=800e12, sustained=rate, size=8192),
            },
            read=Peak(burst=3.1e12, sustained=3.0e12, size=2 << 30),
            copied=Peak(burst=2.9e12, sustained=2.8e12, size=1 << 30),
            missing={"float16": "refused"},
        )
    )


def test_the_document_agrees_with_itself(command: Command, quick: Path) -> None:
    outcome = command("calibrate", "--device", "cpu", "--threads", "1", "--dtype", "float32,bfloat16", "--json")
    assert outcome.code == 0
    document = json.loads(outcome.out)
    assert set(document) == KEYS
    assert (document["device"], document["threads"], document["before"], document["why"]) == ("cpu", 1, None, None)
    assert [(row["name"], row["unit"]) for row in document["peaks"]] == [
        ("float32", "FLOP/s"), ("bfloat16", "FLOP/s"), ("read", "B/s"), ("copy", "B/s"),
    ]  # fmt: skip
    rows = {row["name"]: row for row in document["peaks"]}
    for row in rows.values():
        assert set(row) == ROW
        assert row["burst"] >= row["sustained"] > 0
        assert (row["datasheet"], row["share"], row["before"], row["change"]) == (None, None, None, None)
    assert rows["float32"]["ridge"] == pytest.approx(rows["float32"]["sustained"] / rows["read"]["sustained"])
    assert rows["read"]["ridge"] is rows["copy"]["ridge"] is None
    assert document["identity"]["threads"] == "1"
    assert document["datasheet"] is None
    assert "datasheet" in document["missing"]
    assert len(list((quick / "peaks").iterdir())) == 1


def test_every_time_is_measured_anew_and_compared_with_the_last(command: Command, quick: Path) -> None:
    arguments = ("calibrate", "--device", "cpu", "--threads", "1", "--dtype", "float32", "--json")
    first, second = (json.loads(command(*arguments).out) for _ in range(2))
    assert second["before"] == first["measured"]
    for old, new in zip(first["peaks"], second["peaks"], strict=True):
        assert new["before"] == old["sustained"]
        assert new["change"] == pytest.approx(new["sustained"] / old["sustained"] - 1)
    moved = {row["name"] for row in second["peaks"] if abs(row["change"]) > 0.05}
    codes = {finding["code"] for finding in second["findings"] if finding["severity"] == "warning"}
    assert codes == {f"peaks.moved.{name}" for name in moved}
    assert not math.isnan(sum(row["change"] for row in second["peaks"]))


def test_a_table_for_people(command: Command, quick: Path) -> None:
    outcome = command("calibrate", "--device", "cpu", "--threads", "1", "--dtype", "float32")
    assert outcome.code == 0
    assert "float32, " in outcome.out
    assert "read, " in outcome.out
    words = " ".join(outcome.out.split())
    assert "nothing to compare with" in words
    assert "Ridge, in FLOP/B: a forward over N positions does about N FLOPs a byte" in words
    assert str(quick) in words


@pytest.mark.parametrize("width", [80, 200])
def test_a_gpus_table_fits_the_terminal(
    command: Command, quick: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    replying(monkeypatch, h100(700e12), h100(800e12))
    out = command("calibrate", "--device", "cpu").out
    table = out[: out.index("Burst:")].splitlines()
    assert max(map(len, table)) <= width
    (row,) = (line.split() for line in table if line.startswith("bfloat16"))
    # 700 of 989.4 TFLOP/s, 1/8 less than 800, and 700e12 / 3e12 FLOP/B
    assert row == ["bfloat16,", "TFLOP/s", "800", "700", "8192", "989", "71%", "-12.5%", "233"]
    (row,) = (line.split() for line in table if line.startswith("read"))
    assert row == ["read,", "TB/s", "3.10", "3.00", "2048", "MiB", "3.35", "90%", "+0.0%", "—"]
    assert "— float16: refused" in out
    assert "warning" in out
    assert "dlmbench doctor" in out
    assert "NVIDIA H100 Tensor Core GPU Architecture whitepaper" in " ".join(out.split())


def test_float32_in_tf32_is_said(command: Command, quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = h100()
    replying(monkeypatch, peaks)
    assert "TF32" not in command("calibrate", "--device", "cpu").out
    replying(monkeypatch, peaks.model_copy(update={"identity": {**peaks.identity, "float32": "tf32"}}))
    assert "float32 products in TF32" in command("calibrate", "--device", "cpu").out


def test_troubles_with_the_cache_are_said_and_cost_nothing(
    command: Command, quick: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DLMBENCH_CACHE", str(tmp_path / "file"))
    outcome = command("calibrate", "--device", "cpu", "--threads", "1", "--dtype", "float32", "--json")
    assert outcome.code == 0
    notes = json.loads(outcome.out)["notes"]
    assert len([note for note in notes if "peaks are not kept for later" in note]) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "tpu"], "choose cpu, cuda, cuda:N or auto"),
        (["--threads", "0"], "--threads 0"),
        (["--threads", "100000"], "--threads 100000"),
        (["--dtype", "int9"], "--dtype 'int9': expected some of float32, bfloat16, float16"),
        (["--dtype", "float32,int9"], "--dtype 'int9'"),
        (["--nosuch"], "--nosuch"),
    ],
)
def test_bad_input_is_one_line(command: Command, quick: Path, arguments: list[str], words: str) -> None:
    assert words in command("calibrate", *arguments).complaint
    assert not quick.exists()


@pytest.mark.parametrize("as_json", [False, True])
def test_a_worker_that_dies_is_no_measurement(
    command: Command, quick: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    def die(*_: Any, **__: Any) -> Any:
        raise WorkerFailedError("killed", "the worker was killed (signal 9)", fatal=True)

    monkeypatch.setattr(calibrating, "_ask_worker", die)
    outcome = command("calibrate", "--device", "cpu", *(["--json"] if as_json else []))
    assert outcome.code == 4
    assert "nothing could be measured: the worker was killed (signal 9)" in outcome.out + outcome.err
    if as_json:
        document = json.loads(outcome.out)
        assert (document["peaks"], document["why"]) == ([], "the worker was killed (signal 9)")


def test_a_device_that_refuses_everything_is_no_measurement(
    command: Command, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = h100().model_copy(update={"matmul": {}, "read": None, "copied": None, "missing": {"read": "no memory"}})
    replying(monkeypatch, nothing)
    outcome = command("calibrate", "--device", "cpu")
    assert (outcome.code, "read: no memory" in outcome.out) == (4, True)


@pytest.mark.slow
def test_a_real_worker_measures_and_a_run_remembers(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLMBENCH_CACHE", str(tmp_path / "cache"))  # what other tests measured is not remembered here
    outcome = command("calibrate", "--device", "cpu", "--threads", "1", "--dtype", "float32", "--json")
    document = json.loads(outcome.out)
    assert outcome.code == 0
    folder, suite = tmp_path / "run", tmp_path / "tiny.toml"
    suite.write_text(
        "processes = 1\nbudget_s = 0.05\nmax_samples = 3\nforeign_limit = 50.0\n"
        '[[grid]]\npairs = ["small"]\nlengths = [4]\nsteps = ["L"]\n'
    )
    outcome = command("run", suite, "--device", "cpu", "--threads", "1", "--out", folder, "--json")
    assert outcome.code == 0, outcome.err
    run = json.loads((folder / "run.json").read_text())
    disturbed = any("not kept for later" in note for note in document["notes"])
    assert (run["device_peaks"]["measured"] == document["measured"]) is not disturbed
    trial = json.loads((folder / "trials.jsonl").read_text().splitlines()[0])
    best = run["device_peaks"]["matmul"]["float32"]["size"]
    assert best % trial["calibration_before"]["matrix"] == 0
