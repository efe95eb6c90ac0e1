"""A tiny network, a run of a generator, an observer that keeps what it is told, and a counter of FLOPs."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

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


@dataclass(frozen=True)
class Counted:
    """FLOPs of some work by two conventions.

    `square` is what torch's counter says: in attention every pair of a query and a key that are multiplied, masked or
    not. `live` is ours: only the pairs that the mask lets through, as seen in the masks themselves.
    """

    square: int
    live: int


class _Masks(TorchFunctionMode):
    """Attention's FLOPs over all pairs and over the unmasked ones, from the tensors that attention is given."""

    def __init__(self) -> None:
        super().__init__()
        self.square = self.live = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention:
            self._attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any,
        is_causal: bool = False, **__: Any,
    ) -> None:  # fmt: skip
        batch, heads, q_len, width = query.shape
        kv_len, each = key.shape[2], 2 * (width + value.shape[3])  # a dot product and a weighted sum
        pairs = batch * heads * q_len * kv_len
        self.square += each * pairs
        if is_causal:
            pairs = batch * heads * sum(min(i + 1, kv_len) for i in range(q_len))
        elif attn_mask is not None:
            seen = attn_mask if attn_mask.dtype is torch.bool else attn_mask > torch.finfo(attn_mask.dtype).min / 2
            pairs = int(seen.expand(batch, heads, q_len, kv_len).sum())
        self.live += each * pairs


@pytest.fixture
def count() -> Callable[[Callable[[], object]], Counted]:
    """A function from some work to the FLOPs of its matrix products.

    Attention runs on the math backend, whose products the counter sees one by one: it has a formula for other kernels
    on a GPU, and none for those of a CPU.
    """

    def count_it(work: Callable[[], object]) -> Counted:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, _Masks() as masks:
            work()
        total = counter.get_total_flops()
        return Counted(total, total - masks.square + masks.live)

    return count_it


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
