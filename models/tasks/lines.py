"""Copy, shuffle and replace-one: tasks on a line of n different tokens, after ParallelBench's waiting line."""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial
from random import Random

import torch
from torch import Tensor
from torch.nn import functional as F

from ... import InputError
from .closed_forms import moved_shuffle_validity, replace_one_validity, shuffle_validity
from .task import Instance, Task

_MOST = 100  # n! must stay a float


class _Line(Task):
    """n different tokens of `symbols`, then `extra` more that differ from them."""

    def __init__(self, name: str, n: int, symbols: int, *, least: int = 1, extra: int = 0) -> None:
        if not least <= n <= min(_MOST, symbols - extra):
            raise InputError(
                f"n={n}: {name} over {symbols} symbols takes {least} to {min(_MOST, symbols - extra)} tokens"
            )
        self.name = f"{name}, n={n}"
        self.symbols, self.vocab_size = symbols, symbols + 1
        self.length, self.prompt_length = n, n + extra

    def _prompt(self, seed: int) -> tuple[int, ...]:
        return tuple(Random(f"{self.name}/{seed}").sample(range(self.symbols), self.prompt_length))

    def _one_hot(self, ids: Tensor) -> Tensor:
        return F.one_hot(ids, self.vocab_size).double()


class Copy(_Line):
    """Repeat the given tokens: one right answer, which no draw can miss."""

    def __init__(self, n: int, symbols: int = 26) -> None:
        super().__init__("copy", n, symbols)

    def sample(self, seed: int) -> Instance:
        return Instance(self._prompt(seed), self.length, 1)

    def valid(self, instance: Instance, answer: Sequence[int]) -> bool:
        return tuple(answer) == instance.prompt

    def batch_marginals(self, prompts: Tensor, canvas: Tensor) -> Tensor:
        possible = ((canvas == prompts) | (canvas == self.mask_id)).all(dim=1)
        return self.settled(self._one_hot(prompts), canvas, possible)

    def independent_validity(self, instance: Instance, counts: Sequence[int]) -> float:
        self.check_counts(counts)
        return 1.0


class Shuffle(_Line):
    """Any order of the given tokens; with `moved`, any but the given one."""

    def __init__(self, n: int, symbols: int = 26, *, moved: bool = False) -> None:
        super().__init__("shuffle, moved" if moved else "shuffle", n, symbols, least=2 if moved else 1)
        self.moved = moved

    def sample(self, seed: int) -> Instance:
        return Instance(self._prompt(seed), self.length, factorial(self.length) - self.moved)

    def valid(self, instance: Instance, answer: Sequence[int]) -> bool:
        return sorted(answer) == sorted(instance.prompt) and not (self.moved and tuple(answer) == instance.prompt)

    def batch_marginals(self, prompts: Tensor, canvas: Tensor) -> Tensor:
        given, written = self._one_hot(prompts).sum(dim=1), self._one_hot(canvas)[..., : self.mask_id].sum(dim=1)
        remaining = ((given > 0)[:, : self.mask_id] & (written == 0)).double()
        remaining = F.pad(remaining, (0, 1))
        masked = (canvas == self.mask_id).sum(dim=1)
        # A token written twice, or one that was not given, leaves more tokens than places.
        possible = remaining.sum(dim=1) == masked
        factorials = torch.tensor([float(factorial(m)) for m in range(self.length + 1)], device=canvas.device).double()
        in_place = ((canvas == prompts) | (canvas == self.mask_id)).all(dim=1) & self.moved
        answers = factorials[masked] - in_place.double()
        with_token = factorials[(masked - 1).clamp(min=0)][:, None, None]
        weights = remaining[:, None, :] * (with_token - in_place[:, None, None] * self._one_hot(prompts))
        return self.settled(weights / answers.clamp(min=1)[:, None, None], canvas, possible & (answers > 0))

    def independent_validity(self, instance: Instance, counts: Sequence[int]) -> float:
        self.check_counts(counts)
        return moved_shuffle_validity(counts) if self.moved else shuffle_validity(counts)


class ReplaceOne(_Line):
    """Replace exactly one of the given tokens, whichever, by the one that the prompt ends with."""

    def __init__(self, n: int, symbols: int = 26) -> None:
        super().__init__("replace-one", n, symbols, extra=1)

    def sample(self, seed: int) -> Instance:
        return Instance(self._prompt(seed), self.length, self.length)

    def valid(self, instance: Instance, answer: Sequence[int]) -> bool:
        *given, other = instance.prompt
        changed = [new for old, new in zip(given, answer, strict=False) if new != old]
        return len(answer) == self.length and changed == [other]

    def batch_marginals(self, prompts: Tensor, canvas: Tensor) -> Tensor:
        given, other = prompts[:, :-1], prompts[:, -1:]
        masked = canvas == self.mask_id
        replaced, left = (canvas == other).sum(dim=1), masked.sum(dim=1)
        possible = (masked | (canvas == given) | (canvas == other)).all(dim=1) & (replaced + (left > 0) >= 1)
        share = torch.where(replaced == 0, 1 / left.clamp(min=1).double(), 0.0)[:, None, None]
        weights = (1 - share) * self._one_hot(given) + share * self._one_hot(other)
        return self.settled(weights, canvas, possible & (replaced <= 1))

    def independent_validity(self, instance: Instance, counts: Sequence[int]) -> float:
        self.check_counts(counts)
        return replace_one_validity(counts)
