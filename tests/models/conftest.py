"""A tiny network, a run of a generator, and an observer that keeps what it is told."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from dlmbench.models.backbone import Backbone
from dlmbench.models.canvas import Canvas
from dlmbench.models.config import BackboneConfig
from dlmbench.models.generator import Generator, Request, Settings
from dlmbench.models.weights import random_network

VOCABULARY = 61
TINY = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


@dataclass
class Written:
    """One announced write, copied when it was announced: `rows` [B, n] bool or None, `ids` [B, n]."""

    rows: Tensor | None
    ids: Tensor
    step: int
    offset: int
    committed: bool


@dataclass
class Seen:
    """An observer that keeps what it is told; `order` has ( and ) for a forward, w for a write."""

    forwards: list[tuple[object, ...]] = field(default_factory=list)
    writes: list[Written] = field(default_factory=list)
    live: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    order: str = ""

    @contextlib.contextmanager
    def forward(self, *announced: object) -> Iterator[None]:
        self.forwards.append(announced)
        self.order += "("
        yield
        self.order += ")"

    def write(
        self, row_mask: Tensor | None, token_ids: Tensor, step: int, *, offset: int = 0, committed: bool = True
    ) -> None:
        copy = token_ids.clone()
        self.writes.append(Written(None if row_mask is None else row_mask.clone(), copy, step, offset, committed))
        self.live.append((token_ids, copy))
        self.order += "w"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Tiny operations gain nothing from threads, and on a busy machine wait for each other's."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_network() -> Callable[..., Backbone]:
    """A function from changes of the tiny config to a network whose logits are far from uniform."""

    def make(device: str = "cpu", **changes: Any) -> Backbone:
        network = random_network(BackboneConfig(**(TINY | changes)), 3, torch.float32, "cpu")
        random = torch.Generator().manual_seed(4)
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.2)
        network.to(device).rotary(64)
        return network

    return make


@pytest.fixture
def prompts() -> Callable[..., Tensor]:
    """A function from rows and length to prompt ids that differ between rows."""

    def make(rows: int = 3, length: int = 5, seed: int = 0) -> Tensor:
        return torch.randint(VOCABULARY - 1, (rows, length), generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture
def run() -> Callable[..., tuple[Tensor, Seen]]:
    """A function that prepares a generator, runs it, and returns its tokens and what it announced."""

    def run_it(
        generator: Generator, prompt: Tensor, length: int, settings: Settings | None = None, seed: int = 0
    ) -> tuple[Tensor, Seen]:
        request = Request(prompt, length, settings or Settings(), seed)
        generator.prepare(request.shape, request.settings)
        seen = Seen()
        tokens = generator.generate(request, seen)
        # What was handed to the observer must not change afterwards: it is read only when the generation has ended.
        for live, copy in seen.live:
            assert torch.equal(live, copy)
        return tokens, seen

    return run_it


@pytest.fixture
def inputs(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What every forward on a canvas is given, in order."""
    seen: list[Tensor] = []
    plain = Canvas.logits

    def logits(self: Canvas, where: Tensor, condition: Tensor | None) -> Tensor:
        seen.append(self.ids.clone())
        return plain(self, where, condition)

    monkeypatch.setattr(Canvas, "logits", logits)
    return seen
