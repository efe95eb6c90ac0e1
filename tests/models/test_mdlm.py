"""MDLM against its published loop, its law by enumeration, its number of forwards, and what it announces."""

import importlib.util
import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dlmbench import InputError
from dlmbench.models.backbone import Backbone
from dlmbench.models.checkpoints import load_network
from dlmbench.models.dit import DiT
from dlmbench.models.dit_config import DiTConfig
from dlmbench.models.generator import Request, Settings, Shape
from dlmbench.models.mdlm import MDLM
from dlmbench.models.network import Network
from dlmbench.models.weights import random_network

GOLDEN = Path(__file__).parents[1] / "golden" / "mdlm"

_spec = importlib.util.spec_from_file_location("published_mdlm", Path(__file__).parent / "published" / "mdlm.py")
assert _spec is not None
assert _spec.loader is not None
published = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = published
_spec.loader.exec_module(published)

PUBLISHED = Settings(temperature=1.0, draw="gumbel32", steps=6)


def dit(**changes: Any) -> DiT:
    """A tiny DiT whose output is far from uniform; its mask is 60."""
    shape = {
        "vocab_size": 61,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "cond_dim": 16,
        "max_position_embeddings": 64,
    }
    network = random_network(DiTConfig(**(shape | changes)), 3, torch.float32, "cpu")
    random = torch.Generator().manual_seed(4)
    for parameter in network.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.2)
    network.rotary(64)
    assert isinstance(network, DiT)
    return network


# The published loop ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["ddpm", "ddpm_cache", "analytic"])
@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("draw", ["gumbel32", "gumbel64"])
def test_the_same_seed_gives_the_published_tokens(
    sampler: str, timed: bool, draw: Any, run: Callable[..., Any], prompts: Callable[..., Tensor]
) -> None:
    network = dit(time_conditioning=timed)
    dtype = torch.float32 if draw == "gumbel32" else torch.float64
    for seed, (prompt, steps) in enumerate([(prompts(2, 5), 6), (prompts(3, 0), 3), (prompts(1, 2), 30)]):
        theirs, forwards = published.published_mdlm(
            network, prompt, 7, steps, torch.Generator().manual_seed(seed), sampler=sampler, dtype=dtype
        )
        settings = replace(PUBLISHED, sampler=sampler, draw=draw, steps=steps)
        tokens, seen = run(MDLM(network), prompt, 7, settings, seed)
        assert tokens.tolist() == theirs.tolist()
        assert len(seen.forwards) == forwards


def test_a_llama_like_network_does_as_well(
    make_network: Callable[..., Backbone], run: Callable[..., Any], prompts: Callable[..., Tensor]
) -> None:
    network, prompt = make_network(), prompts(2, 4)
    theirs, forwards = published.published_ddpm_cache(network, prompt, 9, 20, torch.Generator().manual_seed(5))
    tokens, seen = run(MDLM(network), prompt, 9, replace(PUBLISHED, steps=20), 5)
    assert tokens.tolist() == theirs.tolist()
    assert len(seen.forwards) == forwards < 21


def test_the_recorded_seeds_give_the_recorded_tokens(run: Callable[..., Any]) -> None:
    """No recorded uniforms here: torch draws them again."""
    import json

    from safetensors.torch import load_file

    network = load_network(GOLDEN, torch.float32, "cpu")
    recorded = load_file(GOLDEN / "io_generate.safetensors")
    for entry in json.loads((GOLDEN / "generate.json").read_text())["runs"]:
        if entry["time_conditioning"]:
            continue
        final = recorded[f"{entry['name']}.x_final"]
        settings = replace(PUBLISHED, sampler=entry["sampler"], steps=entry["num_steps"])
        tokens, seen = run(MDLM(network), final[:, :0], final.shape[1], settings, entry["seed"])
        assert tokens.tolist() == final.tolist()
        assert len(seen.forwards) == entry["nfe"]


# The law ---------------------------------------------------------------------------------------------


