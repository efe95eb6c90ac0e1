"""Masked diffusion: LLaDA's loop written out plainly, what is committed when, and what is announced."""

import importlib.util
import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from dlmbench import InputError
from dlmbench.bench.verify.tally import Tally
from dlmbench.models.backbone import Backbone
from dlmbench.models.dit_config import DiTConfig
from dlmbench.models.generator import Costed, Generator, Request, Settings, Shape
from dlmbench.models.masked_diffusion import MaskedDiffusion
from dlmbench.models.weights import random_network

_spec = importlib.util.spec_from_file_location("published_llada", Path(__file__).parent / "published" / "llada.py")
assert _spec is not None
assert _spec.loader is not None
_published = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_published)
published_llada: Callable[..., Tensor] = _published.published_llada

REFERENCE = Path(__file__).parents[1] / "golden" / "noise_schedules" / "transfer_counts.json"

MakeNetwork = Callable[..., Backbone]
Prompts = Callable[..., Tensor]
Run = Callable[..., Any]


@torch.inference_mode()
def llada(network: Backbone, prompt: Tensor, length: int, steps: int, block: int) -> Tensor:
    """LLaDA's `generate` for greedy decoding, as its authors wrote it: every position, full vocabulary, float64.

    The one difference is ours by design: the mask itself is never predicted.
    """
    mask_id, start = network.config.mask_id, prompt.shape[1]
    x = torch.cat([prompt, prompt.new_full((prompt.shape[0], length), mask_id)], dim=1)
    for index in range(length // block):
        begin, end = start + index * block, start + (index + 1) * block
        base, remainder = divmod(block, steps * block // length)
        for step in range(steps * block // length):
            logits = network.logits(network.trunk(x, mask="bidirectional")).double()
            logits[:, :, mask_id] = -torch.inf
            predicted = logits.argmax(dim=-1)
            confidence = logits.softmax(dim=-1).gather(2, predicted[:, :, None])[:, :, 0]
            confidence[:, end:] = -torch.inf
            confidence[x != mask_id] = -torch.inf
            count = base + (step < remainder)
            for row in range(len(x)):
                chosen = confidence[row].topk(count).indices
                assert (chosen >= begin).all()
                x[row, chosen] = predicted[row, chosen]
    return x[:, start:]


def committed(seen: Any, row: int) -> list[list[int]]:
    """The positions of the canvas that each write commits in `row`."""
    return [(write.rows[row].nonzero()[:, 0] + write.offset).tolist() for write in seen.writes]


@pytest.mark.parametrize(
    ("length", "steps", "block"),
    [(12, 12, None), (12, 5, None), (12, 1, None), (12, 6, 4), (12, 12, 4), (12, 3, 4), (12, 6, 12), (1, 1, None)],
)
@pytest.mark.parametrize("features", [{}, {"num_key_value_heads": 4, "mask_token_id": 7}])
def test_greedy_tokens_are_those_of_lladas_loop(
    length: int, steps: int, block: int | None, features: dict[str, Any], make_network: MakeNetwork, prompts: Prompts,
    run: Run,
) -> None:  # fmt: skip
    network, prompt = make_network(**features), prompts(3, 5)
    prompt[prompt == network.config.mask_id] = 0
    tokens, _ = run(MaskedDiffusion(network), prompt, length, Settings(steps=steps, block_length=block))
    assert tokens.dtype is torch.int64
    assert torch.equal(tokens, llada(network, prompt, length, steps, block or length))


@pytest.mark.parametrize("remasking", ["low_confidence", "random"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("steps", "block"), [(12, None), (5, None), (6, 4), (9, 4), (12, 2)])
def test_the_schedule_is_kept(
    remasking: Any, temperature: float, steps: int, block: int | None, make_network: MakeNetwork, prompts: Prompts,
    run: Run,
) -> None:  # fmt: skip
    """T forwards; every position committed once, block after block; the announced ids are the final ones."""
    network = make_network()
    settings = Settings(temperature=temperature, steps=steps, block_length=block, remasking=remasking)
    tokens, seen = run(MaskedDiffusion(network), prompts(3, 5), 12, settings)
    assert tokens.shape == (3, 12)
    assert not (tokens == network.config.mask_id).any()
    assert len(seen.forwards) == steps
    assert seen.order == "()w" * steps
    assert [write.step for write in seen.writes] == list(range(steps))
    width = block or 12
    each = steps * width // 12
    for row in range(3):
        positions = committed(seen, row)
        assert sorted(itertools.chain(*positions)) == list(range(12))
        base, remainder = divmod(width, each)
        assert [len(some) for some in positions] == [base + (i % each < remainder) for i in range(steps)]
        for step, some in enumerate(positions):
            assert {position // width for position in some} == {step // each}
    for write in seen.writes:
        assert write.committed
        assert write.ids.shape == (3, width)
        window = tokens[:, write.offset : write.offset + width]
        assert torch.equal(write.ids[write.rows], window[write.rows])


def test_commits_per_step_are_lladas(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    cases = json.loads(REFERENCE.read_text())["llada_transfer_counts"]
    generator, prompt = MaskedDiffusion(make_network()), prompts(1, 2)
    fitting = [case for case in cases if case["steps"] <= case["masks"] <= 32]
    assert len(fitting) > 10
    for case in fitting:
        _, seen = run(generator, prompt, case["masks"], Settings(steps=case["steps"]))
        assert [len(positions) for positions in committed(seen, 0)] == case["counts"]


@pytest.mark.parametrize("remasking", ["low_confidence", "random"])
@pytest.mark.parametrize(("steps", "block"), [(12, None), (5, None), (6, 4)])
def test_announced_logit_rows_are_those_computed(
    remasking: Any, steps: int, block: int | None, make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    network = make_network()
    computed: list[int] = []
    network.head.register_forward_hook(lambda module, inputs, output: computed.append(output[..., 0].numel()))
    settings = Settings(steps=steps, block_length=block, remasking=remasking)
    generator = MaskedDiffusion(network)
    generator.prepare(Shape(3, 5, 12), settings)
    computed.clear()
    _, seen = run(generator, prompts(3, 5), 12, settings)
    assert [call[:5] + call[6:] for call in seen.forwards] == [
        ("target", "denoise", 3, 17, 17, "bidirectional")
    ] * steps
    announced = [call[5] for call in seen.forwards]
    assert computed == announced
    # By hand: a random choice needs the rows that it commits. A confident one needs every masked position of the
    # block, but in a block's last step, which takes them all.
    width = block or 12
    each = steps * width // 12
    base, remainder = divmod(width, each)
    counts = [base + (i < remainder) for i in range(each)]
    open_before = [width - sum(counts[:i]) for i in range(each)]
    assert announced == [3 * n for n in (counts if remasking == "random" else open_before)] * (12 // width)


def test_a_random_choice_is_uniform(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    """2 of 6 at each of three steps: the 15 first pairs, and the 6 second pairs that remain, equally often."""
    rows = 3000
    network = make_network(num_hidden_layers=1)
    settings = Settings(steps=3, remasking="random")
    _, seen = run(MaskedDiffusion(network), prompts(1, 2).repeat(rows, 1), 6, settings, seed=11)
    pairs = [tuple(tuple(row.nonzero()[:, 0].tolist()) for row in write.rows) for write in seen.writes]
    first = Counter(pairs[0])
    assert len(first) == 15
    assert stats.chisquare(list(first.values())).pvalue > 1e-3
    both = Counter(zip(pairs[0], pairs[1], strict=True))
    assert len(both) == 15 * 6
    assert stats.chisquare(list(both.values())).pvalue > 1e-3


def test_random_and_confident_differ_in_the_order_only(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    """In one step there is no order: both commit the same greedy tokens."""
    generator = MaskedDiffusion(make_network())
    one = [run(generator, prompts(), 8, Settings(steps=1, remasking=r))[0] for r in ("low_confidence", "random")]
    assert torch.equal(*one)


def test_steps_and_block_default_to_one_token_a_step(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    generator = MaskedDiffusion(make_network())
    tokens, seen = run(generator, prompts(), 8)
    assert len(seen.forwards) == 8
    assert torch.equal(tokens, run(generator, prompts(), 8, Settings(steps=8, block_length=8))[0])


def test_natural_stops_after_the_block_in_which_every_row_has_ended(
    make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    settings = Settings(steps=8, block_length=4)
    free, _ = run(MaskedDiffusion(make_network()), prompts(2), 16, settings)
    stopped_early = 0
    for eos in sorted(set(free[0].tolist()) & set(free[1].tolist())):
        # Blocks of four; the generation ends with the one in which the last row first emits EOS.
        last = max(row.tolist().index(eos) // 4 for row in free)
        generator = MaskedDiffusion(make_network(eos_token_id=eos))
        natural = Settings(steps=8, block_length=4, length_policy="natural")
        tokens, seen = run(generator, prompts(2), 16, natural)
        assert len(seen.forwards) == 2 * (last + 1)
        assert tokens.shape == (2, 16)
        assert torch.equal(tokens[:, : 4 * (last + 1)], free[:, : 4 * (last + 1)])
        stopped_early += last < 3
        fixed, seen = run(generator, prompts(2), 16, settings)
        assert torch.equal(fixed, free)
        assert len(seen.forwards) == 8
    assert stopped_early, "the weights no longer give both rows a common early token; choose another prompt"


def test_an_eos_in_the_prompt_ends_nothing(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    free, _ = run(MaskedDiffusion(make_network()), prompts(1), 8, Settings(steps=4, block_length=4))
    absent = next(token for token in range(60) if token not in free[0].tolist())
    prompt = prompts(1)
    prompt[0, 1] = absent
    natural = Settings(steps=4, block_length=4, length_policy="natural")
    tokens, seen = run(MaskedDiffusion(make_network(eos_token_id=absent)), prompt, 8, natural)
    assert (absent in tokens[0, :4].tolist()) or len(seen.forwards) == 4


def test_draws_follow_the_seed(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    generator = MaskedDiffusion(make_network())
    for settings in (Settings(temperature=2.0, steps=4), Settings(temperature=2.0, steps=4, remasking="random")):
        state = torch.get_rng_state()
        first, again, other = (run(generator, prompts(), 8, settings, seed=seed)[0] for seed in (1, 1, 2))
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_the_mask_is_never_an_answer(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    """The mask's logit made the largest everywhere: without suppression every position would stay masked."""
    network = make_network()
    mask = network.config.mask_id
    network.head.weight[mask] = 30 * network.head.weight[:mask].abs().max()
    network.norm.fill_(1.0)
    for settings in (Settings(), Settings(temperature=5.0), Settings(steps=3, remasking="random", temperature=5.0)):
        tokens, seen = run(MaskedDiffusion(network), prompts(), 8, settings)
        assert not (tokens == mask).any()
        assert sum(int(write.rows.sum()) for write in seen.writes) == 3 * 8


def test_a_mask_in_the_prompt_is_left_alone(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    network = make_network()
    prompt = prompts()
    prompt[:, 2] = network.config.mask_id
    kept = prompt.clone()
    tokens, seen = run(MaskedDiffusion(network), prompt, 8, Settings(steps=4))
    assert torch.equal(prompt, kept)
    assert not (tokens == network.config.mask_id).any()
    assert all(sorted(itertools.chain(*committed(seen, row))) == list(range(8)) for row in range(3))


def test_without_a_prompt_the_canvas_is_everything(make_network: MakeNetwork, run: Run) -> None:
    """A canvas of masks alone looks the same from every position: all get the same token, so one step is enough."""
    network, nothing = make_network(), torch.empty((2, 0), dtype=torch.int64)
    tokens, seen = run(MaskedDiffusion(network), nothing, 6, Settings(steps=1))
    assert torch.equal(tokens, llada(network, nothing, 6, 1, 6))
    assert len(tokens.unique()) == 1
    assert seen.forwards[0] == ("target", "denoise", 2, 6, 6, 12, "bidirectional")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(steps=9), r"T=9 exceeds length L=8"),
        (Settings(block_length=3), r"L=8 is not divisible by 3"),
        (Settings(steps=3, block_length=4), r"T=3 is not divisible by the 2 blocks"),
    ],
)
def test_what_does_not_fit_is_refused(
    settings: Settings, message: str, make_network: MakeNetwork, prompts: Prompts
) -> None:
    generator = MaskedDiffusion(make_network())
    with pytest.raises(InputError, match=message):
        generator.prepare(Shape(3, 5, 8), settings)
    # A shape prepared for settings that fit does not let others through.
    generator.prepare(Shape(3, 5, 8), Settings())
    with pytest.raises(InputError, match=message):
        generator.generate(Request(prompts(), 8, settings, 0), None)  # type: ignore[arg-type]


def test_a_shape_that_was_not_prepared_is_refused(make_network: MakeNetwork, prompts: Prompts) -> None:
    generator = MaskedDiffusion(make_network())
    with pytest.raises(InputError, match=r"generate\(\) got Shape.*but prepare\(\) was called for None"):
        generator.generate(Request(prompts(), 8, Settings(), 0), None)  # type: ignore[arg-type]


def test_it_is_a_generator_with_a_known_cost(make_network: MakeNetwork) -> None:
    network = make_network()
    generator = MaskedDiffusion(network)
    assert isinstance(generator, Generator)
    assert isinstance(generator, Costed)
    assert generator.side == "diffusion"
    call = ("target", 2, 9, 9, 6, "bidirectional")
    assert generator.forward_cost(*call) == network.forward_cost(*call)


def fond_of_masks(make_network: MakeNetwork, **features: Any) -> Backbone:
    """A network that predicts the mask at some positions, and something else at others."""
    network = make_network(**features)
    network.head.weight[network.config.mask_id] *= 2.0
    return network


@pytest.mark.parametrize("cfg_scale", [0.0, 1.5])
@pytest.mark.parametrize(("steps", "block"), [(12, 12), (5, 12), (6, 4), (12, 4), (3, 4), (24, 4), (15, 12)])
def test_with_every_departure_off_it_is_the_published_loop(
    steps: int, block: int, cfg_scale: float, make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    """Greedy, the mask predicted now and then: also which positions stay masked to the end is the same."""
    network, prompt = fond_of_masks(make_network), prompts(3, 5)
    theirs = published_llada(network, prompt, 12, steps, block, cfg_scale=cfg_scale)
    settings = Settings(
        steps=steps, block_length=block, cfg_scale=cfg_scale, suppress_mask=False, idle_steps="run"
    )  # fmt: skip
    tokens, seen = run(MaskedDiffusion(network), prompt, 12, settings)
    assert torch.equal(tokens, theirs)
    assert (tokens == network.config.mask_id).any(), "the weights no longer predict the mask; boost it"
    assert len(seen.forwards) == steps == MaskedDiffusion(network).promised_nfe(Shape(3, 5, 12), settings)
    written = sum(int(write.rows.sum()) for write in seen.writes)
    assert written == int((tokens != network.config.mask_id).sum())


@pytest.mark.parametrize("remasking", ["low_confidence", "random"])
@pytest.mark.parametrize("cfg_scale", [0.0, 0.5])
@pytest.mark.parametrize("suppress", [True, False])
@pytest.mark.parametrize(("temperature", "steps", "block"), [(0.7, 6, 4), (1.0, 5, 12), (0.3, 24, 4), (0.0, 6, 4)])
def test_the_race_draws_what_the_published_loop_draws(
    temperature: float, steps: int, block: int, suppress: bool, cfg_scale: float, remasking: Any,
    make_network: MakeNetwork, prompts: Prompts, run: Run,
) -> None:  # fmt: skip
    """Seed for seed, idle steps included: they draw as well."""
    network, prompt = fond_of_masks(make_network), prompts(2, 5)
    theirs = published_llada(
        network, prompt, 12, steps, block, temperature, torch.Generator().manual_seed(5), remasking=remasking,
        cfg_scale=cfg_scale, suppress_mask=suppress,
    )  # fmt: skip
    settings = Settings(
        temperature=temperature, steps=steps, block_length=block, cfg_scale=cfg_scale, remasking=remasking,
        draw="gumbel64", suppress_mask=suppress, idle_steps="run",
    )  # fmt: skip
    assert torch.equal(run(MaskedDiffusion(network), prompt, 12, settings, seed=5)[0], theirs)


def test_guidance_doubles_the_rows(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    network, prompt = make_network(), prompts(3, 5)
    computed: list[int] = []
    network.head.register_forward_hook(lambda module, inputs, output: computed.append(output[..., 0].numel()))
    generator = MaskedDiffusion(network)
    settings = Settings(steps=4, block_length=4, cfg_scale=2.0)
    generator.prepare(Shape(3, 5, 8), settings)
    computed.clear()
    tokens, seen = run(generator, prompt, 8, settings)
    assert [call[2] for call in seen.forwards] == [6] * 4
    assert [call[5] for call in seen.forwards] == computed == [24, 12, 24, 12]
    assert torch.equal(tokens, published_llada(network, prompt, 8, 4, 4, cfg_scale=2.0, suppress_mask=True))
    with pytest.raises(InputError, match=r"cfg_scale 0: prepare\(\) was called for 6 rows a forward"):
        generator.generate(Request(prompt, 8, Settings(steps=4, block_length=4), 0), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("remasking", ["low_confidence", "random"])
def test_a_commit_schedule_is_kept_row_by_row(
    remasking: Any, make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    """Blocks of four. Row 1 is done with its first block a step before row 0, and waits; row 2 is as row 0."""
    schedule = ((1, 2, 1, 4), (3, 1, 2, 2))
    settings = Settings(block_length=4, commit_schedule=schedule, remasking=remasking)
    generator = MaskedDiffusion(make_network())
    tokens, seen = run(generator, prompts(3), 8, settings)
    counts = [[len(positions) for positions in committed(seen, row)] for row in range(3)]
    assert counts == [[1, 2, 1, 4, 0], [3, 1, 0, 2, 2], [1, 2, 1, 4, 0]]
    assert generator.promised_nfe(Shape(3, 5, 8), settings) == len(seen.forwards) == 5
    # By hand: as many columns as the row with the most left, or to commit, needs.
    wide = [3 * n for n in (([4, 3, 1, 4, 2]) if remasking == "low_confidence" else ([3, 2, 1, 4, 2]))]
    assert [call[5] for call in seen.forwards] == wide
    if remasking == "low_confidence":
        for row in range(3):
            alone = Settings(block_length=4, commit_schedule=(schedule[row % 2],))
            assert torch.equal(run(generator, prompts(3)[row : row + 1], 8, alone)[0][0], tokens[row])


def test_a_constant_schedule_is_the_even_division(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    generator = MaskedDiffusion(make_network())
    even, _ = run(generator, prompts(), 12, Settings(steps=6, block_length=4))
    constant, seen = run(generator, prompts(), 12, Settings(block_length=4, commit_schedule=((2,) * 6,)))
    assert torch.equal(constant, even)
    assert len(seen.forwards) == 6


@pytest.mark.parametrize("draw", ["exact", "gumbel64", "gumbel32"])
def test_one_position_follows_the_tempered_softmax(
    draw: Any, make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    network, prompt, rows = make_network(num_hidden_layers=1), prompts(1, 3), 6000
    settings = Settings(temperature=1.5, draw=draw)
    tokens, _ = run(MaskedDiffusion(network), prompt.repeat(rows, 1), 1, settings, seed=2)
    canvas = torch.cat((prompt, torch.tensor([[network.config.mask_id]])), dim=1)
    with torch.inference_mode():
        logits = network.logits(network.trunk(canvas, mask="bidirectional")[:, -1]).double()[0]
    logits = logits.clone()
    logits[network.config.mask_id] = -torch.inf
    expected = rows * (logits / 1.5).softmax(dim=-1)
    seen = torch.bincount(tokens[:, 0], minlength=len(expected)).double()
    assert seen[network.config.mask_id] == 0
    order = expected.argsort(descending=True)
    common = int((expected >= 5).sum())
    assert common > 10
    # The rare ones count with the last that is not.
    pooled = [torch.cat((t[order][: common - 1], t[order][common - 1 :].sum()[None])) for t in (seen, expected)]
    assert stats.chisquare(pooled[0].numpy(), pooled[1].numpy()).pvalue > 1e-3


def test_a_random_choice_among_masks_that_stay_is_uniform(
    make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    """The mask may be predicted, but never is here: still 15 pairs, then 6."""
    network = make_network(num_hidden_layers=1)
    settings = Settings(steps=3, remasking="random", suppress_mask=False)
    _, seen = run(MaskedDiffusion(network), prompts(1, 2).repeat(3000, 1), 6, settings, seed=11)
    pairs = [tuple(tuple(row.nonzero()[:, 0].tolist()) for row in write.rows) for write in seen.writes]
    both = Counter(zip(pairs[0], pairs[1], strict=True))
    assert len(both) == 15 * 6
    assert stats.chisquare(list(both.values())).pvalue > 1e-3


@pytest.mark.parametrize("start", [0, 5])
def test_shifted_logits_come_from_the_row_before(
    start: int, make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    """Dream's convention: as if every row's prediction stood one place further right; the first keeps its own."""
    network, plain, prompt = make_network(shifted_logits=True), make_network(), prompts(3, start)
    tokens, _ = run(MaskedDiffusion(network), prompt, 8, Settings(steps=4, block_length=4))

    class Shifted:
        config = plain.config
        rotary, logits = plain.rotary, plain.logits

        def trunk(self, ids: Tensor, mask: Any) -> Tensor:
            hidden = plain.trunk(ids, mask=mask)
            return torch.cat((hidden[:, :1], hidden[:, :-1]), dim=1)

    assert torch.equal(tokens, published_llada(Shifted(), prompt, 8, 4, 4, suppress_mask=True))


def test_a_dit_without_time_conditioning_fits(prompts: Prompts, run: Run) -> None:
    shape: dict[str, Any] = {
        "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "cond_dim": 16
    }  # fmt: skip
    network = random_network(DiTConfig(**shape), 3, torch.float32, "cpu")
    tokens, _ = run(MaskedDiffusion(network), prompts(), 8, Settings(steps=4))
    assert torch.equal(tokens, published_llada(network, prompts(), 8, 4, 8, suppress_mask=True))
    timed = random_network(DiTConfig(**shape, time_conditioning=True), 3, torch.float32, "cpu")
    with pytest.raises(InputError, match="time conditioning"):
        MaskedDiffusion(timed)
    uniform = DiTConfig(**shape, time_conditioning=True, parameterization="score", graph="uniform")
    with pytest.raises(InputError, match="needs a mask token"):
        MaskedDiffusion(random_network(uniform, 3, torch.float32, "cpu"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(threshold=0.9), "threshold 0.9: LLaDA does not know it"),
        (Settings(cache="dual"), "cache 'dual': LLaDA does not know it"),
        (Settings(temperature=1.0, draw="gumbel64", top_p=0.9), "draw 'gumbel64' with top_k or top_p"),
        (Settings(steps=13, block_length=4, idle_steps="run"), "T=13 is not divisible by the 2 blocks of 4 in L=8"),
        (Settings(block_length=4, commit_schedule=((1, 2),)), "row 0: its counts end after 3 positions, expected 8"),
    ],
)
def test_settings_of_other_systems_are_refused(settings: Settings, message: str, make_network: MakeNetwork) -> None:
    with pytest.raises(InputError, match=message):
        MaskedDiffusion(make_network()).prepare(Shape(3, 5, 8), settings)


def test_padded_prompts_are_refused(make_network: MakeNetwork, prompts: Prompts) -> None:
    generator = MaskedDiffusion(make_network())
    generator.prepare(Shape(3, 5, 8), Settings())
    padded = Request(prompts(), 8, Settings(), 0, prompt_mask=torch.ones(3, 5, dtype=torch.bool))
    with pytest.raises(InputError, match="prompts of one length"):
        generator.generate(padded, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [
        Settings(steps=6, block_length=4),
        Settings(steps=6, block_length=4, temperature=1.0, remasking="random", cfg_scale=1.0),
        Settings(steps=6, block_length=4, suppress_mask=False),
        Settings(block_length=4, commit_schedule=((1, 3) * 3, (2, 2) * 3)),
        # Not gumbel64: on a CPU, where nothing waits, its race looks at the data.
    ],
)
def test_the_host_never_asks_the_device(
    settings: Settings, make_network: MakeNetwork, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No value of a tensor becomes a Python number: on a GPU each would wait for all that is queued."""
    generator = MaskedDiffusion(make_network())
    generator.prepare(Shape(3, 5, 12), settings)
    asked: list[str] = []
    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero", "cpu", "numpy"):
        monkeypatch.setattr(Tensor, name, _counted(name, getattr(Tensor, name), asked))
    generator.generate(Request(prompts(), 12, settings, 0), Tally())
    monkeypatch.undo()
    assert asked == []


def _counted(name: str, original: Any, asked: list[str]) -> Any:
    def call(tensor: Tensor, *args: Any) -> Any:
        asked.append(name)
        return original(tensor, *args)

    return call
