"""Fast-dLLM: where its caches are exact, what a threshold commits, which forwards are run, and what the audit finds."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dlmbench import InputError
from dlmbench.bench.verify.tally import Tally
from dlmbench.models import fast_steps
from dlmbench.models.backbone import Backbone
from dlmbench.models.cache import KVCache
from dlmbench.models.fast_dllm import FastDLLM
from dlmbench.models.generator import Costed, Generator, Request, Settings, Shape
from dlmbench.models.masked_diffusion import MaskedDiffusion
from dlmbench.models.selection import above_threshold

MakeNetwork = Callable[..., Backbone]
Prompts = Callable[..., Tensor]
Run = Callable[..., Any]


@torch.inference_mode()
def by_hand(network: Backbone, prompt: Tensor, length: int, block: int, cache: str, rule: Any) -> tuple[Tensor, int]:
    """Fast-dLLM's loop for one row: columns of the block that `rule` picks from (confidence, column), best first.

    Partial forwards attend to a cache that is copied, never to our engine's. Returns tokens [L] and the forwards.
    """
    mask_id, start = network.config.mask_id, prompt.shape[1]
    canvas = torch.cat((prompt, prompt.new_full((1, length), mask_id)), dim=1)
    total, forwards = start + length, 0
    for begin in range(start, total, block):
        end, first = begin + block, True
        store = KVCache(network.config, 1, total, torch.float32, "cpu")
        while first or bool((canvas[:, begin:end] == mask_id).any()):
            if first or cache == "none":
                hidden, offset = network.trunk(canvas, mask="bidirectional", cache=store), 0
            else:
                stop, offset = (end if cache == "dual" else total), begin
                hidden = network.trunk(
                    canvas[:, begin:stop], mask="bidirectional", cache=store, start=begin, live=total
                )
            logits = network.logits(hidden)[0].double()
            logits[:, mask_id] = -torch.inf
            best, ids = logits.softmax(dim=-1).max(dim=-1)
            ranked = sorted(
                ((float(best[c - offset]), c) for c in range(begin, end) if canvas[0, c] == mask_id), reverse=True
            )
            for _, column in rule(ranked):
                canvas[0, column] = ids[column - offset]
            first, forwards = False, forwards + 1
    return canvas[0, start:], forwards


def over(threshold: float) -> Any:
    return lambda ranked: ranked[:1] + [pair for pair in ranked[1:] if pair[0] >= threshold]


def factored(factor: float) -> Any:
    def rule(ranked: list[tuple[float, int]]) -> list[tuple[float, int]]:
        passing = [r for r, (confidence, _) in enumerate(ranked, 1) if confidence >= 1 - factor / (r + 1)]
        return ranked[: max([1, *passing])]

    return rule


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        (Settings(threshold=0.12), over(0.12)),
        (Settings(threshold=0.1), over(0.1)),
        (Settings(threshold=0.0), over(0.0)),
        (Settings(factor=2.7), factored(2.7)),
        (Settings(factor=4.0), factored(4.0)),
        (Settings(steps=12), lambda ranked: ranked[:1]),
        (Settings(steps=6), lambda ranked: ranked[:2]),
        (Settings(steps=3), lambda ranked: ranked),
    ],
    ids=["over 0.12", "over 0.1", "over 0", "factor 2.7", "factor 4", "T=12", "T=6", "T=3"],
)
def test_every_row_is_the_loop_by_hand(
    settings: Settings, rule: Any, cache: Any, make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    """Rows of a batch finish at different times and do not disturb each other; the slowest decides a block's end."""
    network, prompt = make_network(), prompts(3, 5)
    settings = replace(settings, cache=cache, block_length=4)
    generator = FastDLLM(network)
    tokens, seen = run(generator, prompt, 12, settings)
    each = []
    for row in range(3):
        expected, forwards = by_hand(network, prompt[row : row + 1], 12, 4, cache, rule)
        assert torch.equal(tokens[row], expected)
        alone, alone_seen = run(generator, prompt[row : row + 1], 12, settings)
        assert torch.equal(alone[0], expected)
        assert len(alone_seen.forwards) == forwards
        each.append(forwards)
    assert max(each) <= len(seen.forwards) <= sum(each)
    promised = generator.promised_nfe(Shape(3, 5, 12), settings)
    assert promised == (None if settings.steps is None else len(seen.forwards))