def law(network: Network, steps: int, temperature: float) -> dict[tuple[int, int], float]:
    """Probabilities of every two tokens, by going through all pairs of leaving steps, each as likely (1 / T^2)."""
    mask_id = network.config.mask_id
    assert mask_id is not None
    grid = torch.linspace(1, 1e-5, steps + 1)
    sigma = -torch.log1p(-0.999 * grid)

    def p_x0(ids: list[int], step: int) -> Tensor:
        logits = published.output(network, torch.tensor([ids]), sigma[step])[0].double()
        logits[:, mask_id] = -torch.inf
        if temperature == 0:
            return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).double()
        return (logits / temperature).softmax(-1)

    found: dict[tuple[int, int], float] = {}
    for pair in product(range(mask_id), repeat=2):
        total = 0.0
        for first, second in product(range(steps), repeat=2):
            both = [mask_id, mask_id]
            if first == second:
                p = p_x0(both, first)
                total += (p[0, pair[0]] * p[1, pair[1]]).item()
                continue
            early, late = (0, 1) if first < second else (1, 0)
            chance = p_x0(both, min(first, second))[early, pair[early]]
            both[early] = pair[early]
            total += (chance * p_x0(both, max(first, second))[late, pair[late]]).item()
        found[pair] = total / steps**2
    assert sum(found.values()) == pytest.approx(1)
    return found


@pytest.mark.parametrize(
    ("settings", "timed"),
    [
        (Settings(temperature=1.0, steps=2), False),
        (Settings(temperature=1.0, steps=2, idle_steps="run"), False),
        (Settings(temperature=0.6, steps=2), False),
        (Settings(temperature=1.0, steps=3, sampler="ddpm"), True),
        (Settings(temperature=1.0, steps=2, sampler="analytic"), True),
        (Settings(temperature=1.0, steps=2, draw="gumbel64"), False),
        (Settings(temperature=0.6, steps=2, draw="gumbel64", sampler="analytic"), True),
    ],
)
def test_tokens_follow_the_law(settings: Settings, timed: bool, run: Callable[..., Any]) -> None:
    network = dit(vocab_size=5, time_conditioning=timed)
    with torch.inference_mode():
        expected = law(network, settings.steps or 0, settings.temperature)
    rows = 4000
    tokens, _ = run(MDLM(network), torch.zeros(rows, 0, dtype=torch.int64), 2, settings, 11)
    seen = Counter(map(tuple, tokens.tolist()))
    # 16 outcomes, of which the rare ones are put together; 0.999 quantile of chi-square at 15 degrees: 37.7.
    rare = [pair for pair, chance in expected.items() if rows * chance < 5]
    groups = [[pair] for pair in expected if pair not in rare] + ([rare] if rare else [])
    assert len(groups) > 4
    distance = 0.0
    for group in groups:
        mean = max(rows * sum(expected[pair] for pair in group), 1e-9)
        distance += (sum(seen[pair] for pair in group) - mean) ** 2 / max(mean, 1.0)
    assert distance < 37.7


@pytest.mark.parametrize("sampler", ["ddpm", "ddpm_cache", "analytic"])
def test_races_go_on_when_no_mask_is_left(
    sampler: str, run: Callable[..., Any], prompts: Callable[..., Tensor]
) -> None:
    for temperature in (0.0, 1.0):
        settings = Settings(temperature=temperature, steps=30, draw="gumbel32", sampler=sampler)
        tokens, seen = run(MDLM(dit()), prompts(1, 2), 2, settings, 0)
        assert not (tokens == 60).any()
        assert seen.forwards[-1][5] == 0


@pytest.mark.parametrize("draw", ["exact", "gumbel32"])
def test_temperature_0_takes_the_likeliest_token_at_random_places(draw: Any, run: Callable[..., Any]) -> None:
    network = dit(vocab_size=5)
    settings = Settings(steps=2, draw=draw)
    with torch.inference_mode():
        expected = {pair for pair, chance in law(network, 2, 0.0).items() if chance}
    tokens, seen = run(MDLM(network), torch.zeros(200, 0, dtype=torch.int64), 2, settings, 1)
    assert set(map(tuple, tokens.tolist())) == expected
    written = seen.writes[0].rows
    assert 0 < written.sum() < written.numel()


def test_top_k_1_is_greedy(run: Callable[..., Any], prompts: Callable[..., Tensor]) -> None:
    network = dit()
    greedy, _ = run(MDLM(network), prompts(), 8, Settings(steps=4), 2)
    one, _ = run(MDLM(network), prompts(), 8, Settings(steps=4, temperature=1.0, top_k=1), 2)
    assert greedy.tolist() == one.tolist()


