"""The self-test: what it says of pairs whose noise is known, and of a slowdown that is really planted."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dlmbench import InputError
from dlmbench.bench.gate import self_test
from dlmbench.bench.gate.planted import PLANTED, SLOWDOWN, Planted
from dlmbench.bench.gate.self_test import Pairs, judged, measure_pairs
from dlmbench.models.names import MASKED_DIFFUSION
from dlmbench.profiles.gate import Policy

KEYS = ("small/a/L=4", f"small/{PLANTED[MASKED_DIFFUSION]}/L=4,T=2")


def recorded(sd: float, slowdown: float = 0.0, pairs: int = 24) -> Pairs:
    draw = np.random.default_rng(5)
    return Pairs(KEYS, draw.normal(0, sd, (pairs, 2)) + np.array([0.0, np.log1p(slowdown)]))


def answers(sd: float, seen: float = 0.05, planted: float = 0.05) -> dict[str, Any]:
    return {one.name: one for one in judged(recorded(sd), recorded(sd, seen), planted, Policy())}


def test_a_quiet_machine_raises_no_alarm_and_finds_what_was_planted() -> None:
    found = answers(0.01)
    assert found["noise of a pair"].value.value == pytest.approx(0.01, rel=0.5)
    assert found["false alarms"].value.value == 0.0
    assert 0.0 < found["false alarms"].value.high < 0.01  # none of a thousand is not none at all
    assert found["slowdown seen"].value.low < 0.05 < found["slowdown seen"].value.high
    assert found["detection power"].value.value > 0.95
    assert all(one.warning is None for one in found.values())


def test_a_noisy_machine_is_told_that_it_does_not_see_five_per_cent() -> None:
    found = answers(0.04)
    assert found["detection power"].value.value < 0.5
    assert (
        found["detection power"].value.low < found["detection power"].value.value < found["detection power"].value.high
    )
    assert found["noise of a pair"].warning is not None
    assert found["detection power"].warning is not None
    assert found["false alarms"].value.value < 0.01


def test_a_harness_that_does_not_see_what_was_planted_is_told_so() -> None:
    assert answers(0.005, seen=0.02)["slowdown seen"].warning == "the interval does not hold what was planted"


@pytest.fixture
def workers(handles: Any) -> Any:
    """Fake workers whose head is slower by what its environment plants, as the real ones are."""

    def plan(handle: Any) -> None:
        share = float(handle.launch.variables.get(SLOWDOWN, 0.0))
        process, draw = random.Random(handle.number).gauss(0, 0.003), random.Random(handle.number)

        def latency(cell: Any, _: int) -> float:
            slower = share if Planted(share, MASKED_DIFFUSION).is_in(cell.key) else 0.0
            return 0.01 * (1 + slower) * (1 + process) * (1 + 0.01 * draw.random())

        handle.worker.latency = latency

    handles.plan = staticmethod(plan)
    return handles


def test_pairs_are_measured_as_a_gate_does_with_what_is_planted_at_head(workers: Any) -> None:
    said: list[str] = []
    found = measure_pairs(Planted(0.1, MASKED_DIFFUSION), 6, said.append)
    assert found.keys == tuple(
        f"small/{PLANTED[name]}/L=4{steps}" for name, steps in (("ar", ""), (MASKED_DIFFUSION, ",T=2"))
    )
    assert found.log_ratios.shape == (6, 2)
    assert np.expm1(found.log_ratios.mean(axis=0)) == pytest.approx([0.0, 0.1], abs=0.01)
    assert said == [f"10% planted in one cell: pair {number} of 6" for number in range(1, 7)]
    assert all(handle.ended for handle in workers.started)
    assert len(workers.started) == 12


def test_workers_that_fail_are_named(workers: Any, fakes: ModuleType) -> None:
    def plan(handle: Any) -> None:
        handle.load_error = fakes.died("crash")

    workers.plan = staticmethod(plan)
    with pytest.raises(InputError, match=r"self-test: small/.*could not be measured"):
        measure_pairs(Planted(), 6, lambda _: None)


def test_the_command_shows_every_answer_and_gives_them_as_a_document(
    command: Callable[..., Any], workers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_test, "ROUNDS", 20)
    monkeypatch.setattr(self_test, "DRAWS", 20)
    outcome = command("doctor", "--self-test", "--pairs", 6, "--slowdown", 0.1, "--json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    names = [answer["name"] for answer in document["self_test"]]
    assert names[-4:] == ["noise of a pair", "false alarms", "slowdown seen", "detection power"]
    assert {"timer resolution", "timer overhead", "observer's cost"} <= {*names}
    for name in names:
        assert name in outcome.err
    seen = document["self_test"][-2]["value"]
    assert seen["low"] < 0.1 < seen["high"]
