"""An observer that only keeps what it is told: for checks of how many forwards a generator ran, and of what kind."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from torch import Tensor

from ...models.generator import Phase

Forward = tuple[str, Phase, int, int, int, int, str]


@dataclass(slots=True)
class Tally:
    """Forwards as announced, and writes as (row mask, ids, step, offset, committed), in order."""

    forwards: list[Forward] = field(default_factory=list)
    writes: list[tuple[Tensor | None, Tensor, int, int, bool]] = field(default_factory=list)
    # For each write, the number of forwards announced before it.
    after: list[int] = field(default_factory=list)

    def forward(
        self, network: str, phase: Phase, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str
    ) -> AbstractContextManager[object]:
        self.forwards.append((network, phase, rows, q_len, kv_len, logit_rows, mask))
        return nullcontext()

    def write(
        self, row_mask: Tensor | None, token_ids: Tensor, step: int, *, offset: int = 0, committed: bool = True
    ) -> None:
        self.writes.append((row_mask, token_ids, step, offset, committed))
        self.after.append(len(self.forwards))

    @property
    def nfe(self) -> int:
        """Forwards of the target network."""
        return sum(forward[0] == "target" for forward in self.forwards)

    @property
    def lengths(self) -> list[int]:
        """Positions fed per forward."""
        return [forward[3] for forward in self.forwards]
