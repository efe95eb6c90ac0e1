"""What the gate's outputs say, before anything draws it: the order of cells, their numbers in words, what is green.

Terminal, Markdown, JUnit and annotations draw the same content. A change is head against base in per cent and always
signed so that + is worse, whichever way the metric points. Text from the record has passed through `plain`; markup is
left to each renderer to escape.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..profiles.gate import (
    SEVERITY,
    CellJudgement,
    CellPolicy,
    Counted,
    GateResult,
    Policy,
    Reasoned,
    TimedJudgement,
    Verdict,
)
from ..profiles.gate_record import GateDocument, GateSide
from ..profiles.record import Value
from .format import MISSING, format_number, format_point, metric_header, percent, shown_unit
from .plain import plain

CHANGE_NOTE = (
    "Change: head against base with its two-sided interval; + is worse, whichever way the metric points. "
    "p: of a slowdown no larger than the margin, adjusted over the whole gate."
)


@dataclass(frozen=True, slots=True)
class GateRow:
    """One timed metric of one cell as it is shown."""

    metric: str
    base: str
    change: str
    margin: str
    p: str


@dataclass(frozen=True, slots=True)
class CounterRow:
    """A counter that is not what it was, or that could not be judged."""

    cell: str
    counter: str
    base: str
    head: str
    change: str
    outcome: Reasoned


def green(verdict: Verdict, policy: Policy) -> bool:
    """Whether a verdict lets a change through: a PASS, or a change of work that was acknowledged."""
    return verdict == "PASS" or (verdict == "CHANGED" and policy.accept_changed)


def ordered(cells: Iterable[CellJudgement]) -> list[CellJudgement]:
    """The worst verdict first; among equal ones the largest slowdown first; then as they were measured."""
    return sorted(cells, key=lambda cell: (-SEVERITY.index(cell.outcome.verdict), -_worst(cell)))


def _worst(cell: CellJudgement) -> float:
    return max((each.change for each in cell.timed if each.change is not None), default=-math.inf)


def sentence(result: GateResult) -> str:
    """The gate's own reason and how many cells had which verdict: one or two sentences."""
    reason = plain(result.outcome.message).rstrip(".")
    counts = count_words(result.cells)
    return f"{reason}. {counts}." if reason else f"{counts}."


def count_words(cells: Sequence[CellJudgement]) -> str:
    """`3 cells: 1 FAIL, 2 PASS`, the worst first."""
    if not cells:
        return "no cell was judged"
    verdicts = [cell.outcome.verdict for cell in cells]
    parts = [f"{count} {name}" for name in reversed(SEVERITY) if (count := verdicts.count(name))]
    return f"{len(cells)} {'cell' if len(cells) == 1 else 'cells'}: {', '.join(parts)}"


def timed_rows(cell: CellJudgement) -> list[GateRow]:
    """A row for each timed metric; where there are several, each says its own verdict."""
    return [_timed_row(judged, alone=len(cell.timed) == 1) for judged in cell.timed]


def _timed_row(judged: TimedJudgement, alone: bool) -> GateRow:
    name = metric_header(judged.metric)
    return GateRow(
        metric=name if alone else f"{name}: {judged.outcome.verdict}",
        base=format_point(judged.metric, Value(value=judged.base)),
        change=change_words(judged),
        margin=margin_words(judged.metric, judged.margin, judged.floor),
        p=p_words(judged.p_adjusted),
    )


def change_words(judged: TimedJudgement) -> str:
    """`+5.1 % [+4.0, +6.2]`; the interval has as many digits as its width needs, at least one."""
    if judged.change is None:
        return MISSING
    if judged.low is None or judged.high is None:
        return f"{percent(judged.change)} %"
    width = 100 * (judged.high - judged.low) / 2
    decimals = min(max(1, -math.floor(math.log10(width))), 3) if 0 < width < math.inf else 1
    ends = f"[{percent(judged.low, decimals)}, {percent(judged.high, decimals)}]"
    return f"{percent(judged.change, decimals)} % {ends}"


def margin_words(metric: str, margin: float | None, floor: float | None) -> str:
    """The relative margin, and the absolute floor where there is one: `3 %, 50.0 µs`; `not gated` without a margin."""
    if margin is None:
        return "not gated"
    relative = f"{100 * margin:.3g} %"
    return f"{relative}, {format_number(floor, shown_unit(metric))}" if floor else relative


