"""How many tokens Fast-dLLM's steps commit: LLaDA's share, a recorded schedule, or as many as pass a rule."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from .block_canvas import BlockCanvas
from .candidates import Rule, Step, planned_steps, standing_in
from .commit_plan import commit_plan, whole_blocks
from .commit_schedule import Plan
from .generator import Settings, Shape
from .selection import above_threshold, within_factor

# Only without suppression can a step commit nothing but masks. A greedy one then repeats itself, at the latest when
# the partial forward has been tried as well; draws may be luckier.
_PATIENCE, _PATIENCE_OF_DRAWS = 2, 64


def rule_of(settings: Settings) -> Rule | None:
    """The rule that lets the data decide, if there is one."""
    if settings.threshold is not None:
        return partial(above_threshold, threshold=settings.threshold)
    return None if settings.factor is None else partial(within_factor, factor=settings.factor)


def fast_plan(shape: Shape, settings: Settings) -> Plan | None:
    """The commits of each block's steps, None where data decide. Raises InputError for blocks that do not fit."""
    if rule_of(settings) is not None and settings.commit_schedule is None:
        whole_blocks(shape.length, settings.block_length or shape.length)
        return None
    plan = []
    for steps in commit_plan(shape, settings):
        # Steps of T > L that commit nothing come after the block is complete, when it has already been left.
        own = [counts for counts in steps if any(counts)]
        counted = len(steps) > 1 or settings.commit_schedule is not None
        if settings.idle_steps == "run" and settings.cache in ("prefix", "dual") and len(own) == 1 and counted:
            own.append((0,) * shape.batch)
        plan.append(own)
    return plan


def scheduled_steps(plan: Plan, settings: Settings, device: torch.device) -> list[list[Step]]:
    """The steps of each block of a plan. Where it stands in for a rule, that rule still runs, and the host still waits
    for what is left: only the outcome is the schedule's."""
    steps, rule = planned_steps(plan, device), rule_of(settings)
    if rule is None:
        return steps
    return [[(None, standing_in(planned, rule)) for _, planned in block] for block in steps]


def until_done(canvas: BlockCanvas, settings: Settings) -> Iterator[tuple[None, Rule]]:
    """Steps of a block until no row has a mask in it, which is looked up between them."""
    rule = rule_of(settings)
    assert rule is not None
    patience = _PATIENCE if settings.temperature == 0 else _PATIENCE_OF_DRAWS
    yield None, rule
    if not any(canvas.left) and settings.idle_steps == "run" and settings.cache in ("prefix", "dual"):
        yield None, rule
    stalled = 0
    while any(canvas.left) and stalled < patience:
        before = sum(canvas.left)
        yield None, rule
        stalled = stalled + 1 if sum(canvas.left) == before else 0
