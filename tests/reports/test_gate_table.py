"""The gate in a terminal: verdict first and last, every number whole, hostile names inert."""

from __future__ import annotations

import io
import re
from types import ModuleType

import pytest
from rich.cells import cell_len
from rich.console import Console

from dlmbench.profiles.gate import CellPolicy, Margin, MarginChange, Policy
from dlmbench.profiles.gate_record import GateDocument
from dlmbench.reports.format import percent
from dlmbench.reports.gate_rows import (
    change_words,
    counter_rows,
    margin_words,
    ordered,
    p_words,
    pairs_words,
    policy_words,
    sentence,
)
from dlmbench.reports.gate_table import show_gate


def shown(document: GateDocument, width: int) -> str:
    out = io.StringIO()
    show_gate(document, Console(file=out, width=width, highlight=False))
    return out.getvalue()


def one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("width", [80, 200])
def test_the_verdict_is_the_first_and_the_last_line(gates: ModuleType, width: int) -> None:
    paragraphs = shown(gates.document(), width).rstrip("\n").split("\n\n")
    said = "FAIL small/mdlm/L=16,T=4 is slower than its margin allows. 3 cells: 1 FAIL, 1 CHANGED, 1 PASS."
    assert one_line(paragraphs[0]).strip() == one_line(paragraphs[-1]).strip() == said


@pytest.mark.parametrize("width", [80, 200])
def test_every_number_is_whole_and_no_line_too_long(gates: ModuleType, width: int) -> None:
    text = shown(gates.document(), width)
    assert max(map(cell_len, text.split("\n"))) <= width
    for words in ("4.56 ms", "+5.1 % [+4.0, +6.2]", "3 %, 50.0 µs", "<0.001", "-21.3 % [-22.1, -20.5]", "+0.2 %"):
        assert words in text
    for words in ("16 forwards", "12 forwards", "-25.0 %", "nfe fell from 16 to 12", "main at 0123456789ab"):
        assert words in text
    assert "HEAD at fedcba987654, with uncommitted changes" in one_line(text)
    assert "threads base 1, head 2" in one_line(text)


def test_the_worst_cell_comes_first(gates: ModuleType) -> None:
    cells = [
        gates.cell("a", "PASS"),
        gates.cell("b", "FAIL", timed=(gates.timed("FAIL", 0.05, 0.04, 0.06),)),
        gates.cell("c", "INCONCLUSIVE"),
        gates.cell("d", "FAIL", timed=(gates.timed("FAIL", 0.2, 0.1, 0.3),)),
        gates.cell("e", "INVALID"),
        gates.cell("f", "CHANGED"),
    ]
    assert [cell.key for cell in ordered(cells)] == ["e", "d", "b", "c", "f", "a"]


def test_a_counter_that_stayed_equal_and_passed_is_not_listed(gates: ModuleType) -> None:
    rows = counter_rows(gates.three_cells())
    assert [(row.cell, row.counter, row.base, row.head, row.change) for row in rows] == [
        (gates.FEWER, "NFE", "16 forwards", "12 forwards", "-25.0 %")
    ]


def test_counters_that_three_digits_would_show_alike_keep_every_digit(gates: ModuleType) -> None:
    counted = gates.Counted(name="model_flops", base=1_234_567_000.0, head=1_234_567_001.0, direction="lower")
    (row,) = counter_rows([gates.cell("a", "FAIL", counted=((counted, gates.reasoned("FAIL")),))])
    assert (row.base, row.head, row.change) == ("1,234,567,000", "1,234,567,001", "< 0.1 %")


def test_a_missing_counter_is_missing_and_not_zero(gates: ModuleType) -> None:
    counted = gates.Counted(name="nfe", base=16, head=None, direction="lower")
    (row,) = counter_rows([gates.cell("a", "INVALID", counted=((counted, gates.reasoned("INVALID")),))])
    assert (row.base, row.head, row.change) == ("16 forwards", "—", "—")


def test_numbers_in_words(gates: ModuleType) -> None:
    assert percent(0.0512) == "+5.1"
    assert percent(-0.0004) == "0.0"  # rounds to zero: no sign
    assert percent(12.5) == "+1,250.0"
    # a half-width of 0.035 % needs two digits after the point
    assert change_words(gates.timed("PASS", 0.00123, 0.0009, 0.0016)) == "+0.12 % [+0.09, +0.16]"
    assert change_words(gates.timed("PASS", 0.01, None, None)) == "+1.0 %"
    assert change_words(gates.timed("INVALID", None, None, None)) == "—"
    assert margin_words("latency_s", 0.025, 0.0) == "2.5 %"
    assert margin_words("latency_s", 0.03, 5e-5) == "3 %, 50.0 µs"
    assert margin_words("latency_s", None, None) == "not gated"
    assert [p_words(p) for p in (None, 0.0, 0.00099, 0.0123, 1.0)] == ["—", "<0.001", "<0.001", "0.012", "1.000"]


def test_the_sentence_counts_the_cells(gates: ModuleType) -> None:
    assert sentence(gates.document([]).result).endswith("allows. no cell was judged.")
    assert sentence(gates.document([gates.cell("a", "PASS")], verdict="PASS").result).endswith(" 1 cell: 1 PASS.")


def test_stored_runs_have_processes_and_no_pairs(gates: ModuleType) -> None:
    assert pairs_words(gates.document()) == "9 pairs of fresh processes, look 2 of 3 (at 6, 9, 13 pairs)"
    assert pairs_words(gates.document(paired=False)) == "9 processes a side, of two stored runs"


def test_the_policy_is_one_line() -> None:
    policy = Policy(margins={"latency_s": Margin(relative=0.03, floor=5e-5)}, counters={"memory_peak_b": 0.05})
    assert policy_words(policy) == (
        "alpha 0.01, level 0.95; margins: latency_s 3 %, 50.0 µs; counters exactly, but memory_peak_b 5 %; "
        "changed work not accepted"
    )


def test_what_a_policy_leaves_out_and_wants_of_single_cells_is_said() -> None:
    policy = Policy(
        ungated=("launches",),
        cells=(
            CellPolicy(match="small/ar/*", margins={"latency_s": MarginChange(relative=0.1)}, ungated=("nfe",)),
            CellPolicy(match="*,B=8", margins={"latency_s": MarginChange(floor=1e-3)}, counters={"model_flops": 0.01}),
        ),
    )
    assert policy_words(policy).split("; ")[-3:] == [
        "not gated: launches",
        "in small/ar/*: latency_s 10 %, nfe not gated",
        "in *,B=8: latency_s floor 0.001, model_flops 1 %",
    ]


def test_several_metrics_of_a_cell_say_their_own_verdicts(gates: ModuleType) -> None:
    both = (gates.timed("FAIL", 0.1, 0.05, 0.15), gates.timed("PASS", 0.0, -0.01, 0.01, metric="ttft_s"))
    text = shown(gates.document([gates.cell("small/ar/L=8", "FAIL", timed=both)]), 80)
    assert "latency: FAIL" in text
    assert "TTFT: PASS" in text


@pytest.mark.parametrize("width", [80, 200])
def test_hostile_text_is_inert(gates: ModuleType, width: int) -> None:
    text = shown(gates.hostile(), width)
    assert not set(text) & set("\x00\x1b\udc80\u202e\r")
    assert text.startswith("FAIL  ")


def test_a_cell_without_a_number_is_shown_with_its_reason(gates: ModuleType) -> None:
    text = shown(gates.document([gates.cell("a", "INVALID", "missing", "head did not measure this cell")]), 200)
    assert "INVALID" in text
    assert "head did not measure this cell" in text