# Forwards --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("idle", ["skip", "run"])
def test_forwards_of_the_cache_on_a_network(idle: Any, run: Callable[..., Any]) -> None:
    """E[NFE] = T (1 - (1 - 1/T)^(B L)) + 1: 8 steps, 2 rows of 3 tokens; the published cache (1 - 1/T)^(B L) more."""
    generator, settings = MDLM(dit()), Settings(temperature=1.0, steps=8, idle_steps=idle)
    prompt = torch.zeros(2, 0, dtype=torch.int64)
    nfe = torch.tensor([float(len(run(generator, prompt, 3, settings, seed)[1].forwards)) for seed in range(400)])
    quiet = (7 / 8) ** 6
    expected = 8 * (1 - quiet) + 1 + (quiet if idle == "run" else 0)
    assert abs(nfe.mean().item() - expected) < 4 * nfe.std().item() / math.sqrt(400)
    assert generator.promised_nfe(Shape(2, 0, 3), settings) is None


@pytest.mark.parametrize(
    ("sampler", "timed"), [("ddpm", False), ("analytic", False), ("ddpm", True), ("ddpm_cache", True)]
)
def test_forwards_without_a_cache_are_promised(sampler: str, timed: bool, run: Callable[..., Any]) -> None:
    generator, settings = MDLM(dit(time_conditioning=timed)), Settings(sampler=sampler, steps=40)
    _, seen = run(generator, torch.zeros(1, 3, dtype=torch.int64), 4, settings, 0)
    assert len(seen.forwards) == 41 == generator.promised_nfe(Shape(1, 3, 4), settings)


def test_everything_is_announced_once(run: Callable[..., Any], prompts: Callable[..., Tensor]) -> None:
    tokens, seen = run(MDLM(dit()), prompts(3, 5), 10, Settings(temperature=1.0, steps=8), 3)
    logit_rows = [forward[5] for forward in seen.forwards]
    assert sum(logit_rows) == 3 * 10  # each position's logits once, when it leaves
    assert all(forward[:5] == ("target", "denoise", 3, 15, 15) for forward in seen.forwards)
    assert all(forward[6] == "bidirectional" for forward in seen.forwards)
    assert logit_rows[-1] == 0  # the last forward is run though no mask is left
    assert seen.order == "()w" * (len(seen.forwards) - 1) + "()"
    assert [write.rows.sum().item() for write in seen.writes] == logit_rows[:-1]
    assert torch.stack([write.rows for write in seen.writes]).sum(dim=0).eq(1).all()
    assert all(write.committed and write.offset == 0 for write in seen.writes)
    steps = [write.step for write in seen.writes]
    assert steps == sorted(set(steps))
    for write in seen.writes:
        assert torch.equal(write.ids[write.rows], tokens[write.rows])
    assert not (tokens == 60).any()


def test_masks_left_to_the_end_are_removed(run: Callable[..., Any], inputs: list[Tensor]) -> None:
    """A grid that ends at 0.5 leaves half of the positions to the last forward."""
    network = dit()
    tokens, seen = run(MDLM(network), torch.zeros(2, 0, dtype=torch.int64), 30, Settings(epsilon=0.5, steps=4), 0)
    last = inputs[-1]
    assert 10 < (last == 60).sum() == seen.forwards[-1][5] < 50
    logits = published.output(network, last, torch.tensor(0.0))
    logits[..., 60] = -torch.inf
    assert torch.equal(tokens, torch.where(last == 60, logits.argmax(-1), last))
    assert seen.writes[-1].step == 4


