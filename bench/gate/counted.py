"""One counter of one cell. No clock enters it, so one value a side decides: equal, or within the policy's tolerance."""

from __future__ import annotations

import math

from ...profiles.gate import Counted, Reasoned
from .reasons import reason


def judged_count(counted: Counted, tolerance: float | None, accept_changed: bool) -> Reasoned:
    """The verdict on a counter. `tolerance` is relative to the base, None: not gated.

    A value that only one side has: without a base there is nothing to compare with, which a reader may accept as any
    other change; without a head the work has become invisible, which nobody should accept by the same word.
    """
    name, base, head = counted.name, counted.base, counted.head
    shown = f"{name} {_shown(base)} -> {_shown(head)}"
    if tolerance is None:
        return reason("not_gated", f"{shown}: not gated")
    if any(value is not None and not math.isfinite(value) for value in (base, head)):
        return reason("count_not_finite", f"{shown}: not a number; measure again")
    if base is None and head is None:
        return reason("no_value", f"{name}: no value on either side")
    if head is None or base is None:
        if head is None:
            return reason("work_hidden", f"{shown}: the head no longer counts it, so its work cannot be checked")
        return _accepted("work_unknown", f"{shown}: the base did not count it", accept_changed)
    if head == base:
        return reason("equal", f"{name} {_shown(base)} on both sides")
    change = f"{shown} ({100 * (head - base) / abs(base):+.3g} %)" if base else shown
    if abs(head - base) <= tolerance * abs(base):
        return reason("within_tolerance", f"{change}: within the tolerance of {100 * tolerance:g} %")
    if counted.direction == "neutral":
        return _accepted("work_changed", f"{change}: the work differs", accept_changed)
    if (head < base) == (counted.direction == "lower"):
        return _accepted("work_improved", f"{change}: less work", accept_changed)
    return reason("work_worse", f"{change}: more work than the base")


def _accepted(code: str, message: str, accept_changed: bool) -> Reasoned:
    if accept_changed:
        return reason("acknowledged", f"{message}; accepted")
    return reason(code, f"{message}; accept it with --accept-changed or renew the baseline")


def _shown(value: float | None) -> str:
    """All digits of a count, since two may differ in the last; six of anything else."""
    if value is None:
        return "null"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"
