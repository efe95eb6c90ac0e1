"""Under the policy `natural`, generation ends with the block by which every row holds an EOS."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dlmbench.bench.verify.tally import Tally
from dlmbench.models.config import BackboneConfig
from dlmbench.models.fast_dllm import FastDLLM
from dlmbench.models.generator import Request, Settings
from dlmbench.models.masked_diffusion import MaskedDiffusion
from dlmbench.models.weights import random_network

EOS, MASK, V = 5, 7, 8


@pytest.mark.parametrize("kind", [MaskedDiffusion, FastDLLM])
def test_rows_may_end_in_different_blocks(kind: type[MaskedDiffusion] | type[FastDLLM]) -> None:
    config = BackboneConfig(
        vocab_size=V, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=4, eos_token_id=EOS, mask_token_id=MASK,
    )  # fmt: skip
    network = random_network(config, 0, torch.float32, "cpu")
    asked = 0

    def logits(hidden: Tensor) -> Tensor:
        """One position of each of two rows a forward: row 0 draws EOS in the first block, row 1 in the second."""
        nonlocal asked
        rows = hidden.reshape(-1, hidden.shape[-1]).shape[0]
        out = torch.zeros(rows, V)
        out[:, 1] = 1.0
        half = rows // 2
        out[:half] += 9 * torch.eye(V)[EOS] * (asked == 0)
        out[half:] += 9 * torch.eye(V)[EOS] * (asked == 1)
        asked += 1
        return out.reshape(*hidden.shape[:-1], V)

    network.logits = logits  # type: ignore[method-assign]
    settings = Settings(steps=4, block_length=2, length_policy="natural")
    request = Request(torch.ones(2, 3, dtype=torch.int64), 8, settings, 0)
    generator, tally = kind(network), Tally()
    generator.prepare(request.shape, settings)
    generator.generate(request, tally)
    assert tally.nfe == 2, "both rows have ended after the second block of four"
