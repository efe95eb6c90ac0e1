"""The runs of `generate.json`, each repeated by itself, and what a repeated one is compared in."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ... import InputError
from ...models.generator import Generator, Request
from .folder import RUNS, Folder
from .tally import Tally

# Why what is timed is not compared, where whole races are recorded.
TIMED_LOOP = (
    "recorded draws are of every token at every position; the loop that is timed draws the same law from fewer "
    "numbers, and its law is what the tests check"
)


def repeat_runs(folder: Folder, repeat: Callable[[str, dict[str, Any]], None]) -> None:
    """Call `repeat` with each run's name and fields; one that breaks is a miss, and the others are still checked."""
    for run in folder.json("generate.json").get("runs", []) if folder.has("generate.json") else []:
        name = str(run.get("name", "?"))
        try:
            repeat(name, run)
        except Exception as error:  # whatever it is, it is a result
            folder.inputs(*stored(folder, name), file=RUNS)
            folder.fail(name, f"{type(error).__name__}: {error}")


def stored(folder: Folder, name: str) -> list[str]:
    """The tensors recorded for a run: what follows its name has no dot, unlike the end of a longer name."""
    return [entry for entry in folder.names(RUNS) if entry.rpartition(".")[0] == name]


def prompts_of(folder: Folder, which: str) -> Tensor:
    """The recorded prompts [B, P]: `all` of them, or `row N`. Raises InputError for anything else."""
    prompts = folder.tensor("prompts", RUNS)
    if which == "all":
        return prompts
    row = re.fullmatch(r"row (\d+)", which)
    if not row or int(row[1]) >= prompts.shape[0]:
        raise InputError(f"prompts {which!r}: expected all, or row 0 to row {prompts.shape[0] - 1}")
    return prompts[int(row[1])][None]


def generated(generator: Generator, request: Request) -> tuple[Tensor, Tally]:
    """Tokens [B, L] of a request, and what was announced."""
    tally = Tally()
    generator.prepare(request.shape, request.settings)
    return generator.generate(request, tally), tally


def unmask_steps(tally: Tally, tokens: Tensor) -> Tensor:
    """For each of `tokens` [B, L], the number of forwards after which it was last written; 0 if never."""
    steps = torch.zeros_like(tokens)
    for (written, ids, _, offset, _), after in zip(tally.writes, tally.after, strict=True):
        steps[:, offset : offset + ids.shape[1]][slice(None) if written is None else written] = after
    return steps


def compare_unmask_steps(folder: Folder, name: str, prompt: Tensor, steps: Tensor, masked: Tensor) -> None:
    """Compare the steps [B, L] where they are recorded: [B, P + L], 0 for the prompt. `masked` [B, L] has no steps."""
    if f"{name}.unmask_step" not in folder.names(RUNS):
        return
    recorded = folder.tensor(f"{name}.unmask_step", RUNS)
    start = prompt.shape[1]
    ours = torch.cat((torch.zeros_like(prompt), steps), dim=1)
    if recorded.shape == ours.shape:
        # What is still masked has no step: there, whatever is recorded.
        ours[:, start:] = torch.where(masked, recorded[:, start:], steps)
    folder.exact(f"{name}.unmask_step", ours, file=RUNS)
