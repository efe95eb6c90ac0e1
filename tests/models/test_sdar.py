"""SDAR: its loop written out plainly, its rules by hand, and what decides how many forwards there are."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from dlmbench import InputError
from dlmbench.models import sdar
from dlmbench.models.backbone import Backbone
from dlmbench.models.generator import Settings, Shape
from dlmbench.models.sdar import SDAR
from dlmbench.models.sdar_loops import within_budget
from dlmbench.models.selection import above_threshold

MakeNetwork = Callable[..., Backbone]
Prompts = Callable[..., Tensor]
Run = Callable[..., Any]

RULES = [
    Settings(sampler="sequential"),
    Settings(sampler="low_confidence_static"),
    Settings(sampler="low_confidence_dynamic", threshold=0.2),
    Settings(sampler="low_confidence_dynamic", threshold=0.5),
    Settings(sampler="entropy_bounded", entropy_bound=3.0),
    Settings(sampler="entropy_bounded", entropy_bound=0.5),
]


@torch.inference_mode()
def plainly(
    network: Backbone, prompt: list[int], length: int, block: int, share: list[int], settings: Settings
) -> tuple[list[int], int]:
    """One row, every forward over everything so far, probabilities as Python numbers. Tokens, denoising forwards."""
    mask, text, forwards = network.config.mask_id, list(prompt), 0
    while len(text) < len(prompt) + length:
        start = len(text) // block * block
        text += [mask] * (start + block - len(text))
        given = max(len(prompt) - start, 0)
        opened = list(range(start + given, start + block))
        for k in share:
            if not opened:
                break
            hidden = network.trunk(torch.tensor([text]), mask="block_causal", block_length=block)
            logits = network.logits(hidden)[0].double()
            logits[:, mask] = -torch.inf
            forwards += 1
            rows = logits.softmax(dim=-1).tolist()
            best = {i: max(range(len(rows[i])), key=rows[i].__getitem__) for i in opened}
            sure = {i: rows[i][best[i]] for i in opened}
            entropy = {i: -sum(p * math.log(p) for p in rows[i] if p > 0) for i in opened}
            by_confidence = sorted(opened, key=lambda i: -sure[i])
            if settings.sampler == "sequential":
                taken = opened[:k]
            elif settings.sampler == "low_confidence_static":
                taken = by_confidence[:k]
            elif settings.sampler == "low_confidence_dynamic":
                assert settings.threshold is not None
                above = [i for i in opened if sure[i] > settings.threshold]
                taken = above if len(above) >= k else by_confidence[:k]
            else:
                assert settings.entropy_bound is not None
                taken, spent = [], 0.0
                for i in sorted(opened, key=entropy.__getitem__):
                    spent += entropy[i]
                    if taken and spent > settings.entropy_bound:
                        break
                    taken.append(i)
            for i in taken:
                text[i] = best[i]
                opened.remove(i)
    return text[len(prompt) : len(prompt) + length], forwards


@pytest.mark.parametrize("settings", RULES)
@pytest.mark.parametrize(
    ("prompt_length", "block", "share"), [(6, 4, [1, 1, 1, 1]), (8, 4, [2, 1, 1]), (5, 6, [2, 2, 2]), (2, 4, [2, 2])]
)
def test_tokens_are_those_of_the_plain_loop(
    settings: Settings, prompt_length: int, block: int, share: list[int], make_network: MakeNetwork, prompts: Prompts,
    run: Run,
) -> None:  # fmt: skip
    network, prompt = make_network(), prompts(3, prompt_length)
    blocks = -(-(prompt_length + 9) // block) - prompt_length // block
    steps = None if settings.sampler == "entropy_bounded" else len(share) * blocks
    if steps is None:
        share = [1] * block
    settings = replace(settings, block_length=block, steps=steps)
    expected = [plainly(network, row, 9, block, share, settings) for row in prompt.tolist()]
    tokens, _ = run(SDAR(network), prompt, 9, settings)
    assert tokens.tolist() == [row for row, _ in expected]
    for index in range(3):
        alone, seen = run(SDAR(network), prompt[index : index + 1], 9, settings)
        assert alone.tolist() == [expected[index][0]]
        assert sum(forward[1] == "denoise" for forward in seen.forwards) == expected[index][1]


def test_the_budget_by_hand() -> None:
    # Entropies 0.5, 0.1, 0.3, none, 0.2; in order 0.1, 0.2, 0.3, 0.5 with sums 0.1, 0.3, 0.6, 1.1.
    scores = -torch.tensor([[0.5, 0.1, 0.3, math.inf, 0.2]], dtype=torch.float64)
    cases = {0.05: [1], 0.1: [1], 0.29: [1], 0.35: [1, 4], 0.7: [1, 2, 4], 2.0: [0, 1, 2, 4]}
    for bound, expected in cases.items():
        assert within_budget(scores, bound)[0].nonzero()[:, 0].tolist() == expected
    assert not within_budget(torch.full((1, 3), -torch.inf), 1.0).any()


def test_defaults_are_the_published_ones(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    network, prompt = make_network(), prompts(3, 6)
    spelt_out = Settings(sampler="low_confidence_dynamic", threshold=0.85, block_length=4, steps=16)
    assert torch.equal(run(SDAR(network), prompt, 12)[0], run(SDAR(network), prompt, 12, spelt_out)[0])
    # A network that was trained with blocks of 6 decodes in blocks of 6.
    _, seen = run(SDAR(make_network(block_size=6)), prompt, 12)
    assert {forward[3] for forward in seen.forwards} == {6}


def test_the_constructors_sampler_is_only_a_default(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    network, prompt = make_network(), prompts(2, 4)
    generator = SDAR(network, sampler="low_confidence_static")
    tokens, _ = run(generator, prompt, 8, Settings(sampler="sequential"))
    assert torch.equal(tokens, run(SDAR(network, sampler="sequential"), prompt, 8)[0])
    assert not torch.equal(tokens, run(generator, prompt, 8)[0])
    with pytest.raises(InputError, match=r"sampler 'best' is not SDAR's; choose sequential, "):
        SDAR(network, sampler="best")


def counts(seen: Any) -> list[tuple[int, ...]]:
    """How many positions each write commits in each row."""
    return [tuple(write.rows.sum(dim=1).tolist()) for write in seen.writes]


def test_a_schedule_recorded_from_a_threshold_gives_its_tokens(
    make_network: MakeNetwork, prompts: Prompts, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def listening(scores: Tensor, threshold: float, **others: Any) -> Tensor:
        asked.append(threshold)
        return above_threshold(scores, threshold, **others)

    monkeypatch.setattr(sdar, "above_threshold", listening)
    network, prompt = make_network(), prompts(3, 4)
    dynamic = Settings(sampler="low_confidence_dynamic", threshold=0.08, block_length=6, steps=6)
    # 4 + 14 positions are three whole blocks: everything that is committed is announced.
    tokens, seen = run(SDAR(network), prompt, 14, dynamic)
    recorded = counts(seen)
    assert len({len(set(step)) for step in recorded}) > 1, "rows never differ: choose another threshold"
    schedule = tuple(zip(*recorded, strict=True))
    replayed, again = run(SDAR(network), prompt, 14, replace(dynamic, commit_schedule=schedule))
    assert torch.equal(replayed, tokens)
    assert counts(again) == recorded
    assert again.forwards[:1] == [("target", "denoise", 3, 6, 6, 6, "bidirectional")]
    promised = SDAR(network).promised_nfe(Shape(3, 4, 14), replace(dynamic, commit_schedule=schedule))
    assert promised == len(again.forwards)
    assert len(asked) == 2 * len(recorded), "a replay runs the rule as well"


def test_a_schedule_may_be_idle_and_its_rows_are_used_in_turn(
    make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    network, prompt = make_network(), prompts(3, 4)
    for sampler in ("low_confidence_static", "sequential", "entropy_bounded"):
        settings = Settings(sampler=sampler, commit_schedule=((3, 1, 2, 2), (1, 0, 3, 4)), block_length=4)
        _, seen = run(SDAR(network), prompt, 8, settings)
        assert counts(seen) == [(3, 1, 3), (1, 0, 1), (0, 3, 0), (2, 4, 2), (2, 0, 2)]
        idle = replace(settings, commit_schedule=((3, 0, 1, 4),), idle_steps="run")
        _, seen = run(SDAR(network), prompt, 8, idle)
        assert counts(seen) == [(3, 3, 3), (0, 0, 0), (1, 1, 1), (4, 4, 4)]
        assert SDAR(network).promised_nfe(Shape(3, 4, 8), idle) == len(seen.forwards) == 1 + 4 + 2


def test_more_steps_than_positions_are_never_run(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    network, prompt = make_network(), prompts(2, 4)
    settings = Settings(sampler="low_confidence_static", block_length=4, steps=12, idle_steps="run")
    _, seen = run(SDAR(network), prompt, 8, settings)
    assert counts(seen) == [(1, 1)] * 8
    with pytest.raises(InputError, match=r"T=12 exceeds the 8 positions of 2 blocks of 4"):
        run(SDAR(network), prompt, 8, replace(settings, idle_steps="skip"))


@pytest.mark.parametrize("sampler", ["sequential", "low_confidence_static", "low_confidence_dynamic"])
def test_a_predicted_mask_stays_masked(sampler: str, make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    network = make_network(mask_token_id=0)
    network.head.weight.zero_()  # all logits are equal, and the first id, the mask, is the choice
    prompt = prompts(2, 4) + 1
    settings = Settings(sampler=sampler, block_length=4, suppress_mask=False)
    tokens, seen = run(SDAR(network), prompt, 8, settings)
    assert (tokens == 0).all()
    assert counts(seen) == [(0, 0)] * 8
    suppressed, _ = run(SDAR(network), prompt, 8, replace(settings, suppress_mask=True))
    assert (suppressed == 1).all()
    assert SDAR(network).promised_nfe(Shape(2, 4, 8), settings) is None


@pytest.mark.parametrize("suppress", [True, False])
def test_without_predicted_masks_suppression_changes_nothing(
    suppress: bool, make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    network, prompt = make_network(), prompts(3, 6)
    network.head.weight[network.config.mask_id] = 0  # logit 0, never the largest of 61
    for settings in RULES:
        settings = replace(settings, block_length=4)
        free, seen = run(SDAR(network), prompt, 10, replace(settings, suppress_mask=False))
        if settings.sampler != "entropy_bounded":  # the mask's probability is part of an entropy
            bound, same = run(SDAR(network), prompt, 10, settings)
            assert torch.equal(free, bound)
            assert [forward[1] for forward in seen.forwards] == [forward[1] for forward in same.forwards]
        assert not (free == network.config.mask_id).any()


@pytest.mark.parametrize(
    ("settings", "tempered"),
    [
        (Settings(temperature=1.0), lambda logits: logits),
        (Settings(temperature=0.5), lambda logits: logits / 0.5),
        (
            Settings(temperature=1.0, top_k=3),
            lambda logits: logits.where(logits >= logits.topk(3).values[-1], -torch.inf),
        ),
    ],
)
def test_tokens_follow_the_tempered_distribution(
    settings: Settings, tempered: Callable[[Tensor], Tensor], make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:  # fmt: skip
    network, rows = make_network(), 4000
    prompt = prompts(1, 4).expand(rows, -1)
    tokens, _ = run(SDAR(network), prompt, 1, replace(settings, block_length=1), seed=5)
    with torch.inference_mode():
        text = torch.cat((prompt[:1], prompt.new_full((1, 1), network.config.mask_id)), dim=1)
        logits = network.logits(network.trunk(text, mask="causal"))[0, -1]
    logits = logits.clone()
    logits[network.config.mask_id] = -torch.inf
    expected = tempered(logits).double().softmax(dim=-1) * rows
    found = torch.bincount(tokens[:, 0], minlength=len(expected)).double()
    assert (found[expected == 0] == 0).all()
    common = expected >= 5
    rare = ~common & (expected > 0)
    sums = [torch.cat((t[common], t[rare].sum()[None])) for t in (found, expected)]
    if float(sums[1][-1]) == 0:
        sums = [t[:-1] for t in sums]
    assert stats.chisquare(sums[0].numpy(), sums[1].numpy()).pvalue > 1e-3


def test_what_sdar_does_not_know_is_refused(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    network, prompt = make_network(), prompts(2, 4)
    refused = {
        "remasking random": Settings(remasking="random"),
        "threshold 0.5: sampler sequential has none": Settings(sampler="sequential", threshold=0.5),
        "entropy_bound 1: sampler low_confidence_dynamic has none": Settings(entropy_bound=1.0),
        "steps: T=8, but entropy_bounded": Settings(sampler="entropy_bounded", steps=8),
        "commit_schedule needs suppress_mask": Settings(commit_schedule=((8,),), suppress_mask=False),
        "its counts end after 7 positions, expected 8": Settings(commit_schedule=((4, 3),)),
        "sampler 'ddpm' is not SDAR's": Settings(sampler="ddpm"),
        "draw 'gumbel64'": Settings(draw="gumbel64"),
        "T=7 is not divisible by the 2 blocks": Settings(steps=7),
    }
    for message, settings in refused.items():
        with pytest.raises(InputError, match=message):
            SDAR(network).prepare(Shape(2, 4, 8), settings)
        with pytest.raises(InputError, match=message):
            run(SDAR(network), prompt, 8, settings)
