"""What a network's output means: by hand, by the definition of the score, and as the references compute it."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dlmbench.models.graphs import AbsorbingGraph
from dlmbench.models.parameterisations import IMPOSSIBLE, d3pm_log_probs, sedd_log_score, subs_log_probs, subs_score

GOLDEN = Path(__file__).parents[1] / "golden"
CONDITIONED = ["time_cond", "no_time_cond"]
# Three tokens and the mask; one given position, one masked one.
MASK = 3
TOKENS = torch.tensor([[1, MASK]])


def recorded(system: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / system / "io.safetensors")


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def same_log_probs(ours: Tensor, theirs: Tensor) -> None:
    """Equal where there is a probability at all; near -1e6 float32 is too coarse, and nothing depends on it."""
    possible = theirs > -1e5
    assert bool((ours[~possible] < -9e5).all())
    close(ours[possible], theirs[possible])


# SUBS and D3PM -------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", CONDITIONED)
def test_subs_is_mdlms(condition: str) -> None:
    golden = recorded("mdlm")
    logits = golden[f"logits_{condition}"]
    ours = subs_log_probs(logits, golden["input_ids"], logits.shape[-1] - 1)
    same_log_probs(ours, golden[f"subs_logprobs_{condition}"])


def test_subs_is_bd3lms() -> None:
    golden = recorded("bd3lm")
    logits = golden["logits_train"]
    same_log_probs(subs_log_probs(logits, golden["xt"], logits.shape[-1] - 1), golden["subs_logprobs_train"])


@pytest.mark.parametrize("condition", CONDITIONED)
def test_d3pm_is_mdlms(condition: str) -> None:
    golden = recorded("mdlm")
    close(d3pm_log_probs(golden[f"logits_{condition}"]), golden[f"d3pm_logprobs_{condition}"])


def test_subs_by_hand() -> None:
    # e^logits = 1, 3, 4 beside a mask that would win; a given token is certain, whatever its logits.
    logits = torch.tensor([[[9.0, -9.0, 9.0, 9.0], [0.0, math.log(3), math.log(4), 50.0]]])
    before = logits.clone()
    probabilities = subs_log_probs(logits, TOKENS, MASK).exp()
    close(probabilities, torch.tensor([[[0.0, 1.0, 0.0, 0.0], [0.125, 0.375, 0.5, 0.0]]]), 1e-6)
    assert torch.equal(logits, before)


def test_impossible_tokens_do_not_make_nan() -> None:
    log_probs = subs_log_probs(torch.zeros(1, 2, 4), TOKENS, MASK)
    assert bool((log_probs * 0 == 0).all())
    assert log_probs[0, 0].tolist() == [IMPOSSIBLE, 0, IMPOSSIBLE, IMPOSSIBLE]


def test_d3pm_may_predict_the_mask() -> None:
    # e^logits = 1, 2, 3, 4 of 10.
    logits = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]).log() + 5
    close(d3pm_log_probs(logits).exp(), torch.tensor([[[0.1, 0.2, 0.3, 0.4]]]), 1e-6)


# Scores --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", CONDITIONED)
def test_subs_score_is_mdlms(condition: str) -> None:
    golden = recorded("mdlm")
    logits, tokens, mask = (
        golden[f"logits_{condition}"],
        golden["input_ids"],
        golden[f"logits_{condition}"].shape[-1] - 1,
    )
    ours = subs_score(subs_log_probs(logits, tokens, mask), tokens, golden["sigma"], mask)
    close(ours, golden[f"subs_score_{condition}"])


def test_subs_score_by_hand() -> None:
    # e^sigma - 1 = 4: a masked position's probabilities over 4, 1 for no move; a given one may have come from 4 masks.
    logits = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [0.0, math.log(3), math.log(4), 0.0]]])
    score = subs_score(subs_log_probs(logits, TOKENS, MASK), TOKENS, torch.tensor([math.log(5)]), MASK)
    close(score, torch.tensor([[[0.0, 1.0, 0.0, 4.0], [0.125 / 4, 0.375 / 4, 0.5 / 4, 1.0]]]), 1e-6)


@pytest.mark.parametrize("sigma", [1e-3, 0.4, 6.0])
def test_certainty_has_the_true_score(sigma: float) -> None:
    """Log-probabilities that know the clean token give the score that the graph derives from its transitions."""
    x0, noise = torch.tensor([[1, 2]]), torch.tensor([sigma], dtype=torch.float64)
    log_probs = torch.full((1, 2, 4), IMPOSSIBLE, dtype=torch.float64).scatter(-1, x0[..., None], 0.0)
    close(subs_score(log_probs, TOKENS, noise, MASK), AbsorbingGraph(4).true_score(TOKENS, x0, noise), 1e-9)


@pytest.mark.parametrize(("system", "scaled"), [("sedd_absorb", True), ("sedd_uniform", False)])
def test_log_score_is_sedds(system: str, scaled: bool) -> None:
    golden = recorded(system)
    ours = sedd_log_score(golden["raw_output"], golden["input_ids"], golden["sigma"], scale_by_sigma=scaled)
    close(ours, golden["log_score"])


def test_log_score_is_mdlms() -> None:
    golden = recorded("mdlm")
    ours = sedd_log_score(golden["logits_time_cond"], golden["input_ids"], golden["sigma"], scale_by_sigma=True)
    close(ours, golden["sedd_logscore_time_cond"])


def test_log_score_by_hand() -> None:
    # An output of 1 with e^sigma - 1 = 2 and V - 1 = 3: 1 - log 6, and 0 for the token itself.
    output, sigma = torch.ones(1, 2, 4), torch.tensor([math.log(3)])
    scaled, rest = sedd_log_score(output, TOKENS, sigma, scale_by_sigma=True), 1 - math.log(6)
    close(scaled, torch.tensor([[[rest, 0.0, rest, rest], [rest, rest, rest, 0.0]]]), 1e-6)
    plain = sedd_log_score(output, TOKENS, sigma, scale_by_sigma=False)
    assert plain.tolist() == [[[1, 0, 1, 1], [1, 1, 1, 0]]]
    assert bool((output == 1).all())


@pytest.mark.parametrize("sigma", [1e-6, 0.1, 0.49999, 0.5, 3.0, 20.0])
def test_the_scale_keeps_its_digits(sigma: float) -> None:
    score = sedd_log_score(torch.zeros(1, 1, 4), torch.tensor([[0]]), torch.tensor([sigma]), scale_by_sigma=True)
    assert score[0, 0, 1].item() == pytest.approx(-math.log(math.expm1(sigma)) - math.log(3), rel=1e-6, abs=1e-6)
