"""The DiT: what its modulations do, what it costs, and that it is the network whose outputs were recorded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dlmbench.models.checkpoints import load_network
from dlmbench.models.dit import DiT
from dlmbench.models.dit_config import DiTConfig
from dlmbench.models.engines import denoiser
from dlmbench.models.weights import random_network

GOLDEN = Path(__file__).parents[1] / "golden"
TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "cond_dim": 8,
    "time_conditioning": True,
}
# GPT-2 small's size, as MDLM, SEDD and BD3LM use it.
SMALL = DiTConfig(vocab_size=50258, hidden_size=768, num_hidden_layers=12, num_attention_heads=12)


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def lively(**changes: Any) -> DiT:
    """A tiny DiT on which every parameter matters."""
    network = random_network(DiTConfig(**(TINY | changes)), 3, torch.float32, "cpu")
    assert isinstance(network, DiT)
    random = torch.Generator().manual_seed(4)
    for parameter in network.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.2)
    network.rotary(32)
    return network


def some_ids(rows: int = 2, length: int = 9) -> Tensor:
    return torch.randint(61, (rows, length), generator=torch.Generator().manual_seed(1))


def output(network: DiT, ids: Tensor, sigma: float | Tensor | None = None, **how: Any) -> Tensor:
    how = {"mask": "bidirectional"} | how
    return network.logits(network.trunk(ids, condition=network.conditioning(sigma), **how))


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# What the original implementations computed


def recorded(system: str, *, timed: bool | None = None) -> tuple[DiT, dict[str, Tensor]]:
    network = load_network(GOLDEN / system, torch.float32, "cpu")
    assert isinstance(network, DiT)
    if timed is not None:
        network.config = network.config.model_copy(update={"time_conditioning": timed})
    network.rotary(64)
    return network, load_file(GOLDEN / system / "io.safetensors")


@pytest.mark.parametrize(("timed", "name"), [(True, "logits_time_cond"), (False, "logits_no_time_cond")])
def test_logits_are_mdlms(timed: bool, name: str) -> None:
    network, golden = recorded("mdlm", timed=timed)
    close(output(network, golden["input_ids"], golden["sigma"]), golden[name], 1e-4)


@pytest.mark.parametrize("system", ["sedd_absorb", "sedd_uniform"])
def test_raw_outputs_are_sedds(system: str) -> None:
    network, golden = recorded(system)
    close(output(network, golden["input_ids"], golden["sigma"]), golden["raw_output"], 1e-4)


@pytest.mark.parametrize(("timed", "end"), [(True, "_time_cond"), (False, "")])
def test_block_causal_logits_are_bd3lms(timed: bool, end: str) -> None:
    network, golden = recorded("bd3lm", timed=timed)
    logits = output(network, golden["xt"], golden["timesteps"], mask="block_causal", block_length=4)
    close(logits, golden[f"logits_sample_nocache{end}"], 1e-4)


def test_without_its_mask_bd3lm_is_bidirectional() -> None:
    network, golden = recorded("bd3lm")
    close(output(network, golden["xt"]), golden["logits_full_attention"], 1e-4)


def test_a_prefix_of_blocks_is_enough_for_bd3lm() -> None:
    network, golden = recorded("bd3lm")
    length = int(golden["sample_prefix_len"])
    logits = output(network, golden["xt"][:, :length], mask="block_causal", block_length=4)
    close(logits, golden["logits_sample_nocache_prefix"], 1e-4)


# Conditioning


def test_a_network_without_adaln_is_one_whose_modulations_do_nothing() -> None:
    """Shift 0, scale 0, gate 1: the AR baseline is the same network, with the identity in place of sigma."""
    conditioned = lively()
    for name, parameter in conditioned.named_parameters():
        if "modulation" in name:
            parameter.zero_()
    for block in conditioned.blocks:
        block.modulation.bias.view(2, 3, -1)[:, 2] = 1.0  # type: ignore[union-attr, operator]
    plain = DiT(DiTConfig(**(TINY | {"adaln": False, "time_conditioning": False})))
    missing, unexpected = plain.load_state_dict(conditioned.state_dict(), strict=False)
    assert missing == []
    assert all("modulation" in name or "sigma" in name for name in unexpected)
    plain.rotary(32)
    close(output(plain, some_ids()), output(conditioned, some_ids(), 1.7))


def test_without_adaln_there_is_nothing_to_condition_on() -> None:
    plain = lively(adaln=False, time_conditioning=False)
    assert plain.conditioning(0.3) is None
    assert plain.conditioning(None) is None
    assert plain.conditioning(torch.tensor([0.1, 0.2])) is None
    close(output(plain, some_ids(), 0.1), output(plain, some_ids(), 5.0), 0.0)


def test_conditioning_has_six_modulations_a_block_and_two_for_the_head() -> None:
    network = lively(num_hidden_layers=3)
    for sigma, rows in ((0.5, 1), (torch.tensor([0.1, 0.2, 0.3]), 3)):
        condition = network.conditioning(sigma)
        assert condition is not None
        assert condition.shape == (rows, 6 * 3 + 2, 32)


def test_rows_may_have_noise_levels_of_their_own() -> None:
    network, ids = lively(), some_ids(3)
    sigma = torch.tensor([0.01, 0.7, 6.0])
    together = output(network, ids, sigma)
    for row in range(3):
        close(together[row], output(network, ids[row : row + 1], float(sigma[row]))[0])
    assert (together[0] - output(network, ids[:1], 6.0)[0]).abs().max() > 1e-2, "sigma matters"


def test_without_time_conditioning_sigma_is_zero() -> None:
    timed, held = lively(), lively(time_conditioning=False)
    held.load_state_dict(timed.state_dict())
    at_zero = output(timed, some_ids(), 0.0)
    assert torch.equal(output(held, some_ids(), 3.0), at_zero)
    assert torch.equal(output(timed, some_ids(), None), at_zero)
    assert torch.equal(timed.logits(timed.trunk(some_ids(), mask="bidirectional")), at_zero), "and so by default"


def test_the_same_level_as_a_number_and_for_every_row_is_the_same() -> None:
    """One row of modulations is folded into the norms; several are applied after them."""
    network, ids = lively(), some_ids(2)
    close(output(network, ids, torch.tensor([0.4, 0.4])), output(network, ids, 0.4))


def test_a_level_in_float64_is_rounded_to_float32_before_its_waves() -> None:
    network = lively()
    level = torch.tensor([0.123456789], dtype=torch.float64)
    assert torch.equal(network.conditioning(level), network.conditioning(level.float()))  # type: ignore[arg-type]


@pytest.mark.parametrize("sigma", [0.0, 12.0])
def test_bfloat16_stays_bfloat16(sigma: float) -> None:
    network = lively().to(torch.bfloat16)
    wide = lively()
    found = output(network, some_ids(), sigma)
    assert found.dtype == torch.bfloat16
    spread = output(wide, some_ids(), sigma)
    assert (found.float() - spread).abs().mean() < 0.05 * spread.std()


@pytest.mark.parametrize("adaln", [True, False])
def test_the_denoiser_takes_the_conditioning_that_the_network_has(adaln: bool) -> None:
    network = lively(adaln=adaln, time_conditioning=adaln)
    ids = some_ids(2, 9)
    run = denoiser("eager", network, 2, 9)
    condition = network.conditioning(0.9)
    given = () if condition is None else (condition,)
    assert torch.equal(network.logits(run(ids, *given)), output(network, ids, 0.9))


# What it costs


@pytest.mark.parametrize(
    ("config", "total", "published"),
    [
        # Twice 50258 x 768 and a bias of 50258; 12 layers of 12 x 768^2 matrices, 5 x 768 MLP biases and 2 x 768 norms;
        # a last norm; the sigma MLP 256 -> 128 -> 128 with biases; adaLN 128 -> 6 x 768 a layer, 2 x 768 at the end.
        (SMALL, 2 * 50258 * 768 + 50258 + 12 * (12 * 768**2 + 7 * 768) + 768 + 257 * 128 + 129 * 128
         + 129 * (12 * 6 + 2) * 768, 169.6e6),
        (SMALL.model_copy(update={"adaln": False}),
         2 * 50258 * 768 + 50258 + 12 * (12 * 768**2 + 7 * 768) + 768, 162.2e6),
        # SEDD medium: 1024 wide, 24 layers.
        (DiTConfig(vocab_size=50258, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16),
         2 * 50258 * 1024 + 50258 + 24 * (12 * 1024**2 + 7 * 1024) + 1024 + 257 * 128 + 129 * 128
         + 129 * (24 * 6 + 2) * 1024, 424.5e6),
    ],
    ids=["MDLM", "AR", "SEDD medium"],
)  # fmt: skip
def test_parameters_of_the_real_shapes(config: DiTConfig, total: int, published: float) -> None:
    with torch.device("meta"):
        network = DiT(config)
    assert config.total_parameters == total
    assert sum(p.numel() for p in network.parameters()) == total
    assert total == pytest.approx(published, abs=0.05e6)
    ends = sum(p.numel() for name, p in network.named_parameters() if name.startswith(("embedding", "head")))
    assert config.non_embedding_parameters == total - ends
    conditioning = sum(p.numel() for name, p in network.named_parameters() if "modulation" in name or "sigma" in name)
    assert config.conditioning_parameters == conditioning


def test_adaln_is_the_seven_million_between_mdlm_and_its_baseline() -> None:
    assert SMALL.conditioning_parameters == pytest.approx(7.4e6, abs=0.05e6)
    assert SMALL.model_copy(update={"adaln": False}).conditioning_parameters == 0


def test_flops_by_hand() -> None:
    # 2 x 16 tokens through 2 layers of 12 x 32^2, 10 rows of logits 32 x 61, and q k^T and the mixture of values over
    # 16 x 16 pairs of width 32, in each of 2 rows and 2 layers; a multiply-add is 2.
    tokens = 2 * 2 * 16 * 2 * 12 * 32**2 + 2 * 10 * 32 * 61 + 2 * 2 * 2 * 2 * 16 * 16 * 32
    # One noise level for all of them: 256 x 8 and 8 x 8 for its code, then 8 x 32 for each of 6 x 2 + 2 vectors.
    level = 2 * (256 * 8 + 8 * 8 + 8 * 32 * 14)
    shape = ("target", 2, 16, 16, 10, "bidirectional")
    assert lively().forward_cost(*shape).flops == tokens + level == 1_572_864 + 39_040 + 131_072 + 11_392
    # MDLM's level is always 0: what comes of it is the same at every forward.
    assert lively(time_conditioning=False).forward_cost(*shape).flops == tokens


def test_bytes_by_hand() -> None:
    # A layer: 12 x 32^2, biases of the MLP 4 x 32 + 32, two norms; and the last norm.
    layers = 2 * (12 * 32**2 + 5 * 32 + 2 * 32) + 32
    modulations = 14 * 32  # of the noise level: read ready-made, not with the networks that make them
    head = 61 * 32 + 61
    rest = 32 * 32 + 10 * 61  # embedding rows looked up, logits written
    kv = 2 * 2 * 32 * 2 * (16 + 16)  # K and V of 2 layers, 32 wide; 2 rows write and read 16
    cost = lively().forward_cost("target", 2, 16, 16, 10, "bidirectional")
    assert cost.bytes == 4 * (layers + modulations + head + rest + kv)
    without = lively(adaln=False, time_conditioning=False).forward_cost("target", 2, 16, 16, 10, "bidirectional")
    assert cost.bytes - without.bytes == 4 * modulations


def test_keys_and_values_are_full_width() -> None:
    # GPT-2 small: 12 layers x (K and V) x 768 x 2 B.
    assert SMALL.kv_bytes_per_token("bfloat16") == 12 * 2 * 768 * 2
    assert (SMALL.num_key_value_heads, SMALL.head_dim) == (12, 64)


# The config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 5}, r"hidden_size \(32\) must be an even multiple of num_attention_heads \(5\)"),
        ({"hidden_size": 36}, r"hidden_size \(36\) must be an even multiple"),  # heads of 9: RoPE rotates pairs
        ({"adaln": False}, "time_conditioning needs adaln"),
        ({"time_conditioning": False, "parameterization": "score"}, "parameterization score needs time_conditioning"),
        ({"graph": "uniform"}, "graph uniform needs parameterization score"),
        ({"graph": "uniform", "parameterization": "score", "scale_by_sigma": True}, "without scale_by_sigma"),
        ({"eos_token_id": 61}, r"eos_token_id \(61\) is outside the vocabulary of 61"),
        ({"colour": 1}, "Extra inputs"),
    ],
)
def test_an_impossible_shape_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiTConfig(**(TINY | changes))


def test_the_mask_is_the_last_id_and_the_uniform_graph_has_none() -> None:
    assert DiTConfig(**TINY).mask_id == 60
    assert DiTConfig(**TINY, graph="uniform", parameterization="score").mask_id is None
