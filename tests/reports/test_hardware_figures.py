"""Figures and tables of the hardware: what they say is computed from the record, and what is missing is said."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from dlmbench.profiles.hardware import (
    CATEGORIES,
    CategoryTime,
    Datasheet,
    DevicePeaks,
    Hardware,
    KernelProfile,
    MemorySplit,
    Peak,
    Telemetry,
)
from dlmbench.profiles.record import Measurement, Trial, Value
from dlmbench.profiles.store import StoredRun
from dlmbench.reports.chosen import chosen
from dlmbench.reports.fig_energy import idle_energy
from dlmbench.reports.fig_kernels import shares
from dlmbench.reports.fig_roofline import Roof, roof_of, roofline_figure
from dlmbench.reports.figures import DRAWN
from dlmbench.reports.hardware_rows import hardware_section
from dlmbench.reports.html import render
from dlmbench.reports.markdown import write_summary
from dlmbench.reports.palette import DARK, LIGHT
from dlmbench.reports.plotting import Figure, style
from dlmbench.reports.study import Study
from dlmbench.reports.terminal import show_run
from dlmbench.reports.tradeoffs import Tradeoff, tradeoffs

Synthetic = Callable[..., StoredRun]
HARDWARE = ("roofline", "utilisation", "power", "energy", "kernels", "memory")
HOSTILE = "<script>alert(1)</script></svg>\"'$\\frac$ \x1b[31mred\u202e"
PEAKS = DevicePeaks(
    device="cuda:0",
    name="Example GPU",
    identity={"driver": "1"},
    threads=1,
    measured="2026-03-01T10:15:00+00:00",
    matmul={"float32": Peak(burst=2.4e12, sustained=2.0e12, size=4096)},
    read=Peak(burst=0.9e11, sustained=0.8e11, size=1 << 28),
    datasheet=Datasheet(
        name="Example GPU", matmul_flop_s={"float32": 4.0e12}, memory_b_s=1.0e11, power_w=700.0, source="example"
    ),
)


def kernels(m: Measurement) -> KernelProfile:
    """AR: half of the time idle. Diffusion: a fifth. Matrix products take half of what is busy."""
    wall = m.metrics["latency_s"].value or 1.0
    busy = wall * (0.5 if m.cell.side == "ar" else 0.8)
    parts = dict(zip(CATEGORIES, (0.5, 0.2, 0.1, 0.1, 0.06, 0.04), strict=True))
    tokens = m.cell.length * m.cell.batch
    return KernelProfile(
        device="cuda",
        wall_s=wall,
        busy_s=busy,
        launches=120 * tokens if m.cell.side == "ar" else 30 * tokens,
        output_tokens=tokens,
        forwards=m.cell.steps or m.cell.length,
        overhead=0.12 if m.cell.side == "ar" else 0.31,
        categories={name: CategoryTime(seconds=busy * share, launches=10) for name, share in parts.items()},
    )


def telemetry(m: Measurement, reasons: tuple[str, ...]) -> Telemetry:
    watts = power(m)
    return Telemetry(
        source="NVML",
        window_s=4.0,
        generations=20,
        series={
            "at_s": tuple(0.1 * i for i in range(40)),
            "power_w": tuple(None if i == 7 else watts + 12 * math.sin(i) for i in range(40)),
            "sm_clock_mhz": tuple(1980.0 - 3 * i for i in range(40)),
            "memory_clock_mhz": (2619.0,) * 40,
        },
        clock_reasons=reasons if m.cell.side != "ar" else (),
        foreign=0,
    )


def power(m: Measurement) -> float:
    return 310.0 if m.cell.side == "ar" else 640.0


def equipped(
    stored: StoredRun, absent: tuple[str, ...] = (), reasons: tuple[str, ...] = ("software_power_cap",), why: str = ""
) -> StoredRun:
    """The run as a GPU would have left it, all but the metrics and parts named in `absent` (null, because of `why`)."""
    measured = {m.key: m for m in stored.measurements if m.status == "ok"}
    parts = ("kernels", "telemetry", "memory", "memory_predicted")

    def hardware(m: Measurement) -> Hardware:
        weights, kv = 44e6, 12_288.0 * m.cell.batch * m.cell.length
        split = MemorySplit(weights_b=weights, kv_b=kv, logits_b=8e6, activations_b=20e6 * m.cell.batch, rest_b=0)
        more = split.model_copy(update={"activations_b": split.activations_b * 1.2})
        found = {"kernels": kernels(m), "telemetry": telemetry(m, reasons), "memory": more, "memory_predicted": split}
        return Hardware(
            **{name: found[name] for name in parts if name not in absent},  # type: ignore[arg-type]
            missing={name: why for name in absent if name in parts and why},
        )

    def with_hardware(trial: Trial) -> Trial:
        if trial.process or trial.key not in measured:
            return trial
        return trial.model_copy(update={"hardware": hardware(measured[trial.key])})

    def with_metrics(m: Measurement) -> Measurement:
        if m.status != "ok":
            return m
        latency = m.metrics["latency_s"].value or 1.0
        tokens = m.cell.length * m.cell.batch
        joules = power(m) * latency / tokens
        floor = latency * (m.metrics["roofline_fraction"].value or 0.0)
        numbers = {
            "floor_latency_s": floor, "ceiling_tok_s": tokens / floor,
            "mfu_datasheet": (m.metrics["mfu"].value or 0) * 0.4, "mbu_datasheet": (m.metrics["mbu"].value or 0) * 1.2,
            "kernel_busy": 0.5 if m.cell.side == "ar" else 0.8,
            "launches_per_token": 120.0 if m.cell.side == "ar" else 30.0,
            "profiler_overhead": 0.12, "gpu_util_nvml": 0.97, "sm_active": 0.42, "sm_occupancy": 0.2,
            "tensor_active": 0.11 if m.cell.side == "ar" else 0.55, "dram_active": 0.33,
            "power_w": power(m), "power_idle_w": 93.0, "energy_j": joules * tokens, "energy_per_token_j": joules,
        }  # fmt: skip
        values = {
            name: Value(value=None, why=why or "no counter") if name in absent else Value(value=x, n=1)
            for name, x in numbers.items()
        }
        return m.model_copy(update={"metrics": {**m.metrics, **values}})

    return replace(
        stored,
        run=stored.run.model_copy(update={"device_peaks": PEAKS}),
        trials=tuple(map(with_hardware, stored.trials)),
        measurements=tuple(map(with_metrics, stored.measurements)),
    )


def drawn(stored: StoredRun, folder: Path, *names: str) -> dict[str, Figure]:
    """The figures of the hardware, or those named, drawn."""
    wanted = names or HARDWARE
    with style():
        figures = [draw(Study(stored), folder) for draw in DRAWN if draw.__name__.removesuffix("_figure") in wanted]
    return {figure.name: figure for figure in figures}


@pytest.fixture(scope="module")
def figures(study: StoredRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Figure], Path]:
    folder = tmp_path_factory.mktemp("hardware")
    return drawn(equipped(study), folder), folder


def test_a_run_with_everything_has_every_figure(figures: tuple[dict[str, Figure], Path]) -> None:
    found, folder = figures
    assert tuple(found) == HARDWARE
    for name, figure in found.items():
        assert figure.skipped is None, name
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert figure.sentence.endswith(".")
        assert figure.alt
        assert "Example CPU, 4 cores" in figure.caption, name
        assert "#" not in figure.svg.replace('href="#', "").replace("url(#", ""), "a colour that no theme repaints"


def test_a_run_of_before_is_drawn_as_far_as_it_goes(study: StoredRun, tmp_path: Path) -> None:
    found = drawn(study, tmp_path)
    assert found["roofline"].skipped is None
    assert found["utilisation"].skipped is None
    assert "SM active, tensor active, DRAM active, GPU util (NVML): not recorded" in found["utilisation"].caption
    for name in ("power", "energy", "kernels", "memory"):
        assert (found[name].skipped or "").startswith("No "), name
        assert not (tmp_path / f"{name}.png").exists()


@pytest.mark.parametrize(
    ("figure", "gone"),
    [("power", "telemetry"), ("kernels", "kernels"), ("memory", "memory"), ("energy", "energy_per_token_j")],
)
def test_a_skipped_figure_says_the_recorded_reason_once(
    study: StoredRun, tmp_path: Path, figure: str, gone: str
) -> None:
    absent = (gone, "memory_predicted") if gone == "memory" else (gone,)
    reason = drawn(equipped(study, absent=absent, why="RAPL is \x1b[31mclosed"), tmp_path, figure)[figure].skipped
    assert reason is not None
    assert reason.count("RAPL is closed.") == 1


def test_the_roof_is_the_smaller_of_two_and_meets_itself_at_the_ridge() -> None:
    roof = Roof(flop_s=1.6e12, byte_s=1.2e11)
    assert roof.ridge == pytest.approx(40 / 3)
    assert roof.allowed(1.0) == 1.2e11
    assert roof.allowed(roof.ridge) == pytest.approx(1.6e12)
    assert roof.allowed(1000.0) == 1.6e12


def test_the_roof_is_of_the_pairs_own_calibrations(study: StoredRun) -> None:
    first = study.trials[0]
    peak = first.calibration_before
    assert peak is not None
    better = peak.model_copy(update={"read_b_s": 3e11, "read_block_b": 44_000_000})
    changed = replace(study, trials=(first.model_copy(update={"calibration_before": better}), *study.trials[1:]))
    roof = roof_of(Study(changed), "small", "float32")
    assert roof is not None
    assert (roof.byte_s, roof.block_b) == (3e11, 44_000_000)
    assert roof_of(Study(changed), "small", "bfloat16") is None
    run_peak = roof_of(Study(replace(study, trials=())), "small", "float32")
    assert run_peak == Roof(1.6e12, 1.2e11)


def test_the_roofline_says_what_is_reached_of_what_is_allowed(study: StoredRun, tmp_path: Path) -> None:
    m = next(m for m in study.measurements if m.cell.side == "ar" and m.cell.shape == ("small", 32, 64, 1))
    # 8 GFLOP over 4 GB in 0.1 s: 2 FLOP/B, where 1.2e11 B/s allow 240 GFLOP/s; 80 GFLOP/s are a third of that.
    exact = {"model_flops": 8e9, "model_bytes": 4e9, "arithmetic_intensity": 2.0, "latency_s": 0.1}
    known = m.model_copy(update={"metrics": {**m.metrics, **{k: Value(value=v) for k, v in exact.items()}}})
    with style():
        figure = roofline_figure(Study(replace(study, measurements=(known,))), tmp_path)
    assert figure.sentence == (
        "Below 13.3 FLOP a byte memory is the limit, above it arithmetic: at L = 64, batch 1, AR does 2 FLOP a byte "
        "and reaches 33.3 % of what the roof allows there."
    )
    assert "AR L = 64 batch 1 at 2 FLOP/B 80.0 GFLOP/s" in figure.alt
    assert "ridge 13.3 FLOP/B" in figure.alt
    assert "hollow: eager" in figure.caption


def test_a_cell_without_a_calibration_has_a_point_and_no_roof(study: StoredRun, tmp_path: Path) -> None:
    bare = replace(study, trials=(), run=study.run.model_copy(update={"peaks": ()}))
    figure = drawn(bare, tmp_path, "roofline")["roofline"]
    assert figure.skipped is None
    assert "no roof" in figure.alt
    assert "reaches" not in figure.sentence
    counted = ("model_flops", "arithmetic_intensity")
    uncounted = tuple(
        m.model_copy(update={"metrics": {k: v for k, v in m.metrics.items() if k not in counted}})
        for m in study.measurements
    )
    skipped = drawn(replace(study, measurements=uncounted), tmp_path / "none", "roofline")["roofline"].skipped
    assert skipped == "No cell of this run has its FLOPs and bytes counted."


def test_representatives_are_both_sides_at_one_length_and_the_ends_of_batch_and_steps(study: StoredRun) -> None:
    found = chosen(Study(study), lambda point: True)
    # L = 256 at batch 8 has no valid diffusion; L = 64 has both sides at both batches and is the longest that does.
    assert [each.shape for each in found] == [("small", 32, 64, 1), ("small", 32, 64, 8)]
    assert [p.steps for p in found[0].points] == [0, 64, 8]
    one = chosen(Study(study), lambda point: point.side == "ar" and point.length == 256)
    assert [[p.side for p in each.points] for each in one] == [["ar"], ["ar"]]


def test_utilisation_shows_every_definition_and_why_one_is_missing(study: StoredRun, tmp_path: Path) -> None:
    run = equipped(study, absent=("sm_active", "tensor_active"), why="GPM needs Hopper.")
    figure = drawn(run, tmp_path, "utilisation")["utilisation"]
    assert "kernel busy 50.0 %" in figure.alt
    assert "NVML util 97.0 %" in figure.alt
    assert "SM active n/a, tensor active n/a" in figure.alt
    assert figure.caption.count("SM active, tensor active: GPM needs Hopper.") == 1
    assert figure.svg.count("n/a</text>") == 4, "two definitions in two panels, each once for all its cells"


def test_power_names_what_held_the_clocks(study: StoredRun, tmp_path: Path) -> None:
    held = equipped(study, reasons=("software_power_cap", "<b>heat</b>\x1b[31m"))
    figure = drawn(held, tmp_path, "power")["power"]
    assert "AR, batch 1, draws the least, 310 W, and diffusion at T = 64, batch 1, the most, 640 W" in figure.sentence
    assert "in 4 of 6 cells shown" in figure.sentence
    assert "SM clock 1,863 to 1,980 MHz" in figure.alt
    assert "held by software power cap, <b>heat</b>" in figure.alt
    assert "&lt;b&gt;heat" in figure.svg
    assert "\x1b" not in figure.svg


def test_a_window_with_one_reading_is_no_curve(study: StoredRun, tmp_path: Path) -> None:
    def short(trial: Trial) -> Trial:
        if trial.hardware is None or trial.hardware.telemetry is None:
            return trial
        series = {name: values[:1] for name, values in trial.hardware.telemetry.series.items()}
        seen = trial.hardware.telemetry.model_copy(update={"series": series})
        return trial.model_copy(update={"hardware": trial.hardware.model_copy(update={"telemetry": seen})})

    full = equipped(study)
    figure = drawn(replace(full, trials=tuple(map(short, full.trials))), tmp_path, "power")["power"]
    assert figure.skipped is not None


def test_idle_energy_is_the_idle_share_of_power(study: StoredRun, figures: tuple[dict[str, Figure], Path]) -> None:
    point = Study(equipped(study)).ar(("small", 32, 64, 1))
    assert point is not None
    assert idle_energy(point) == pytest.approx(point.number("energy_per_token_j") * 93 / 310)
    assert "30 % of it idle draw" in figures[0]["energy"].sentence
    without = Study(equipped(study, absent=("power_idle_w",))).ar(("small", 32, 64, 1))
    assert without is not None
    assert idle_energy(without) is None


def test_shares_of_kernels_and_gaps_add_up_even_where_streams_overlap(study: StoredRun) -> None:
    seen = kernels(next(m for m in study.measurements if m.cell.side == "ar"))
    found = shares(seen)
    assert sum(found.values()) == pytest.approx(1.0)
    assert found["gaps"] == pytest.approx(0.5)
    assert found["matmul"] == pytest.approx(0.25)
    twice = {name: part.model_copy(update={"seconds": 2 * part.seconds}) for name, part in seen.categories.items()}
    assert shares(seen.model_copy(update={"categories": twice})) == pytest.approx(found)
    assert shares(seen.model_copy(update={"categories": {}}))["gaps"] == 1.0


def test_kernels_tell_launches_and_the_profilers_overhead(figures: tuple[dict[str, Figure], Path]) -> None:
    figure = figures[0]["kernels"]
    assert "AR launches 120 kernels a token and leaves the device idle for 50 % of the time" in figure.sentence
    assert "slowed these generations by 12 % to 31 %" in figure.caption
    assert "gaps 20 %, 30 launches a token" in figure.alt


def test_memory_sets_the_measured_peak_beside_the_predicted(figures: tuple[dict[str, Figure], Path]) -> None:
    # Batch 1, L = 64: 44 + 0.786432 + 8 + 20 = 72.8 MB predicted, 4 MB more measured.
    alt = figures[0]["memory"].alt
    assert "L = 64, batch 1, AR, predicted: 72.8 MB (weights 44.0 MB, KV 786 kB, logits 8.00 MB" in alt
    assert "L = 64, batch 1, AR, measured: 76.8 MB" in alt
    # Batch 8: 218.3 MB predicted, 32 MB more measured, +14.7 %; batch 1: +5.5 %.
    assert "measured is +5 to +15 % off the predictions" in figures[0]["memory"].sentence
    assert "rest" not in figures[0]["memory"].sentence  # there is none on a GPU


def test_what_a_process_takes_without_a_model_is_told_apart(study: StoredRun, tmp_path: Path) -> None:
    """On a CPU some hundred megabytes of libraries would dwarf a small model: a number, and no bar."""

    def on_a_cpu(trial: Trial) -> Trial:
        found = trial.hardware
        if found is None or found.memory is None or found.memory_predicted is None:
            return trial
        more = {
            name: getattr(found, name).model_copy(update={"rest_b": 3e8}) for name in ("memory", "memory_predicted")
        }
        return trial.model_copy(update={"hardware": found.model_copy(update=more)})

    full = equipped(study)
    figure = drawn(replace(full, trials=tuple(map(on_a_cpu, full.trials))), tmp_path, "memory")["memory"]
    assert "L = 64, batch 1, AR, predicted: 72.8 MB + 300 MB rest (weights 44.0 MB" in figure.alt
    assert "MB + 300 MB rest" in figure.sentence
    assert "measured is +5 to +15 % off the predictions" in figure.sentence


def test_a_measured_part_below_zero_is_not_drawn_backwards(study: StoredRun, tmp_path: Path) -> None:
    def shrunk(trial: Trial) -> Trial:
        if trial.hardware is None or trial.hardware.memory is None:
            return trial
        split = trial.hardware.memory.model_copy(update={"activations_b": -1e6})
        more = {"memory": split, "memory_predicted": None}
        return trial.model_copy(update={"hardware": trial.hardware.model_copy(update=more)})

    full = equipped(study)
    figure = drawn(replace(full, trials=tuple(map(shrunk, full.trials))), tmp_path, "memory")["memory"]
    assert figure.skipped is None
    assert "off the predictions" not in figure.sentence
    assert figure.svg.count("n/a</text>") == 6


def test_hostile_names_stay_text(synthetic_run: Synthetic, tmp_path: Path) -> None:
    first, second = synthetic_run(tmp_path / "a", pair=HOSTILE), synthetic_run(tmp_path / "b", pair="other")
    both = replace(
        first,
        trials=first.trials + second.trials,
        measurements=first.measurements + second.measurements,
        run=first.run.model_copy(update={"pairs": first.run.pairs + second.run.pairs}),
    )
    found = drawn(equipped(both, reasons=(HOSTILE,)), tmp_path)
    for name, figure in found.items():
        assert figure.skipped is None, name
        for text in (figure.svg, figure.caption, figure.sentence, figure.alt):
            assert "\x1b" not in text, name
            assert "\u202e" not in text, name
        assert "<script" not in figure.svg, name
        assert figure.svg.count("</svg>") == figure.svg.count("<svg ")
    page = render(equipped(both, reasons=(HOSTILE,)), list(found.values()))
    assert page.count("<script") == 1


def luminance(colour: str) -> float:
    """WCAG 2.1, relative luminance."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_numbers_inside_bars_have_contrast_in_both_themes(palette: dict[str, str]) -> None:
    for role in ("matmul", "attention", "normalisation", "sampler", "copy", "other", "idle"):
        ink = palette["ink" if role in ("other", "idle") else "paper"]
        low, high = sorted((luminance(ink), luminance(palette[role])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, role


@pytest.mark.parametrize("width", [80, 200])
def test_the_section_is_on_every_surface(study: StoredRun, tmp_path: Path, width: int) -> None:
    run = equipped(study, absent=("power_w", "energy_per_token_j"), why="RAPL is | closed")
    write_summary(run, tmp_path / "summary.md")
    console = Console(file=io.StringIO(), width=width)
    show_run(run, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    text = text[text.index("what the hardware did") : text.index("cells without a valid")]
    assert max(map(len, text.splitlines())) <= width
    page = render(run, [])
    page = page[page.index('id="hardware"') : page.index('id="results"')]
    summary = (tmp_path / "summary.md").read_text()
    summary = summary[summary.index("## What the hardware did") :].partition("\n## ")[0]
    for shown in (text, page, summary):
        assert shown.count("RAPL is") == 1, "a reason is said once, not in every row"
        assert "25 FLOP/B" in shown  # 2.0e12 / 0.8e11, both sustained
        for number in ("23.5 ms", "50.0 %", "2.40 TFLOP/s", "4.00 TFLOP/s"):
            assert number in shown


def test_a_run_of_before_has_no_section(study: StoredRun, tmp_path: Path) -> None:
    assert not hardware_section(study)
    write_summary(study, tmp_path / "summary.md")
    assert "What the hardware did" not in (tmp_path / "summary.md").read_text()
    assert 'id="hardware"' not in render(study, [])
    console = Console(file=io.StringIO(), width=80)
    show_run(study, console)
    assert "what the hardware did" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_peaks_fall_back_on_the_calibrations(study: StoredRun) -> None:
    full = equipped(study)
    section = hardware_section(replace(full, run=full.run.model_copy(update={"device_peaks": None})))
    assert section.peaks == (("matrix product float32, read 120 GB/s", "—", "1.60 TFLOP/s", "—", "13.3 FLOP/B"),)


def test_what_is_missing_of_the_peaks_is_said(study: StoredRun) -> None:
    full = equipped(study)
    missing = {"float16": "refused.", "datasheet": "Example GPU is not in the list"}
    run = full.run.model_copy(update={"device_peaks": PEAKS.model_copy(update={"datasheet": None, "missing": missing})})
    assert hardware_section(replace(full, run=run)).notes == (
        "No peak of float16: refused.", "No datasheet: Example GPU is not in the list.",
    )  # fmt: skip


def claim(stored: StoredRun, **values: tuple[Value, Value]) -> Tradeoff:
    """The row on compute utilisation, with (AR, diffusion) values by metric in every cell."""

    def told(m: Measurement) -> Measurement:
        metrics = {name: both[0 if m.cell.side == "ar" else 1] for name, both in values.items()}
        judged = {"quality.validity": Value(value=0.9, low=0.8, high=1.0, n=9, level=0.95)}
        return m if m.status != "ok" else m.model_copy(update={"metrics": {**m.metrics, **judged, **metrics}})

    run = replace(stored, measurements=tuple(map(told, stored.measurements)))
    return next(row for row in tradeoffs(Study(run), "small") if row.aspect == "compute utilisation")


def around(centre: float, half: float = 0.02) -> Value:
    return Value(value=centre, low=centre - half, high=centre + half, n=5, level=0.95)


def test_the_claim_on_utilisation_is_held_against_every_definition_measured(study: StoredRun) -> None:
    fits = (around(0.15), around(0.75))
    row = claim(study, mfu=fits, tensor_active=fits)
    assert row.verdict == "holds"
    assert "by MFU and by tensor active" in row.reason
    row = claim(study, mfu=fits, tensor_active=(around(0.03), around(0.3)), kernel_busy=(around(0.9), around(0.97)))
    assert row.verdict == "in part"
    assert "so by MFU, not by tensor active" in row.reason
    assert "tensor active 3.00 % [1.00, 5.00] and 30.0 % [28.0, 32.0]" in row.measured
    assert "kernel busy 90.0 % [88.0, 92.0] and 97.0 % [95.0, 99.0]" in row.measured
    row = claim(study, mfu=(around(0.02, 0.001), around(0.3)), sm_active=fits)
    assert row.verdict == "in part"
    assert "so by SM active, not by MFU" in row.reason


def test_intervals_decide_whether_the_claim_on_utilisation_holds(study: StoredRun) -> None:
    row = claim(study, mfu=(around(0.15, 0.08), around(0.75)))
    assert row.verdict == "in part"
    assert "intervals reach beyond" in row.reason
    assert claim(study, mfu=(around(0.3, 0.05), around(0.35, 0.05))).verdict == "does not hold"
    assert claim(study, mfu=(around(0.3, 0.01), around(0.35, 0.01))).verdict == "in part"
