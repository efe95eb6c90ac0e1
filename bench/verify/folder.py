"""A folder of recorded outputs, and the book that is kept of what was compared with it.

Every tensor that a check asks for is marked as read; what nobody asked for is listed at the end as not checked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ... import InputError
from ...models.hf_config import read_json

RUNS = "io_generate.safetensors"

# Reordered float32 sums differ in the last digits; the recordings state 1e-4 as safe and still tight.
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Item:
    """One comparison: largest error and tolerance in the tensor's own unit, `passed` None for what was not checked."""

    name: str
    error: float | None
    tolerance: float | None
    passed: bool | None
    note: str = ""


@dataclass(slots=True)
class Folder:
    """Reads the recorded tensors of `path` and collects the items."""

    path: Path
    items: list[Item] = field(default_factory=list)
    _read: set[tuple[str, str]] = field(default_factory=set)
    _tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def has(self, file: str) -> bool:
        return (self.path / file).is_file()

    def json(self, file: str) -> dict[str, Any]:
        """The object in a JSON file. Raises InputError."""
        return read_json(self.path / file)

    def names(self, file: str = "io.safetensors") -> list[str]:
        """Names of the tensors in a file, none if there is no such file. Raises InputError for a broken one."""
        if file not in self._tensors:
            tensors = {}
            if self.has(file):
                try:
                    with safe_open(self.path / file, framework="pt") as stored:
                        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
                except (SafetensorError, OSError) as error:
                    raise InputError(f"{self.path / file}: cannot be read ({error}); record it again") from None
            self._tensors[file] = tensors
        return list(self._tensors[file])

    def tensor(self, name: str, file: str = "io.safetensors") -> Tensor:
        """A recorded tensor, which counts as checked from now on. Raises InputError where there is none."""
        if name not in self.names(file):
            raise InputError(f"{self.path / file}: {name} is missing; record it again, or remove what refers to it")
        self._read.add((file, name))
        return self._tensors[file][name]

    def compare(
        self,
        name: str,
        ours: Tensor,
        tolerance: float | tuple[float, float] = TOLERANCE,
        *,
        expected: Tensor | None = None,
        file: str = "io.safetensors",
        note: str = "",
    ) -> None:
        """Compare floats with the recorded tensor `name` (or `expected`): |ours - theirs| <= atol + rtol |theirs|."""
        theirs = self.tensor(name, file) if expected is None else expected
        if ours.shape != theirs.shape:
            note = f"shape {list(ours.shape)}, recorded {list(theirs.shape)}"
            self.items.append(Item(name, None, None, False, note))
            return
        atol, rtol = tolerance if isinstance(tolerance, tuple) else (tolerance, tolerance)
        ours, theirs = ours.double(), theirs.double()
        difference = (ours - theirs).abs()
        difference[ours == theirs] = 0.0  # equal infinities
        # Beside an infinity, any tolerance relative to it would be one, too.
        close = bool(((ours == theirs) | (theirs.isfinite() & (difference <= atol + rtol * theirs.abs()))).all())
        error: float | None = float(difference.max()) if difference.numel() else 0.0
        if error is not None and not math.isfinite(error):
            error, note = None, f"not finite{f'; {note}' if note else ''}"
        self.items.append(Item(name, error, atol, close, note))

    def exact(
        self, name: str, ours: Any, *, expected: Any = None, file: str = "io.safetensors", note: str = ""
    ) -> None:
        """Compare ids, truth values or counts, which must be equal; the error is the number that differ."""
        theirs = self.tensor(name, file) if expected is None else expected
        ours, theirs = torch.as_tensor(ours), torch.as_tensor(theirs)
        if ours.shape != theirs.shape:
            note = f"shape {list(ours.shape)}, recorded {list(theirs.shape)}"
            self.items.append(Item(name, None, 0.0, False, note))
            return
        wrong = int((ours != theirs).sum())
        if ours.numel() == 1 and wrong:
            note = f"{ours.item()}, recorded {theirs.item()}" + (f"; {note}" if note else "")
        self.items.append(Item(name, float(wrong), 0.0, wrong == 0, note))

    def fail(self, name: str, reason: str) -> None:
        """A check that could not even be made, by our fault: an error where the recording has a result."""
        self.items.append(Item(name, None, None, False, reason))

    def skip(self, name: str, reason: str) -> None:
        """Something recorded that is not checked, and why."""
        self.items.append(Item(name, None, None, None, reason))

    def inputs(self, *names: str, file: str = "io.safetensors") -> None:
        """Mark tensors as inputs of a check, where the folder has them: there is nothing to compare them with."""
        self._read |= {(file, name) for name in names}

    def left_over(self) -> list[Item]:
        """Recorded tensors that nobody asked for."""
        return [
            Item(name, None, None, None, "no check knows this tensor")
            for file in ("io.safetensors", RUNS, "schedules.safetensors")
            for name in self.names(file)
            if (file, name) not in self._read
        ]