def test_without_a_cache_fixed_steps_are_lladas(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    network = make_network()
    for settings in (
        Settings(steps=6, block_length=4),
        Settings(steps=5, temperature=0.8),
        Settings(steps=6, block_length=4, remasking="random", temperature=0.8, draw="gumbel64"),
    ):
        fast, seen = run(FastDLLM(network), prompts(), 12, settings, seed=4)
        assert torch.equal(fast, run(MaskedDiffusion(network), prompts(), 12, settings, seed=4)[0])
        assert len(seen.forwards) == settings.steps


@pytest.mark.parametrize(("cache", "parts"), [("prefix", (8, 4)), ("dual", (4, 4))])
def test_forwards_are_announced_as_computed(
    cache: Any, parts: tuple[int, int], make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    """P = 5, L = 8, two blocks of four, two steps each: a full forward and a partial one, for two and two tokens."""
    network = make_network()
    computed: list[int] = []
    network.head.register_forward_hook(lambda module, inputs, output: computed.append(output[..., 0].numel()))
    generator, settings = FastDLLM(network), Settings(steps=4, block_length=4, cache=cache)
    generator.prepare(Shape(3, 5, 8), settings)
    computed.clear()
    _, seen = run(generator, prompts(3, 5), 8, settings)
    assert seen.forwards == [
        ("target", "cache_refresh", 3, 13, 13, 12, "bidirectional"),
        ("target", "denoise", 3, parts[0], 13, 6, "bidirectional"),
        ("target", "cache_refresh", 3, 13, 13, 12, "bidirectional"),
        ("target", "denoise", 3, parts[1], 13, 6, "bidirectional"),
    ]
    assert computed == [12, 6, 12, 6]
    assert seen.order == "()w" * 4
    assert [(write.offset, write.ids.shape, int(write.rows.sum())) for write in seen.writes] == [
        (0, (3, 4), 6), (0, (3, 4), 6), (4, (3, 4), 6), (4, (3, 4), 6)
    ]  # fmt: skip


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_in_one_layer_a_cache_is_exact(cache: Any, make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    """A first layer's keys and values depend on a position's own token alone, and outside the block none changes."""
    generator = FastDLLM(make_network(num_hidden_layers=1))
    settings = Settings(steps=12, block_length=4, cache=cache)
    tokens, _ = run(generator, prompts(), 12, settings)
    assert torch.equal(tokens, run(generator, prompts(), 12, replace(settings, cache="none"))[0])
    figures = generator.audit(Request(prompts(), 12, settings, 0))
    assert figures["cache_logit_distance"] < 1e-5
    assert figures["cache_argmax_changed"] == figures["cache_tokens_changed"] == 0


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_a_block_that_is_everything_leaves_nothing_stale(cache: Any, make_network: MakeNetwork, run: Run) -> None:
    generator, nothing = FastDLLM(make_network()), torch.empty((2, 0), dtype=torch.int64)
    figures = generator.audit(Request(nothing, 8, Settings(threshold=0.5, cache=cache), 0))
    assert figures["cache_logit_distance"] < 1e-5
    assert figures["cache_tokens_changed"] == 0


def test_the_audit_sees_a_stale_cache(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    """Blocks of two with two steps: the one partial forward of a block has one candidate a row. Worked out apart."""
    network, prompt = make_network(), prompts(2, 5)
    settings = Settings(steps=2, block_length=2, cache="dual")
    generator = FastDLLM(network)
    figures = generator.audit(Request(prompt, 2, settings, 0))
    tokens, seen = run(generator, prompt, 2, settings)
    mask_id = network.config.mask_id
    canvas = torch.cat((prompt, torch.full((2, 2), mask_id)), dim=1)
    distances, changes = [], []
    with torch.inference_mode():
        store = KVCache(network.config, 2, 7, torch.float32, "cpu")
        network.trunk(canvas, mask="bidirectional", cache=store)
        first = seen.writes[0].rows
        canvas[:, 5:] = torch.where(first, tokens, mask_id)
        stale = network.logits(network.trunk(canvas[:, 5:], mask="bidirectional", cache=store, start=5, live=7))
        exact = network.logits(network.trunk(canvas, mask="bidirectional")[:, 5:])
        for row in range(2):
            column = int((~first[row]).nonzero())
            ours, theirs = stale[row, column].double().numpy(), exact[row, column].double().numpy()
            distances.append(((ours - theirs) ** 2).mean() ** 0.5 / theirs.std())
            changes.append(ours[:mask_id].argmax() != theirs[:mask_id].argmax())
    assert figures["cache_logit_distance"] == pytest.approx(sum(distances) / 2, rel=1e-4)
    assert figures["cache_logit_distance"] > 1e-3
    assert figures["cache_argmax_changed"] == sum(changes) / 2
    uncached, _ = run(generator, prompt, 2, replace(settings, cache="none"))
    assert figures["cache_tokens_changed"] == float((tokens != uncached).double().mean())


def test_an_audit_without_partial_forwards_has_nothing_to_compare(make_network: MakeNetwork, prompts: Prompts) -> None:
    """No zero for what was not measured."""
    generator = FastDLLM(make_network())
    for settings in (Settings(steps=2), Settings(steps=2, block_length=4, cache="prefix")):
        assert generator.audit(Request(prompts(), 8, settings, 0)) == {"cache_tokens_changed": 0.0}


@pytest.mark.parametrize(("cache", "skip", "run_all"), [("none", 2, 2), ("prefix", 2, 4), ("dual", 2, 4)])
def test_the_forward_after_a_complete_block_is_run_only_if_asked_for(
    cache: Any, skip: int, run_all: int, make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    """Threshold 0 completes a block of four with the full forward."""
    generator = FastDLLM(make_network())
    settings = Settings(threshold=0.0, block_length=4, cache=cache)
    tokens, seen = run(generator, prompts(), 8, settings)
    again, seen_all = run(generator, prompts(), 8, replace(settings, idle_steps="run"))
    assert torch.equal(tokens, again)
    assert (len(seen.forwards), len(seen_all.forwards)) == (skip, run_all)
    if cache != "none":
        assert [call[5] for call in seen_all.forwards] == [12, 0, 12, 0]


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("idle", ["skip", "run"])
def test_one_step_a_block_commits_it_whole(
    cache: Any, idle: Any, make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    """Where the published cached loop stops with an error: every forward is exact, so the tokens are LLaDA's."""
    network, settings = make_network(), Settings(steps=2, block_length=4, cache=cache, idle_steps=idle)
    tokens, seen = run(FastDLLM(network), prompts(), 8, settings)
    assert len(seen.forwards) == FastDLLM(network).promised_nfe(Shape(3, 5, 8), settings) == 2
    assert torch.equal(tokens, run(MaskedDiffusion(network), prompts(), 8, Settings(steps=2, block_length=4))[0])


def test_steps_beyond_the_tokens_are_never_reached(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    """A block is left when it is complete, so T > L changes nothing; it is refused unless idle steps are asked for."""
    generator = FastDLLM(make_network())
    settings = Settings(steps=24, block_length=4, cache="dual", idle_steps="run")
    tokens, seen = run(generator, prompts(), 8, settings)
    assert len(seen.forwards) == 8 == generator.promised_nfe(Shape(3, 5, 8), settings)
    assert torch.equal(tokens, run(generator, prompts(), 8, replace(settings, steps=8))[0])
    with pytest.raises(InputError, match="T=24 exceeds length L=8"):
        generator.prepare(Shape(3, 5, 8), replace(settings, idle_steps="skip"))


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_a_recorded_schedule_replays_a_threshold(
    cache: Any, make_network: MakeNetwork, prompts: Prompts, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the rule committed, as counts a row and step: the same tokens, forwards and work, now known beforehand."""
    asked: list[Tensor] = []

    def listening(scores: Tensor, threshold: float) -> Tensor:
        asked.append(scores.clone())
        return above_threshold(scores, threshold)

    monkeypatch.setattr(fast_steps, "above_threshold", listening)
    generator, settings = FastDLLM(make_network()), Settings(threshold=0.1, block_length=4, cache=cache)
    tokens, seen = run(generator, prompts(), 12, settings)
    schedule = tuple(tuple(int(write.rows[row].sum()) for write in seen.writes) for row in range(3))
    assert any(len(set(counts)) > 1 for counts in zip(*schedule, strict=True)), "rows are alike; choose another prompt"
    replay = replace(settings, commit_schedule=schedule)
    again, seen_again = run(generator, prompts(), 12, replay)
    assert torch.equal(again, tokens)
    assert seen_again.forwards == seen.forwards
    assert generator.promised_nfe(Shape(3, 5, 12), replay) == len(seen.forwards)
    assert len(asked) == 2 * len(seen.forwards)
    for before, now in zip(asked[: len(seen.forwards)], asked[len(seen.forwards) :], strict=True):
        assert torch.equal(before, now)


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_network_that_answers_masks_ends_all_the_same(
    cache: Any, temperature: float, make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    """Everything stays masked: greedy, a block is given up after two forwards without a change; draws get 64."""
    network = make_network()
    network.head.weight.mul_(0)
    network.head.weight[network.config.mask_id] = 1.0
    network.norm.fill_(1.0)
    network.embedding.copy_(
        network.embedding.abs() + 5
    )  # the mask's logit is positive and large, whatever the layers do
    settings = Settings(threshold=0.5, block_length=4, cache=cache, suppress_mask=False, temperature=temperature)
    tokens, seen = run(FastDLLM(network), prompts(), 8, settings)
    if not (tokens == network.config.mask_id).all():
        pytest.fail("the network was meant to answer masks only")
    assert len(seen.forwards) == 2 * (1 + (2 if temperature == 0 else 64))
    assert not any(write.rows.any() for write in seen.writes)
    kept, _ = run(FastDLLM(network), prompts(), 8, replace(settings, suppress_mask=True))
    assert not (kept == network.config.mask_id).any()


def test_natural_stops_after_the_block_in_which_every_row_has_ended(
    make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    settings = Settings(steps=8, block_length=4, cache="dual")
    free, _ = run(FastDLLM(make_network()), prompts(1), 16, settings)
    eos = int(free[0, 1])
    last = free[0].tolist().index(eos) // 4
    natural = replace(settings, length_policy="natural")
    tokens, seen = run(FastDLLM(make_network(eos_token_id=eos)), prompts(1), 16, natural)
    assert len(seen.forwards) == 2 * (last + 1) < 8
    assert torch.equal(tokens[:, : 4 * (last + 1)], free[:, : 4 * (last + 1)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(cache="kv"), "cache 'kv' is exact and block diffusion's"),
        (Settings(threshold=0.9, factor=1.0), "threshold and factor are two rules"),
        (Settings(threshold=0.9, remasking="random"), "need confidences"),
        (Settings(threshold=0.9, block_length=3), "L=8 is not divisible by 3"),
        (Settings(steps=9), "T=9 exceeds length L=8"),
        (Settings(cfg_scale=1.0), "cfg_scale 1.0: Fast-dLLM does not know it"),
    ],
)
def test_what_does_not_fit_is_refused(settings: Settings, message: str, make_network: MakeNetwork) -> None:
    with pytest.raises(InputError, match=message):
        FastDLLM(make_network()).prepare(Shape(3, 5, 8), settings)


def test_what_was_not_prepared_is_refused(make_network: MakeNetwork, prompts: Prompts) -> None:
    generator = FastDLLM(make_network())
    with pytest.raises(InputError, match="was called for None"):
        generator.generate(Request(prompts(), 8, Settings(), 0), None)  # type: ignore[arg-type]
    generator.prepare(Shape(3, 5, 8), Settings(cache="prefix"))
    with pytest.raises(InputError, match=r"a request for cache dual, block length 8, but .* cache prefix, .* 8"):
        generator.generate(Request(prompts(), 8, Settings(cache="dual"), 0), None)  # type: ignore[arg-type]


def test_shifted_logits_need_a_forward_without_a_cache(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    network = make_network(shifted_logits=True)
    settings = Settings(steps=4, block_length=4)
    tokens, _ = run(FastDLLM(network), prompts(), 8, settings)
    assert torch.equal(tokens, run(MaskedDiffusion(network), prompts(), 8, settings)[0])
    with pytest.raises(InputError, match="predicted by the row before it"):
        FastDLLM(network).prepare(Shape(3, 5, 8), replace(settings, cache="dual"))


def test_the_cache_may_have_a_dtype_of_its_own(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    network = make_network()
    generator = FastDLLM(network, kv_dtype=torch.bfloat16)
    tokens, _ = run(generator, prompts(), 8, Settings(steps=4, block_length=4, cache="dual"))
    assert not (tokens == network.config.mask_id).any()
    call = ("target", 3, 4, 13, 12, "bidirectional")
    assert generator.forward_cost(*call) == network.forward_cost(*call, "bfloat16")
    assert isinstance(generator, Generator)
    assert isinstance(generator, Costed)
    assert generator.side == "diffusion"


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_compiled_forwards_give_the_same_tokens(
    cache: Any, make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    network, settings = make_network(), Settings(threshold=0.1, block_length=4, cache=cache)
    eager, _ = run(FastDLLM(network), prompts(), 8, settings)
    assert torch.equal(run(FastDLLM(network, engine="compile"), prompts(), 8, settings)[0], eager)


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_a_threshold_asks_the_device_once_a_step(
    cache: Any, make_network: MakeNetwork, prompts: Prompts, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, settings = FastDLLM(make_network()), Settings(threshold=0.1, block_length=4, cache=cache)
    request = Request(prompts(), 12, settings, 0)
    generator.prepare(request.shape, settings)
    asked: list[str] = []
    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "nonzero", "cpu", "numpy"):
        monkeypatch.setattr(Tensor, name, _counted(name, getattr(Tensor, name), asked))
    tally = Tally()
    generator.generate(request, tally)
    assert asked == ["tolist"] * tally.nfe
    asked.clear()
    # The same forwards with fixed steps: never.
    generator.generate(Request(prompts(), 12, Settings(block_length=4, cache=cache, steps=6), 0), Tally())
    monkeypatch.undo()
    assert asked == []


def _counted(name: str, original: Any, asked: list[str]) -> Any:
    def call(tensor: Tensor, *args: Any) -> Any:
        asked.append(name)
        return original(tensor, *args)

    return call