def p_words(p: float | None) -> str:
    """A p-value to three decimals, with the smallest ones as a bound."""
    if p is None:
        return MISSING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def counter_rows(cells: Iterable[CellJudgement]) -> list[CounterRow]:
    """The counters that changed or did not pass, in the order of the cells given."""
    return [
        _counter_row(cell.key, counted, outcome)
        for cell in cells
        for counted, outcome in cell.counted
        if counted.base != counted.head or outcome.verdict != "PASS"
    ]


def _counter_row(key: str, counted: Counted, outcome: Reasoned) -> CounterRow:
    base, head = counted.base, counted.head
    change = MISSING
    if base is not None and head is not None and base:
        change = f"{percent(head / base - 1)} %"
        if base != head and not change.strip("+-0.,% "):
            change = "< 0.1 %"
    return CounterRow(
        cell=plain(key),
        counter=metric_header(counted.name),
        base=_whole(counted.name, base, head),
        head=_whole(counted.name, head, base),
        change=change,
        outcome=outcome,
    )


def _whole(name: str, x: float | None, other: float | None) -> str:
    """A counter's value, with every digit where three would show two different values alike."""
    shown = format_point(name, Value(value=x))
    if x is None or other is None or x == other or shown != format_point(name, Value(value=other)):
        return shown
    return f"{x:,.15g}"


def pairs_words(document: GateDocument) -> str:
    """How much was measured, and whether another look would want more."""
    result = document.result
    if document.context.counted:
        return "none: the work was counted, nothing was timed"
    if not document.context.paired:
        return f"{result.pairs} processes a side, of two stored runs"
    looks = ", ".join(map(str, result.looks))
    text = f"{result.pairs} pairs of fresh processes, look {result.look} of {len(result.looks)} (at {looks} pairs)"
    return text if result.next_look is None else f"{text}; the next look wants {result.next_look}"


def side_words(side: GateSide) -> str:
    """`main at 0123456789ab, dirty`, as far as it is known."""
    text = plain(side.name)
    if side.commit:
        text += f" at {', '.join(plain(commit)[:12] for commit in side.commit.split(', '))}"
    return f"{text}, with uncommitted changes" if side.dirty else text


def measured_on(document: GateDocument) -> list[tuple[str, str]]:
    """What the numbers were measured on, as (what, value) rows."""
    context, result = document.context, document.result
    sides = (context.base, context.head)
    rows = [
        ("base", side_words(context.base)),
        ("head", side_words(context.head)),
        ("suite", plain(context.suite)),
        ("device", f"{plain(context.device)}: {plain(context.device_name)}"),
        *((name, _both(getattr(side, name) for side in sides)) for name in ("torch", "python", "dlmbench")),
        ("pairs", pairs_words(document)),
        ("duration", duration_words(context.duration_s)),
        ("policy", policy_words(result.policy)),
        ("measured", plain(context.created)),
    ]
    rows += [(plain(d.name), f"base {plain(d.base)}, head {plain(d.head)}") for d in context.differences]
    return rows


def _both(values: Iterable[str | None]) -> str:
    base, head = (MISSING if value is None else plain(value) for value in values)
    return base if base == head else f"base {base}, head {head}"


def duration_words(seconds: float | None) -> str:
    """Seconds in the unit that a person would use."""
    if seconds is None:
        return MISSING
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def policy_words(policy: Policy) -> str:
    """The policy in one line, with what it leaves out and what it wants of single cells."""
    margins = "; ".join(
        f"{plain(metric)} {margin_words(metric, margin.relative, margin.floor)}"
        for metric, margin in policy.margins.items()
    )
    tolerances = "; ".join(f"{plain(name)} {100 * share:.3g} %" for name, share in policy.counters.items() if share)
    changed = "accepted" if policy.accept_changed else "not accepted"
    words = [
        f"alpha {policy.alpha:g}, level {policy.level:g}",
        f"margins: {margins or 'none'}",
        f"counters exactly{f', but {tolerances}' if tolerances else ''}",
        f"changed work {changed}",
    ]
    if policy.ungated:
        words.append(f"not gated: {', '.join(map(plain, policy.ungated))}")
    words += [f"in {plain(cell.match)}: {_cell_policy_words(cell)}" for cell in policy.cells]
    return "; ".join(words)


def _cell_policy_words(cell: CellPolicy) -> str:
    found = []
    for metric, change in cell.margins.items():
        relative = "" if change.relative is None else f" {100 * change.relative:.3g} %"
        floor = "" if change.floor is None else f" floor {change.floor:g}"
        found.append(f"{plain(metric)}{relative}{floor}")
    found += [f"{plain(name)} {100 * share:.3g} %" for name, share in cell.counters.items()]
    found += [f"{plain(name)} not gated" for name in cell.ungated]
    return ", ".join(found) or "as elsewhere"
