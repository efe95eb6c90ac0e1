"""Runs the project's own samplers on perfect marginals, and counts right answers beside what arithmetic promises."""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum

import torch
from scipy.stats import binomtest

from ... import InputError
from ..autoregressive import Autoregressive
from ..commit_plan import commit_plan
from ..generator import Generator, Request, Settings, Shape, Side, Silent
from ..masked_diffusion import MaskedDiffusion
from .perfect_marginals import PerfectMarginals
from .task import Instance, Task


@dataclass(frozen=True, slots=True)
class Measured:
    """`valid` right answers of `generations`; `expected` share of them by the closed form, None where there is none."""

    valid: int
    generations: int
    expected: float | None

    @property
    def rate(self) -> float:
        return self.valid / self.generations

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson's score interval for the validity."""
        found = binomtest(self.valid, self.generations).proportion_ci(confidence, method="wilson")
        return float(found.low), float(found.high)

    def p_value(self) -> float | None:
        """Of the exact binomial test against `expected`. Where instances differ in it, their sum scatters less than a
        binomial, so that the test errs on the side of agreement."""
        return None if self.expected is None else float(binomtest(self.valid, self.generations, self.expected).pvalue)


def measure(
    task: Task,
    settings: Settings,
    *,
    side: Side = "diffusion",
    generations: int = 4000,
    instances: int = 8,
    seed: int = 0,
) -> Measured:
    """Validity of `generations` answers in one batch, to `instances` questions in turn.

    `side` diffusion is LLaDA's loop under `settings` (T steps, blocks, remasking), ar the autoregressive loop. Raises
    InputError for what these refuse, and for a task without marginals.
    """
    if generations < 1 or instances < 1:
        raise InputError(f"generations {generations}, instances {instances}: expected at least 1 of each")
    network = PerfectMarginals(task)
    generator: Generator = MaskedDiffusion(network) if side == "diffusion" else Autoregressive(network)
    asked = [task.sample(seed + number) for number in range(min(instances, generations))]
    questions = [asked[row % len(asked)] for row in range(generations)]
    prompts = torch.tensor([question.prompt for question in questions])
    request = Request(prompts, task.length, settings, seed)
    generator.prepare(request.shape, settings)
    answers = generator.generate(request, Silent()).tolist()
    valid = sum(task.valid(question, answer) for question, answer in zip(questions, answers, strict=True))
    shares = {question: expected_validity(task, question, settings, side=side) for question in asked}
    known = [share for share in (shares[question] for question in questions) if share is not None]
    return Measured(valid, generations, fsum(known) / generations if len(known) == generations else None)


def expected_validity(task: Task, instance: Instance, settings: Settings, *, side: Side = "diffusion") -> float | None:
    """What independent draws from perfect marginals reach under these settings, by closed form or enumeration.

    None where the draws are changed (a temperature other than 1, top-k, top-p), where they decide what is committed
    (low confidence), where guidance mixes them, and for a grid in blocks.
    """
    if settings.temperature != 1 or settings.top_k or settings.top_p < 1 or settings.cfg_scale:
        return None
    if side == "ar":
        return task.independent_validity(instance, (1,) * task.length)
    if settings.remasking != "random" or not (settings.suppress_mask and settings.draw == "exact"):
        return None
    if settings.block_length not in (None, task.length) and not task.any_order:
        return None
    plan = commit_plan(Shape(1, task.prompt_length, task.length), settings)
    return task.independent_validity(instance, [counts[0] for steps in plan for counts in steps])
