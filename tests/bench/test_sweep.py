"""The sweep with fake workers: what runs in which process, what is reused, and what a death may touch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dlmbench import InputError
from dlmbench.bench.suites import checked_suite, expand
from dlmbench.bench.sweep import Job, sweep
from dlmbench.models.pairs import load_pair
from dlmbench.profiles.gpus import NoGpuError
from dlmbench.profiles.hardware import DevicePeaks
from dlmbench.profiles.record import Trial
from dlmbench.profiles.store import TRIALS_FILE, read_studies
from dlmbench.profiles.telemetry_client import TelemetryProcess


class Silent:
    """A watcher that notes the pairings."""

    def __init__(self) -> None:
        self.pairings: list[tuple[str, int]] = []

    def pairing(self, name: str, process: int, number: int, total: int) -> None:
        self.pairings.append((name, process))

    def cell(self, *_: object) -> None: ...

    def sampled(self, *_: object) -> None: ...

    def failed(self, *_: object) -> None: ...


def job(folder: Path, processes: int = 2, *, studies: bool = False, hardware: bool = False, **grid: Any) -> Job:
    table = {"pairs": ["small"], "lengths": [8, 16], "steps": ["L"], **grid}
    settings = {"processes": processes, "max_samples": 3, "studies": studies, "hardware": hardware}
    suite = checked_suite({"name": "m", **settings, "grid": [table]}, "m.toml")
    pairs = {name: load_pair(name) for name in table["pairs"]}
    pairings = tuple(expand(suite, pairs, "cpu"))
    return Job(
        suite=suite, pairings=pairings, pairs=pairs, device="cpu", threads=1, prompts=None,
        tokenizer="source", folder=folder,
    )  # fmt: skip


def trials(folder: Path) -> list[Trial]:
    return [Trial.model_validate_json(line) for line in (folder / TRIALS_FILE).read_text().splitlines()]


def test_all_pairings_in_one_process_round_then_all_in_the_next(tmp_path: Path, handles: Any) -> None:
    watcher, planned = Silent(), job(tmp_path)
    assert sweep(planned, watcher) == "fake"
    names = {"small/P=32,L=8,B=1,float32", "small/P=32,L=16,B=1,float32"}
    assert watcher.pairings == [(pairing.name, process) for process, pairing in planned.rounds]
    assert [process for _, process in watcher.pairings] == [0, 0, 1, 1]
    assert {name for name, process in watcher.pairings if process == 1} == names
    assert [(t.pairing, t.process) for t in trials(tmp_path)] == [
        (f"{name}#{process}", process) for name, process in watcher.pairings for _ in "AB"
    ]


def test_the_order_is_drawn_anew_in_every_round_and_each_pair_stays_together(tmp_path: Path) -> None:
    planned = job(tmp_path, processes=12, lengths=[8, 16, 32], pairs=["small", "small-block"])
    rounds = planned.rounds
    orders = [tuple(pairing.name for process, pairing in rounds if process == number) for number in range(12)]
    assert len(set(orders)) > 6
    for order in orders:
        pairs = [name.split("/")[0] for name in order]
        assert pairs in (["small"] * 3 + ["small-block"] * 3, ["small-block"] * 3 + ["small"] * 3)
    first = planned.pairings[0]
    cells = {planned.drawn_cells(first, process) for process in range(12)}
    assert len(cells) == 2
    assert all({*found} == {*first.cells} for found in cells)
    # The same seed draws the same order: a run that is resumed goes on with it.
    assert job(tmp_path, processes=12, lengths=[8, 16, 32], pairs=["small", "small-block"]).rounds == rounds


def test_the_place_of_a_cell_among_its_mates_is_recorded(tmp_path: Path, handles: Any) -> None:
    planned = job(tmp_path, processes=6, lengths=[8])
    sweep(planned, Silent())
    first = planned.pairings[0]
    for trial in trials(tmp_path):
        assert trial.order == planned.drawn_cells(first, trial.process).index(trial.cell)
    assert {trial.order for trial in trials(tmp_path) if trial.cell.side == "ar"} == {0, 1}


def test_a_worker_that_drifted_is_not_used_for_the_next_shape(tmp_path: Path, handles: Any) -> None:
    def plan(handle: Any) -> None:
        grows = handle.number < 2 and handle.generator == "masked-diffusion"
        handle.worker.latency = lambda _, number: 0.01 * (1 + (0.1 if grows else 0.001) * number)

    handles.plan = staticmethod(plan)
    planned = job(tmp_path, processes=1)
    sweep(replace(planned, suite=planned.suite.model_copy(update={"max_samples": 12})), Silent())
    assert len(handles.started) == 4
    moved = [(trial.cell.side, trial.drift) for trial in trials(tmp_path)]
    assert [drift is not None for _, drift in moved] == [True, True, False, False]
    # Each is told against the other: the last third of 12 rounds over the first.
    assert dict(moved[:2])["diffusion"] == pytest.approx((1 + 0.95) / (1 + 0.15) - 1, rel=0.02)
    assert dict(moved[:2])["ar"] < 0


def test_workers_are_kept_within_a_round_and_fresh_in_the_next(tmp_path: Path, handles: Any) -> None:
    sweep(job(tmp_path), Silent())
    generators = [handle.generator for handle in handles.started]
    assert [sorted(generators[:2]), sorted(generators[2:])] == [["ar", "masked-diffusion"]] * 2
    assert all(handle.ended for handle in handles.started)
    workers = {(t.process, t.cell.generator, t.worker.pid) for t in trials(tmp_path) if t.worker}
    assert len(workers) == len({pid for _, _, pid in workers}) == 4


def test_another_model_gets_other_workers(tmp_path: Path, handles: Any) -> None:
    sweep(job(tmp_path, processes=1, lengths=[8], dtypes=["float32", "bfloat16"]), Silent())
    started = [(h.generator, h.load["dtype"]) for h in handles.started]
    assert {*started} == {(name, dtype) for name in ("ar", "masked-diffusion") for dtype in ("float32", "bfloat16")}
    assert len({dtype for _, dtype in started[:2]}) == len({dtype for _, dtype in started[2:]}) == 1


def test_each_side_loads_its_own_shape_and_the_same_seed(tmp_path: Path, handles: Any) -> None:
    sweep(job(tmp_path, processes=1), Silent())
    first, second = handles.started
    assert first.load["config"] == second.load["config"] == load_pair("small").ar.backbone.model_dump()
    assert first.load["seed"] == second.load["seed"] == 0


def test_pairings_that_are_done_are_left_alone(tmp_path: Path, handles: Any) -> None:
    whole = job(tmp_path)
    done = frozenset(f"{whole.pairings[0].name}#{process}" for process in range(2))
    sweep(replace(whole, done=done), Silent())
    assert {t.cell.length for t in trials(tmp_path)} == {16}


def test_nothing_left_to_do_starts_no_worker(tmp_path: Path, handles: Any) -> None:
    whole = job(tmp_path)
    sweep(replace(whole, done=frozenset(f"{p.name}#{n}" for n, p in whole.rounds)), Silent())
    assert handles.started == []


def test_cells_that_do_not_fit_are_skipped_with_their_reason(tmp_path: Path, handles: Any) -> None:
    whole = job(tmp_path, processes=1)
    key = whole.pairings[0].cells[1].key
    sweep(replace(whole, unfit={key: "needs 9 GB"}), Silent())
    found = {t.key: t for t in trials(tmp_path)}
    assert (found[key].status, found[key].reason and found[key].reason.message) == ("skipped", "needs 9 GB")
    assert sorted(t.status for t in trials(tmp_path)) == ["ok", "ok", "ok", "skipped"]


def test_a_pairing_in_which_nothing_fits_is_written_down(tmp_path: Path, handles: Any) -> None:
    whole = job(tmp_path, processes=1, lengths=[8])
    sweep(replace(whole, unfit={cell.key: "too large" for cell in whole.pairings[0].cells}), Silent())
    assert [t.status for t in trials(tmp_path)] == ["skipped", "skipped"]
    assert handles.started == []


def test_sides_that_do_not_fit_together_take_turns(tmp_path: Path, handles: Any) -> None:
    whole = job(tmp_path, lengths=[8])
    live: list[str] = []
    largest = 0

    def plan(handle: Any) -> None:
        nonlocal largest
        alive = [h for h in handles.started if not (h.ended or h.killed)]
        largest = max(largest, len(alive))
        live.append(handle.generator)

    handles.plan = staticmethod(plan)
    sweep(replace(whole, blockwise=frozenset({whole.pairings[0].name})), Silent())
    assert largest == 1, "two workers at once"
    assert live == ["ar", "masked-diffusion", "masked-diffusion", "ar"], "AR first, then diffusion first"
    assert {t.alternation for t in trials(tmp_path)} == {"block"}
    assert [t.cell.side for t in trials(tmp_path)] == ["ar", "diffusion"] * 2


def test_what_a_worker_refuses_to_load_is_bad_input(tmp_path: Path, handles: Any, fakes: ModuleType) -> None:
    def plan(handle: Any) -> None:
        if handle.generator == "masked-diffusion":
            handle.load_error = fakes.refused("input", "no CUDA device")

    handles.plan = staticmethod(plan)
    with pytest.raises(InputError, match="no CUDA device"):
        sweep(job(tmp_path), Silent())
    assert all(handle.killed for handle in handles.started)


@pytest.mark.parametrize("code", ["crash", "hang", "killed"])
def test_a_worker_that_dies_while_loading_costs_its_pairing(
    tmp_path: Path, handles: Any, fakes: ModuleType, code: str
) -> None:
    def plan(handle: Any) -> None:
        if handle.number == 1:
            handle.load_error = fakes.died(code)

    handles.plan = staticmethod(plan)
    sweep(job(tmp_path, processes=1), Silent())
    assert [t.status for t in trials(tmp_path)] == ["failed", "failed", "ok", "ok"]
    assert {t.reason.code for t in trials(tmp_path) if t.reason} == {code}


@pytest.mark.parametrize("operation", ["close", "release"])
def test_a_worker_that_dies_after_its_samples_costs_no_cell_of_the_next_pairing(
    tmp_path: Path, handles: Any, fakes: ModuleType, operation: str
) -> None:
    def plan(handle: Any) -> None:
        if handle.number == 1:
            key = "" if operation == "release" else "small/masked-diffusion/L=8,T=8"
            handle.worker.failures[operation, key] = [fakes.died()]

    handles.plan = staticmethod(plan)
    sweep(job(tmp_path, processes=1), Silent())
    assert [t.status for t in trials(tmp_path)] == ["ok"] * 4


def test_a_replacement_that_cannot_start_costs_no_cell_of_the_next_pairing(
    tmp_path: Path, handles: Any, fakes: ModuleType
) -> None:
    def plan(handle: Any) -> None:
        if handle.number < 2 and handle.generator == "masked-diffusion":
            handle.worker.failures["sample", key] = [fakes.died()]
        if handle.number == 2:
            handle.load_error = fakes.died("hang")

    planned = job(tmp_path, processes=1)
    key = next(cell.key for cell in planned.rounds[0][1].cells if cell.side == "diffusion")
    handles.plan = staticmethod(plan)
    sweep(planned, Silent())
    assert [t.status for t in trials(tmp_path)] == ["ok", "failed", "ok", "ok"]


def test_an_interruption_kills_the_workers_and_keeps_what_was_finished(tmp_path: Path, handles: Any) -> None:
    class Interrupting(Silent):
        def pairing(self, name: str, process: int, number: int, total: int) -> None:
            if number == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(job(tmp_path), Interrupting())
    (_, first), *_ = job(tmp_path).rounds
    assert [t.key for t in trials(tmp_path)] == [cell.key for cell in first.cells]
    assert all(handle.killed for handle in handles.started)


def test_studies_are_asked_for_once_a_pair_and_written_beside_the_trials(tmp_path: Path, handles: Any) -> None:
    sweep(job(tmp_path, studies=True), Silent())
    (found,) = read_studies(tmp_path).values()
    assert (found.pair, found.why) == ("small", {"infill": "a fake worker"})
    asked = [fields for handle in handles.started for name, fields in handle.worker.asked if name == "study"]
    assert [(fields["generator"], fields["tasks"]) for fields in asked] == [("masked-diffusion", True)]


def test_studies_that_fail_cost_no_trial_and_say_why(tmp_path: Path, handles: Any, fakes: ModuleType) -> None:
    def trouble(handle: Any) -> None:
        handle.worker.failures["study", ""] = [fakes.refused(message="no memory for it")]

    handles.plan = staticmethod(trouble)
    sweep(job(tmp_path, studies=True), Silent())
    assert read_studies(tmp_path)["small"].why == {"studies": "no memory for it"}
    assert len((tmp_path / "trials.jsonl").read_text().splitlines()) == 2 * 2 * 2


def test_a_run_without_studies_asks_for_none(tmp_path: Path, handles: Any) -> None:
    sweep(job(tmp_path), Silent())
    assert read_studies(tmp_path) == {}


def test_a_worker_that_the_next_shape_needs_keeps_its_model(tmp_path: Path, handles: Any) -> None:
    """The first shape needs a third generator, the second does not: that one ends, the others are not started again."""
    planned = job(tmp_path, processes=1)
    first, second = planned.pairings
    extra = first.cells[0].model_copy(update={"generator": "hf"})
    first = first.model_copy(update={"cells": (*first.cells, extra)})
    seeded = planned.suite.model_copy(update={"seed": 4})  # which draws the order as it is
    planned = replace(planned, suite=seeded, pairings=(first, second))
    assert planned.rounds == [(0, first), (0, second)]
    sweep(planned, Silent())
    assert sorted(handle.generator for handle in handles.started) == ["ar", "hf", "masked-diffusion"]
    assert all(handle.ended for handle in handles.started)


# The GPU's counters


@dataclass
class Meters:
    """Starts made-up meters, and notes what becomes of them."""

    refusal: str | None = None
    told: list[object] = field(default_factory=list)

    def start(self, **device: object) -> Any:
        self.told.append(device)
        if self.refusal is not None:
            raise NoGpuError(self.refusal)
        return self

    def watch_idle(self) -> None:
        self.told.append("idle")

    def reasons(self, **_: float) -> tuple[tuple[str, ...] | None, int | None]:
        self.told.append("reasons")
        return ("software_power_cap",), None

    def close(self) -> None:
        self.told.append("close")


def test_one_meter_watches_the_workers_gpu_through_the_whole_run(tmp_path: Path, handles: Any) -> None:
    meters = Meters()
    sweep(replace(job(tmp_path), device="cuda:1"), Silent(), start_meter=meters.start)
    # Two shapes in two rounds; no idle power is asked for where no window follows.
    assert meters.told == [{"uuid": "aaaa-1", "index": 1}, *["reasons"] * 4, "close"]
    assert {t.clock_reasons for t in trials(tmp_path)} == {("software_power_cap",)}
    assert all(handle.ended for handle in handles.started)


def test_idle_power_is_read_when_all_models_are_loaded_and_nothing_ran(tmp_path: Path, handles: Any) -> None:
    meters = Meters()
    running = []

    def watch_idle() -> None:
        running.append([(handle.generator, list(handle.worker.asked)) for handle in handles.started if handle.alive])
        raise KeyboardInterrupt

    meters.watch_idle = watch_idle  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        sweep(replace(job(tmp_path, hardware=True), device="cuda"), Silent(), start_meter=meters.start)
    assert [sorted(seen) for seen in running] == [[("ar", []), ("masked-diffusion", [])]]
    assert meters.told == [{"uuid": "aaaa-1", "index": 0}, "close"]
    assert all(handle.killed for handle in handles.started)


def test_a_gpu_that_cannot_be_watched_is_asked_for_once_and_measured(tmp_path: Path, handles: Any) -> None:
    meters = Meters(refusal="NVML does not start: Driver Not Loaded")
    sweep(replace(job(tmp_path, hardware=True), device="cuda"), Silent(), start_meter=meters.start)
    assert meters.told == [{"uuid": "aaaa-1", "index": 0}]
    found = trials(tmp_path)
    assert {(t.status, t.clock_reasons) for t in found} == {("ok", None)}
    assert {t.hardware.missing["telemetry"] for t in found if t.hardware} == {"NVML does not start: Driver Not Loaded"}


def test_a_cpu_has_no_meter(tmp_path: Path, handles: Any) -> None:
    meters = Meters()
    sweep(job(tmp_path, hardware=True), Silent(), start_meter=meters.start)
    assert meters.told == []


def test_counters_of_a_made_up_gpu_end_in_the_trials(
    tmp_path: Path, handles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real process reads a fake NVML: 300 W, and the process that runs this test on the GPU."""
    fake = Path(__file__).parents[1] / "profiles"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(fake), os.environ.get("PYTHONPATH")))))
    started = []

    def start(*, uuid: str | None, index: int) -> TelemetryProcess:
        started.append(TelemetryProcess.start(uuid=None, index=index, nvml="fake_nvml:steady"))
        return started[-1]

    def fill(handle: Any) -> None:
        handle.worker.fill_s = 1.4

    handles.plan = staticmethod(fill)
    monkeypatch.setattr(handles, "pause_s", 0.15)  # a sample's; six of them see some readings
    sweep(replace(job(tmp_path, processes=1, hardware=True, lengths=[8]), device="cuda"), Silent(), start_meter=start)
    for trial in trials(tmp_path):
        assert trial.hardware is not None
        seen = trial.hardware.telemetry
        assert seen is not None
        assert seen.missing == {}
        assert seen.values["power_w"] == pytest.approx(300, rel=0.05)
        assert seen.values["power_idle_w"] == pytest.approx(300, rel=0.05)
        assert seen.values["energy_per_token_j"] == pytest.approx(300 * seen.window_s / 32, rel=0.05)
        assert seen.values["sm_active"] == pytest.approx(0.75, rel=0.01)
        assert (trial.status, trial.clock_reasons, seen.foreign) == ("ok", (), 0)
    assert started[0]._process.poll() is not None, "it outlived the run"


