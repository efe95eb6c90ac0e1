"""Bounds per token: by hand, in closed form, one against the other, and as the references compute them."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dlmbench.models.graphs import AbsorbingGraph, Graph, UniformGraph, graph
from dlmbench.models.losses import score_entropy, sedd_loss, token_nelbo
from dlmbench.models.noise import block_noise, noise_schedule
from dlmbench.models.parameterisations import sedd_log_score, subs_log_probs, subs_score

GOLDEN = Path(__file__).parents[1] / "golden"
SIZE = 5
MASK = SIZE - 1
X0 = torch.tensor([[0, 1, 2], [3, 2, 1]])
SIGMA = torch.tensor([0.3, 2.0], dtype=torch.float64)
# A noisy version of X0 on either graph: some tokens kept, some changed.
CASES: list[tuple[Graph, Tensor]] = [
    (AbsorbingGraph(SIZE), torch.tensor([[0, MASK, 2], [MASK, MASK, 1]])),
    (UniformGraph(SIZE), torch.tensor([[0, 3, 2], [4, 0, 1]])),
]


def recorded(system: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / system / "io.safetensors")


def drawn(seed: int = 0, size: int = SIZE) -> Tensor:
    return torch.randn(2, 3, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def log_scores(tokens: Tensor, seed: int = 0) -> Tensor:
    return drawn(seed).scatter(-1, tokens[..., None], 0.0)


def at(values: Tensor, ids: Tensor) -> Tensor:
    return values.gather(-1, ids[..., None])[..., 0]


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


# Masked diffusion ------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", ["time_cond", "no_time_cond"])
def test_nelbo_is_mdlms(condition: str) -> None:
    golden = recorded("mdlm")
    logits = golden[f"logits_{condition}"]
    log_probs = subs_log_probs(logits, golden["input_ids"], logits.shape[-1] - 1)
    ours = token_nelbo(log_probs, golden["x0"], noise_schedule("loglinear").nelbo_weight(golden["t"]))
    close(ours, golden[f"subs_token_nelbo_{condition}"], 1e-4)


def test_nelbo_is_bd3lms() -> None:
    golden = recorded("bd3lm")
    logits = golden["logits_train"]
    log_probs = subs_log_probs(logits, golden["xt"], logits.shape[-1] - 1)
    ours = token_nelbo(log_probs, golden["x0"], block_noise("loglinear").nelbo_weight(golden["t"]))
    close(ours, golden["token_nelbo"], 1e-4)
    assert not ours[golden["xt"] == golden["x0"]].any()


def test_nelbo_by_hand() -> None:
    # At t = 1/2 the weight is 2, at 1/4 it is 4: 2 log 4 and 4 log 2. A given token has probability 1.
    log_probs = torch.tensor([[[0.25, 0.75], [1.0, 0.0]], [[0.5, 0.5], [0.5, 0.5]]]).log()
    x0 = torch.tensor([[0, 0], [0, 1]])
    weight = noise_schedule("loglinear").nelbo_weight(torch.tensor([0.5, 0.25]))
    four = 4 * math.log(2)
    close(token_nelbo(log_probs, x0, weight), torch.tensor([[four, 0.0], [four, four]]), 1e-6)
    each = torch.tensor([[1.0, 5.0], [2.0, 3.0]])
    expected = torch.tensor([[2 * math.log(2), 0.0], [2 * math.log(2), 3 * math.log(2)]])
    close(token_nelbo(log_probs, x0, each), expected, 1e-6)


# Score entropy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "scaled"), [("absorb", True), ("uniform", False)])
def test_score_entropy_is_sedds(kind: str, scaled: bool) -> None:
    golden = recorded(f"sedd_{kind}")
    tokens, sigma = golden["input_ids"], golden["sigma"]
    log_score = sedd_log_score(golden["raw_output"], tokens, sigma, scale_by_sigma=scaled)
    entropy = score_entropy(graph(kind, log_score.shape[-1]), log_score, tokens, golden["x0"], sigma)
    close(entropy, golden["score_entropy_per_token"], 1e-4)
    close(sedd_loss(entropy, golden["dsigma"]), golden["loss_per_sequence"], 1e-4)


def test_score_entropy_is_mdlms() -> None:
    golden = recorded("mdlm")
    log_score = golden["sedd_logscore_time_cond"]
    of = graph("absorb", log_score.shape[-1])
    entropy = score_entropy(of, log_score, golden["input_ids"], golden["x0"], golden["sigma"])
    close(golden["dsigma"][:, None] * entropy, golden["sedd_token_loss_time_cond"], 1e-4)


@pytest.mark.parametrize(("of", "tokens"), CASES)
def test_score_entropy_is_zero_for_the_true_score(of: Graph, tokens: Tensor) -> None:
    # The absorbing graph's true score holds zeros; their logarithm stands in as a large negative number.
    true = of.true_score(tokens, X0, SIGMA).log().clamp(min=-1e6)
    close(score_entropy(of, true, tokens, X0, SIGMA), torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.parametrize(("of", "tokens"), CASES)
@pytest.mark.parametrize("seed", range(5))
def test_score_entropy_is_positive_for_any_other(of: Graph, tokens: Tensor, seed: int) -> None:
    entropy = score_entropy(of, log_scores(tokens, seed), tokens, X0, SIGMA)
    leaves = of.transposed_rate(tokens, torch.float64).any(dim=-1)
    assert bool((entropy[leaves] > 0).all())
    assert not entropy[~leaves].any()


def test_absorbing_score_entropy_in_closed_form() -> None:
    """At a mask: sum of the scores - log s(x0) / E + (log(1/E) - 1) / E with E = e^sigma - 1; elsewhere 0."""
    of, tokens = CASES[0]
    log_score, ratio = log_scores(tokens), 1 / torch.expm1(SIGMA)[:, None]
    at_masks = log_score[..., :MASK].exp().sum(dim=-1) - ratio * at(log_score, X0) + ratio * (ratio.log() - 1)
    close(score_entropy(of, log_score, tokens, X0, SIGMA), torch.where(tokens == MASK, at_masks, 0.0))


def test_uniform_score_entropy_in_closed_form() -> None:
    """By cases, with E = e^sigma - 1 and r = E / (E + N), a changed token's probability over a kept one's.

    Kept: every true ratio is r. Changed: that of x0 is 1/r, the others' are 1. All at rate 1/N.
    """
    of, tokens = CASES[1]
    log_score, grown = log_scores(tokens), torch.expm1(SIGMA)[:, None]
    r = grown / (grown + SIZE)
    others, logs = log_score.exp().sum(dim=-1) - 1, log_score.sum(dim=-1)
    kept = others - r * logs + (SIZE - 1) * r * (r.log() - 1)
    changed = others - logs - (1 / r - 1) * at(log_score, X0) - (r.log() + 1) / r - (SIZE - 2)
    close(score_entropy(of, log_score, tokens, X0, SIGMA), torch.where(tokens == X0, kept, changed) / SIZE)


def test_score_entropy_of_subs_is_the_nelbo() -> None:
    """Scores from SUBS make both bounds one: their scores sum to 1/E, so all but -log p(x0) / E cancels."""
    of, tokens = CASES[0]
    log_probs = subs_log_probs(drawn(), tokens, MASK)
    schedule, t = noise_schedule("loglinear"), torch.tensor([0.2, 0.9], dtype=torch.float64)
    sigma, dsigma = schedule.sigma(t), schedule.dsigma(t)
    log_score = subs_score(log_probs, tokens, sigma, MASK).clamp(min=1e-300).log()
    entropy = score_entropy(of, log_score, tokens, X0, sigma)
    nelbo = token_nelbo(log_probs, X0, schedule.nelbo_weight(t))
    close(dsigma[:, None] * entropy, nelbo)
    close(sedd_loss(entropy, dsigma), nelbo.sum(dim=-1))


def test_sequence_loss_by_hand() -> None:
    entropy = torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.0, 0.25]])
    assert sedd_loss(entropy, torch.tensor([2.0, 4.0])).tolist() == [12, 3]
