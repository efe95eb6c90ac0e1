"""`dlmbench train`: the small matched models from scratch, one after the other, on the same batches.

A training's folder holds `train.json` (the question), a folder for each model and `card.md`. A model in training has a
`state.safetensors` there, replaced every so many steps; a finished one is a checkpoint that `--weights` takes. After a
kill, `--resume` goes on from the last state and ends at the same bits, on the same number of threads.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from .. import InputError, __version__
from ..models.tokenizer import read_file, shown
from ..models.training.export import CARD, export
from ..models.training.files import ready, write_whole
from ..models.training.heldout import HeldOut, held_out_loss
from ..models.training.loop import Training
from ..models.training.objectives import objective
from ..models.training.shapes import Model, Size, initial_network, network_config
from ..models.training.state import STATE, load_state, save_state
from .train_data import Material, material
from .train_jobs import train_side_by_side
from .train_plan import TrainOptions, TrainPlan, choose_jobs, make_plan, new_folder, resumed, write_plan
from .train_view import TrainView, card_text, minutes

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_LOCK = ".lock"
_HELD_OUT_BATCH = 32  # rows of a forward without gradients


def train_command(options: TrainOptions, console: Console, *, quiet: bool) -> dict[str, Any]:
    """Train what the options ask for; the summary as a document. Raises InputError.

    `console` shows progress, if not `quiet`.
    """
    if options.resume is not None:
        folder, plan = resumed(options)
        found = material(plan)
    else:
        plan = make_plan(options)
        found = material(plan)
        folder = new_folder(options.out)
        plan = plan.model_copy(update={"data_sha256": found.sha256})
        write_plan(folder, plan)
    for model in plan.models:
        ready(folder / model)
    jobs = choose_jobs(options.jobs, plan)
    cards: dict[str, Any] = {}
    try:
        unfinished = [model for model in plan.models if _finished(folder / model, plan) is None]
        if jobs > 1 and len(unfinished) > 1:
            train_side_by_side(folder, unfinished, jobs=jobs, threads=plan.threads, console=console, quiet=quiet)
        with _threads(plan.threads), TrainView(console, plan.models, plan.recipe, quiet=quiet) as view:
            for model in plan.models:
                cards[model] = _finished(folder / model, plan) or _trained(model, folder / model, plan, found, view)
    except KeyboardInterrupt:
        if not quiet:
            console.print(f"go on with: dlmbench train --resume {shown(folder)}", soft_wrap=True, markup=False)
        raise
    document = {
        "folder": str(folder),
        "data": {"name": found.name, "sha256": found.sha256, "entropy_rate": found.entropy_rate},
        "recipe": plan.recipe.model_dump(),
        "models": cards,
    }
    write_whole(folder / "card.md", card_text(document).encode())
    return document


def _trained(model: Model, folder: Path, plan: TrainPlan, found: Material, view: TrainView) -> dict[str, Any]:
    """Train one model, alone: two processes would each replace what the other saved."""
    with open(folder / _LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{shown(folder)}: another process is training this model; wait for it") from None
        card = _finished(folder, plan) or _train(model, folder, plan, found, view)
        (folder / _LOCK).unlink(missing_ok=True)
        return card


def _train(model: Model, folder: Path, plan: TrainPlan, found: Material, view: TrainView) -> dict[str, Any]:
    """Train one model, from its last state if there is one, and write its checkpoint; its card."""
    recipe = plan.recipe
    config = network_config(model, Size(plan.hidden, plan.layers), found.vocabulary, recipe.block_size)
    loss = objective(model, found.vocabulary, recipe.block_size)
    training = Training(model, initial_network(config, recipe.seed), loss, recipe, found.data)
    load_state(training, folder)
    view.begin(model, training.progress)
    while not training.finished:
        begin = time.perf_counter()
        batch_loss = training.advance()
        training.progress = training.progress.after(batch_loss, recipe.steps, time.perf_counter() - begin)
        view.step(model, training.progress, batch_loss)
        if training.progress.step % recipe.save_every == 0 or training.finished:
            save_state(training, folder)
    dtype, network = _DTYPES[plan.dtype], training.network
    ids = found.data.held_out(recipe.held_out_rows)

    def judged() -> HeldOut:
        return held_out_loss(network, loss, ids, batch=_HELD_OUT_BATCH, passes=recipe.held_out_passes, seed=recipe.seed)

    whole = judged() if dtype != torch.float32 else None
    # What is judged is what is saved: the weights as the file's dtype has them.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.to(dtype))
    result = judged()
    own = None if found.nats is None else found.nats(ids)
    card = _card(training, plan, found, result, own)
    if whole is not None:
        card["held_out"]["rounding_nats"] = result.nats - whole.nats  # on the same texts and draws
    export(model, training.network, found.vocabulary, dtype, found.tokenizer, card, folder)
    (folder / STATE).unlink(missing_ok=True)
    beside = "" if own is None else f", {result.nats / own:.3f} of the source's own {own:.4f}"
    error = f" ± {result.mc_error:.4f}" if result.mc_error else ""
    seconds = minutes(training.progress.seconds)
    view.say(f"{model}: held-out {result.nats:.4f}{error} nats per token{beside}; trained in {seconds}")
    return card


def _card(training: Training, plan: TrainPlan, found: Material, result: HeldOut, own: float | None) -> dict[str, Any]:
    """What belongs to the weights of one model, in JSON's types."""
    recipe, progress = plan.recipe, training.progress
    return {
        "model": training.model,
        "data": {"name": found.name, "sha256": found.sha256, "entropy_rate": found.entropy_rate},
        "parameters": training.network.config.total_parameters,
        "seed": recipe.seed,
        "steps": recipe.steps,
        "tokens": recipe.tokens,
        "optimiser": "AdamW, no average of weights",
        "recipe": recipe.model_dump(),
        "saved_as": plan.dtype,
        "curve": [[step, round(loss, 5)] for step, loss in progress.curve],
        "held_out": {
            "kind": "exact" if training.objective.exact else "bound",
            **asdict(result),
            "source_nats": own,
            "ratio": None if own is None else result.nats / own,
        },
        "seconds": round(progress.seconds, 1),
        "threads": plan.threads,
        "versions": {"dlmbench": __version__, "torch": torch.__version__},
    }


def _finished(folder: Path, plan: TrainPlan) -> dict[str, Any] | None:
    """The card of a model that is done; None for one that is not. `config.json` is written last."""
    if not os.path.exists(folder / "config.json"):
        return None
    data = read_file(folder / CARD, "the card of a finished model")
    try:
        card = json.loads(data)
        wanted = card["recipe"] == plan.recipe.model_dump()
    except (ValueError, KeyError, TypeError):
        wanted = False
    if not wanted:
        raise InputError(
            f"{shown(folder / CARD)}: is not the card of this training; delete {shown(folder)} to train it again"
        )
    (folder / STATE).unlink(missing_ok=True)
    found: dict[str, Any] = card
    return found


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute on `count` CPU threads, then on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
