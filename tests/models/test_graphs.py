"""Both graphs against the exponential of their rate matrix, Bayes' rule, MDLM's posterior and SEDD's own numbers."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from dlmbench import InputError
from dlmbench.models.graphs import AbsorbingGraph, Graph, UniformGraph, graph
from dlmbench.models.parameterisations import subs_log_probs, subs_score

GOLDEN = Path(__file__).parents[1] / "golden"
SIZE = 5
BOTH = [AbsorbingGraph(SIZE), UniformGraph(SIZE)]
# Every token once, as a sequence.
EVERY = torch.arange(SIZE)[None]


def noise(sigma: float) -> Tensor:
    return torch.tensor([sigma], dtype=torch.float64)


def rates(of: Graph) -> Tensor:
    """Q [to, from], by its definition: columns sum to 0."""
    if of.mask_id is None:
        return torch.full((SIZE, SIZE), 1 / SIZE, dtype=torch.float64) - torch.eye(SIZE, dtype=torch.float64)
    q = -torch.eye(SIZE, dtype=torch.float64)
    q[of.mask_id] += 1
    return q


def scores(seed: int = 0) -> Tensor:
    """Any positive scores [1, N, N] for `EVERY`, 1 for the token itself."""
    drawn = torch.rand(1, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return drawn.scatter(-1, EVERY[..., None], 1.0)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


# The forward process ---------------------------------------------------------------------------------


@pytest.mark.parametrize("of", BOTH)
@pytest.mark.parametrize("sigma", [0.0, 1e-3, 0.7, 12.0])
def test_transitions_are_the_exponential_of_the_rates(of: Graph, sigma: float) -> None:
    by_exponential = torch.linalg.matrix_exp(sigma * rates(of))  # [to, from]
    close(of.transition(EVERY, noise(sigma))[0], by_exponential.T)
    close(of.transposed_transition(EVERY, noise(sigma))[0], by_exponential)
    close(of.transition(EVERY, noise(sigma)).sum(dim=-1), torch.ones(1, SIZE, dtype=torch.float64))


@pytest.mark.parametrize("of", BOTH)
def test_rates_are_those_of_the_matrix(of: Graph) -> None:
    # Row x: from every y to x, without y = x.
    close(of.transposed_rate(EVERY, torch.float64)[0], rates(of) * (1 - torch.eye(SIZE)))


def test_transitions_by_hand() -> None:
    # e^-sigma = 1/4. A mask has certainly come to be the mask; a given token was kept, or came from its 3/4 / 5.
    sigma = -noise(0.25).log()
    absorbing = AbsorbingGraph(SIZE).transposed_transition(torch.tensor([[1, 4]]), sigma)
    assert absorbing.tolist() == [[[0, 0.25, 0, 0, 0], [0.75, 0.75, 0.75, 0.75, 1]]]
    uniform = UniformGraph(SIZE).transposed_transition(torch.tensor([[1]]), sigma)
    assert uniform[0, 0].tolist() == pytest.approx([0.15, 0.4, 0.15, 0.15, 0.15])


def test_each_sequence_or_token_may_have_its_own_noise() -> None:
    tokens, of = torch.tensor([[1, 2], [3, 4]]), UniformGraph(SIZE)
    sigma = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    each = of.transposed_transition(tokens, sigma)
    assert torch.equal(of.transposed_transition(tokens, sigma[:, 1])[:, 1], each[:, 1])


# The reverse process ---------------------------------------------------------------------------------


@pytest.mark.parametrize("of", BOTH)
@pytest.mark.parametrize("dsigma", [1e-3, 0.5, 2.0])
def test_staggered_score_undoes_noise(of: Graph, dsigma: float) -> None:
    undone = scores() @ torch.linalg.matrix_exp(-dsigma * rates(of)).T
    close(of.staggered_score(scores(), noise(dsigma)), undone)


@pytest.mark.parametrize("of", BOTH)
def test_reversed_jumps_conserve_probability(of: Graph) -> None:
    rate = of.reverse_rate(EVERY, scores())
    close(rate.sum(dim=-1), torch.zeros(1, SIZE, dtype=torch.float64))
    elsewhere = ~F.one_hot(EVERY, SIZE).bool()
    assert bool((rate[elsewhere] >= 0).all())
    close(rate[elsewhere], (of.transposed_rate(EVERY, torch.float64) * scores())[elsewhere])
    close(of.euler_probs(EVERY, scores(), noise(0.1)).sum(dim=-1), torch.ones(1, SIZE, dtype=torch.float64))


def test_only_masks_leave_the_absorbing_graph() -> None:
    rate = AbsorbingGraph(SIZE).reverse_rate(EVERY, scores())
    assert not rate[0, :-1].any()
    assert rate[0, -1, :-1].tolist() == scores()[0, -1, :-1].tolist()


def test_reverse_rate_by_hand() -> None:
    # 5 tokens: a fifth of every score, and minus their sum; without the token's own score.
    score = torch.tensor([[[1.0, 5.0, 10.0, 15.0, 20.0]]])
    rate = UniformGraph(SIZE).reverse_rate(torch.tensor([[0]]), score)
    assert rate[0, 0].tolist() == pytest.approx([-10, 1, 2, 3, 4])


def test_euler_may_be_negative() -> None:
    score = torch.full((1, 1, SIZE), 2.0)
    weights = AbsorbingGraph(SIZE).euler_probs(torch.tensor([[4]]), score, torch.tensor([0.5]))
    assert weights.tolist() == [[[1, 1, 1, 1, -3]]]


@pytest.mark.parametrize("of", BOTH)
@pytest.mark.parametrize(("sigma", "dsigma"), [(0.9, 0.3), (5.0, 4.9), (0.02, 0.01)])
def test_true_scores_give_the_posterior(of: Graph, sigma: float, dsigma: float) -> None:
    """Bayes: p(y at less noise | x, x0) = p(x | y) p(y | x0) / p(x | x0). True scores make the analytic step this."""
    for x0 in range(SIZE):
        clean = torch.full_like(EVERY, x0)
        reachable = of.transition(clean, noise(sigma))[0, 0] > 0
        tokens = EVERY[:, reachable]
        clean = clean[:, reachable]
        before = of.transition(clean, noise(sigma - dsigma))
        evidence = of.transition(clean, noise(sigma)).gather(-1, tokens[..., None])
        posterior = before * of.transposed_transition(tokens, noise(dsigma)) / evidence
        score = of.true_score(tokens, clean, noise(sigma))
        close(of.analytic_probs(tokens, score, noise(dsigma)), posterior)
        close(posterior.sum(dim=-1), torch.ones(tokens.shape, dtype=torch.float64))


@pytest.mark.parametrize("of", BOTH)
def test_true_scores_denoise_to_the_clean_token(of: Graph) -> None:
    x0 = torch.tensor([[0, 3]])
    tokens = x0 if of.mask_id is None else torch.tensor([[0, of.mask_id]])
    weights = of.denoiser_probs(tokens, of.true_score(tokens, x0, noise(1.5)), noise(1.5))
    close(weights, F.one_hot(x0, weights.shape[-1]).double())


@pytest.mark.parametrize("of", BOTH)
def test_short_steps_of_both_kinds_agree(of: Graph) -> None:
    """They differ in second order: for a tenth of the step, a hundredth of the difference."""
    gaps = []
    for step in (1e-3, 1e-4):
        analytic, euler = (kind(EVERY, scores(), noise(step)) for kind in (of.analytic_probs, of.euler_probs))
        gaps.append((analytic - euler).abs().max().item())
    assert gaps[0] / gaps[1] == pytest.approx(100, rel=0.01)


def test_denoising_leaves_out_the_mask() -> None:
    assert AbsorbingGraph(SIZE).denoiser_probs(EVERY, scores(), noise(1.0)).shape == (1, SIZE, SIZE - 1)
    assert UniformGraph(SIZE).denoiser_probs(EVERY, scores(), noise(1.0)).shape == (1, SIZE, SIZE)


def test_the_analytic_step_with_subs_is_ancestral_sampling() -> None:
    """Sahoo et al. 2024, section 3.2.2: from masked, p(x0) (m_t - m_s) / m_t to a token, m_s / m_t to the mask."""
    of, tokens = AbsorbingGraph(SIZE), torch.tensor([[2, 4]])
    logits = torch.randn(1, 2, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    log_probs = subs_log_probs(logits, tokens, of.mask_id)
    now, then = noise(1.3), noise(0.8)
    score = subs_score(log_probs, tokens, now, of.mask_id)
    weights = of.analytic_probs(tokens, score, now - then)
    most, least = -torch.expm1(-now), -torch.expm1(-then)
    ancestral = log_probs.exp() * (most - least) / most
    ancestral[..., of.mask_id] = least / most
    close(weights[0, 1], ancestral[0, 1])
    # A given token's own weight is all there is: what cannot be reached has weight 0.
    assert weights[0, 0].nonzero().tolist() == [[2]]


# SEDD's own numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "system"), [("absorb", "sedd_absorb"), ("uniform", "sedd_uniform")])
def test_everything_is_sedds(kind: str, system: str) -> None:
    golden = load_file(GOLDEN / system / "io.safetensors")
    tokens, score = golden["input_ids"][:1], golden["log_score"][:1].exp()
    of = graph(kind, score.shape[-1])
    sigma = golden["sigma"][:1]
    dsigma = sigma - golden["sigma_next"][:1]
    ours = {
        "reverse_rate": of.reverse_rate(tokens, score),
        "staggered_score": of.staggered_score(score, dsigma),
        "transp_transition": of.transposed_transition(tokens, dsigma),
        "analytic_probs": of.analytic_probs(tokens, score, dsigma),
        "euler_probs": of.euler_probs(tokens, score, golden["step_size"] * golden["dsigma"][:1]),
        "denoiser_probs": of.denoiser_probs(tokens, score, sigma),
    }
    for name, values in ours.items():
        close(values, golden[f"{name}_seq0"], 1e-4)


def test_graphs_go_by_sedds_names() -> None:
    assert graph("absorb", 97) == AbsorbingGraph(97)
    assert graph("absorb", 97).mask_id == 96
    assert graph("uniform", 96).mask_id is None
    with pytest.raises(InputError, match=r"'roulette' is not known; choose one of absorb, uniform"):
        graph("roulette", 5)
