"""The analytic FLOPs of every architecture's forwards against the matrix products that torch counts in them.

Torch's counter has a convention of its own: it counts masked pairs of attention, the whole rectangle of queries and
keys. `square` translates: the same forward, with nothing masked.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dlmbench.models.cache import KVCache
from dlmbench.models.config import BackboneConfig
from dlmbench.models.costs import Cost, block_causal
from dlmbench.models.dit_config import DiTConfig
from dlmbench.models.gemma_config import GemmaConfig
from dlmbench.models.network import Network
from dlmbench.models.pairs import load_pair, pair_names
from dlmbench.models.weights import empty_network, random_network

Count = Callable[[Callable[[], object]], Any]

LLAMA: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 6,
}  # fmt: skip
DIT: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "cond_dim": 8,
}  # fmt: skip
SEDD = {"time_conditioning": True, "parameterization": "score"}
ARCHITECTURES: dict[str, BackboneConfig | DiTConfig] = {
    "Llama, grouped queries": BackboneConfig(**LLAMA),
    "LLaDA, a key head for each query head": BackboneConfig(**LLAMA | {"num_key_value_heads": 4}),
    "Qwen2 and Dream, biases": BackboneConfig(**LLAMA, attention_bias=True, shifted_logits=True),
    "Qwen3, QK-norm, tied": BackboneConfig(**LLAMA, qk_norm=True, tie_word_embeddings=True),
    "SDAR, QK-norm, untied": BackboneConfig(**LLAMA, qk_norm=True, block_size=4),
    "the DiTs' AR baseline": DiTConfig(**DIT, adaln=False),
    "MDLM, sigma held at 0": DiTConfig(**DIT),
    "BD3LM": DiTConfig(**DIT, block_size=4),
    "SEDD": DiTConfig(**DIT, **SEDD, scale_by_sigma=True),
    "SEDD, uniform": DiTConfig(**DIT, **SEDD, graph="uniform"),
}
ROWS = 2


def ids(length: int) -> Tensor:
    return torch.zeros((ROWS, length), dtype=torch.int64)


@pytest.fixture(params=ARCHITECTURES, ids=str)
def network(request: pytest.FixtureRequest) -> Network:
    made = random_network(ARCHITECTURES[request.param], 0, torch.float32, "cpu")
    made.rotary(32)
    return made


def trunk(network: Network, ids: Tensor, **how: Any) -> Tensor:
    """A forward with what it is conditioned on; where the noise level never changes, that was evaluated long ago."""
    sigma = 0.5 if getattr(network.config, "time_conditioning", False) else None
    if sigma is not None:
        return network.trunk(ids, condition=network.conditioning(sigma), **how)
    zeros = torch.zeros(1, 6 * network.config.num_hidden_layers + 2, network.config.hidden_size)
    return network.trunk(ids, condition=zeros if getattr(network.config, "adaln", False) else None, **how)


def analytic(network: Network, q_len: int, kv_len: int, logits: int, mask: str) -> tuple[Cost, Cost]:
    """The forward's cost, and by the counter's convention; `logits` positions a row."""
    shape = ("target", ROWS, q_len, kv_len, ROWS * logits)
    return network.forward_cost(*shape, mask), network.forward_cost(*shape, "bidirectional")


def check(found: Any, expected: tuple[Cost, Cost]) -> None:
    live, square = expected
    assert (found.live, found.square) == (live.flops, square.flops)


@torch.inference_mode()
def test_a_denoising_forward(network: Network, count: Count) -> None:
    """The whole canvas, and logits for five positions of each row."""
    found = count(lambda: network.logits(trunk(network, ids(12), mask="bidirectional")[:, :5]))
    check(found, analytic(network, 12, 12, 5, "bidirectional"))
    assert found.live == found.square


@torch.inference_mode()
def test_prefill_in_two_parts_and_decode(network: Network, count: Count) -> None:
    """On a cache of which exactly the live slots are read."""
    cache = KVCache(network.config, ROWS, 16, torch.float32, "cpu")
    for begin, new, mask in ((0, 9, "causal"), (9, 4, "causal"), (13, 1, "causal")):

        def work(begin: int = begin, new: int = new) -> None:
            network.logits(trunk(network, ids(new), mask="causal", cache=cache, start=begin)[:, -1])

        found = count(work)
        check(found, analytic(network, new, begin + new, 1, mask))
        assert (found.live < found.square) == (new > 1)


@torch.inference_mode()
def test_blocks_on_a_cache(network: Network, count: Count) -> None:
    """Prefill of two blocks of 4 that sees no later block, a block denoised beside it, and all three without cache."""
    cache = KVCache(network.config, ROWS, 12, torch.float32, "cpu")
    blocks = {"mask": "block_causal", "block_length": 4}
    found = count(lambda: trunk(network, ids(8), cache=cache, **blocks))
    check(found, analytic(network, 8, 8, 0, block_causal(4)))
    found = count(lambda: network.logits(trunk(network, ids(4), mask="bidirectional", cache=cache, start=8)[:, :3]))
    check(found, analytic(network, 4, 12, 3, "bidirectional"))
    found = count(lambda: network.logits(trunk(network, ids(12), **blocks)[:, 8:]))
    check(found, analytic(network, 12, 12, 4, block_causal(4)))


@torch.inference_mode()
def test_a_part_of_the_canvas_beside_stale_keys(network: Network, count: Count) -> None:
    """Fast-dLLM's dual cache: four positions in the middle are computed and see all twelve."""
    cache = KVCache(network.config, ROWS, 12, torch.float32, "cpu")
    part = {"mask": "bidirectional", "cache": cache, "start": 4, "live": 12}
    found = count(lambda: network.logits(trunk(network, ids(4), **part)[:, :2]))
    check(found, analytic(network, 4, 12, 2, "bidirectional"))


