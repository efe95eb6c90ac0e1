"""Recorded draws of LLaDA's loop, replayed: one entry a forward, and no forward without one."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import InputError
from ...models.draws import RaceDraws
from .folder import RUNS, Folder


class Recorded:
    """`NAME.uniforms…` [forwards, B, S, V] of the race, `NAME.confidence_uniforms` [forwards, B, S] of remasking.

    Running out of draws, or a forward of another size than was recorded, is an error; `left_over` counts the rest.
    """

    whole = True

    def __init__(self, name: str, noise: list[Tensor], scores: list[Tensor]) -> None:
        self.name, self.noise, self.scores = name, noise, scores
        # LLaDA's race has no epsilon.
        self._race = RaceDraws(lambda shape: self._next(self.noise, "uniforms", shape), eps=0.0)

    @classmethod
    def of(cls, folder: Folder, name: str, stored: list[str]) -> Recorded | None:
        """The draws among the tensors `stored` for the run `name`, None if there are none."""
        found: dict[bool, list[Tensor]] = {False: [], True: []}
        for entry in stored:
            kind = entry.rpartition(".")[2]
            if "uniforms" in kind:
                found[kind.startswith("confidence")] += folder.tensor(entry, RUNS).unbind()
        return cls(name, found[False], found[True]) if any(found.values()) else None

    def tokens(self, weights: Tensor, where: Tensor, window: tuple[int, int]) -> Tensor:
        return self._race.tokens(weights, where, window)

    def uniform(self, rows: int, columns: int) -> Tensor:
        return self._next(self.scores, "confidence_uniforms", (rows, columns)).double()

    def positions(self, weights: Tensor, count: int) -> Tensor:
        raise InputError(f"{self.name}: LLaDA's loop draws no positions, only scores for them")

    def left_over(self) -> int:
        """How many forwards' draws nobody has asked for."""
        return len(self.noise) + len(self.scores)

    def _next(self, queue: list[Tensor], kind: str, shape: tuple[int, ...]) -> Tensor:
        if not queue:
            raise InputError(f"{self.name}: the recorded {kind} have run out; record one for each forward")
        drawn = queue.pop(0)
        if drawn.shape != torch.Size(shape):
            raise InputError(f"{self.name}: {kind} of {list(drawn.shape)} recorded, but {list(shape)} are drawn here")
        return drawn
