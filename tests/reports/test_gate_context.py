"""The context of a gate between two runs: what differs besides the code."""

from __future__ import annotations

import math
from dataclasses import replace

from dlmbench.profiles.store import StoredRun
from dlmbench.reports.conditions import conditions, flat
from dlmbench.reports.gate_context import measured_s, stored_context


def test_the_sides_are_what_their_workers_said(study: StoredRun) -> None:
    workers = [trial.worker for trial in study.trials if trial.worker]
    other = workers[0].model_copy(update={"commit": "fedcba", "torch": "2.13.0"})
    trials = tuple(trial.model_copy(update={"worker": other}) for trial in study.trials)
    environment = {**study.run.environment, "cpu": {"model": "Other CPU"}, "git": {"commit": "x", "dirty": True}}
    head = replace(study, trials=trials, run=study.run.model_copy(update={"environment": environment}))
    context = stored_context(study, head, names=("a", "b"), command=("dlmbench", "gate"), created="now")
    assert (context.base.name, context.base.commit, context.base.torch) == ("a", "0123456789abcdef", "2.12.0")
    assert (context.head.name, context.head.commit, context.head.dirty) == ("b", "fedcba", True)
    assert {(d.name, d.base, d.head) for d in context.differences} == {
        ("torch", "2.12.0", "2.13.0"),
        ("environment.cpu.model", "Example CPU", "Other CPU"),
        ("environment.cpu.cores", "4", "—"),
        ("environment.cpu.governor", "performance", "—"),
    }
    assert (context.suite, context.paired) == ("quick", False)


def test_a_side_that_was_checked_out_is_known_by_its_commit(study: StoredRun) -> None:
    revisions = ("aaaa", False), ("bbbb", True)
    context = stored_context(study, study, names=("a", "b"), command=(), created="now", revisions=revisions)
    assert (context.base.commit, context.base.dirty) == ("aaaa", False)
    assert (context.head.commit, context.head.dirty) == ("bbbb", True)


def test_the_time_of_a_cell_is_that_of_its_samples_on_both_sides(study: StoredRun) -> None:
    seconds = measured_s((*study.trials, *study.trials))
    key = study.trials[0].key
    own = [s.latency_s for trial in study.trials if trial.key == key for s in trial.samples]
    assert math.isclose(seconds[key], 2 * sum(own))


def test_what_holds_for_a_moment_is_no_condition(study: StoredRun) -> None:
    gpu = {"name": "H200", "now": {"power_w": 71.0}}
    environment = {"gpu": {"driver": "560.35", "gpus": [gpu]}, "now": {"load_average": [1.0]}}
    settings = {"target_ci": 0.02, "cwd": "here", "options": {"out": "there"}}
    run = study.run.model_copy(update={"environment": environment, "settings": settings})
    found = conditions(replace(study, run=run))
    assert found["environment.gpu.driver"] == "560.35"
    assert found["environment.gpu.gpus.0.name"] == "H200"
    assert found["settings.target_ci"] == "0.02"
    assert not [name for name in found if "now" in name or "cwd" in name or "out" in name]
    assert flat("a", [1, 2]) == {"a": "[1, 2]"}
    assert flat("a", []) == {"a": "[]"}