def real_shapes() -> dict[str, BackboneConfig | DiTConfig]:
    """The shapes of all shipped pairs, each once, by pair and side; two layers of each, since they are all alike."""
    found: dict[BackboneConfig | DiTConfig, str] = {}
    for name in pair_names():
        pair = load_pair(name)
        for side, config in (("ar", pair.ar.backbone), ("diffusion", pair.diffusion.backbone)):
            if not isinstance(config, GemmaConfig):  # not our network; counted at a tiny size in test_gemma_config
                found.setdefault(config.model_copy(update={"num_hidden_layers": 2}), f"{name}, {side}")
    return {label: config for config, label in found.items()}


REAL = real_shapes()


@pytest.mark.parametrize("label", REAL)
def test_the_shipped_pairs_at_their_real_width(label: str, count: Count) -> None:
    """On torch's device without memory, where a network is nothing but its shapes."""
    network = empty_network(REAL[label], torch.bfloat16, "meta")
    network.rotary(8)
    sigma = 0.5 if getattr(network.config, "time_conditioning", False) else None
    condition = network.conditioning(None)
    tokens = torch.zeros((1, 8), dtype=torch.int64, device="meta")

    def work() -> None:
        given = condition if sigma is None else network.conditioning(sigma)
        network.logits(network.trunk(tokens, mask="bidirectional", condition=given)[:, :3])

    assert count(work).square == network.forward_cost("target", 1, 8, 8, 3, "bidirectional").flops


# What does not count

# Operations to each number that comes out; other point-wise ones take one.
OPERATIONS = {
    "_softmax": 5, "_safe_softmax": 5, "silu": 5, "gelu": 10, "native_layer_norm": 8, "_fused_rms_norm": 5,
    "addcmul": 2,
}  # fmt: skip


class ElementWise(TorchDispatchMode):
    """Adds up the operations of everything but matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet, kwargs = func._overloadpacket, kwargs or {}
        if packet in flop_registry:
            return func(*args, **kwargs)
        with self:
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        result = func(*args, **kwargs)
        name = packet.__name__
        if name in OPERATIONS or torch.Tag.pointwise in func.tags:
            made = result[0] if isinstance(result, tuple) else result
            self.operations += OPERATIONS.get(name, 1) * made.numel()
        return result


@pytest.mark.parametrize(
    ("pair", "least", "most"), [("small-sedd", 0.03, 0.04), ("mdlm-small", 0.004, 0.005), ("1b", 0.001, 0.002)]
)
def test_element_wise_work_is_as_little_as_costs_says(pair: str, least: float, most: float) -> None:
    network = empty_network(load_pair(pair).diffusion.backbone, torch.bfloat16, "meta")
    network.rotary(1024)
    tokens = torch.zeros((1, 1024), dtype=torch.int64, device="meta")
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), ElementWise() as found:
        condition = network.conditioning(0.5)
        network.logits(network.trunk(tokens, mask="bidirectional", condition=condition))
    counted = network.forward_cost("target", 1, 1024, 1024, 1024, "bidirectional").flops
    assert least < found.operations / counted < most
