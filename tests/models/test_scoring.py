"""Log-probabilities of texts: the chain rule on transformers' own logits."""

import pytest
import torch

from dlmbench.models.config import BackboneConfig
from dlmbench.models.hf_generate import HFGenerate
from dlmbench.models.scoring import token_log_probs
from dlmbench.models.weights import random_network


def test_each_token_given_all_before_it() -> None:
    config = BackboneConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, tie_word_embeddings=True, qk_norm=True, eos_token_id=49, mask_token_id=48,
    )  # fmt: skip
    network = random_network(config, 3, torch.float32, "cpu")
    ids = torch.randint(0, 49, (40, 9), generator=torch.Generator().manual_seed(1))  # more rows than a forward takes
    found = token_log_probs(network, ids, 49)
    assert found.shape == ids.shape
    inputs = torch.cat((torch.full((40, 1), 49), ids[:, :-1]), dim=1)
    with torch.inference_mode():
        logits = HFGenerate.from_backbone(network, "dynamic", engine="eager").model(inputs).logits
    expected = logits.log_softmax(-1).gather(2, ids[..., None]).squeeze(2)
    assert found.numpy() == pytest.approx(expected.numpy(), abs=1e-4)
