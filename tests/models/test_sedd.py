"""SEDD against its published loop, its law by enumeration, the general form of its weights, and what it announces."""

import importlib.util
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dlmbench import InputError
from dlmbench.models.backbone import Backbone
from dlmbench.models.dit import DiT
from dlmbench.models.dit_config import DiTConfig
from dlmbench.models.draws import inverse_cdf
from dlmbench.models.generator import Request, Settings, Shape
from dlmbench.models.graphs import AbsorbingGraph, UniformGraph, graph
from dlmbench.models.noise import noise_schedule
from dlmbench.models.parameterisations import sedd_log_score
from dlmbench.models.sedd import SEDD, noise_steps
from dlmbench.models.sedd_weights import absorbing_weights, draw_in_rows, tempered, uniform_weights
from dlmbench.models.weights import random_network

_spec = importlib.util.spec_from_file_location("published_sedd", Path(__file__).parent / "published" / "mdlm.py")
assert _spec is not None
assert _spec.loader is not None
published = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = published
_spec.loader.exec_module(published)

# Not up to 20: float32 then loses the mask's weight in the published form of the analytic step, to cancellation.
GEOMETRIC = {"noise": "geometric", "sigma_min": 1e-3, "sigma_max": 5.0}
UNIFORM = {"graph": "uniform", "scale_by_sigma": False, "noise": "geometric", "sigma_min": 1e-3, "sigma_max": 20.0}


def dit(**changes: Any) -> DiT:
    """A tiny DiT that gives scores far from uniform; on the absorbing graph its mask is 60."""
    shape = {
        "vocab_size": 61,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "cond_dim": 16,
        "max_position_embeddings": 64,
        "time_conditioning": True,
        "parameterization": "score",
        "scale_by_sigma": True,
    }
    network = random_network(DiTConfig(**(shape | changes)), 3, torch.float32, "cpu")
    random = torch.Generator().manual_seed(4)
    for parameter in network.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.2)
    network.rotary(64)
    assert isinstance(network, DiT)
    return network


# Weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["euler", "analytic"])
@pytest.mark.parametrize("scaled", [False, True])
def test_absorbing_weights_are_the_graphs(kind: Any, scaled: bool) -> None:
    """The reduced form against staggered score times transition, and one-hot plus rate; too long a step included."""
    output = torch.randn(50, 9, generator=torch.Generator().manual_seed(0)).double()
    masks, of = torch.full((1, 50), 8), AbsorbingGraph(9)
    negative = 0
    for sigma, change in ((3.0, 0.4), (0.2, 0.1), (5.0, 3.0)):
        level, by = (torch.tensor([value], dtype=torch.float64) for value in (sigma, change))
        score = sedd_log_score(output[None], masks, level, scale_by_sigma=scaled).exp()
        expected = of.euler_probs(masks, score, by) if kind == "euler" else of.analytic_probs(masks, score, by)
        ours = absorbing_weights(output.clone(), kind, sigma, change, scale_by_sigma=scaled)
        torch.testing.assert_close(ours, expected[0].clamp(min=0), rtol=1e-6, atol=1e-9)
        negative += int((expected < 0).sum())
    assert scaled or negative > 0


def test_the_last_draw_goes_by_scores_alone() -> None:
    output = torch.tensor([[0.0, math.log(3.0), 200.0, 5.0]])  # a score that float32's exp cannot hold, then the mask
    weights = absorbing_weights(output.clone(), "denoise", 0.5, 0.5, scale_by_sigma=True)
    assert weights.tolist() == [[0.0, 0.0, 1.0]]
    output[0, 2] = -math.inf
    weights = absorbing_weights(output.clone(), "denoise", 0.5, 0.5, scale_by_sigma=True)
    assert (weights / weights.sum()).tolist()[0] == pytest.approx([0.25, 0.75, 0.0])