# The device's peaks


class Kept:
    """Notes what a sweep says of the device."""

    def __init__(self) -> None:
        self.peaks: list[DevicePeaks | None] = []
        self.notes: list[str] = []

    def __call__(self, peaks: DevicePeaks | None, notes: Sequence[str]) -> None:
        self.peaks.append(peaks)
        self.notes += notes


def asked(handles: Any, operation: str) -> list[dict[str, Any]]:
    return [fields for handle in handles.started for name, fields in handle.worker.asked if name == operation]


def test_peaks_are_asked_of_one_worker_once_before_any_cell_is_opened(
    tmp_path: Path, handles: Any, fakes: ModuleType
) -> None:
    keep = Kept()
    sweep(job(tmp_path, dtypes=["float32", "bfloat16"]), Silent(), keep)
    (fields,) = asked(handles, "peaks")
    assert (fields["device"], fields["threads"], fields["dtypes"]) == ("cpu", 1, ["float32", "bfloat16"])
    assert fields["max_age_s"] == 24 * 3600
    assert handles.started[0].worker.asked[0][0] == "peaks"
    (found,) = keep.peaks
    assert found is not None
    assert set(found.matmul) == {"float32", "bfloat16"}
    assert keep.notes == []


def test_calibrations_are_told_the_products_peak(tmp_path: Path, handles: Any, fakes: ModuleType) -> None:
    sweep(job(tmp_path), Silent())
    peaks = [fields["peak"] for fields in asked(handles, "calibrate")]
    assert peaks == [fakes.PRODUCT.model_dump()] * (2 * 2 * 2)  # before and after two shapes in two processes


