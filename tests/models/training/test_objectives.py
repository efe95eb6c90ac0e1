"""The four losses against naive formulas, closed forms and each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dlmbench.models.graphs import AbsorbingGraph
from dlmbench.models.losses import score_entropy, sedd_loss, token_nelbo
from dlmbench.models.network import Network
from dlmbench.models.noise import LogLinear
from dlmbench.models.parameterisations import sedd_log_score, subs_log_probs
from dlmbench.models.training import objectives
from dlmbench.models.training.masking import Hidden, hide_by_time
from dlmbench.models.training.objectives import BlockMasked, Masked, NextToken, Scores, objective
from dlmbench.models.training.shapes import MODELS, Model, Vocabulary

Make = Callable[[Model], Network]
EOS, MASK = 9, 10
IDS = torch.tensor([[0, 4, 2, 7, 7, 1, 9, 3], [5, 8, 1, 0, 9, 2, 2, 6]])
ROWS, LENGTH = IDS.shape


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def at(log_probs: Tensor, ids: Tensor) -> Tensor:
    return log_probs.gather(-1, ids[..., None])[..., 0]


# Against the plain formulas, values and gradients ----------------------------------------------------


def naive_ar(network: Network) -> Tensor:
    """Row by row and position by position."""
    total = torch.zeros((), dtype=torch.float64)
    for row, start in ((IDS[0], [EOS]), (IDS[1], [])):  # every other row has no EOS before it
        text = torch.tensor([*start, *row.tolist()])[None]
        log_probs = network.logits(network.trunk(text, mask="causal")).log_softmax(-1)[0]
        for place in range(text.shape[1] - 1):
            total = total - log_probs[place, text[0, place + 1]]
    return total / (2 * LENGTH - 1)


def naive_mdlm(network: Network) -> Tensor:
    hidden = hide_by_time(ROWS, LENGTH, generator())
    noisy = hidden.noisy(IDS, MASK)
    log_probs = subs_log_probs(network.logits(network.trunk(noisy, mask="bidirectional")), noisy, MASK)
    return token_nelbo(log_probs, IDS, 1 / hidden.time).sum() / IDS.numel()


def naive_sedd(network: Network) -> Tensor:
    """By the general score entropy of `losses`."""
    hidden = hide_by_time(ROWS, LENGTH, generator())
    noisy, noise = hidden.noisy(IDS, MASK), LogLinear()
    sigma, dsigma = noise.sigma(hidden.time.double()), noise.dsigma(hidden.time.double())
    condition = network.conditioning(noise.sigma(hidden.time))
    output = network.logits(network.trunk(noisy, mask="bidirectional", condition=condition))
    log_score = sedd_log_score(output, noisy, sigma, scale_by_sigma=True)
    entropy = score_entropy(AbsorbingGraph(MASK + 1), log_score, noisy, IDS, sigma)
    return sedd_loss(entropy, dsigma).sum() / IDS.numel()


def naive_block(network: Network) -> Tensor:
    """Block by block: the clean ones before it, then the noisy one, block-causal, as it is decoded."""
    total = torch.zeros((), dtype=torch.float64)
    hidden = objectives.hide_by_count(ROWS, LENGTH, 4, generator())
    noisy = hidden.noisy(IDS, MASK)
    for start in range(0, LENGTH, 4):
        seen = torch.cat((IDS[:, :start], noisy[:, start : start + 4]), dim=1)
        states = network.trunk(seen, mask="block_causal", block_length=4)[:, start:]
        window, block = noisy[:, start : start + 4], IDS[:, start : start + 4]
        log_probs = at(subs_log_probs(network.logits(states), window, MASK), block)
        count = (window == MASK).sum(dim=1, keepdim=True)
        total = total - (4 / count * log_probs).sum()
    return total / IDS.numel()


@pytest.mark.parametrize(
    ("model", "naive"),
    [("ar", naive_ar), ("mdlm", naive_mdlm), ("sedd", naive_sedd), ("block-diffusion", naive_block)],
)
def test_value_and_gradient_are_the_plain_formulas(
    network: Make, model: Model, naive: Callable[[Network], Tensor]
) -> None:
    made = network(model)
    ours = objective(model, Vocabulary(12, EOS, MASK), 4).training(made, IDS, generator()).per_token
    theirs = naive(made)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    parameters = [p for p in made.parameters() if p.requires_grad]
    for mine, wanted in zip(
        torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), strict=True
    ):
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_gradient_is_the_slope(network: Make, model: Model) -> None:
    """Along a random direction in all parameters, by central differences: in-place operations hide nothing."""
    made = network(model)
    loss = objective(model, Vocabulary(12, EOS, MASK), 4)
    parameters = list(made.parameters())
    random = generator(1)
    direction = [torch.randn(p.shape, dtype=p.dtype, generator=random) for p in parameters]
    slopes = torch.autograd.grad(loss.training(made, IDS, generator()).per_token, parameters)
    slope = sum(float((g * d).sum()) for g, d in zip(slopes, direction, strict=True))
    values = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            for parameter, by in zip(parameters, direction, strict=True):
                parameter.add_(by, alpha=step)
            values.append(float(loss.training(made, IDS, generator()).per_token))
    # The rotary tables are float32, which the difference does not see.
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(slope, rel=1e-4)


# Exact where the predictions are ---------------------------------------------------------------------

TOKENS, PLACES = 3, 3
UNKNOWN = TOKENS  # the mask's id


@dataclass
class Oracle:
    """Stands in for a network: logits are the true conditionals of a joint distribution over 3 tokens in 3 places.

    `config`, `head` and `trunk` are what the objectives use of a network; the head is the identity.
    """

    joint: Tensor = field(default_factory=lambda: torch.rand(3, 3, 3, dtype=torch.float64, generator=generator(7)))
    head: Any = field(
        default_factory=lambda: SimpleNamespace(weight=torch.eye(TOKENS + 1, dtype=torch.float64), bias=None)
    )

    def __post_init__(self) -> None:
        self.joint = self.joint / self.joint.sum()

    def given(self, known: dict[int, int], place: int) -> Tensor:
        """Log p(token at `place` | tokens at the places in `known`), [V]; the mask's is 0, to be excluded."""
        weights = torch.zeros(TOKENS, dtype=torch.float64)
        for text in itertools.product(range(TOKENS), repeat=PLACES):
            if all(text[p] == token for p, token in known.items()):
                weights[text[place]] += self.joint[text]
        return torch.cat(((weights / weights.sum()).log(), torch.zeros(1, dtype=torch.float64)))

    def trunk(self, ids: Tensor, *, mask: object, positions: Tensor | None = None, **_: object) -> Tensor:
        rows = []
        for row in ids.tolist():
            outputs = []
            for index in range(len(row)):
                if isinstance(mask, Tensor):  # block diffusion's: what it lets this query see, at its positions
                    assert positions is not None
                    seen = [j for j in range(len(row)) if bool(mask[index, j])]
                    known = {int(positions[j]): row[j] for j in seen if row[j] != UNKNOWN}
                    place = int(positions[index])
                else:
                    known = {j: token for j, token in enumerate(row) if token != UNKNOWN}
                    place = index
                outputs.append(self.given({p: t for p, t in known.items() if p != place}, place))
            rows.append(torch.stack(outputs))
        return torch.stack(rows)


