"""From evidence to a verdict: a pure function.

Time. For every cell and gated metric the question is "worse by at most the margin?", tested on the log-ratios of the
pairs. The gate FAILs if, after Holm's adjustment over all questions of this look, some p-value is below what the look
may spend of alpha, and that change exceeds its floor. It PASSes if every upper bound lies below its margin, or below
its floor. Otherwise it is INCONCLUSIVE, which wants the pairs of the next look.

    false FAIL   at most alpha a gate, over cells, metrics and looks, if no true change exceeds its margin: Holm holds
                 for any dependence between cells, the spending for any between looks. What is left to assume is a
                 single p-value's honesty (`trimmed`), which `simulate` checks with the noise that machines have.
    false PASS   a cell's bound is wrong in at most 1 - level at a look. Over four looks a cell that is exactly at its
                 margin passes in about 10 %, one at twice its margin in less than 0.1 % (`simulate`). Any single slow
                 cell stops the gate from passing, so cells need no adjustment here.

Work. Counters are compared exactly (`counted`). Everything that cannot be judged is INVALID: the gate fails closed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ...profiles.gate import SEVERITY, CellEvidence, CellJudgement, GateResult, Policy, Reasoned, TimedJudgement
from .counted import judged_count
from .multiplicity import holm, spent
from .reasons import reason
from .timed import judged, percent, tested


def decide(evidence: Sequence[CellEvidence], policy: Policy, look: int = 0) -> GateResult:
    """The gate's verdict on all that is known at the look after `policy.looks[look]` pairs.

    Two stored runs are looked at once and may spend all of alpha. Raises ValueError for a look that is not planned.
    """
    if not 0 <= look < len(policy.looks):
        raise ValueError(f"look {look} is not one of the {len(policy.looks)} planned")
    tests = {
        (place, number): tested(timed, policy.margin(cell.key, timed.metric))
        for place, cell in enumerate(evidence)
        if cell.spoiled is None
        for number, timed in enumerate(cell.timed)
    }
    gated = {where: test for where, test in tests.items() if test.margin is not None}
    paired = any(test.timed.paired for test in gated.values())
    alpha = spent(policy.alpha, policy.looks, look) if paired else policy.alpha
    # A question without a p-value stays in the family: what could not be answered does not make others easier.
    raw = np.array([1.0 if test.p is None else test.p for test in gated.values()])
    adjusted = dict(zip(gated, holm(raw).tolist(), strict=True)) if gated else {}
    keys = Counter(cell.key for cell in evidence)
    cells = []
    for place, cell in enumerate(evidence):
        times = [
            judged(tests[place, number], adjusted.get((place, number)), alpha, policy.level)
            for number in range(len(cell.timed))
            if cell.spoiled is None
        ]
        cells.append(_cell(cell, times, policy, repeated=keys[cell.key] > 1))
    outcome = _whole(cells, evidence, policy)
    open_looks = policy.looks[look + 1 :] if paired and outcome.verdict == "INCONCLUSIVE" else ()
    return GateResult(
        verdict=outcome.verdict,
        outcome=outcome if open_looks or outcome.verdict != "INCONCLUSIVE" else _remedied(outcome, paired),
        cells=tuple(cells),
        pairs=min((test.count for test in gated.values()), default=0),
        look=look + 1,
        looks=policy.looks,
        alpha=alpha,
        next_look=open_looks[0] if open_looks else None,
        policy=policy,
    )


def _cell(cell: CellEvidence, times: Sequence[TimedJudgement], policy: Policy, *, repeated: bool) -> CellJudgement:
    """A cell's verdict: the worst of its parts', or why it has none."""
    if cell.spoiled is not None:
        code, message = cell.spoiled
        return CellJudgement(key=cell.key, outcome=Reasoned(verdict="INVALID", code=code, message=message))
    counts = tuple(
        (count, judged_count(count, policy.tolerance(cell.key, count.name), policy.accept_changed))
        for count in cell.counted
    )
    parts = [time.outcome for time in sorted(times, key=_urgency)] + [outcome for _, outcome in counts]
    outcome = _worst(parts) if parts else reason("no_evidence", "nothing was measured on either side")
    if parts and not cell.timeless and policy.times(cell.key) and all(time.margin is None for time in times):
        outcome = reason("time_missing", "the policy gates time, and no gated time was measured in this cell")
    if cell.timeless and parts and all(part.code == "equal" for part in parts):
        outcome = reason("equal", f"all {len(parts)} counters are the same on both sides")
    if repeated:
        outcome = reason("duplicate_cell", "more than one cell has this key")
    return CellJudgement(key=cell.key, outcome=outcome, timed=tuple(times), counted=counts)


def _whole(cells: Sequence[CellJudgement], evidence: Sequence[CellEvidence], policy: Policy) -> Reasoned:
    """The gate's outcome: the worst of its cells', told by the cell that is furthest beyond its margin."""
    if not cells:
        return reason("no_cells", "nothing was compared: no cell was given")
    measured = {timed.metric for cell in evidence for timed in cell.timed}
    known = measured | {metric.partition("[")[0] for metric in measured}
    for metric in policy.margins:
        if metric not in known and metric not in policy.ungated and not any(cell.spoiled for cell in evidence):
            return reason("metric_missing", f"{metric} has a margin, and no cell measured it; check its name")
    ordered = sorted(cells, key=lambda cell: (min(map(_urgency, cell.timed), default=(0.0, "")), cell.key))
    worst = _worst([cell.outcome for cell in ordered])
    if worst.verdict == "PASS":
        return reason("passed", _passed(ordered))
    same = [cell for cell in ordered if cell.outcome.verdict == worst.verdict]
    more = f" (and {len(same) - 1} more of {len(cells)} cells)" if len(same) > 1 else ""
    return worst.model_copy(update={"message": f"{same[0].key}: {same[0].outcome.message}{more}"})


def _passed(cells: Sequence[CellJudgement]) -> str:
    """What passed, by the change that came nearest to its margin."""
    count = f"{len(cells)} cell{'' if len(cells) == 1 else 's'}"
    gated = [(time, cell.key) for cell in cells for time in cell.timed if time.margin is not None]
    if not gated:
        return f"{count}: no counter is worse; no time was gated"
    above = [
        (time.upper, key, time.metric)
        for time, key in gated
        if time.upper is not None and time.outcome.code != "below_floor"
    ]
    if not above:
        return f"{count}: no change is above its floor"
    upper, key, metric = max(above)
    largest = percent(float(np.log1p(upper)))
    return f"{count}: nothing is worse by more than allowed; the largest upper bound is {largest} ({metric} of {key})"


def _worst(outcomes: Sequence[Reasoned]) -> Reasoned:
    return max(outcomes, key=lambda outcome: SEVERITY.index(outcome.verdict))


def _urgency(time: TimedJudgement) -> tuple[float, str]:
    """Order in which times are told: the one furthest beyond its margin first; those not gated last."""
    if time.margin is None:
        return (np.inf, time.metric)
    return (time.margin - time.change if time.change is not None else 0.0, time.metric)


def _remedied(outcome: Reasoned, paired: bool) -> Reasoned:
    """No look is left: what a reader can do now."""
    remedy = (
        "no look is left: quieten the machine (dlmbench doctor), plan more looks, or set margins that this machine can "
        "keep (dlmbench gate --learn-margins)"
        if paired
        else "store runs with more processes, or compare both sides in one job (dlmbench gate --against REF)"
    )
    return outcome.model_copy(update={"message": f"{outcome.message}; {remedy}"})