def test_uniform_weights_are_the_graphs() -> None:
    output = torch.randn(50, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens, of = torch.arange(50) % 9, UniformGraph(9)
    score = sedd_log_score(output, tokens, torch.tensor(1.0), scale_by_sigma=False).exp()[None]
    negative = 0
    for change in (0.7, 4.0):
        by = torch.tensor([change], dtype=torch.float64)
        for kind, expected in (
            ("euler", of.euler_probs(tokens[None], score, by)),
            ("analytic", of.analytic_probs(tokens[None], score, by)),
            ("denoise", of.denoiser_probs(tokens[None], score, by)),
        ):
            ours = uniform_weights(output.clone(), tokens, kind, change)  # type: ignore[arg-type]
            torch.testing.assert_close(ours, expected[0].clamp(min=0))
            negative += int((expected < 0).sum())
    assert negative > 0


def test_temperature_by_hand() -> None:
    # Jumps 1 : 3 with weight 4 together, staying 6. At 1/2: 1 : 9, still 4 together.
    weights, stay = torch.tensor([[1.0, 3.0, 6.0]]), torch.tensor([2])
    assert tempered(weights, stay, 0.5)[0].tolist() == pytest.approx([0.4, 3.6, 6.0])
    assert tempered(weights, stay, 0.0)[0].tolist() == pytest.approx([0.0, 4.0, 6.0])
    assert tempered(weights, None, 0.0)[0].tolist() == pytest.approx([0.0, 0.0, 10.0])
    # Nothing can jump: nothing does.
    still = torch.tensor([[0.0, 0.0, 6.0]])
    for temperature in (0.0, 0.5):
        assert tempered(still, stay, temperature).tolist() == still.tolist()


def test_noise_of_the_steps() -> None:
    noise = noise_schedule("loglinear")
    sigmas, changes = noise_steps("analytic", noise, 8)
    # The steps and the last draw remove all there is.
    assert changes.sum().item() == pytest.approx(sigmas[0].item(), rel=1e-5)
    assert sigmas[0].item() == pytest.approx(math.log(1000), abs=1e-3)
    _, rates = noise_steps("euler", noise, 8)
    assert rates[3].item() == pytest.approx(noise.dsigma(torch.tensor(1 - 3 / 8)).item() / 8, rel=1e-4)


def test_rows_are_drawn_in_parts_by_the_same_law() -> None:
    """Rows of a vocabulary that fills a part by itself; each row can only give its own place."""

    class Exact:
        whole = False
        calls = 0

        def tokens(self, weights: Tensor, where: Tensor, window: tuple[int, int]) -> Tensor:
            self.calls += 1
            return inverse_cdf(weights, torch.full((weights.shape[0],), 0.5, dtype=torch.float64))

    size, draws = 200_000, Exact()
    wanted = torch.tensor([3, 150_000, 199_999, 0, 77])

    def weigh(rows: slice) -> Tensor:
        return torch.zeros(wanted[rows].shape[0], size).scatter_(1, wanted[rows, None], 2.0)

    drawn = draw_in_rows(weigh, torch.arange(5), size, draws, (1, 5))  # type: ignore[arg-type]
    assert torch.equal(drawn, wanted)
    assert draws.calls == 3  # two rows of 800 kB in 2 MiB
    assert draw_in_rows(weigh, torch.arange(0), size, draws, (1, 5)).shape == (0,)  # type: ignore[arg-type]


# The published loop ----------------------------------------------------------------------------------


@pytest.mark.parametrize("predictor", ["euler", "analytic"])
@pytest.mark.parametrize("changes", [{}, {"scale_by_sigma": False}, GEOMETRIC, UNIFORM])
def test_the_same_seed_gives_the_published_tokens(
    predictor: str, changes: dict[str, Any], run: Callable[..., Any], prompts: Callable[..., Tensor]
) -> None:
    network = dit(**changes)
    config = network.config
    of = graph(config.graph, config.vocab_size)
    limits = {"sigma_min": config.sigma_min, "sigma_max": config.sigma_max} if config.noise == "geometric" else {}
    for seed, (prompt, steps) in enumerate([(prompts(2, 5), 6), (prompts(3, 0), 4), (prompts(1, 2), 20)]):
        random = torch.Generator().manual_seed(seed)
        shape = (prompt.shape[0], 7)
        start = torch.full(shape, 60) if of.mask_id else (torch.rand(shape, generator=random) * of.dim).long()
        theirs, forwards = published.published_sedd(
            network, of, noise_schedule(config.noise, **limits), prompt, start, steps, random,
            predictor=predictor, scale_by_sigma=config.scale_by_sigma,
        )  # fmt: skip
        settings = Settings(temperature=1.0, draw="gumbel32", steps=steps, sampler=predictor)
        generator = SEDD(network)
        tokens, seen = run(generator, prompt, 7, settings, seed)
        assert tokens.tolist() == theirs.tolist()
        assert len(seen.forwards) == forwards == generator.promised_nfe(Shape(*prompt.shape, 7), settings)


# The law ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", ["exact", "gumbel64"])
@pytest.mark.parametrize("predictor", ["euler", "analytic"])
@pytest.mark.parametrize("changes", [{}, UNIFORM])
def test_one_position_is_a_markov_chain(
    draw: Any, predictor: str, changes: dict[str, Any], run: Callable[..., Any]
) -> None:
    """Alone on its canvas, a position's law is a product of matrices, each of a network's output for every id."""
    network = dit(vocab_size=6, **changes)
    of, steps, rows = graph(network.config.graph, 6), 3, 4000
    sigmas, by = noise_steps("euler" if predictor == "euler" else "analytic", SEDD(network).noise, steps)
    every = torch.arange(6)[:, None]
    law = torch.full((6,), 1 / 6) if of.mask_id is None else torch.eye(6)[5]
    with torch.inference_mode():
        for step in range(steps + 1):
            raw = published.output(network, every, sigmas[step])
            score = sedd_log_score(raw, every, sigmas[step], scale_by_sigma=network.config.scale_by_sigma).exp()
            kind = of.denoiser_probs if step == steps else of.euler_probs if predictor == "euler" else of.analytic_probs
            weights = kind(every, score, by[step])[:, 0].clamp(min=0)
            law = law @ (weights / weights.sum(dim=-1, keepdim=True))
    settings = Settings(temperature=1.0, draw=draw, steps=steps, sampler=predictor)
    tokens, _ = run(SEDD(network), torch.zeros(rows, 0, dtype=torch.int64), 1, settings, 7)
    seen = torch.bincount(tokens[:, 0], minlength=law.shape[0])
    distance = ((seen - rows * law) ** 2 / (rows * law).clamp(min=1)).sum().item()
    assert distance < 20.5  # chi-square, 5 degrees, 0.999
    assert (law > 0.02).sum() >= 3


@pytest.mark.parametrize("changes", [{}, UNIFORM])
def test_temperature_0_jumps_to_the_likeliest(changes: dict[str, Any], run: Callable[..., Any]) -> None:
    """One position, one step: it jumps or stays as it would, and the last draw takes the largest weight."""
    network = dit(vocab_size=6, **changes)
    tokens, seen = run(SEDD(network), torch.zeros(500, 0, dtype=torch.int64), 1, Settings(steps=3), 0)
    if not changes:
        # On the absorbing graph each of the four forwards has one likeliest token.
        assert len(set(tokens.flatten().tolist())) <= 4
        assert len({write.rows.sum().item() for write in seen.writes}) > 1
    else:
        again, _ = run(SEDD(network), torch.zeros(500, 0, dtype=torch.int64), 1, Settings(steps=3), 0)
        assert torch.equal(tokens, again)


# What is announced -----------------------------------------------------------------------------------


def test_masks_commit_when_they_jump(run: Callable[..., Any], prompts: Callable[..., Tensor]) -> None:
    tokens, seen = run(SEDD(dit()), prompts(3, 5), 10, Settings(temperature=1.0, steps=8), 3)
    assert [forward[:5] for forward in seen.forwards] == [("target", "denoise", 3, 15, 15)] * 9
    masked = [forward[5] for forward in seen.forwards]
    assert masked[0] == 30
    assert masked == sorted(masked, reverse=True)
    left = [write.rows.sum().item() for write in seen.writes]
    assert left == [before - after for before, after in zip(masked, [*masked[1:], 0], strict=True)]
    assert torch.stack([write.rows for write in seen.writes]).sum(dim=0).eq(1).all()
    assert all(write.committed for write in seen.writes)
    for write in seen.writes:
        assert torch.equal(write.ids[write.rows], tokens[write.rows])
    assert not (tokens == 60).any()
    assert seen.order == "()w" * 9


def test_random_tokens_commit_at_the_end(run: Callable[..., Any], prompts: Callable[..., Tensor]) -> None:
    tokens, seen = run(SEDD(dit(**UNIFORM)), prompts(3, 5), 10, Settings(temperature=1.0, steps=8), 3)
    assert [forward[5] for forward in seen.forwards] == [30] * 9
    assert [write.committed for write in seen.writes] == [False] * 8 + [True]
    assert seen.writes[-1].rows.all()
    assert torch.equal(seen.writes[-1].ids, tokens)
    for before, write in zip(seen.writes, seen.writes[1:-1], strict=False):
        assert torch.equal(write.rows, write.ids != before.ids)


@pytest.mark.parametrize("changes", [{}, UNIFORM])
def test_the_prompt_is_clamped(
    changes: dict[str, Any], run: Callable[..., Any], prompts: Callable[..., Tensor], inputs: list[Tensor]
) -> None:
    run(SEDD(dit(**changes)), prompts(), 8, Settings(temperature=1.0, steps=5), 0)
    assert len(inputs) == 6
    assert all(torch.equal(given[:, :5], prompts()) for given in inputs)


class _Waits(TorchDispatchMode):
    """Counts operators that read values, or sizes that depend on them, off the device."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function.overloadpacket.__name__ in {"nonzero", "_local_scalar_dense", "masked_select"}
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("changes", "waits"), [({}, 7), (UNIFORM, 0)])
def test_the_host_waits_once_a_step_for_masks(
    changes: dict[str, Any], waits: int, run: Callable[..., Any], prompts: Callable[..., Tensor]
) -> None:
    generator, settings = SEDD(dit(**changes)), Settings(temperature=1.0, steps=6)
    with _Waits() as seen:
        run(generator, prompts(), 8, settings)
    assert seen.count == waits


def test_random_tokens_start_uniformly(run: Callable[..., Any], inputs: list[Tensor]) -> None:
    run(SEDD(dit(**UNIFORM)), torch.zeros(100, 0, dtype=torch.int64), 61, Settings(temperature=1.0, steps=1), 0)
    seen = torch.bincount(inputs[0].flatten(), minlength=61)
    assert ((seen - 100.0) ** 2 / 100).sum().item() < 99.6  # chi-square, 60 degrees, 0.999


# Refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sampler": "ddpm"}, "analytic or euler"),
        ({"cfg_scale": 1.0}, "it knows sampler, epsilon, draw, idle_steps"),
        ({"top_p": 0.9}, "choose a temperature"),
        ({"block_length": 4}, "leave block_length out"),
        ({"epsilon": 2.0}, "below 1"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        SEDD(dit()).prepare(Shape(1, 2, 8), Settings(**changes))


def test_networks_and_requests_that_do_not_fit(
    make_network: Callable[..., Backbone], prompts: Callable[..., Tensor]
) -> None:
    with pytest.raises(InputError, match=r"this is log-probabilities; choose the generator mdlm"):
        SEDD(dit(parameterization="subs", scale_by_sigma=False))
    with pytest.raises(InputError, match=r"parameterization score.*Backbone"):
        SEDD(make_network())
    generator = SEDD(dit())
    with pytest.raises(InputError, match="at most 60"):
        generator.prepare(Shape(1, 4, 61), Settings())
    request = Request(prompts(), 8, Settings(), 0)
    with pytest.raises(InputError, match="prepare"):
        generator.generate(request, None)  # type: ignore[arg-type]
    generator.prepare(request.shape, request.settings)
    with pytest.raises(InputError, match="padded"):
        generator.generate(replace(request, prompt_mask=prompts() > 0), None)  # type: ignore[arg-type]
