"""The run in the terminal: nothing cut, nothing lost, nothing obeyed."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from rich.cells import cell_len
from rich.console import Console

from dlmbench.profiles.record import Cell, CertificateRow, Measurement, PairRecord, Value
from dlmbench.profiles.store import StoredRun
from dlmbench.reports.format import format_interval, format_point
from dlmbench.reports.plain import plain
from dlmbench.reports.terminal import show_certificate, show_run

Synthetic = Callable[..., StoredRun]
HOSTILE = "[red]evil[/red]\x1b[31m\x1b]0;title\x07\x1b[2J\nnext\u202eline :smile: |`<b>"


def shown(stored: StoredRun, width: int, terminal: bool = False) -> str:
    file = io.StringIO()
    colours: Literal["truecolor", "auto"] = "truecolor" if terminal else "auto"
    show_run(stored, Console(file=file, width=width, force_terminal=terminal, color_system=colours))
    return file.getvalue()


def one_line(text: str) -> str:
    return " ".join(text.split())


def small(study: StoredRun, cells: list[tuple[Cell, dict[str, Value]]]) -> StoredRun:
    """`study` with hand-made results in place of its own."""
    return replace(
        study, measurements=tuple(Measurement(cell=c, key=c.key, status="ok", metrics=metrics) for c, metrics in cells)
    )


AR = Cell(pair="small", side="ar", generator="ar", length=64)
DIFFUSION = Cell(pair="small", side="diffusion", generator="mdlm", length=64, steps=16)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160, 200, 300])
def test_no_line_is_wider_than_the_screen(study: StoredRun, width: int) -> None:
    assert max(cell_len(line) for line in shown(study, width).split("\n")) <= width


@pytest.mark.parametrize("width", [30, 80, 200, 300])
def test_latency_and_throughput_keep_unit_and_interval_at_every_width(study: StoredRun, width: int) -> None:
    text = shown(study, width)
    for measurement in study.measurements:
        for metric in ("latency_s", "throughput_tok_s") if measurement.status == "ok" else ():
            value = measurement.metrics[metric]
            assert format_point(metric, value) in text
            assert format_interval(metric, value) in text


@pytest.mark.parametrize("width", [200, 300])
def test_a_wide_screen_shows_every_column_whole(study: StoredRun, width: int) -> None:
    text = shown(study, width)
    names = ("tok_s_user", "speedup", "ttft_s", "ttfb_s", "roofline_fraction", "memory_peak_b")
    for measurement in (m for m in study.measurements if m.status == "ok"):
        for metric in names:
            if metric in measurement.metrics:
                assert format_point(metric, measurement.metrics[metric]) in text
                assert format_interval(metric, measurement.metrics[metric]) in text
    assert "Not shown at this width" not in text


def test_a_narrow_screen_names_the_columns_it_leaves_out(study: StoredRun) -> None:
    text = one_line(shown(study, 80))
    assert "Not shown at this width: tok/s/user, TTFT, first block, sampling + idle, of roofline, peak memory." in text


def test_the_header_says_what_the_numbers_depend_on(study: StoredRun) -> None:
    text = one_line(shown(study, 80))
    for fact in ("Example CPU, 4 cores (cpu)", "dtype float32", "threads 3", "suite quick", "2026-03-01T10:15:00"):
        assert fact in text
    assert "dlmbench list metrics" in text


def test_ar_comes_first_then_diffusion_by_rising_steps(study: StoredRun) -> None:
    text = shown(study, 200)
    table = text[text.index("cell ") : text.index("match: ")]
    group = table[table.index("prompt 32, L 64, batch 1") : table.index("prompt 32, L 64, batch 8")]
    labels = [line.split("  ")[0].removesuffix(" †") for line in group.split("\n") if line[:1] in ("A", "d")]
    assert labels == ["AR", "diffusion T=8", "diffusion T=16", "diffusion T=64"]


def test_cells_without_a_result_are_listed_with_code_and_message(study: StoredRun) -> None:
    text = shown(study, 200)
    assert re.search(r"T=256 \(prompt 32, L 256, batch 8\) +failed +out_of_memory +out of memory: wanted 9.1 GB", text)
    assert re.search(r"T=64 \(prompt 32, L 256, batch 8\) +invalid +thermal +clocks fell", text)
    assert re.search(r"T=8 \(prompt 32, L 256, batch 8\) +skipped +budget +the time budget ended", text)


def test_few_processes_claim_no_confidence_and_say_so_once(tmp_path: Path, synthetic_run: Synthetic) -> None:
    # Two processes: the crossover's 95 % of the synthetic record is dropped, so that no interval has a level.
    stored = synthetic_run(tmp_path, processes=2)
    stored = replace(
        stored,
        measurements=tuple(
            m.model_copy(update={"metrics": {k: v for k, v in m.metrics.items() if k != "crossover_steps"}})
            for m in stored.measurements
        ),
    )
    text = one_line(shown(stored, 80))
    assert text.count("within one process") == 1
    assert "% confidence" not in text
    assert "~[" not in text  # nothing to tell apart


def test_intervals_without_a_level_are_marked_where_both_kinds_stand_together(study: StoredRun) -> None:
    text = shown(study, 200)
    assert one_line(text).count("within one process") == 1
    loose = next(m for m in study.measurements if (m.cell.length, m.cell.batch, m.cell.side) == (16, 8, "ar"))
    firm = next(m for m in study.measurements if (m.cell.length, m.cell.batch, m.cell.side) == (16, 1, "ar"))
    assert f"~{format_interval('latency_s', loose.metrics['latency_s'])}" in text
    assert f"~{format_interval('latency_s', firm.metrics['latency_s'])}" not in text


def test_shares_and_the_overhead_label_by_hand(study: StoredRun) -> None:
    # (0.02 + 0.03) s of 0.4 s in sampling and idle is 12.5 %; 0.499 of the roofline is below one half, 0.5 is not.
    metrics = {
        "latency_s": Value(value=0.4),
        "throughput_tok_s": Value(value=160.0),
        "sampling_s": Value(value=0.02),
        "idle_s": Value(value=0.03),
        "roofline_fraction": Value(value=0.499),
    }
    even = metrics | {"roofline_fraction": Value(value=0.5)}
    text = shown(small(study, [(AR, metrics), (DIFFUSION, even)]), 200)
    rows = {line.split("  ")[0]: line for line in text.split("\n")}
    assert "12.5 %" in rows["AR †"]
    assert "diffusion T=16" in rows
    assert "overhead-bound" in text


def test_a_missing_number_is_a_dash_with_its_reason_below(study: StoredRun) -> None:
    metrics = {"latency_s": Value(value=0.4), "ttft_s": Value(value=None, why="the observer saw no commit")}
    text = one_line(shown(small(study, [(DIFFUSION, metrics)]), 200))
    assert "TTFT: the observer saw no commit" in text


def test_headline_takes_the_fastest_cell_of_each_t(study: StoredRun) -> None:
    slow, fast = DIFFUSION, DIFFUSION.model_copy(update={"engine": "compile"})
    text = shown(
        small(study, [(AR, {}), (slow, {"speedup": Value(value=0.9)}), (fast, {"speedup": Value(value=1.7)})]), 80
    )
    line = next(line for line in text.split("\n") if line.startswith("prompt 32, L 64, batch 1 "))
    assert "T=16 1.70×" in line
    assert "0.900" not in line


def test_piped_output_has_no_escape_codes(study: StoredRun) -> None:
    assert "\x1b" not in shown(study, 80)
    assert "\x1b[1m" in shown(study, 80, terminal=True)


@pytest.mark.parametrize("terminal", [False, True])
def test_hostile_names_and_messages_are_inert(tmp_path: Path, synthetic_run: Synthetic, terminal: bool) -> None:
    text = shown(synthetic_run(tmp_path, pair=HOSTILE, message=HOSTILE), 200, terminal)
    without_styles = re.sub(r"\x1b\[[0-9;]*m", "", text)  # bold and dim are ours; nothing else may be left
    assert not set(without_styles) & set("\x1b\x07\u202e")
    assert "\x1b[31m" not in text
    assert "pair [red]evil[/red] nextline :smile: |`<b>" in without_styles
    assert "out_of_memory  [red]evil[/red] nextline :smile: |`<b>" in without_styles


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x1b[1;31mb\x1b[0mc", "abc"),
        ("a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\b", "alinkb"),
        ("a\x9b2Jb", "ab"),
        ("a\x1b]0;never ended", "a0;never ended"),  # the introducer goes, the rest of the message stays
        ("one\r\n\ttwo\u2028three", "one two three"),
        ("12\u202e34\u200b5", "12345"),
        ("naïve 模型 ×", "naïve 模型 ×"),
    ],
)
def test_plain_keeps_what_can_be_read(text: str, expected: str) -> None:
    assert plain(text) == expected


def test_certificate_keeps_numbers_whole_and_says_the_difference(study: StoredRun) -> None:
    for width in (80, 200):
        file = io.StringIO()
        show_certificate(study.run.pairs[0], Console(file=file, width=width))
        lines = file.getvalue().split("\n")
        assert max(map(cell_len, lines)) <= width
        row = next(line for line in lines if line.startswith("total parameters"))
        assert re.search(r"11,000,000 +11,000,128 +\+0.001 % +equal within", row)
        assert re.search(r"1.41 GFLOP +1.43 GFLOP +\+1.4 %", file.getvalue())


def test_long_words_in_a_certificate_wrap_and_numbers_do_not() -> None:
    rows = (
        CertificateRow(
            quantity="mask",
            unit="",
            ar="causal, built once for the largest shape and sliced for every forward of a generation",
            diffusion="none: every position of the canvas and of the prompt attends to every other one",
            difference_percent=None,
            verdict="differs by definition, which is what the two methods are",
        ),
        CertificateRow(
            quantity="total parameters",
            unit="1",
            ar=11_234_567_890,
            diffusion=11_234_567_891,
            difference_percent=9e-9,
            verdict="equal",
        ),
    )
    pair = PairRecord(
        name="p", description="", weights="random", weights_note="", ar={}, diffusion={}, certificate=rows
    )
    file = io.StringIO()
    show_certificate(pair, Console(file=file, width=80))
    assert max(map(cell_len, file.getvalue().split("\n"))) <= 80
    assert re.search(r"11,234,567,890 +11,234,567,891 +\+9e-09 %", file.getvalue())


def test_an_unfinished_run_says_how_to_go_on(study: StoredRun) -> None:
    text = one_line(shown(replace(study, measurements=()), 200))
    assert f"No results yet: {len(study.trials)} trials are recorded" in text
    assert "dlmbench run --resume" in text
