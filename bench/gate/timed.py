"""One timed metric of one cell: first its statistic and p-value, then, adjusted for the whole gate, its verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median_low

import numpy as np

from ...profiles.gate import MIN_PROCESSES, Margin, Reasoned, Timed, TimedJudgement
from ...profiles.metrics import METRICS
from ...reports.format import format_number
from .reasons import reason
from .trimmed import Floats, Trimmed, difference, trimmed

# Beyond a factor of a million in either direction a clock or a unit is wrong, not a program.
IMPLAUSIBLE = math.log(1e6)
# No clock repeats to this share of what it reads, nor does a program.
NO_SPREAD = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Tested:
    """A metric with its statistic and the p-value of "no worse than the margin", or with why there are none."""

    timed: Timed
    margin: Margin | None
    count: int
    statistic: Trimmed | None = None
    p: float | None = None
    refused: Reasoned | None = None

    def absolute(self, log_ratio: float) -> float:
        """The change in the metric's own unit, positive where it is worse: what the floor is compared with."""
        return float(absolute_change(self.timed.metric, self.timed.base, np.asarray(log_ratio)))


def absolute_change(metric: str, base: float, log_ratio: Floats) -> Floats:
    """Log-ratios [...], positive where worse, as changes in the metric's unit, positive where worse.

    Where less is better the head is base · e^x, which is base · (e^x - 1) more; where more is better it is
    base · e^-x, which is base · (1 - e^-x) less.
    """
    declared = METRICS.get(metric.partition("[")[0])
    sign = -1.0 if declared is not None and declared.direction == "higher" else 1.0
    with np.errstate(over="ignore"):
        return np.asarray(sign * base * np.expm1(sign * np.clip(log_ratio, -2 * IMPLAUSIBLE, 2 * IMPLAUSIBLE)))


def tested(timed: Timed, margin: Margin | None) -> Tested:
    """Statistic and p-value, or the reason for none: too few values, values that no clock gives, no spread."""
    paired = timed.paired
    groups = (timed.log_ratios,) if paired else (timed.base_logs, timed.head_logs)
    count = min(len(group) for group in groups)

    def refuse(code: str, message: str) -> Tested:
        return Tested(timed, margin, count, refused=reason(code, f"{timed.metric}: {message}"))

    if count == 0:
        return refuse("no_ratios", "no process measured it on both sides")
    finite = all(math.isfinite(x) for group in groups for x in group)
    if not finite or not (math.isfinite(timed.base) and timed.base > 0):
        return refuse("not_finite", "a value is not a positive, finite number")
    usual = 0.0 if paired else median_low(timed.base_logs)
    extreme = max(abs(x - usual) for group in groups for x in group)
    if extreme > IMPLAUSIBLE:
        return refuse("not_finite", f"a factor of e^{extreme:.0f} is no program's; check clock and unit")
    if count < MIN_PROCESSES:
        code, what = ("too_few_pairs", "pairs") if paired else ("too_few_processes", "processes on a side")
        return refuse(code, f"{count} {what}, fewer than the {MIN_PROCESSES} that time is judged on")
    arrays = [np.asarray(group, dtype=float) for group in groups]
    statistic = trimmed(arrays[0]) if paired else difference(arrays[0], arrays[1])
    if float(statistic.error) < NO_SPREAD:
        return refuse("no_spread", f"{count} fresh processes agree to the last digit; no clock was read")
    p = None if margin is None else float(statistic.p_above(math.log1p(margin.relative)))
    return Tested(timed, margin, count, statistic, p)


def judged(test: Tested, adjusted: float | None, alpha: float, level: float) -> TimedJudgement:
    """The verdict: `adjusted` is the p-value after Holm, `alpha` what this look may spend, `level` the bounds'."""
    timed, margin, statistic = test.timed, test.margin, test.statistic
    bounds: dict[str, float | None] = dict.fromkeys(("change", "low", "high", "upper"))
    if statistic is not None:
        low, high = statistic.interval(level)
        logs = {"change": statistic.estimate, "low": low, "high": high, "upper": statistic.upper(level)}
        bounds = {name: _relative(float(x)) for name, x in logs.items()}
    return TimedJudgement(
        metric=timed.metric,
        pairs=test.count,
        **bounds,
        p=test.p,
        p_adjusted=adjusted if test.p is not None else None,
        margin=margin and margin.relative,
        floor=margin and margin.floor,
        base=timed.base if math.isfinite(timed.base) else None,
        outcome=_outcome(test, adjusted, alpha, level),
    )


def _outcome(test: Tested, adjusted: float | None, alpha: float, level: float) -> Reasoned:
    timed, margin, statistic = test.timed, test.margin, test.statistic
    if margin is None:
        return reason("no_margin", f"{timed.metric}: the policy has no margin for it here; reported, not gated")
    if test.refused is not None or statistic is None or adjusted is None:
        return test.refused or reason("no_ratios", f"{timed.metric}: nothing to judge")
    estimate, upper = float(statistic.estimate), float(statistic.upper(level))
    low, high = (float(x) for x in statistic.interval(level))
    change, bound = test.absolute(estimate), test.absolute(upper)
    unit = timed.unit
    said = f"{timed.metric} {percent(estimate)} [{percent(low)}, {percent(high)}] {_over(test)}"
    limit = f"the margin of {percent(math.log1p(margin.relative))}"
    proven = adjusted < alpha
    if proven and change > margin.floor:
        moved = f"{format_number(timed.base, unit)}, worse by {format_number(change, unit)}"
        return reason("worse", f"{said}: more than {limit} (p {adjusted:.2g} after Holm, below {alpha:.2g}); {moved}")
    if high < 0:
        return reason("better", f"{said}: better")
    if upper < math.log1p(margin.relative):
        return reason("within_margin", f"{said}: at most {percent(upper)} ({100 * level:g} %), within {limit}")
    if bound < margin.floor:
        floor = format_number(margin.floor, unit)
        return reason("below_floor", f"{said}: at most {format_number(bound, unit)} worse, below the floor of {floor}")
    if proven:
        floor = format_number(margin.floor, unit)
        return reason("near_floor", f"{said}: more than {limit}, but about the floor of {floor}")
    return reason(
        "undecided",
        f"{said}: not shown to exceed {limit} (p {adjusted:.2g} after Holm, at or above {alpha:.2g}), nor to be within "
        f"it (upper bound {percent(upper)})",
    )


def _over(test: Tested) -> str:
    if test.timed.paired:
        return f"over {test.count} pairs"
    return f"over {len(test.timed.base_logs)} and {len(test.timed.head_logs)} processes"


def _relative(log_ratio: float) -> float:
    return math.expm1(min(log_ratio, 2 * IMPLAUSIBLE))


def percent(log_ratio: float) -> str:
    """A log-ratio as a signed percentage, about three digits: +3.00 %, -12.5 %, +140 %."""
    value = 100 * _relative(log_ratio)
    decimals = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:+.{decimals}f} %"
