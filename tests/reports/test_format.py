"""How numbers, intervals and cells read. Every expected string is worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlmbench.profiles.record import Cell, Value
from dlmbench.reports.format import (
    cell_label,
    format_interval,
    format_number,
    format_point,
    format_value,
    interval_sentence,
    level_words,
    metric_header,
    other_axes,
    shown_unit,
)
from dlmbench.reports.plain import plain


@pytest.mark.parametrize(
    ("x", "unit", "text"),
    [
        (0.01234, "s", "12.3 ms"),
        (0.9994, "s", "999 ms"),
        (0.9996, "s", "1.00 s"),  # rounds up into the next prefix, never "1000 ms"
        (2.5e-6, "s", "2.50 µs"),
        (3e-10, "s", "0.300 ns"),
        (-3e-6, "s", "-3.00 µs"),
        (0.0, "s", "0 s"),
        (4100.0, "tok/s", "4.10 k tok/s"),
        (812.4, "tok/s", "812 tok/s"),
        (1e9, "B", "1.00 GB"),
        (1.5e12, "FLOP/s", "1.50 TFLOP/s"),
        (123456.0, "1", "123,456"),
        (2.3, "×", "2.30×"),
        (0.42, "%", "42.0 %"),
        (22.4, "NFE", "22.4 NFE"),
        (float("nan"), "s", "nan s"),
        (float("inf"), "1", "inf"),
    ],
)
def test_a_number_has_three_digits_and_a_prefix(x: float, unit: str, text: str) -> None:
    assert format_number(x, unit) == text


def test_an_interval_shares_the_prefix_of_its_value() -> None:
    value = Value(value=0.0123, low=0.0121, high=0.0126, n=5, level=0.95)
    assert format_value("latency_s", value) == "12.3 ms [12.1, 12.6]"
    across = Value(value=1.002, low=0.998, high=1.006, n=5)
    assert format_value("latency_s", across) == "1.002 s [0.998, 1.006]"


def test_a_narrow_interval_shows_the_digits_that_its_width_needs() -> None:
    # Half a width of 0.05 ms: three digits of 15.7 ms would print both ends alike.
    value = Value(value=0.01570, low=0.01565, high=0.01575)
    assert format_value("latency_s", value) == "15.70 ms [15.65, 15.75]"


def test_a_count_is_exact_and_has_no_interval() -> None:
    assert format_value("nfe", Value(value=64, low=64, high=64, n=5)) == "64 forwards"


def test_a_missing_value_says_why_and_is_never_zero() -> None:
    assert format_value("itl_s", Value(value=None, why="AR only")) == "— (AR only)"
    assert format_value("itl_s", Value(value=None)) == "— (no reason recorded)"
    assert format_point("itl_s", Value(value=None)) == "—"
    assert format_interval("itl_s", Value(value=None, low=1.0, high=2.0)) == ""


def test_a_missing_values_reason_cannot_steer_a_terminal() -> None:
    shown = format_value("itl_s", Value(value=None, why="a\x1b[2J\u202eb\nc"))
    assert shown == "— (ab c)"


def test_a_curve_point_is_shown_like_its_metric() -> None:
    assert format_value("time_to_k_s[8]", Value(value=0.0312)) == "31.2 ms"
    assert metric_header("time_to_k_s[8]") == "time to k, k = 8"


def test_an_undeclared_metric_is_shown_without_a_unit() -> None:
    assert format_value("quality.of_a_newer_version", Value(value=0.5)) == "0.500"
    assert metric_header("quality.of_a_newer_version") == "quality.of_a_newer_version"


def test_units_for_people() -> None:
    assert [shown_unit(name) for name in ("mfu", "speedup", "nfe", "latency_s")] == ["%", "×", "forwards", "s"]


def test_cell_label_names_side_and_shape_then_what_differs_from_the_defaults() -> None:
    ar = Cell(pair="p", side="ar", generator="ar", length=64)
    assert cell_label(ar) == "AR L=64 B=1"
    diffusion = Cell(
        pair="p", side="diffusion", generator="mdlm", length=64, steps=8, batch=4, block_length=32, engine="compile"
    )
    assert cell_label(diffusion) == "diffusion (mdlm) L=64 T=8 B=4 block=32 engine=compile"


def test_a_full_canvas_block_is_no_difference() -> None:
    assert other_axes(Cell(pair="p", side="diffusion", generator="g", length=64, steps=8, block_length=64)) == []


def test_a_generator_whose_name_looks_like_axes_does_not_become_axes() -> None:
    cell = Cell(pair="a/b,c", side="diffusion", generator="x/engine=fake,y", length=16, steps=4, dtype="bfloat16")
    assert other_axes(cell) == ["dtype=bfloat16"]


def test_level_none_claims_no_confidence() -> None:
    assert level_words(None) == "within one process"
    assert level_words(0.95) == "95 % confidence"
    assert level_words(0.975) == "97.5 % confidence"
    loose = interval_sentence([Value(value=1.0, low=0.9, high=1.1, level=None)])
    assert "no confidence level" in loose
    assert "%" not in loose
    both = interval_sentence([Value(value=1.0, low=0.9, high=1.1), Value(value=1.0, low=0.9, high=1.1, level=0.95)])
    assert "95 % confidence over processes" in both
    assert "no confidence level" in both
    assert interval_sentence([]) == "No intervals were recorded."


@given(st.floats(min_value=1e-9, max_value=1e6))
def test_the_shown_number_is_within_half_a_percent_of_the_value(x: float) -> None:
    number, unit = format_number(x, "s").split(" ")
    scale = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}[unit]
    assert float(number.replace(",", "")) * scale == pytest.approx(x, rel=5.1e-3)


@given(st.floats(min_value=1e-6, max_value=1e3), st.floats(min_value=1e-4, max_value=0.3))
def test_a_shown_interval_never_collapses_and_holds_its_value(x: float, half: float) -> None:
    value = Value(value=x, low=x * (1 - half), high=x * (1 + half))
    low, high = (float(end.replace(",", "")) for end in format_interval("latency_s", value)[1:-1].split(", "))
    point = float(format_point("latency_s", value).split(" ")[0].replace(",", ""))
    assert low <= point <= high
    if half >= 1e-3:
        assert low < high


@given(st.text())
def test_a_printable_text_takes_the_short_way_to_the_same_line(text: str) -> None:
    shown = "".join(c for c in text if c.isprintable())
    assert plain(shown) == plain(shown + "\x00")  # a control sends it the long way, and is dropped
