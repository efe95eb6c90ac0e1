"""Why a verdict: a small fixed vocabulary of codes for programs, each with its verdict and what it means.

Every code that `decide` gives is one of these, but for a spoiled cell's, which comes from whoever spoiled it.
"""

from __future__ import annotations

from ...profiles.gate import Reasoned, Verdict

REASONS: dict[str, tuple[Verdict, str]] = {
    # Time.
    "worse": ("FAIL", "worse than the margin by more than chance, and by more than the floor"),
    "within_margin": ("PASS", "the upper bound of the change is below the margin"),
    "better": ("PASS", "the whole interval of the change lies on the better side of no change"),
    "below_floor": ("PASS", "the upper bound of the change is below the floor, however many per cent that is"),
    "undecided": ("INCONCLUSIVE", "neither shown to be worse than the margin nor to be within it"),
    "near_floor": ("INCONCLUSIVE", "worse than the margin, but not surely above or below the floor"),
    "too_few_pairs": ("INCONCLUSIVE", "fewer pairs of fresh processes than time can be judged on"),
    "too_few_processes": ("INCONCLUSIVE", "a stored run with fewer processes than time can be judged on"),
    "no_margin": ("PASS", "reported and not gated: the policy has no margin for it"),
    "no_ratios": ("INVALID", "a timed metric that no pair of processes has values of on both sides"),
    "not_finite": ("INVALID", "a time that is no number, or a change that no program makes"),
    "no_spread": ("INVALID", "fresh processes took the same time to the last digit: no clock was read"),
    # Counters.
    "equal": ("PASS", "the same on both sides"),
    "within_tolerance": ("PASS", "the difference is within the policy's tolerance"),
    "no_value": ("PASS", "neither side has a value"),
    "not_gated": ("PASS", "reported and not gated: the policy says so"),
    "acknowledged": ("PASS", "the work changed, and the change was accepted"),
    "work_improved": ("CHANGED", "the head does less work: an improvement to acknowledge"),
    "work_changed": ("CHANGED", "the work differs, neither better nor worse"),
    "work_unknown": ("CHANGED", "only the head has a value: there is nothing to compare it with"),
    "work_worse": ("FAIL", "the head does more work"),
    "work_hidden": ("INVALID", "only the base has a value: the head's work can no longer be checked"),
    "count_not_finite": ("INVALID", "a counter that is no number"),
    # Cells and the gate.
    "passed": ("PASS", "every part passed"),
    "no_evidence": ("INVALID", "a cell of which nothing was measured"),
    "time_missing": ("INVALID", "a cell that has none of the timed metrics that the policy gates"),
    "metric_missing": ("INVALID", "a metric that has a margin and that no cell has"),
    "duplicate_cell": ("INVALID", "a key that more than one cell has"),
    "no_cells": ("INVALID", "nothing was compared"),
    "not_the_ref": ("INVALID", "a worker did not run the code that was asked for"),
    "budget": ("INCONCLUSIVE", "the time allowed was spent before a verdict stood"),
}  # fmt: skip


def reason(code: str, message: str) -> Reasoned:
    """A verdict by its code, with the sentence that people read."""
    return Reasoned(verdict=REASONS[code][0], code=code, message=message)