def test_peaks_that_are_known_are_not_asked_for(tmp_path: Path, handles: Any, fakes: ModuleType) -> None:
    keep = Kept()
    matmul = {"float32": fakes.PRODUCT.model_copy(update={"size": 64})}
    sweep(replace(job(tmp_path), peaks=fakes.DEVICE.model_copy(update={"matmul": matmul})), Silent(), keep)
    assert asked(handles, "peaks") == []
    assert keep.peaks == []
    assert {fields["peak"]["size"] for fields in asked(handles, "calibrate")} == {64}


@pytest.mark.parametrize("fatal", [False, True])
def test_peaks_that_cannot_be_measured_cost_no_cell_and_are_not_tried_again(
    tmp_path: Path, handles: Any, fakes: ModuleType, fatal: bool
) -> None:
    def plan(handle: Any) -> None:
        if handle.number == 0:
            handle.worker.failures["peaks", ""] = [fakes.died() if fatal else fakes.refused(message="no memory")]

    handles.plan = staticmethod(plan)
    keep = Kept()
    sweep(job(tmp_path), Silent(), keep)
    assert [t.status for t in trials(tmp_path)] == ["ok"] * 8
    assert len(asked(handles, "peaks")) == 1
    assert keep.peaks == [None]
    assert keep.notes == [
        f"The device's peaks were not measured: {'the worker was killed (signal 9)' if fatal else 'no memory'}."
    ]
    assert {fields["peak"] for fields in asked(handles, "calibrate")} == {None}
