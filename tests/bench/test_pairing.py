"""One pairing with workers that answer at once: order, stop rules, and what a failure may cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dlmbench.bench.handle import WorkerFailedError
from dlmbench.bench.pairing import Crew, PairingRun
from dlmbench.bench.suites import Pairing, Suite, checked_suite
from dlmbench.profiles.hardware import TELEMETRY, Telemetry
from dlmbench.profiles.record import Cell, Reason, Trial

GRID = {"pairs": ["small"], "lengths": [8], "steps": [8]}
NEVER = 1e-9
"""A target that noisy samples do not reach."""


def suite_of(**settings: Any) -> Suite:
    values = {"name": "mine", "target_ci": NEVER, "min_samples": 3, "max_samples": 4, "grid": [GRID]}
    return checked_suite(values | settings, "mine.toml")


def steady(_: Cell, __: int) -> float:
    return 0.01


@dataclass
class Scene:
    """A pairing of one AR and two diffusion cells (by default) and everything that happened to it."""

    fakes: ModuleType
    cells: tuple[Cell, ...] = ()
    workers: dict[str, Any] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)
    former: list[Any] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    new: Callable[[str], Any] | None = None
    """Makes the worker that takes the place of a dead one; by default one that never fails."""

    def __post_init__(self) -> None:
        cell = self.fakes.cell
        self.cells = self.cells or (cell(), cell("d", 8), cell("d", 4))
        self.workers = {name: self.fakes.Worker() for name in dict.fromkeys(c.generator for c in self.cells)}

    @property
    def keys(self) -> list[str]:
        return [cell.key for cell in self.cells]

    def measure(
        self, process: int = 0, budget_s: float = 1e6, given: dict[str, Any] | None = None, **settings: Any
    ) -> dict[str, Trial]:
        """Run the pairing under these settings of its suite; `given` are other arguments of `PairingRun`."""
        infos = {name: self.fakes.info(pid) for pid, name in enumerate(self.workers)}

        def replace(name: str) -> None:
            self.replaced.append(name)
            self.former.append(self.workers.pop(name))
            worker = self.new(name) if self.new else self.fakes.Worker()
            if isinstance(worker, WorkerFailedError):
                self.workers[name] = self.fakes.Worker(dead=True)
                raise worker
            self.workers[name] = worker
            infos[name] = self.fakes.info(100 + len(self.replaced))

        shape = Pairing(name="shape", cells=self.cells, processes=1, budget_s=budget_s)
        crew = Crew(workers=self.workers, infos=infos, replace=replace)
        run = PairingRun(suite_of(**settings), shape, process, crew, self, time.monotonic(), **(given or {}))
        trials = run.measure()
        assert [trial.key for trial in trials] == self.keys
        return {trial.key: trial for trial in trials}

    def cell(self, cell: Cell, phase: str) -> None:
        self.told.append((phase, cell.key))
        if phase == "sampling":
            self.order.append("ABCDEFGH"[self.cells.index(cell)])

    def sampled(self, cell: Cell, count: int, half_width: float | None) -> None:
        self.told.append(("sampled", cell.key))

    def failed(self, cell: Cell, reason: Reason) -> None:
        self.told.append((reason.code, cell.key))


@pytest.fixture
def scene(fakes: ModuleType) -> Scene:
    return Scene(fakes)


# Order


def test_rounds_run_forth_and_back(scene: Scene) -> None:
    trials = scene.measure()
    assert "".join(scene.order) == "ABC" + "CBA" + "ABC" + "CBA"
    orders = sorted(sample.order for trial in trials.values() for sample in trial.samples)
    assert orders == list(range(12))


def test_every_cell_is_prepared_and_warmed_up_before_the_first_sample(scene: Scene) -> None:
    scene.measure()
    phases = [phase for phase, _ in scene.told]
    assert phases[:6] == ["prepare", "warm-up"] * 3
    assert "prepare" not in phases[6:]


def test_both_sides_get_the_same_prompts_and_seeds_in_a_round(scene: Scene) -> None:
    trials = scene.measure()
    by_side = [[(s.round, s.prompt, s.seed) for s in trial.samples] for trial in trials.values()]
    assert by_side[0] == by_side[1] == by_side[2]


def test_prompts_and_seeds_never_repeat_over_rounds_and_processes(scene: Scene, fakes: ModuleType) -> None:
    seen: set[tuple[int, int]] = set()
    for process in range(6):
        trials = Scene(fakes).measure(process, max_samples=50)
        drawn = {(s.prompt, s.seed) for s in trials[scene.keys[0]].samples}
        assert len(drawn) == 50
        assert len({prompt for prompt, _ in drawn}) == 50
        assert not seen & drawn
        seen |= drawn
    assert len({prompt for prompt, _ in seen}) == len({seed for _, seed in seen}) == 300


def test_the_seed_of_the_suite_changes_the_draws_and_not_the_prompts(scene: Scene) -> None:
    first, second = (scene.measure(seed=seed)[scene.keys[0]].samples for seed in (0, 1))
    assert [s.prompt for s in first] == [s.prompt for s in second]
    assert {s.seed for s in first}.isdisjoint(s.seed for s in second)


# Stop rules


def test_a_steady_cell_stops_at_the_smallest_number_of_samples(scene: Scene) -> None:
    scene.workers["d"].latency = scene.workers["ar"].latency = steady
    for trial in scene.measure(target_ci=0.02).values():
        assert len(trial.samples) == 3
        assert trial.stop is not None
        assert (trial.stop.rule, trial.stop.half_width) == ("target_ci", 0.0)
        assert "target +-2.00%" in trial.stop.message


def test_a_noisy_cell_stops_at_the_largest_number_of_samples(scene: Scene) -> None:
    for trial in scene.measure().values():
        assert len(trial.samples) == 4
        assert trial.stop is not None
        assert (trial.stop.rule, trial.stop.message) == ("max_samples", "4 samples taken, the most allowed")
        assert trial.stop.half_width is not None


def test_the_budget_ends_a_cell_once_it_has_enough_samples(fakes: ModuleType) -> None:
    # 10 and 13 ms in turn: 10, 23, 33, 46 ms. The budget of 40 ms is reached with the fourth.
    (trial,) = Scene(fakes, cells=(fakes.cell(),)).measure(budget_s=0.04, max_samples=100).values()
    assert len(trial.samples) == 4
    assert trial.stop is not None
    assert (trial.stop.rule, trial.stop.message) == ("budget", "the pairing sampled 0.05 s, its budget is 0.04 s")


def test_twice_the_budget_ends_a_cell_below_the_smallest_number(fakes: ModuleType) -> None:
    # One sample takes 10 ms, more than twice the budget of 4 ms.
    (trial,) = Scene(fakes, cells=(fakes.cell(),)).measure(budget_s=0.004).values()
    assert len(trial.samples) == 1
    assert trial.stop is not None
    assert (trial.stop.rule, trial.stop.half_width) == ("budget", None)


def test_cells_share_the_budget_of_their_pairing(fakes: ModuleType) -> None:
    """AR takes 10 ms a sample, diffusion 90 ms, of 2 x 100 ms.

    After two rounds 200 ms are spent, but two samples are too few; each stops with its third.
    """
    scene = Scene(fakes, cells=(fakes.cell(), fakes.cell("d", 8)))
    scene.workers["ar"].latency, scene.workers["d"].latency = (lambda *_: 0.01), (lambda *_: 0.09)
    ar, slow = scene.measure(budget_s=0.1, max_samples=100, min_samples=3, target_ci=NEVER).values()
    assert len(ar.samples) == len(slow.samples) == 3


def test_warm_up_is_limited_by_the_suite_and_by_the_budget(scene: Scene) -> None:
    scene.measure(budget_s=1.0, warmup_s=10.0)
    scene.measure(budget_s=5.0, warmup_s=10.0)
    limits = [fields["limit_s"] for name, fields in scene.workers["ar"].asked if name == "warmup"]
    assert limits == [4.0, 10.0]


def test_ar_goes_on_as_long_as_anyone_needs_it_for_a_ratio(scene: Scene) -> None:
    scene.workers["ar"].latency = steady
    ar, eight, four = scene.measure(max_samples=10, target_ci=0.001).values()
    assert ar.stop is not None
    assert ar.stop.rule == "target_ci"
    rounds = [s.round for s in ar.samples]
    assert rounds == [s.round for s in eight.samples] == [s.round for s in four.samples] == list(range(10))


def test_a_diffusion_cell_that_is_done_leaves(scene: Scene) -> None:
    """C is done after three rounds; A stays for B."""
    scene.workers["d"].latency = lambda cell, number: 0.01 if cell.steps == 4 else 0.01 * (1 + number % 2)
    scene.measure(max_samples=5, target_ci=0.001)
    assert "".join(scene.order) == "ABC" + "CBA" + "ABC" + "BA" + "AB"


def test_ar_has_a_limit_of_its_own(scene: Scene, fakes: ModuleType) -> None:
    """Diffusion is disturbed in every sample and goes on to four budgets; AR leaves at four times max_samples."""
    scene.workers["d"].foreign = lambda *_: 1.0
    trials = scene.measure(max_samples=3, budget_s=1.0)
    assert len(trials[scene.keys[0]].samples) == 12
    assert len(trials[scene.keys[1]].samples) > 12


# Disturbance


def test_a_disturbed_sample_is_kept_marked_and_replaced(scene: Scene) -> None:
    scene.workers["ar"].foreign = lambda _, number: 0.6 if number in (1, 2) else 0.0
    trial = scene.measure(foreign_limit=0.5)[scene.keys[0]]
    assert [s.discarded is None for s in trial.samples] == [True, False, False, True, True, True]
    assert trial.samples[1].discarded == "other processes wanted 0.60 cores more than were free (limit 0.5)"
    assert len(trial.counted()) == 4
    assert trial.status == "ok"


@pytest.mark.parametrize(("limit", "foreign"), [(None, 9.0), (0.5, 0.5), (0.5, None)])
def test_no_sample_is_discarded_without_a_limit_at_the_limit_or_unmeasured(
    scene: Scene, limit: float | None, foreign: float | None
) -> None:
    scene.workers["ar"].foreign = lambda *_: foreign
    assert len(scene.measure(foreign_limit=limit)[scene.keys[0]].counted()) == 4


def test_a_cell_disturbed_in_every_sample_is_invalid_and_costs_only_itself(scene: Scene) -> None:
    scene.workers["d"].foreign = lambda cell, _: 3.0 if cell.steps == 8 else 0.0
    ar, bad, good = scene.measure(budget_s=0.1).values()
    assert bad.status == "invalid"
    assert bad.reason is not None
    assert bad.reason.code == "disturbed"
    assert "3.00 cores" in bad.reason.message
    assert bad.stop is not None
    assert bad.stop.rule == "budget"
    assert (ar.status, good.status) == ("ok", "ok")


# One cell's failure


@pytest.mark.parametrize("operation", ["open", "warmup", "sample"])
@pytest.mark.parametrize("code", ["crash", "out_of_memory", "input"])
def test_a_refused_request_costs_one_cell(scene: Scene, fakes: ModuleType, operation: str, code: str) -> None:
    scene.workers["d"].failures[operation, scene.keys[1]] = [fakes.refused(code, "no")]
    ar, bad, good = scene.measure().values()
    assert (bad.status, bad.reason) == ("failed", Reason(code=code, message="no"))
    assert bad.stop is not None
    assert bad.stop.rule == "failed"
    assert (ar.status, good.status, len(good.samples)) == ("ok", "ok", 4)
    assert scene.replaced == []
    assert (code, scene.keys[1]) in scene.told


def test_other_work_than_promised_is_invalid_not_failed(scene: Scene, fakes: ModuleType) -> None:
    scene.workers["d"].failures["sample", scene.keys[1]] = [None, fakes.refused("work", "ran 3 forwards, expected 8")]
    bad = scene.measure()[scene.keys[1]]
    assert (bad.status, bad.reason) == ("invalid", Reason(code="work", message="ran 3 forwards, expected 8"))


def test_when_ar_fails_diffusion_is_still_measured(scene: Scene, fakes: ModuleType) -> None:
    scene.workers["ar"].failures["open", scene.keys[0]] = [fakes.refused()]
    ar, *others = scene.measure().values()
    assert ar.status == "failed"
    assert [len(trial.samples) for trial in others] == [4, 4]


def test_when_everything_fails_the_pairing_ends(scene: Scene, fakes: ModuleType) -> None:
    for key in scene.keys:
        scene.workers["ar" if "/ar/" in key else "d"].failures["open", key] = [fakes.refused()]
    assert {trial.status for trial in scene.measure().values()} == {"failed"}


# A worker's death


@pytest.mark.parametrize("operation", ["open", "warmup", "sample"])
@pytest.mark.parametrize("code", ["killed", "hang", "crash"])
def test_a_worker_that_dies_costs_one_cell_and_the_others_go_on(
    scene: Scene, fakes: ModuleType, operation: str, code: str
) -> None:
    scene.workers["d"].failures[operation, scene.keys[1]] = [fakes.died(code)]
    ar, bad, good = scene.measure().values()
    assert (bad.status, bad.reason and bad.reason.code) == ("failed", code)
    assert (ar.status, len(ar.samples)) == ("ok", 4)
    assert (good.status, len(good.samples)) == ("ok", 4)
    assert scene.replaced == ["d"]
    new = scene.workers["d"]
    assert new.operations("open") == new.operations("warmup") == [scene.keys[2]], "reopened once, warm"
    assert good.worker == fakes.info(101)


def test_a_trial_holds_the_samples_of_one_process(scene: Scene, fakes: ModuleType) -> None:
    """B dies in round 2, after it and its mate C had two samples each: C is taken again by the new worker."""
    scene.workers["d"].failures["sample", scene.keys[1]] = [None, None, fakes.died()]
    _, bad, good = scene.measure().values()
    assert len(bad.samples) == 2
    assert [s.round for s in good.samples] == [2, 3, 4, 5]


def test_a_replacement_that_cannot_start_costs_its_generator_only(scene: Scene, fakes: ModuleType) -> None:
    scene.workers["d"].failures["sample", scene.keys[1]] = [fakes.died()]
    scene.new = lambda _: fakes.died("hang")
    ar, bad, mate = scene.measure().values()
    assert (ar.status, len(ar.samples)) == ("ok", 4)
    assert (bad.reason and bad.reason.code, mate.reason and mate.reason.code) == ("killed", "hang")
    assert scene.replaced == ["d"]


def test_a_replacement_that_dies_while_it_is_reopened(scene: Scene, fakes: ModuleType) -> None:
    """B kills the first worker, C the second; D is measured on the third."""
    scene.cells = (*scene.cells, fakes.cell("d", 2))
    scene.workers["d"].failures["sample", scene.keys[1]] = [fakes.died()]

    def new(_: str) -> Any:
        worker = fakes.Worker()
        if len(scene.replaced) == 1:
            worker.failures["open", scene.keys[2]] = [fakes.died()]
        return worker

    scene.new = new
    ar, b, c, d = scene.measure().values()
    assert (ar.status, b.status, c.status, d.status) == ("ok", "failed", "failed", "ok")
    assert len(d.samples) == 4
    assert scene.replaced == ["d", "d"]


def test_a_generator_that_kills_every_worker_ends(scene: Scene, fakes: ModuleType) -> None:
    def deadly(_: str) -> Any:
        return fakes.Worker(failures={("open", key): [fakes.died()] * 9 for key in scene.keys})

    scene.cells = (*scene.cells, fakes.cell("d", 2), fakes.cell("d", 1))
    scene.workers["d"].failures["sample", scene.keys[1]] = [fakes.died()]
    scene.new = deadly
    trials = scene.measure()
    assert [trial.status for trial in trials.values()] == ["ok", *["failed"] * 4]
    assert len(scene.replaced) <= 4, "one worker a cell at most"


def test_a_cell_that_was_given_up_is_not_reopened(scene: Scene, fakes: ModuleType) -> None:
    """The second worker dies on C, the third cannot start: nobody is asked to open C or D again."""
    scene.cells = (*scene.cells, fakes.cell("d", 2))
    scene.workers["d"].failures["sample", scene.keys[1]] = [fakes.died()]

    def new(_: str) -> Any:
        if len(scene.replaced) == 1:
            return fakes.Worker(failures={("open", scene.keys[2]): [fakes.died()]})
        return fakes.died("hang") if len(scene.replaced) == 2 else fakes.Worker()

    scene.new = new
    trials = scene.measure()
    assert [trials[key].reason and trials[key].reason.code for key in scene.keys[1:]] == ["killed", "killed", "hang"]
    assert scene.replaced == ["d", "d"]


# Calibration and counters


def test_calibrations_bracket_the_pairing(scene: Scene, fakes: ModuleType) -> None:
    for trial in scene.measure().values():
        assert trial.calibration_before == trial.calibration_after == fakes.PEAK
        # 1e9 FLOP at 1e12 FLOP/s and 1e8 B at 1e11 B/s: a floor of 1 ms.
        assert trial.counters["floor_s"] == pytest.approx(1e-3)


def test_without_a_calibration_there_is_no_floor(scene: Scene, fakes: ModuleType) -> None:
    for worker in scene.workers.values():
        worker.failures["calibrate", ""] = [fakes.refused()] * 9
    for trial in scene.measure().values():
        assert (trial.calibration_before, trial.calibration_after) == (None, None)
        assert "floor_s" not in trial.counters
        assert (trial.status, trial.counters["nfe"]) == ("ok", trial.cell.steps or 8)


def test_another_worker_calibrates_where_one_cannot(scene: Scene, fakes: ModuleType) -> None:
    scene.workers["ar"].failures["calibrate", ""] = [fakes.refused()] * 2
    assert scene.measure()[scene.keys[0]].calibration_before == fakes.PEAK


def test_a_worker_that_dies_in_calibration_is_replaced(scene: Scene, fakes: ModuleType) -> None:
    scene.workers["ar"].failures["calibrate", ""] = [fakes.died()]
    trials = scene.measure()
    assert scene.replaced == ["ar"]
    assert {trial.status for trial in trials.values()} == {"ok"}


@pytest.mark.parametrize("fatal", [True, False])
def test_counters_may_be_lost_and_samples_not(scene: Scene, fakes: ModuleType, fatal: bool) -> None:
    scene.workers["d"].failures["close", scene.keys[1]] = [fakes.died() if fatal else fakes.refused()]
    lost = scene.measure()[scene.keys[1]]
    assert (lost.status, lost.counters, len(lost.samples)) == ("ok", {}, 4)


def test_workers_drop_their_cells_at_the_end(scene: Scene) -> None:
    scene.measure()
    for worker in scene.workers.values():
        assert worker.asked[-1][0] == "release"


def test_texts_that_cannot_be_judged_cost_no_sample_and_say_why(scene: Scene) -> None:
    """The worker dies over one cell's texts: its samples and counters stand, and the next cell is judged by another."""
    of, other = scene.cells[1:]
    scene.workers["d"].failures["quality", of.key] = [scene.fakes.died()]
    trials = scene.measure(quality_texts=8)
    lost = trials[of.key]
    assert (lost.status, len(lost.samples), lost.counters["nfe"]) == ("ok", 4, 8)
    assert lost.quality is not None
    assert "the worker was killed" in (lost.quality.metrics["quality.validity"].why or "")
    assert scene.replaced == ["d"]
    assert scene.workers["d"].operations("quality") == [other.key]