def texts() -> Tensor:
    return torch.tensor(list(itertools.product(range(TOKENS), repeat=PLACES)))


def sets_of(count: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every set of hidden places, with the chance that a count drawn first, then a set, comes to it."""
    for k in range(1, count + 1):
        for places in itertools.combinations(range(count), k):
            yield places, 1 / count / math.comb(count, k)


def test_the_bound_is_exact_for_true_conditionals() -> None:
    """Enumerated over every set: any order of revealing multiplies to the same joint probability."""
    oracle, ids = Oracle(), texts()
    rows = torch.arange(len(ids))[:, None] * PLACES
    total = torch.zeros(len(ids), dtype=torch.float64)
    for places, chance in sets_of(PLACES):
        where = (rows + torch.tensor(places)).flatten()
        hidden = Hidden(where, torch.full((len(where),), PLACES / len(places)), torch.empty(0))
        total += chance * Masked(UNKNOWN)._cost(oracle, ids, hidden).nats  # type: ignore[arg-type]
    torch.testing.assert_close(total, -oracle.joint.flatten().log(), rtol=1e-6, atol=1e-6)


def test_times_and_counts_estimate_one_bound(network: Make) -> None:
    """On a network with no such consistency: the integral over t, by quadrature, is the mean over counts."""
    made, ids = network("mdlm"), IDS[:1, :3]
    nats = {}
    for places, _ in sets_of(3):
        where = torch.tensor(places)
        with torch.no_grad():
            nats[places] = float(
                Masked(MASK)._cost(made, ids, Hidden(where, torch.ones(len(where)), torch.empty(0))).nats
            )
    by_count = sum(chance * 3 / len(places) * nats[places] for places, chance in sets_of(3))
    grid = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    by_time = sum(float((grid ** (len(p) - 1) * (1 - grid) ** (3 - len(p))).mean()) * nats[p] for p in nats)
    assert by_time == pytest.approx(by_count, rel=1e-6)
    # And the estimators' own draws come to it.
    many = ids.expand(4000, 3)
    for draw in (Masked(MASK).training, Masked(MASK).held_out):
        with torch.no_grad():
            estimates = draw(made, many, generator(3)).nats
        error = float(estimates.std()) / math.sqrt(len(many))
        assert float(estimates.mean()) == pytest.approx(by_count, abs=4.5 * error)


def test_both_estimates_of_sedd_are_one_bound(network: Make) -> None:
    """Of a network that is told the time: times drawn first, or counts first and a time that goes with them."""
    made, many = network("sedd"), IDS[:1, :3].expand(12_000, 3)
    with torch.no_grad():
        by_time, by_count = (
            draw(made, many, generator(3)).nats for draw in (Scores(MASK).training, Scores(MASK).held_out)
        )
    error = math.hypot(float(by_time.std()), float(by_count.std())) / math.sqrt(len(many))
    assert float(by_time.mean()) == pytest.approx(float(by_count.mean()), abs=4 * error)
    assert float(by_count.std()) < float(by_time.std())
    assert error < 0.02 * float(by_count.mean())


@pytest.mark.parametrize("seed", range(3))
def test_blocks_of_one_are_autoregression(seed: int) -> None:
    """One token hidden, all before it given: the chain rule, whatever is drawn."""
    oracle, ids = Oracle(), texts()
    cost = BlockMasked(UNKNOWN, 1).training(oracle, ids, generator(seed))  # type: ignore[arg-type]
    torch.testing.assert_close(cost.nats, -oracle.joint.flatten().log(), rtol=1e-6, atol=1e-6)


def test_one_block_is_masked_diffusion(network: Make) -> None:
    made = network("mdlm")
    ours = BlockMasked(MASK, LENGTH).held_out(made, IDS, generator())
    torch.testing.assert_close(ours.nats, Masked(MASK).held_out(made, IDS, generator()).nats)


def test_normalised_scores_cost_what_probabilities_do() -> None:
    """Score entropy is -log p / t where the weights sum to 1, and more where they do not."""
    oracle, ids = Oracle(), texts()
    hidden = hide_by_time(len(ids), PLACES, generator())
    probabilities = Masked(UNKNOWN)._cost(oracle, ids, hidden).nats  # type: ignore[arg-type]

    def scores(offset: float) -> Tensor:
        network = SimpleNamespace(
            head=oracle.head,
            conditioning=lambda sigma: None,
            trunk=lambda *a, **k: oracle.trunk(*a, **k) + math.log(UNKNOWN) + offset,
        )
        return Scores(UNKNOWN).training(network, ids, generator()).nats  # type: ignore[arg-type]

    torch.testing.assert_close(scores(0.0), probabilities, rtol=1e-6, atol=1e-6)
    hides = probabilities > 0
    for offset in (-0.3, 0.3):
        assert bool((scores(offset) > probabilities)[hides].all())


def test_held_out_autoregression_counts_every_token_once(network: Make) -> None:
    made = network("ar")
    cost = NextToken(EOS).held_out(made, IDS, generator())
    after = torch.cat((torch.full((ROWS, 1), EOS), IDS), dim=1)
    log_probs = made.logits(made.trunk(after, mask="causal")).log_softmax(-1)
    torch.testing.assert_close(cost.nats, -at(log_probs[:, :-1], IDS).sum(dim=1))
    assert cost.tokens == IDS.numel()


def test_the_mask_is_never_predicted(network: Make) -> None:
    """A head that loves the mask costs nothing under SUBS: its logit has no part in the normaliser."""
    made = network("mdlm")
    before = Masked(MASK).held_out(made, IDS, generator()).nats
    with torch.no_grad():
        made.head.weight = torch.nn.Parameter(made.head.weight.clone())  # untied
        made.head.weight[MASK] *= 50
    torch.testing.assert_close(Masked(MASK).held_out(made, IDS, generator()).nats, before)
