"""What a task is: seeded instances, a scorer, and the exact marginals of its answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ... import InputError


@dataclass(frozen=True, slots=True)
class Instance:
    """One question: its prompt's ids, how many tokens an answer has, and how many answers are right (None: unknown)."""

    prompt: tuple[int, ...]
    length: int
    answers: int | None


class Task(ABC):
    """Questions of one kind and size. Ids 0 … symbols-1 may stand in an answer; the vocabulary ends with the mask.

    An instance is wholly in its prompt, so a network that sees prompt and canvas can know the marginals. There is no
    EOS: every answer has `length` tokens.
    """

    name: str
    symbols: int
    vocab_size: int
    prompt_length: int
    length: int
    # Whether `independent_validity` holds in every order that does not look at the draws, or in random order only.
    any_order: bool = True
    # Whether the marginals are known; without them there is only the scorer.
    exact: bool = True

    @property
    def mask_id(self) -> int:
        return self.vocab_size - 1

    @abstractmethod
    def sample(self, seed: int) -> Instance:
        """The instance of a seed: the same one everywhere."""

    @abstractmethod
    def valid(self, instance: Instance, answer: Sequence[int]) -> bool:
        """Whether `answer` is right. Whatever else it may be (too short, masks in it) is wrong, never an error."""

    @abstractmethod
    def batch_marginals(self, prompts: Tensor, canvas: Tensor) -> Tensor:
        """Marginals [B, L, V] float64 of prompts [B, P] and canvases [B, L], row by row as in `marginals`."""

    @abstractmethod
    def independent_validity(self, instance: Instance, counts: Sequence[int]) -> float | None:
        """Probability that an answer is right whose steps commit `counts` positions, taken in random order.

        At each step every position is drawn by itself from its true marginal given the steps before. None where it is
        not known; InputError where the counts do not sum to L.
        """

    def marginals(self, instance: Instance, canvas: Sequence[int]) -> Tensor:
        """How each position of a right answer is distributed given those committed: [L, V] float64.

        All right answers are equally likely. A committed position has all weight on its token; where no right answer
        agrees with the canvas, everything is 0. Raises InputError for a canvas of another length or vocabulary.
        """
        if len(canvas) != self.length:
            raise InputError(f"canvas of {len(canvas)} tokens: an answer to {self.name} has {self.length}")
        outside = [token for token in canvas if not 0 <= token < self.vocab_size]
        if outside:
            raise InputError(
                f"canvas token {outside[0]}: {self.name} has ids 0 to {self.mask_id}, the last is the mask"
            )
        return self.batch_marginals(torch.tensor([instance.prompt]), torch.tensor([list(canvas)]))[0]

    def settled(self, weights: Tensor, canvas: Tensor, possible: Tensor) -> Tensor:
        """Marginals from `weights` [B, L, V] of masked positions: committed ones from `canvas` [B, L], nothing where
        not `possible` [B]."""
        committed = F.one_hot(canvas, self.vocab_size).double()
        known = (canvas != self.mask_id)[:, :, None]
        return torch.where(known, committed, weights) * possible[:, None, None]

    def check_counts(self, counts: Sequence[int]) -> None:
        """Raise InputError for counts that do not commit every position once."""
        if sum(counts) != self.length or min(counts, default=0) < 0:
            raise InputError(
                f"counts {list(counts)}: the steps of {self.name} must commit {self.length} positions in all"
            )
