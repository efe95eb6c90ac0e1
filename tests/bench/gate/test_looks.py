"""The loop around the decision, on made-up pairs: how many it measures, what it shows the decision, when it ends."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from dlmbench.bench.gate.looks import Looked, look_until_decided
from dlmbench.profiles.gate import CellEvidence, GateResult, Policy, Reasoned
from dlmbench.profiles.record import Reason

POLICY = Policy(looks=(6, 9, 13))


class Scene:
    """Pairs of one cell with given latencies; a decision that says what `words` say, look by look."""

    def __init__(self, fakes: ModuleType, words: list[str], lost: set[int] | None = None) -> None:
        self.fakes, self.words, self.lost = fakes, words, lost or set()
        self.cell = fakes.cell()
        self.measured: list[int] = []
        self.more: list[bool] = []
        self.shown: list[tuple[int, int, bool]] = []
        self.now = 0.0
        self.status: dict[int, tuple[str, str]] = {}

    def measure(self, pair: int, more: bool) -> dict[Any, list[Any]]:
        self.measured.append(pair)
        self.more.append(more)
        self.now += 10.0
        trial = self.fakes.trial(self.cell, [0.1, 0.1], process=pair)
        head = trial
        if pair in self.lost:
            reason = Reason(code="disturbed", message="others")
            head = self.fakes.trial(self.cell, [], process=pair, status="invalid", reason=reason)
        if pair in self.status:
            status, code = self.status[pair]
            head = self.fakes.trial(
                self.cell, [], process=pair, status=status, reason=Reason(code=code, message="it broke")
            )
        return {"base": [trial], "head": [head]}

    def decide(self, evidence: Any, policy: Policy, look: int) -> GateResult:
        (cell,) = evidence
        assert isinstance(cell, CellEvidence)
        self.shown.append((look, len(cell.timed[0].log_ratios) if cell.timed else 0, cell.spoiled is not None))
        verdict: Any = "INVALID" if cell.spoiled is not None else self.words[look]
        outcome = Reasoned(verdict=verdict, code="made_up", message="made up")
        return GateResult(
            verdict=verdict, outcome=outcome, cells=(), pairs=0, look=look + 1, looks=policy.looks, next_look=None,
            policy=policy,
        )  # fmt: skip

    def run(self, **given: Any) -> Looked:
        return look_until_decided([self.cell], POLICY, self.measure, self.decide, clock=lambda: self.now, **given)


@pytest.mark.parametrize(
    ("words", "pairs"),
    [
        (["PASS"], 6),
        (["FAIL"], 6),
        (["CHANGED"], 6),
        (["INCONCLUSIVE", "PASS"], 9),
        (["INCONCLUSIVE", "INCONCLUSIVE", "INCONCLUSIVE"], 13),
    ],
)
def test_only_an_open_question_buys_more_pairs(fakes: ModuleType, words: list[str], pairs: int) -> None:
    scene = Scene(fakes, words)
    looked = scene.run()
    assert scene.measured == list(range(pairs))
    assert looked.result.verdict == words[-1]
    assert [(look, seen) for look, seen, _ in scene.shown] == list(enumerate(POLICY.looks[: len(words)]))
    # Before a look nobody knows whether another pair follows.
    assert scene.more == [pair + 1 not in POLICY.looks for pair in range(pairs)]
    assert len(looked.trials["base"]) == len(looked.trials["head"]) == pairs


def test_disturbed_pairs_are_replaced_and_a_look_sees_as_many_as_planned(fakes: ModuleType) -> None:
    scene = Scene(fakes, ["INCONCLUSIVE", "PASS"], lost={1, 4})
    scene.run()
    assert scene.measured == list(range(11))
    assert [seen for _, seen, _ in scene.shown] == [6, 9]


def test_a_machine_that_disturbs_everything_ends_the_loop(fakes: ModuleType) -> None:
    scene = Scene(fakes, ["PASS"], lost=set(range(100)))
    looked = scene.run()
    assert scene.measured == list(range(8))  # six wanted, two more at most
    assert looked.result.verdict == "INVALID"


@pytest.mark.parametrize(("status", "code"), [("failed", "crash"), ("invalid", "work")])
def test_a_side_that_breaks_ends_the_loop_at_once(fakes: ModuleType, status: str, code: str) -> None:
    scene = Scene(fakes, ["PASS"])
    scene.status[2] = (status, code)
    assert scene.run().result.verdict == "INVALID"
    assert scene.measured == [0, 1, 2]


def test_a_side_that_is_not_the_ref_is_invalid_whatever_was_measured(fakes: ModuleType) -> None:
    scene = Scene(fakes, ["PASS"])
    result = scene.run(proven=lambda: Reason(code="not_the_ref", message="base: x lies elsewhere")).result
    assert scene.measured == [0]
    assert (result.verdict, result.outcome.code) == ("INVALID", "not_the_ref")


def test_a_budget_allows_no_pair_that_would_not_fit(fakes: ModuleType) -> None:
    """Pairs take 10 s: after 30 s of 35 another does not fit, and nothing has been decided."""
    scene = Scene(fakes, ["INCONCLUSIVE"])
    result = scene.run(budget_s=35.0).result
    assert scene.measured == [0, 1, 2]
    assert (result.verdict, result.outcome.code, result.next_look) == ("INCONCLUSIVE", "budget", None)
    assert "--budget" in result.outcome.message


def test_the_first_pair_is_measured_whatever_the_budget(fakes: ModuleType) -> None:
    scene = Scene(fakes, ["INCONCLUSIVE"])
    scene.run(budget_s=0.001)
    assert scene.measured == [0]


def test_every_pair_is_kept_before_the_next_begins(fakes: ModuleType) -> None:
    scene = Scene(fakes, ["PASS"])
    kept: list[int] = []

    def keep(found: dict[Any, list[Any]]) -> None:
        kept.append(found["base"][0].process)
        assert kept == scene.measured

    scene.run(keep=keep)
    assert kept == list(range(6))


def test_an_interruption_goes_through_and_loses_no_pair_that_was_kept(fakes: ModuleType) -> None:
    scene = Scene(fakes, ["PASS"])
    kept: list[Any] = []

    def measure(pair: int, more: bool) -> dict[Any, list[Any]]:
        if pair == 3:
            raise KeyboardInterrupt
        return scene.measure(pair, more)

    loop: Callable[..., Looked] = look_until_decided
    with pytest.raises(KeyboardInterrupt):
        loop([scene.cell], POLICY, measure, scene.decide, keep=kept.append)
    assert len(kept) == 3
