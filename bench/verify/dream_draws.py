"""Recorded draws of Dream's loops, replayed call by call."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ... import InputError


class Recorded:
    """Uniforms, and what multinomial draws gave (token ids, or chosen columns), each a list of calls.

    A call of another size than was recorded, or one too many, is an error; `left_over` counts what nobody took.
    Token ids of one call may be taken in several parts.
    """

    whole = True

    def __init__(self, name: str, uniforms: Iterable[Tensor] = (), chosen: Iterable[Tensor] = ()) -> None:
        self.name = name
        # The reference also calls its generator where nothing is left to draw.
        self.uniforms = [call for call in uniforms if len(call)]
        self.chosen = [call for call in chosen if len(call)]

    def uniform(self, rows: int, columns: int) -> Tensor:
        drawn = self._whole(self.uniforms, "uniforms", rows * columns)
        return drawn.double().view(rows, columns)

    def tokens(self, weights: Tensor, where: Tensor, window: tuple[int, int]) -> Tensor:
        count = len(where)
        if not self.chosen or len(self.chosen[0]) < count:
            found = f"a call of {len(self.chosen[0])}" if self.chosen else "none"
            raise InputError(f"{self.name}: {count} tokens are drawn here, but recorded is {found}")
        drawn, rest = self.chosen[0][:count], self.chosen[0][count:]
        self.chosen[:1] = [rest] if len(rest) else []
        # Recorded in the order of the places.
        return torch.empty_like(drawn).scatter_(0, where.argsort(), drawn)

    def positions(self, weights: Tensor, count: int) -> Tensor:
        rows, columns = weights.shape
        drawn = self._whole(self.chosen, "positions", rows * count).view(rows, count)
        if int(drawn.min()) < 0 or int(drawn.max()) >= columns:
            raise InputError(f"{self.name}: recorded positions reach {int(drawn.max())}, but only {columns} are fed")
        return drawn

    def left_over(self) -> int:
        """How many recorded numbers nobody has asked for."""
        return sum(len(call) for call in (*self.uniforms, *self.chosen))

    def _whole(self, calls: list[Tensor], kind: str, count: int) -> Tensor:
        if not count:
            return torch.empty(0)
        if not calls or len(calls[0]) != count:
            found = f"a call of {len(calls[0])}" if calls else "none"
            raise InputError(f"{self.name}: {count} {kind} are drawn here, but recorded is {found}")
        return calls.pop(0)
