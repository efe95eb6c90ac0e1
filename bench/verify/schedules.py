"""Noise schedules, time grids and transfer counts against `schedules.safetensors` and `transfer_counts.json`.

A tensor's name says what it is; everything else about it is read from the folder:

    t                                        the times [n] at which the schedules were recorded
    SYSTEM.SCHEDULE[_PARAMETER...].QUANTITY  values at those times; mdlm, sedd or bd3lm; geometric_1e-4_20, say
    grid.mdlm_sedd.stepsT                    T steps from 1 to 1e-5
    grid.dream_epsE.stepsT                   T steps from 1 to E
    grid.bd3lm.stepsT                        T points from 1 to 0

What is not known by name is skipped, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from ... import InputError
from ...models.noise import SCHEDULES, BlockNoise, NoiseSchedule, block_noise, noise_schedule, time_grid
from ...models.schedule import transfer_counts, transfer_counts_by_time
from .folder import Folder

FILE = "schedules.safetensors"
COUNTS = "transfer_counts.json"

# Absolute, relative. Small values count: sigma starts at 1e-6. The geometric's two constants are float32 in the
# references (5e-8 relative).
TOLERANCE = (1e-9, 1e-6)
# The ends of the interpolation are float32 in the reference, and the lower one is a difference 1 - 0.999.
COARSE = {"importance_sampling_t": (1e-6, 1e-6)}

QUANTITIES = ("sigma", "dsigma", "move_chance", "nelbo_weight", "loss_scaling")
QUANTITIES_OF_SOME = ("sigma_min", "sigma_max", "importance_sampling_t")

_NUMBER = r"[0-9.]+(?:e[+-]?[0-9]+)?"
# The schedule's name may hold underscores, its parameters dots: the quantity is what follows the last dot.
_SCHEDULE = re.compile(rf"(?P<system>\w+?)\.(?P<name>[a-z_]+?)(?P<parameters>(?:_{_NUMBER})*)\.(?P<quantity>\w+)")
_GRID = re.compile(rf"grid\.(?P<system>mdlm_sedd|bd3lm|dream_eps(?P<epsilon>{_NUMBER}))\.steps(?P<steps>[1-9][0-9]*)")

COUNT_RULES: dict[str, Callable[[dict[str, Any]], list[int]]] = {
    "llada_transfer_counts": lambda case: transfer_counts(case["masks"], case["steps"]),
    "dream_transfer_counts": lambda case: transfer_counts_by_time(case["masks"], case["steps"], case["eps"]),
}


def check(folder: Folder) -> None:
    """Compare everything in the two files. Raises InputError for what is named but not there or not readable."""
    if any(not name.startswith("grid.") for name in folder.names(FILE)):
        folder.tensor("t", FILE)
    for name in folder.names(FILE):
        if name == "t":
            folder.inputs("t", file=FILE)
            continue
        recorded = folder.tensor(name, FILE)
        try:
            ours = _grid(name) if name.startswith("grid.") else _schedule(name, folder)
        except InputError as error:
            folder.skip(name, str(error))
            continue
        tolerance = COARSE.get(name.rpartition(".")[2], TOLERANCE)
        folder.compare(name, ours, tolerance, expected=recorded, note=f"and {tolerance[1]:g} relative")
    if folder.has(COUNTS):
        _counts(folder)


def _grid(name: str) -> Tensor:
    """The time grid that `name` describes. Raises InputError for an unknown one."""
    found = _GRID.fullmatch(name)
    if not found:
        raise InputError("not a known grid; expected grid.mdlm_sedd, grid.dream_epsE or grid.bd3lm, .stepsT")
    steps = int(found["steps"])
    if found["system"] == "bd3lm":
        # One point is no step: torch has it at the start.
        return time_grid(steps - 1, 0) if steps > 1 else torch.ones(1)
    return time_grid(steps, float(found["epsilon"])) if found["epsilon"] else time_grid(steps)


def _schedule(name: str, folder: Folder) -> Tensor:
    """The recorded quantity as ours, at the folder's times. Raises InputError for an unknown name."""
    found = _SCHEDULE.fullmatch(name)
    if not found:
        raise InputError("not understood; expected SYSTEM.SCHEDULE.QUANTITY")
    numbers = [float(number) for number in found["parameters"].split("_")[1:]]
    schedule = _named(found["system"], found["name"], numbers)
    quantity = found["quantity"]
    value = getattr(schedule, quantity, None) if quantity in (*QUANTITIES, *QUANTITIES_OF_SOME) else None
    if value is None:
        raise InputError(f"this schedule has no {quantity}")
    if isinstance(value, float):
        return torch.tensor(value, dtype=torch.float64)
    ours: Tensor = value(folder.tensor("t", FILE))
    return ours


def _named(system: str, name: str, numbers: list[float]) -> NoiseSchedule | BlockNoise:
    """The schedule with its parameters in the order of its fields. Raises InputError for an unknown one."""
    if system == "bd3lm" and not numbers:
        return block_noise(name)
    if system not in ("mdlm", "sedd"):
        raise InputError(f"no schedules of {system} with {len(numbers)} parameters are known")
    parameters = [field.name for field in fields(SCHEDULES[name])] if name in SCHEDULES else []
    if name in SCHEDULES and len(numbers) > len(parameters):
        raise InputError(f"noise schedule {name}: {len(numbers)} parameters, but it has {', '.join(parameters)}")
    return noise_schedule(name, **dict(zip(parameters, numbers, strict=False)))


def _counts(folder: Folder) -> None:
    """One item for each rule: all its cases after each other."""
    for name, cases in folder.json(COUNTS).items():
        if name not in COUNT_RULES:
            folder.skip(name, f"no such rule is known; known are {', '.join(COUNT_RULES)}")
            continue
        try:
            ours = [count for case in cases for count in COUNT_RULES[name](case)]
            recorded = [count for case in cases for count in case["counts"]]
        except (KeyError, TypeError) as error:
            place = f"{folder.path / COUNTS}: {name}"
            raise InputError(f"{place}: a case is incomplete ({error}); record it again") from None
        folder.exact(name, ours, expected=recorded, note=f"{len(cases)} cases")
