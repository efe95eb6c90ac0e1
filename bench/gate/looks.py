"""The gate's loop: measure pairs up to the next look, decide, and go on only where more pairs could still decide.

Looks are fixed in advance. A pair that the machine disturbed in some cell is kept for the others and replaced, up to a
bound; a side that fails or does other work ends the loop at once, since no number of pairs makes it valid.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...profiles.gate import CellEvidence, GateResult, Policy
from ...profiles.record import Cell, Reason, Trial
from .evidence import paired_evidence
from .reasons import reason
from .sides import SideName

Trials = dict[SideName, list[Trial]]
Decide = Callable[[Sequence[CellEvidence], Policy, int], GateResult]
Measure = Callable[[int, bool], Mapping[SideName, list[Trial]]]


@dataclass(frozen=True, slots=True)
class Looked:
    """What the loop ended with: the word, and all trials of both sides."""

    result: GateResult
    trials: Trials


def look_until_decided(
    cells: Sequence[Cell],
    policy: Policy,
    measure: Measure,
    decide: Decide,
    *,
    kept: Sequence[Mapping[SideName, list[Trial]]] = (),
    keep: Callable[[Mapping[SideName, list[Trial]]], None] = lambda _: None,
    proven: Callable[[], Reason | None] = lambda: None,
    said: Callable[[str], None] = lambda _: None,
    budget_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Looked:
    """Measure until a verdict stands, the looks are over, or another pair would not fit into `budget_s` seconds.

    `measure(n, more)` gives the trials of pair n, and is told whether another pair is sure to follow; `keep` writes
    them down at once; `proven` says after each pair why the
    sides are not what they claim, if so. `kept` are the first pairs, where an earlier session measured them.
    """
    begin = clock()
    trials: Trials = {"base": [], "head": []}
    pair = 0
    longest = 0.0
    result: GateResult | None = None
    for look, wanted in enumerate(policy.looks):
        most = wanted + max(2, wanted // 3)
        while (have := _pairs(evidence := _evidence(cells, trials, policy))) < wanted and pair < most:
            if any(_hopeless(each) for each in evidence) and pair:
                break
            if pair < len(kept):
                for side in trials:
                    trials[side] += kept[pair][side]
                pair += 1
                continue
            if budget_s is not None and pair and clock() - begin + longest > budget_s:
                said(f"the budget of {budget_s:g} s is spent after {pair} pairs")
                return Looked(_out_of_budget(decide(_first(evidence, wanted), policy, look), budget_s, pair), trials)
            started = clock()
            said(f"look {look + 1} of {len(policy.looks)}: pair {pair + 1}, {have} of {wanted} count")
            found = measure(pair, have + 1 < wanted)
            keep(found)
            for side in trials:
                trials[side] += found[side]
            longest, pair = max(longest, clock() - started), pair + 1
            why = proven()
            if why is not None:
                return Looked(_not_the_ref(decide(_evidence(cells, trials, policy), policy, look), why), trials)
        result = decide(_first(evidence, wanted), policy, look)
        if result.verdict != "INCONCLUSIVE" or have < wanted:
            break
    assert result is not None  # a policy has a look
    return Looked(result, trials)


def _evidence(cells: Sequence[Cell], trials: Trials, policy: Policy) -> list[CellEvidence]:
    return paired_evidence(cells, trials["base"], trials["head"], policy.margins)


def _pairs(evidence: Sequence[CellEvidence]) -> int:
    """Pairs that count in every cell and metric."""
    return min((len(timed.log_ratios) for cell in evidence for timed in cell.timed), default=0) * all(
        cell.spoiled is None for cell in evidence
    )


def _hopeless(cell: CellEvidence) -> bool:
    return cell.spoiled is not None and cell.spoiled[0] != "disturbed"


def _first(evidence: Sequence[CellEvidence], count: int) -> list[CellEvidence]:
    """The evidence of the first `count` pairs of each cell: what a look fixed in advance may see."""
    return [
        cell.model_copy(
            update={
                "timed": tuple(t.model_copy(update={"log_ratios": t.log_ratios[:count]}) for t in cell.timed)
            }
        )
        for cell in evidence
    ]  # fmt: skip


def _out_of_budget(result: GateResult, budget_s: float, pairs: int) -> GateResult:
    if result.verdict != "INCONCLUSIVE":
        return result
    message = (
        f"the budget of {budget_s:g} s was spent after {pairs} pairs, before a verdict stood; give a larger --budget, "
        f"a quieter machine or wider margins"
    )
    outcome = reason("budget", message)
    return result.model_copy(update={"outcome": outcome, "next_look": None})


def _not_the_ref(result: GateResult, why: Reason) -> GateResult:
    outcome = reason(why.code, why.message)
    return result.model_copy(update={"verdict": "INVALID", "outcome": outcome, "next_look": None})
