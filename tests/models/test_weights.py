"""Random weights have the recorded distribution and follow their seed; empty networks have the shape's parameters."""

import math
from typing import Any

import pytest
import torch

from dlmbench.models.config import BackboneConfig
from dlmbench.models.dit import DiT
from dlmbench.models.dit_config import DiTConfig
from dlmbench.models.names import RANDOM_DISTRIBUTION
from dlmbench.models.network import Network
from dlmbench.models.pairs import load_pair, pair_names
from dlmbench.models.weights import empty_network, random_network

LLAMA = BackboneConfig(
    vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=32, qk_norm=True, attention_bias=True,
)  # fmt: skip
DIT = DiTConfig(vocab_size=512, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, cond_dim=64)


def drawn(config: Any, seed: int = 0, dtype: torch.dtype = torch.float32) -> Network:
    return random_network(config, seed, dtype, "cpu")


@pytest.mark.parametrize("config", [LLAMA, DIT, DIT.model_copy(update={"adaln": False})])
def test_the_distribution_is_the_one_that_records_state(config: Any) -> None:
    """Every matrix within five standard errors of its deviation; vectors are ones (norms), zeros (biases) or gates."""
    assert RANDOM_DISTRIBUTION == (
        "normal(0, 0.02); output projections of attention and MLP normal(0, 0.02 / sqrt(2 layers)); norms 1; biases 0, "
        "those of adaLN gates 1"
    )
    for name, parameter in drawn(config).named_parameters():
        if parameter.dim() == 2:
            last = name.endswith(("output.weight", "down.weight"))
            std = 0.02 / math.sqrt(2 * 2) if last else 0.02
            # The standard error of a deviation over n normal draws is std / sqrt(2 n); of a mean, std / sqrt(n).
            count = parameter.numel()
            assert float(parameter.std()) == pytest.approx(std, abs=5 * std / math.sqrt(2 * count)), name
            assert float(parameter.mean()) == pytest.approx(0.0, abs=5 * std / math.sqrt(count)), name
        elif name.startswith("blocks") and name.endswith("modulation.bias"):
            shift, scale, gate = parameter.view(2, 3, -1).unbind(1)
            assert not shift.any()
            assert not scale.any()
            assert (gate == 1).all()
        else:
            assert (parameter == (0.0 if name.endswith("bias") else 1.0)).all(), name


def test_every_gate_is_open_whatever_sigma() -> None:
    """At zero, where training starts them, no layer would do anything, and a random network would cost no power."""
    network = drawn(DIT)
    assert isinstance(network, DiT)
    condition = network.conditioning(0.0)
    assert condition is not None
    gates = condition[0, :-2].view(2, 6, -1)[:, [2, 5]]
    assert ((gates - 1).abs() < 0.2).all()


@pytest.mark.parametrize("config", [LLAMA, DIT])
def test_weights_follow_the_seed(config: Any) -> None:
    def same(a: Network, b: Network) -> list[bool]:
        pairs = zip(a.parameters(), b.parameters(), strict=True)
        return [torch.equal(x, y) for x, y in pairs if x.dim() == 2]

    torch.manual_seed(1)
    first = drawn(config)
    torch.manual_seed(2)
    assert all(same(first, drawn(config))), "the global generator plays no part"
    assert not any(same(first, drawn(config, seed=1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", [LLAMA, DIT])
def test_weights_are_made_in_their_dtype_and_ready_to_run(config: Any, dtype: torch.dtype) -> None:
    network = drawn(config, dtype=dtype)
    assert {parameter.dtype for parameter in network.parameters()} == {dtype}
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.training
    network.rotary(8)
    with torch.inference_mode():
        logits = network.logits(network.trunk(torch.arange(8)[None], mask="bidirectional"))
    assert logits.dtype == dtype
    assert logits.isfinite().all()


def test_a_tied_head_is_the_embedding() -> None:
    for make in (drawn, lambda config: empty_network(config, torch.float32, "cpu")):
        network = make(LLAMA.model_copy(update={"tie_word_embeddings": True}))
        assert network.head.weight is network.embedding
        assert sum(p.numel() for p in network.parameters()) == network.config.total_parameters
    assert drawn(LLAMA).head.weight.data_ptr() != drawn(LLAMA).embedding.data_ptr()


@pytest.mark.parametrize("name", [name for name in pair_names() if name != "diffusiongemma-26b-a4b"])
@pytest.mark.parametrize("side", ["ar", "diffusion"])
def test_the_shipped_shapes_have_as_many_parameters_as_they_count(name: str, side: str) -> None:
    config = getattr(load_pair(name), side).backbone
    network = empty_network(config, torch.bfloat16, "meta")
    assert sum(p.numel() for p in network.parameters()) == config.total_parameters
    assert sum(p.numel() * p.element_size() for p in network.parameters()) == config.weight_bytes("bfloat16")


@pytest.mark.parametrize(
    ("name", "ar", "diffusion"),
    [
        # In 1e6: what the papers and the model cards say.
        ("mdlm-small", 162.2, 169.6),
        ("sedd-small", 162.2, 169.6),
        ("bd3lm-small", 162.2, 169.6),
        ("dream-7b", 7615.6, 7615.6),
        ("sdar-4b", 4022.5, 4411.4),
        ("llada-8b", 8030.3, 8015.6),
    ],
)
def test_the_shipped_shapes_have_the_published_sizes(name: str, ar: float, diffusion: float) -> None:
    pair = load_pair(name)
    assert pair.ar.backbone.total_parameters / 1e6 == pytest.approx(ar, abs=0.05)
    assert pair.diffusion.backbone.total_parameters / 1e6 == pytest.approx(diffusion, abs=0.05)


def test_sdar_differs_from_qwen3_by_its_head() -> None:
    pair = load_pair("sdar-4b")
    head = 151936 * 2560  # 389M
    assert pair.diffusion.backbone.total_parameters - pair.ar.backbone.total_parameters == head
