"""A denoising step is arithmetically the forward half of a training step: counted in the project's own objectives.

Counted with autograd recording, as training runs. `square` is torch's convention: a causal mask saves no product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dlmbench.models.autoregressive import Autoregressive
from dlmbench.models.cache import KVCache
from dlmbench.models.costs import Cost, forward_cost
from dlmbench.models.network import Network
from dlmbench.models.training.masking import hide_by_count, hide_by_time
from dlmbench.models.training.objectives import objective
from dlmbench.models.training.shapes import Model, Vocabulary

VOCABULARY = Vocabulary(size=12, eos_id=9, mask_id=10)
ROWS, LENGTH, BLOCK = 3, 16, 4
IDS = torch.randint(9, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))

Make = Callable[[Model], Network]
Count = Callable[[Callable[[], object]], Any]


def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def loss(network: Network, model: Model) -> Tensor:
    """Mean nats per token of one training forward, with its graph."""
    return objective(model, VOCABULARY, BLOCK).training(network, IDS, random()).per_token


def step(network: Network, logit_rows: int, mask: str = "bidirectional", length: int = LENGTH) -> Cost:
    """The analytic cost of one forward over the same tokens, in float32."""
    shape = {"rows": ROWS, "q_len": length, "kv_len": length, "logit_rows": logit_rows, "mask": mask}
    return forward_cost(network.config, **shape, dtype="float32")


def test_a_causal_training_forward_is_a_denoising_step_but_for_its_masked_half(network: Make, count: Count) -> None:
    ar = network("ar")
    found = count(lambda: loss(ar, "ar"))
    assert loss(ar, "ar").requires_grad
    denoise, causal = (step(ar, ROWS * LENGTH, mask) for mask in ("bidirectional", "causal"))
    assert found.square == denoise.flops
    assert found.live == causal.flops
    # 16 x 16 pairs against 16 x 17 / 2, 4 FLOPs each for the 32 dimensions of one head, in 2 layers.
    assert denoise.flops - causal.flops == ROWS * (256 - 136) * 4 * 32 * 2


def test_mdlms_training_forward_is_its_denoising_step(network: Make, count: Count) -> None:
    mdlm = network("mdlm")
    hidden = len(hide_by_time(ROWS, LENGTH, random()).places)
    assert 0 < hidden < ROWS * LENGTH
    assert count(lambda: loss(mdlm, "mdlm")).live == step(mdlm, hidden).flops


def test_sedds_training_forward_evaluates_a_noise_level_for_each_row(network: Make, count: Count) -> None:
    """In a generation all rows are at one. A mask has no score of its own: one column of the head less."""
    sedd = network("sedd")
    hidden = len(hide_by_time(ROWS, LENGTH, random()).places)
    levels = 2 * sedd.config.conditioning_products  # type: ignore[union-attr]
    expected = step(sedd, hidden).flops + (ROWS - 1) * levels - 2 * hidden * 32
    assert count(lambda: loss(sedd, "sedd")).live == expected


def test_block_diffusions_training_forward_is_no_denoising_step(network: Make, count: Count) -> None:
    """It runs noisy and clean tokens, twice as many, under a mask that shows them what decoding will have cached."""
    blocks = network("block-diffusion")
    hidden = len(hide_by_count(ROWS, LENGTH, BLOCK, random()).places)
    found = count(lambda: loss(blocks, "block-diffusion"))
    assert found.square == step(blocks, hidden, length=2 * LENGTH).flops
    # Noisy block i of 4 sees itself and i - 1 clean blocks, clean block i itself and those before: i blocks each.
    seen = 2 * BLOCK**2 * (1 + 2 + 3 + 4)
    masked = ROWS * ((2 * LENGTH) ** 2 - seen) * 4 * 32 * 2
    assert found.live == found.square - masked
    # Twice the products with weights, fewer pairs than two whole canvases, one head.
    assert 1.9 < found.live / step(blocks, hidden).flops < 2


@pytest.mark.parametrize("model", ["ar", "mdlm"])
def test_a_training_step_is_three_forwards(model: Model, network: Make, count: Count) -> None:
    """Each product has two in the backward pass, for its two operands' gradients. A denoising step has none."""
    made = network(model)
    forward = count(lambda: loss(made, model)).square
    assert count(lambda: loss(made, model).backward()).square == 3 * forward


def test_intensity_is_a_training_forwards_and_not_that_of_decoding(network: Make, count: Count) -> None:
    """FLOPs as torch counts them, over the bytes of the tensors themselves."""
    ar = network("ar").float()
    training = count(lambda: loss(ar, "ar")).square
    cache = KVCache(ar.config, ROWS, LENGTH, torch.float32, "cpu")
    kv = sum(t.nbytes for t in (*cache.keys, *cache.values))
    # Head and embedding are one tensor: read whole for the logits, and the rows looked up.
    weights = sum(t.nbytes for t in ar.parameters()) + ROWS * LENGTH * ar.embedding[0].nbytes
    logits = ROWS * LENGTH * VOCABULARY.size * 4
    denoise = step(ar, ROWS * LENGTH)
    assert denoise.bytes == weights + 2 * kv + logits
    assert denoise.flops / denoise.bytes == training / (weights + 2 * kv + logits)
    decode = Autoregressive(ar).forward_cost("target", ROWS, 1, LENGTH, ROWS, "causal")
    # Every weight is used for 3 x 16 tokens, and for 3; the rest of the bytes, keys above all, are few but not none.
    ratio = (denoise.flops / denoise.bytes) / (decode.flops / decode.bytes)
    assert LENGTH / 2 < ratio < LENGTH