def test_a_profile_that_fails_costs_no_sample_and_says_why(scene: Scene) -> None:
    of = scene.cells[0]
    scene.workers["ar"].failures["observe", of.key] = [scene.fakes.refused(message="RuntimeError: no CUPTI")]
    trials = scene.measure(hardware=True)
    hardware = trials[of.key].hardware
    assert hardware is not None
    assert hardware.kernels is None
    assert hardware.missing["kernels"] == "RuntimeError: no CUPTI"
    seen = trials[scene.cells[1].key].hardware
    assert seen is not None
    assert seen.kernels is not None
    assert seen.missing["telemetry"] == "a fake worker has no counters"
    assert scene.measure(hardware=False)[of.key].hardware is None


# The device's counters


@dataclass
class Meter:
    """Counters that say what they are told to, and note what they were asked and when they read closely."""

    scene: Scene
    held: tuple[str, ...] | None = ()
    foreign: int | None = 0
    asked: list[tuple[str, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for worker in self.scene.workers.values():
            worker.fill_s = 0.0

    @contextmanager
    def closely(self) -> Iterator[None]:
        self.asked.append(("closely", 0.0, 0.0))
        try:
            yield
        finally:
            self.asked.append(("seldom", 0.0, 0.0))

    def window(self, *, begin_s: float, end_s: float, generations: int, output_tokens: int) -> Telemetry:
        self.asked.append(("window", begin_s, end_s))
        values = {"power_w": 300.0, "energy_per_token_j": 300.0 / output_tokens}
        missing = {name: "a made-up meter" for name in TELEMETRY if name not in values}
        return Telemetry(source="m", window_s=2.0, generations=generations, values=values, missing=missing)

    def stretch(self, *, begin_s: float, end_s: float) -> Telemetry:
        self.asked.append(("stretch", begin_s, end_s))
        return Telemetry(source="m", window_s=1.0, generations=0, series={"at_s": (0.1,), "power_w": (250.0,)})

    def reasons(self, *, begin_s: float, end_s: float) -> tuple[tuple[str, ...] | None, int | None]:
        self.asked.append(("reasons", begin_s, end_s))
        return self.held, self.foreign


@pytest.mark.parametrize(
    ("held", "foreign", "code", "words"),
    [
        (("hardware_thermal", "idle"), 0, "throttled", "the clocks were held by hardware_thermal while samples"),
        (("software_thermal",), None, "throttled", "software_thermal"),
        (("power_brake", "hardware_slowdown"), 0, "throttled", "hardware_slowdown, power_brake"),
        ((), 2, "foreign_process", "2 other process(es) on the GPU while samples"),
    ],
)
def test_samples_of_a_device_that_was_not_itself_are_invalid(
    scene: Scene, held: tuple[str, ...], foreign: int | None, code: str, words: str
) -> None:
    trials = scene.measure(given={"meter": Meter(scene, held, foreign)})
    for trial in trials.values():
        assert trial.reason is not None
        # Sampled twice, and nothing of either counts.
        assert (trial.status, trial.reason.code, len(trial.samples)) == ("invalid", code, 8)
        assert words in trial.reason.message
        assert not trial.counted()
        assert trial.clock_reasons == held


def test_what_was_sampled_while_the_device_was_not_itself_is_sampled_again(scene: Scene) -> None:
    meter = Meter(scene, ("hardware_thermal",))
    ask = meter.reasons

    def once(**window: float) -> tuple[tuple[str, ...] | None, int | None]:
        found = ask(**window)
        meter.held = ()
        return found

    meter.reasons = once  # type: ignore[method-assign]
    for trial in scene.measure(given={"meter": meter}).values():
        assert (trial.status, len(trial.samples), len(trial.counted())) == ("ok", 8, 4)
        assert {sample.discarded for sample in trial.samples[:4]} == {
            "the clocks were held by hardware_thermal while samples were taken"
        }
        assert trial.clock_reasons == ()


@pytest.mark.parametrize(("held", "foreign"), [(("software_power_cap", "idle"), 0), ((), None), (None, None)])
def test_a_power_cap_is_a_state_and_what_is_unknown_no_fault(
    scene: Scene, held: tuple[str, ...] | None, foreign: int | None
) -> None:
    for trial in scene.measure(given={"meter": Meter(scene, held, foreign)}).values():
        assert (trial.status, trial.clock_reasons) == ("ok", held)


def test_replays_come_before_texts_are_judged(scene: Scene) -> None:
    """Judging prepares other shapes, which may cost the replay what was compiled for the cell's own."""
    scene.measure(hardware=True, quality_texts=32)
    order = [name for name, _ in scene.workers["ar"].asked if name in ("close", "observe", "quality")]
    assert order == ["close", "observe", "quality"]


def test_counters_are_read_closely_in_replays_alone(scene: Scene, tmp_path: Path) -> None:
    meter = Meter(scene)
    begin = time.monotonic()
    trials = scene.measure(hardware=True, given={"meter": meter, "traces": tmp_path})
    # The first question is about the time of all samples, so that these were over before anything was read closely.
    # The window's samples are taken anew: a long profile before it would have thinned them out.
    replays = ["closely", "stretch", "seldom", "closely", "window", "seldom"]
    assert [what for what, *_ in meter.asked] == ["reasons"] + replays * 3
    _, since, until = meter.asked[0]
    assert begin <= since <= until <= time.monotonic()
    for trial in trials.values():
        assert trial.hardware is not None
        assert trial.hardware.telemetry is not None
        assert trial.hardware.telemetry.values == {"power_w": 300.0, "energy_per_token_j": 300.0 / 32}
        assert "telemetry" not in trial.hardware.missing


def test_a_trace_gets_the_readings_of_its_time_and_a_little_around_it(scene: Scene, tmp_path: Path) -> None:
    meter = Meter(scene)
    scene.measure(hardware=True, given={"meter": meter, "traces": tmp_path})
    # The fake replay runs from 100 to 100.5 s.
    assert {tuple(stretch) for what, *stretch in meter.asked if what == "stretch"} == {(99.75, 100.75)}
    (fields,) = [fields for name, fields in scene.workers["ar"].asked if name == "trace"]
    assert fields["telemetry_begin_s"] == 99.75
    assert fields["telemetry"]["series"] == {"at_s": (0.1,), "power_w": (250.0,)}
    assert Path(fields["file"]).parent == tmp_path


def test_without_a_meter_a_trace_has_no_counters(scene: Scene, tmp_path: Path) -> None:
    scene.measure(hardware=True, given={"traces": tmp_path})
    assert [fields["telemetry"] for name, fields in scene.workers["ar"].asked if name == "trace"] == [None]


def test_a_trace_that_cannot_be_written_costs_the_trace_alone(scene: Scene, tmp_path: Path) -> None:
    of = scene.cells[0]
    scene.workers["ar"].failures["trace", of.key] = [scene.fakes.refused(message="OSError: no space left")]
    hardware = scene.measure(hardware=True, given={"meter": Meter(scene), "traces": tmp_path})[of.key].hardware
    assert hardware is not None
    assert hardware.missing["trace"] == "OSError: no space left"
    assert hardware.kernels is not None
    assert hardware.telemetry is not None


@pytest.mark.parametrize("fatal", [True, False])
def test_a_window_that_cannot_be_filled_costs_its_counters_alone(scene: Scene, fatal: bool) -> None:
    of = scene.cells[0]
    meter = Meter(scene)
    error = scene.fakes.died() if fatal else scene.fakes.refused("out_of_memory", "no memory")
    scene.workers["ar"].failures["fill", of.key] = [error]
    trial = scene.measure(hardware=True, given={"meter": meter})[of.key]
    assert trial.hardware is not None
    assert (trial.status, trial.hardware.telemetry) == ("ok", None)
    assert trial.hardware.missing["telemetry"] == error.message
    assert trial.hardware.kernels is not None
    assert meter.asked[-1][0] == "seldom"


def test_without_a_meter_nothing_is_generated_for_it_and_the_reason_is_kept(scene: Scene) -> None:
    trials = scene.measure(hardware=True, given={"no_meter": "NVML does not start: Driver Not Loaded"})
    for trial in trials.values():
        assert trial.hardware is not None
        assert trial.hardware.missing["telemetry"] == "NVML does not start: Driver Not Loaded"
        assert trial.clock_reasons is None
    assert all(not worker.operations("fill") for worker in scene.workers.values())
