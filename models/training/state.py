"""What a training needs to go on as if it had never stopped, in one file: weights, the optimiser's moments, progress.

The file is a safetensors file, replaced whole: after a kill there is the state of the last save or of the one before,
never half of one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ... import InputError
from .files import write_whole
from .loop import Progress, Training

STATE = "state.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save_state(training: Training, folder: Path) -> None:
    """Write `folder`/state.safetensors. Raises InputError where it cannot be written; an older one then stays."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in _parameters(training).items():
        tensors[f"weight.{name}"] = parameter.detach()
        kept = training.optimiser.state.get(parameter, {})
        tensors |= {f"{moment}.{name}": kept[moment] for moment in _MOMENTS if moment in kept}
    head = {"progress": asdict(training.progress), "recipe": training.recipe.model_dump(), "model": training.model}
    metadata = {"training": json.dumps(head)}
    write_whole(folder / STATE, save({name: t.contiguous() for name, t in tensors.items()}, metadata))


def load_state(training: Training, folder: Path) -> bool:
    """Put `training` where `folder`/state.safetensors left it; False where there is none.

    Raises InputError for a file that is damaged, or of another training.
    """
    path = folder / STATE
    if not os.path.exists(path):
        return False
    tensors, head = _read(path)
    if head.get("recipe") != training.recipe.model_dump() or head.get("model") != training.model:
        raise InputError(f"{path}: is of another training than the folder's train.json says; delete it to start afresh")
    parameters = _parameters(training)
    wanted = {f"{kind}.{name}" for kind in ("weight", *_MOMENTS) for name in parameters}
    fits = tensors.keys() == wanted and all(tensors[f"weight.{n}"].shape == p.shape for n, p in parameters.items())
    progress = head.get("progress")
    if not fits or not isinstance(progress, dict):
        raise InputError(f"{path}: its tensors are not those of the network; delete it to train this model afresh")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"weight.{name}"])
            training.optimiser.state[parameter] = {moment: tensors[f"{moment}.{name}"] for moment in _MOMENTS}
    curve = tuple((int(step), float(loss)) for step, loss in progress["curve"])
    training.progress = Progress(progress["step"], curve, tuple(progress["pending"]), progress["seconds"])
    return True


def _parameters(training: Training) -> Mapping[str, torch.nn.Parameter]:
    return dict(training.network.named_parameters())


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            head = json.loads((file.metadata() or {}).get("training", "null"))
    except (OSError, SafetensorError, ValueError) as error:
        problem = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read ({problem}); delete it to train this model afresh") from None
    return tensors, head if isinstance(head, dict) else {}