class _Ops(TorchDispatchMode):
    """Names of all operators that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


# What reads values, or sizes that depend on them, off the device.
WAITING = {"nonzero", "_local_scalar_dense", "masked_select", "is_nonzero", "_unique2"}


@pytest.mark.parametrize("timed", [False, True])
def test_the_host_never_waits(timed: bool, prompts: Callable[..., Tensor], run: Callable[..., Any]) -> None:
    generator = MDLM(dit(time_conditioning=timed))
    settings = Settings(temperature=1.0, steps=6)
    generator.prepare(Shape(3, 5, 8), settings)
    with _Ops() as ops:
        run(generator, prompts(), 8, settings)
    assert not WAITING & ops.names.keys()
    assert ops.names["index_select"] > 0
    with _Ops() as ops:
        run(generator, prompts(), 8, replace(settings, draw="gumbel32"))
    assert ops.names["nonzero"] > 0  # so they would have been seen


# Prompts and windows ---------------------------------------------------------------------------------


def test_the_prompt_stays_in_front(
    run: Callable[..., Any], prompts: Callable[..., Tensor], inputs: list[Tensor]
) -> None:
    tokens, _ = run(MDLM(dit()), prompts(), 8, Settings(temperature=1.0, steps=5), 0)
    assert all(torch.equal(given[:, :5], prompts()) for given in inputs)
    assert torch.equal(inputs[-1][:, 5:], tokens)


def test_a_network_that_predicts_the_next_token(
    make_network: Callable[..., Backbone], run: Callable[..., Any], prompts: Callable[..., Tensor]
) -> None:
    """Dream's convention: row i's logits are those of token i + 1. One step, greedy: all tokens from one forward."""
    network = make_network(shifted_logits=True)
    for length in (4, 0):
        prompt = prompts(2, length)
        tokens, _ = run(MDLM(network), prompt, 6, Settings(steps=1), 0)
        logits = published.output(network, torch.cat((prompt, torch.full((2, 6), 60)), dim=1), torch.tensor(0.0))
        logits = torch.cat((logits[:, :1], logits[:, :-1]), dim=1)[:, length:]
        logits[..., 60] = -torch.inf
        assert torch.equal(tokens, logits.argmax(-1))


@pytest.mark.parametrize("draw", ["exact", "gumbel32"])
def test_windows_move_on_with_their_context(
    draw: Any, run: Callable[..., Any], prompts: Callable[..., Tensor], inputs: list[Tensor]
) -> None:
    generator = MDLM(dit(max_position_embeddings=8))
    settings = Settings(temperature=1.0, steps=3, sampler="ddpm", block_length=4, draw=draw)
    tokens, seen = run(generator, prompts(2, 2), 15, settings, 0)
    whole = torch.cat((prompts(2, 2), tokens), dim=1)
    # Windows start at 0, 4, 8 and, with 1 token left, 9; each has 3 + 1 forwards.
    assert generator.promised_nfe(Shape(2, 2, 15), settings) == len(seen.forwards) == 16
    for index, (start, context) in enumerate([(0, 2), (4, 4), (8, 4), (9, 7)]):
        for given in inputs[4 * index : 4 * index + 4]:
            assert given.shape == (2, 8)
            assert torch.equal(given[:, :context], whole[:, start : start + context])
    assert not (tokens == 60).any()
    covered = torch.zeros(2, 15, dtype=torch.int64)
    for write in seen.writes:
        columns = slice(write.offset, write.offset + write.ids.shape[1])
        covered[:, columns] += write.rows
        assert torch.equal(write.ids[write.rows], tokens[:, columns][write.rows])
    assert covered.eq(1).all()


def test_natural_ends_after_the_window_with_the_eos(run: Callable[..., Any], prompts: Callable[..., Tensor]) -> None:
    network = dit(max_position_embeddings=8, eos_token_id=7)
    assert network.head.bias is not None
    network.head.bias[7] += 1000
    settings = Settings(steps=3, sampler="ddpm")
    tokens, seen = run(MDLM(network), prompts(2, 2), 30, replace(settings, length_policy="natural"), 0)
    assert len(seen.forwards) == 4
    assert tokens[:, :6].eq(7).all()
    assert tokens.shape == (2, 30)
    _, everything = run(MDLM(network), prompts(2, 2), 30, settings, 0)
    assert len(everything.forwards) == 4 * 7  # 6, then 24 in strides of 4


# Refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sampler": "euler"}, "ddpm_cache, ddpm, analytic"),
        ({"cfg_scale": 1.0}, "it knows sampler, epsilon, draw, idle_steps"),
        ({"suppress_mask": False}, "suppress_mask"),
        ({"threshold": 0.9}, "threshold"),
        ({"draw": "gumbel32", "top_p": 0.9}, "draw exact"),
        ({"block_length": 4}, "leave block_length out"),
        ({"epsilon": 2.0}, "below 1"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        MDLM(dit()).prepare(Shape(1, 2, 8), Settings(**changes))


def test_networks_and_requests_that_do_not_fit(prompts: Callable[..., Tensor]) -> None:
    score = {"parameterization": "score", "time_conditioning": True}
    with pytest.raises(InputError, match="scores; choose the generator sedd"):
        MDLM(dit(**score))
    with pytest.raises(InputError, match="loglinear noise's, this model's is geometric"):
        MDLM(dit(noise="geometric")).prepare(Shape(1, 2, 8), Settings())
    MDLM(dit(noise="geometric")).prepare(Shape(1, 2, 8), Settings(sampler="ddpm"))
    generator = MDLM(dit())
    request = Request(prompts(), 8, Settings(), 0)
    with pytest.raises(InputError, match="prepare"):
        generator.generate(request, None)  # type: ignore[arg-type]
    generator.prepare(request.shape, request.settings)
    with pytest.raises(InputError, match="padded"):
        generator.generate(replace(request, prompt_mask=prompts() > 0), None)  # type: ignore[arg-type]
