"""Dream: its published loop written out plainly, its laws, its counts, and Fast-dLLM's threshold and blocks."""

import importlib.util
import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from dlmbench import InputError
from dlmbench.bench.verify.tally import Tally
from dlmbench.models import dream_blocks, dream_courses
from dlmbench.models.backbone import Backbone
from dlmbench.models.cache import KVCache
from dlmbench.models.dit_config import DiTConfig
from dlmbench.models.dream import Dream
from dlmbench.models.dream_plan import SAMPLERS, scheduled
from dlmbench.models.generator import Costed, Generator, Request, Settings, Shape
from dlmbench.models.schedule import transfer_counts_by_time
from dlmbench.models.selection import above_threshold
from dlmbench.models.weights import random_network

_spec = importlib.util.spec_from_file_location("published_dream", Path(__file__).parent / "published" / "dream.py")
assert _spec is not None
assert _spec.loader is not None
_published = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_published)
published_dream: Callable[..., Tensor] = _published.published_dream

MakeNetwork = Callable[..., Backbone]
Prompts = Callable[..., Tensor]
Run = Callable[..., Any]

RANKED = [name for name, measure in SAMPLERS.items() if measure]
PUBLISHED: dict[str, Any] = {"suppress_mask": False, "idle_steps": "run"}
MASK = 60  # the last of the tiny network's 61 ids


class Published:
    """Draws of the published loop from a torch generator: float32 uniforms and multinomial draws."""

    whole = True

    def __init__(self, seed: int) -> None:
        self.random = torch.Generator().manual_seed(seed)

    def tokens(self, weights: Tensor, where: Tensor, window: tuple[int, int]) -> Tensor:
        assert (where[1:] > where[:-1]).all()
        return torch.multinomial(weights / weights.sum(dim=-1, keepdim=True), 1, generator=self.random)[:, 0]

    def uniform(self, rows: int, columns: int) -> Tensor:
        return torch.rand(rows * columns, generator=self.random).double().view(rows, columns)

    def positions(self, weights: Tensor, count: int) -> Tensor:
        return torch.multinomial((weights / weights.sum(dim=-1, keepdim=True)).float(), count, generator=self.random)


@pytest.fixture
def dream(make_network: MakeNetwork) -> Dream:
    return Dream(make_network(shifted_logits=True))


def nfe(seen: Any) -> int:
    return len(seen.forwards)


def per_step(seen: Any) -> list[list[int]]:
    """Positions that each row committed at each step that was run."""
    return [written.rows.sum(dim=1).tolist() for written in seen.writes]


# The published loop


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("steps", [1, 5, 12, 20])
@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_published_loop(
    make_network: MakeNetwork, prompts: Prompts, run: Run, sampler: str, steps: int, shifted: bool
) -> None:
    network = make_network(shifted_logits=shifted)
    for temperature, alg_temp, epsilon in ((0.0, 0.0, 1e-3), (1.3, 0.0, 0.2), (0.0, 0.5, 1e-3), (0.8, 0.1, 0.05)):
        if sampler == "origin" and alg_temp:
            continue
        options = {"temperature": temperature, "position_temperature": alg_temp, "epsilon": epsilon}
        settings = Settings(sampler=sampler, steps=steps, **options, **PUBLISHED)  # type: ignore[arg-type]
        request = Request(prompts(), 12, settings, 0, draws=Published(9))
        generator = Dream(network)
        generator.prepare(request.shape, settings)
        theirs = published_dream(
            network, prompts(), 12, steps, sampler, temperature, torch.Generator().manual_seed(9),
            epsilon=epsilon, alg_temp=alg_temp, shifted=shifted,
        )  # fmt: skip
        tokens, seen = run(generator, prompts(), 12, settings)
        if sampler == "origin" or temperature or alg_temp:
            tally = Tally()
            tokens = generator.generate(request, tally)
            assert tally.nfe == steps
        else:
            assert nfe(seen) == steps == generator.promised_nfe(request.shape, settings)
        assert torch.equal(tokens, theirs), (temperature, alg_temp)


@pytest.mark.parametrize("idle", ["skip", "run"])
@pytest.mark.parametrize("steps", [1, 4, 12, 25])
@pytest.mark.parametrize("sampler", RANKED)
def test_counts_known_beforehand_commit_what_the_published_loop_does(
    dream: Dream, prompts: Prompts, run: Run, sampler: str, steps: int, idle: Any
) -> None:
    settings = Settings(sampler=sampler, steps=steps, idle_steps=idle)
    tokens, seen = run(dream, prompts(), 12, settings)
    assert torch.equal(tokens, published_dream(dream.network, prompts(), 12, steps, sampler, suppress_mask=True))
    counts = transfer_counts_by_time(12, steps)
    busy = [count for count in counts if count or idle == "run"]
    assert per_step(seen) == [[count] * 3 for count in busy]
    assert nfe(seen) == len(busy) == dream.promised_nfe(Shape(3, 5, 12), settings)
    assert [w.step for w in seen.writes] == [step for step, count in enumerate(counts) if count or idle == "run"]


def test_one_step_more_than_one_position_leaves_a_step_idle(dream: Dream, prompts: Prompts, run: Run) -> None:
    # T = L = 8: 0, 1, 1, 1, 1, 1, 1, 2 (a fact of the truncated counts)
    _, seen = run(dream, prompts(1), 8, Settings(sampler="entropy"))
    assert per_step(seen) == [[1]] * 6 + [[2]]
    _, seen = run(dream, prompts(1), 8, Settings(sampler="entropy", idle_steps="run"))
    assert per_step(seen) == [[0]] + [[1]] * 6 + [[2]]


def test_logits_only_of_what_is_masked(dream: Dream, prompts: Prompts, run: Run) -> None:
    _, seen = run(dream, prompts(), 12, Settings(sampler="maskgit_plus", steps=4))
    counts = transfer_counts_by_time(12, 4)
    open_before = [12 - sum(counts[:step]) for step in range(4)]
    assert seen.forwards == [("target", "denoise", 3, 17, 17, 3 * n, "bidirectional") for n in open_before]
    _, seen = run(dream, prompts(), 12, Settings(sampler="origin", steps=4))
    assert [forward[5] for forward in seen.forwards] == [sum(rows) for rows in per_step(seen)]


def test_without_a_prompt_the_first_position_is_predicted_by_its_own_row(dream: Dream, run: Run) -> None:
    empty = torch.empty(2, 0, dtype=torch.int64)
    tokens, _ = run(dream, empty, 6, Settings(sampler="entropy", steps=1))
    canvas = torch.full((2, 6), MASK)
    logits = dream.network.logits(dream.network.trunk(canvas, mask="bidirectional"))
    logits[:, :, MASK] = -torch.inf
    assert torch.equal(tokens, logits[:, [0, 0, 1, 2, 3, 4]].argmax(dim=-1))


def test_origin_is_the_default(dream: Dream, prompts: Prompts, run: Run) -> None:
    default, _ = run(dream, prompts(), 12, Settings(steps=5))
    named, _ = run(dream, prompts(), 12, Settings(steps=5, sampler="origin"))
    ranked, _ = run(dream, prompts(), 12, Settings(steps=5, sampler="entropy"))
    assert torch.equal(default, named)
    assert not torch.equal(default, ranked)


# Origin's lots


def test_origin_leaves_the_mask_by_the_time_grid(dream: Dream, prompts: Prompts, run: Run) -> None:
    steps, epsilon, found = 4, 0.1, torch.zeros(4)
    for seed in range(60):
        settings = Settings(steps=steps, epsilon=epsilon)
        _, seen = run(dream, prompts(), 12, settings, seed=seed)
        for written in seen.writes:
            found[written.step] += written.rows.sum()
    # times 1, .775, .55, .325, .1: masks left after a step are the time that it ends at, none after the last
    expected = torch.tensor([0.225, 0.225, 0.225, 0.325], dtype=torch.float64) * 60 * 36
    assert stats.chisquare(found.tolist(), expected.tolist()).pvalue > 1e-3


def test_origin_runs_only_steps_that_commit(dream: Dream, prompts: Prompts, run: Run) -> None:
    skipped, seen = run(dream, prompts(1), 4, Settings(steps=40), seed=3)
    assert all(sum(rows) for rows in per_step(seen))
    assert nfe(seen) <= 4
    assert dream.promised_nfe(Shape(1, 5, 4), Settings(steps=40)) is None
    ran, seen = run(dream, prompts(1), 4, Settings(steps=40, idle_steps="run"), seed=3)
    assert nfe(seen) == 40 == dream.promised_nfe(Shape(1, 5, 4), Settings(steps=40, idle_steps="run"))
    assert torch.equal(skipped, ran)


def test_origins_two_forms_have_one_law(make_network: MakeNetwork, run: Run) -> None:
    # two positions, each step's forwards see what the other became: the pairs of tokens tell the courses apart
    network = make_network(shifted_logits=True, vocab_size=4, mask_token_id=3)
    generator, prompt = Dream(network), torch.tensor([[1]]).expand(400, -1)
    settings = Settings(steps=3, temperature=1.0, epsilon=0.3)
    tables = []
    for suffix in ("ours", "published"):
        found: Counter[tuple[int, ...]] = Counter()
        for seed in range(5):
            request = Request(prompt, 2, settings, seed, draws=Published(seed) if suffix == "published" else None)
            generator.prepare(request.shape, settings)
            found.update(map(tuple, generator.generate(request, Tally()).tolist()))
        tables.append([found[pair] for pair in itertools.product(range(3), repeat=2)])
    assert sum(tables[0]) == sum(tables[1]) == 2000
    busy = [(a, b) for a, b in zip(*tables, strict=True) if a + b > 10]
    assert stats.chi2_contingency(list(zip(*busy, strict=True))).pvalue > 1e-3


def test_lots_and_tokens_are_drawn_apart(make_network: MakeNetwork, run: Run) -> None:
    # one position, T = 2, four tokens of equal chance: were lot and token the same uniform, one would tell the other
    network = make_network(shifted_logits=True, vocab_size=5, mask_token_id=4)
    network.head.weight.zero_()
    generator, found = Dream(network), torch.zeros(2, 4, dtype=torch.int64)
    for seed in range(400):
        tokens, seen = run(generator, torch.tensor([[1]]), 1, Settings(steps=2, temperature=1.0), seed=seed)
        found[seen.writes[0].step, tokens[0, 0]] += 1
    assert (found.sum(dim=1) > 150).all()
    assert stats.chi2_contingency(found.numpy()).pvalue > 1e-3


# Drawn positions


def test_positions_are_drawn_by_their_confidence(make_network: MakeNetwork, run: Run) -> None:
    network = make_network(shifted_logits=True)
    generator, prompt = Dream(network), torch.tensor([[7, 8]]).expand(4000, -1)
    canvas = torch.cat((prompt[:1], torch.full((1, 3), MASK)), dim=1)
    logits = network.logits(network.trunk(canvas, mask="bidirectional"))[0, 1:4]
    logits[:, MASK] = -torch.inf
    # three positions, T = 2 and a small epsilon: the first step commits int(3 / 2) = 1, drawn by exp(p / 0.3)
    weights = (logits.double().softmax(dim=-1).amax(dim=-1) / 0.3).exp()
    settings = Settings(sampler="maskgit_plus", steps=2, position_temperature=0.3)
    _, seen = run(generator, prompt, 3, settings, seed=4)
    found = seen.writes[0].rows.sum(dim=0)
    assert found.sum() == 4000
    assert stats.chisquare(found.tolist(), (4000 * weights / weights.sum()).tolist()).pvalue > 1e-3


def test_a_tiny_temperature_of_positions_is_none(dream: Dream, prompts: Prompts, run: Run) -> None:
    plain, _ = run(dream, prompts(), 12, Settings(sampler="entropy", steps=4))
    cold, _ = run(dream, prompts(), 12, Settings(sampler="entropy", steps=4, position_temperature=1e-9))
    assert torch.equal(plain, cold)


# Fast-dLLM's threshold


@torch.inference_mode()
def by_threshold(
    network: Backbone, prompt: Tensor, length: int, steps: int, threshold: float
) -> tuple[Tensor, list[int]]:
    """One row with a budget of L/T positions a step, what is left over carried on, written out plainly."""
    canvas = torch.cat((prompt, torch.full((1, length), MASK)), dim=1)
    share, carried, step, taken_at = length // steps, 0, 0, []
    while step < steps or carried:
        budget = carried + (share if step < steps else 0)
        logits = network.logits(network.trunk(canvas, mask="bidirectional")).double()
        logits[:, :, MASK] = -torch.inf
        best, ids = logits.softmax(dim=-1).roll(1, dims=1)[0].max(dim=-1)
        best[canvas[0] != MASK] = -1
        taken = best.argsort(descending=True)[:budget].tolist()
        taken = [place for rank, place in enumerate(taken) if rank == 0 or best[place] >= threshold]
        canvas[0, taken] = ids[taken]
        carried, step = budget - len(taken), step + 1
        taken_at.append(len(taken))
    return canvas[:, prompt.shape[1] :], taken_at


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.12, 0.15, 1.0])
@pytest.mark.parametrize("steps", [2, 4, 12])
def test_threshold_with_a_budget(dream: Dream, prompts: Prompts, run: Run, steps: int, threshold: float) -> None:
    settings = Settings(steps=steps, threshold=threshold)
    rows = prompts()
    together, seen = run(dream, rows, 12, settings)
    courses = [by_threshold(dream.network, row[None], 12, steps, threshold) for row in rows]
    assert torch.equal(together, torch.cat([tokens for tokens, _ in courses]))
    longest = max(len(counts) for _, counts in courses)
    padded = [counts + [0] * (longest - len(counts)) for _, counts in courses]
    assert per_step(seen) == [list(step) for step in zip(*padded, strict=True)]
    assert dream.promised_nfe(Shape(3, 5, 12), settings) is None
    if threshold == 0:
        assert nfe(seen) == steps
    if threshold == 1:
        assert nfe(seen) == 12


# Commit schedules


def test_a_schedule_of_its_own_counts_repeats_a_run(dream: Dream, prompts: Prompts, run: Run) -> None:
    counts = tuple(transfer_counts_by_time(12, 8))
    plain, seen = run(dream, prompts(), 12, Settings(sampler="entropy", steps=8))
    replayed, again = run(dream, prompts(), 12, Settings(sampler="entropy", commit_schedule=(counts,)))
    assert torch.equal(plain, replayed)
    assert per_step(seen) == per_step(again)


@pytest.mark.parametrize("cache", [None, "dual"])
def test_a_recorded_schedule_replays_a_threshold_run_row_by_row(
    cache: Any, dream: Dream, prompts: Prompts, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def listening(scores: Tensor, threshold: float, **others: Any) -> Tensor:
        asked.append(threshold)
        return above_threshold(scores, threshold, **others)

    monkeypatch.setattr(dream_courses, "above_threshold", listening)
    settings = Settings(steps=3, threshold=0.12, cache=cache)
    tokens, seen = run(dream, prompts(), 12, settings)
    ruled = len(asked)
    schedule = tuple(zip(*per_step(seen), strict=True))
    assert len(set(schedule)) > 1
    replay = replace(settings, commit_schedule=schedule)
    replayed, again = run(dream, prompts(), 12, replay)
    assert torch.equal(tokens, replayed)
    assert per_step(seen) == per_step(again)
    assert nfe(again) == dream.promised_nfe(Shape(3, 5, 12), replay)
    assert len(asked) == 2 * ruled > 0, "a replay runs the rule as well"


def test_rows_of_a_schedule_are_used_cyclically(dream: Dream, prompts: Prompts, run: Run) -> None:
    settings = Settings(sampler="topk_margin", commit_schedule=((4, 0, 2), (0, 3, 3)), position_temperature=0.2)
    _, seen = run(dream, prompts(), 6, settings)
    assert per_step(seen) == [[4, 0, 4], [0, 3, 0], [2, 3, 2]]
    # a count beyond the end commits what is left
    assert scheduled([[4, 9]], 1, [6]) == [[(4,), (2,)]]
    # a block's first forward commits one position; zeros before it are a row's waiting, later ones idle steps
    expected = [[(1,), (0,), (2,), (1,)], [(1,), (1,)]]
    assert scheduled([[0, 3, 0, 2, 9, 0, 2, 2]], 1, [4, 2], refreshed=True) == expected


# Left padding


def test_a_padded_row_generates_what_it_does_alone(make_network: MakeNetwork, prompts: Prompts) -> None:
    generator = Dream(make_network(shifted_logits=True))
    rows = [prompts(1, 2, seed=1), prompts(1, 5, seed=2)]
    padded = torch.stack([torch.cat((torch.full((5 - row.shape[1],), 7), row[0])) for row in rows])
    mask = torch.tensor([[False] * 3 + [True] * 2, [True] * 5])
    settings = Settings(sampler="entropy", steps=6)
    for other in (padded, torch.where(mask, padded, 9)):
        request = Request(other, 8, settings, 0, prompt_mask=mask)
        generator.prepare(request.shape, settings)
        together = generator.generate(request, Tally())
        for row, prompt in enumerate(rows):
            alone = Request(prompt, 8, settings, 0)
            generator.prepare(alone.shape, settings)
            assert torch.equal(generator.generate(alone, Tally())[0], together[row])


@pytest.mark.parametrize(
    "mask", [[[True, False, True]], [[False, False, False]], [[True, True, False]], [[True, True]]]
)
def test_pads_elsewhere_are_refused(dream: Dream, mask: list[list[bool]]) -> None:
    request = Request(torch.tensor([[1, 2, 3]]), 4, Settings(), 0, prompt_mask=torch.tensor(mask))
    dream.prepare(request.shape, request.settings)
    with pytest.raises(InputError, match="prompt_mask"):
        dream.generate(request, Tally())


# The mask predicted


@pytest.fixture
def stubborn(make_network: MakeNetwork) -> Dream:
    """A network that predicts nothing but the mask, unless it is suppressed."""
    network = make_network(shifted_logits=True)
    network.embedding.fill_(1.0)
    network.norm.fill_(1.0)
    network.head.weight[MASK] = 0
    for parameter in network.layers.parameters():
        parameter.zero_()
    network.head.weight[MASK] = 9.0
    return Dream(network)


@pytest.mark.parametrize("cache", [None, "prefix", "dual"])
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_masks_that_are_predicted_stay(
    stubborn: Dream, prompts: Prompts, run: Run, cache: Any, threshold: float | None
) -> None:
    sampler = None if threshold else "entropy"
    block = 3 if cache else None
    settings = Settings(
        sampler=sampler, steps=4, threshold=threshold, cache=cache, block_length=block, suppress_mask=False
    )
    tokens, seen = run(stubborn, prompts(), 12, replace(settings, steps=8 if cache else 4))
    assert (tokens == MASK).all()
    assert not any(any(rows) for rows in per_step(seen))
    tokens, _ = run(stubborn, prompts(), 12, replace(settings, steps=8 if cache else 4, suppress_mask=True))
    assert (tokens != MASK).all()


def test_masks_in_the_prompt_stay(dream: Dream, run: Run) -> None:
    tokens, seen = run(dream, torch.tensor([[MASK, 3, MASK]]), 6, Settings(sampler="entropy", steps=3, **PUBLISHED))
    assert (tokens != MASK).all()
    assert sum(sum(rows) for rows in per_step(seen)) == 6


# Blocks with a cache


@torch.inference_mode()
def in_blocks(
    network: Backbone, prompt: Tensor, length: int, steps: int, block: int, cache: str, threshold: float | None = None
) -> tuple[Tensor, list[tuple[int, int]]]:
    """One row of Fast-dLLM's cached loop, plainly: keys and values kept as recorded by hooks on plain attention."""
    start, total = prompt.shape[1], prompt.shape[1] + length
    canvas = torch.cat((prompt, torch.full((1, length), MASK)), dim=1)
    forwards = []
    for begin in range(start, total, block):
        end = begin + block
        stop = end if cache == "dual" else total
        # What the cache holds for a position follows from the ids that it was last fed with: keep those ids' states.
        store = KVCache(network.config, 1, total, network.dtype, "cpu")
        logits = network.logits(network.trunk(canvas, mask="bidirectional", cache=store))
        logits[:, :, MASK] = -torch.inf
        canvas[0, begin] = logits[0, begin - 1].argmax()
        forwards.append((total, 1))
        own = steps * block // length
        times = torch.linspace(1, 1e-3, own + 1)
        index = 1
        while (canvas[0, begin:end] == MASK).any():
            logits = network.logits(
                network.trunk(canvas[:, begin:stop], mask="bidirectional", cache=store, start=begin, live=total)
            )
            logits[:, :, MASK] = -torch.inf
            shifted = torch.cat((logits[:, :1], logits[:, :-1]), dim=1)[0, :block]
            p = shifted.double().softmax(dim=-1)
            masked = canvas[0, begin:end] == MASK
            if threshold is None:
                score = p.xlogy(p).sum(dim=-1).masked_fill(~masked, -math.inf)
                share = 1 - times[index + 1] / times[index] if index < own - 1 else 1
                taken = score.argsort(descending=True)[: int(masked.sum() * share)]
            else:
                score = p.amax(dim=-1).masked_fill(~masked, -math.inf)
                taken = score.argsort(descending=True)
                taken = torch.tensor(
                    [t for n, t in enumerate(taken.tolist()) if masked[t] and (not n or score[t] >= threshold)]
                )
            canvas[0, begin + taken] = shifted.argmax(dim=-1)[taken]
            forwards.append((stop - begin, len(taken)))
            index += 1
    return canvas[:, start:], forwards


@pytest.mark.parametrize("threshold", [None, 0.0, 0.12, 1.0])
@pytest.mark.parametrize(("block", "steps"), [(12, 12), (6, 4), (4, 9), (4, 6), (2, 12)])
@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_blocks(
    dream: Dream,
    prompts: Prompts,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    cache: Any,
    block: int,
    steps: int,
    threshold: float | None,
) -> None:
    settings = Settings(cache=cache, block_length=block, steps=steps, threshold=threshold, idle_steps="run")
    tokens, seen = run(dream, prompts(1), 12, settings)
    theirs, forwards = in_blocks(dream.network, prompts(1), 12, steps, block, cache, threshold)
    assert torch.equal(tokens, theirs)
    assert [(f[3], sum(rows)) for f, rows in zip(seen.forwards, per_step(seen), strict=True)] == forwards
    assert {f[4] for f in seen.forwards} == {17}
    assert all((f[1] == "cache_refresh") == (f[3] == 17) for f in seen.forwards)
    if threshold is None:
        assert nfe(seen) == steps == dream.promised_nfe(Shape(1, 5, 12), settings)
    rows, _ = run(dream, prompts(), 12, settings)
    alone = torch.cat([in_blocks(dream.network, row[None], 12, steps, block, cache, threshold)[0] for row in prompts()])
    assert torch.equal(rows, alone)
    # the loop that counts masks anew has the same counts, as long as none is predicted
    monkeypatch.setattr(dream_blocks, "block_counts", lambda shape, settings: None)
    assert torch.equal(run(dream, prompts(), 12, settings)[0], rows)


@pytest.mark.parametrize("suppress", [True, False])
def test_one_step_a_block_finishes_the_block(dream: Dream, prompts: Prompts, run: Run, suppress: bool) -> None:
    settings = Settings(cache="dual", block_length=4, steps=3, suppress_mask=suppress)
    tokens, seen = run(dream, prompts(), 12, settings)
    assert (tokens != MASK).all()
    assert [forward[1] for forward in seen.forwards] == ["cache_refresh"] * 3
    assert per_step(seen) == [[4] * 3] * 3


def test_a_first_block_of_everything_is_exact_under_prefix(dream: Dream, run: Run) -> None:
    # without a prompt a prefix cache leaves nothing stale: every forward feeds every position
    request = Request(torch.empty(2, 0, dtype=torch.int64), 8, Settings(cache="prefix", block_length=8, steps=8), 0)
    figures = dream.audit(request)
    assert figures["cache_logit_distance"] < 1e-5
    assert (figures["cache_argmax_changed"], figures["cache_tokens_changed"]) == (0, 0)


@pytest.mark.parametrize("threshold", [None, 0.12])
def test_an_audit_of_stale_keys(dream: Dream, prompts: Prompts, threshold: float | None) -> None:
    settings = Settings(cache="dual", block_length=4, steps=12, threshold=threshold)
    figures = dream.audit(Request(prompts(), 12, settings, 0))
    assert 1e-4 < figures["cache_logit_distance"] < 3
    assert 0 <= figures["cache_argmax_changed"] <= 1
    with pytest.raises(InputError, match="cache"):
        dream.audit(Request(prompts(), 12, Settings(), 0))


def test_schedules_in_blocks_wait_for_the_slowest_row(dream: Dream, prompts: Prompts, run: Run) -> None:
    settings = Settings(cache="prefix", block_length=4, commit_schedule=((1, 3, 1, 1, 2), (1, 1, 1, 1, 1, 3)))
    _, seen = run(dream, prompts(2), 8, settings)
    assert per_step(seen) == [[1, 1], [3, 1], [0, 1], [0, 1], [1, 1], [1, 3], [2, 0]]
    assert nfe(seen) == 7 == dream.promised_nfe(Shape(2, 5, 8), settings)
    threshold = Settings(cache="dual", block_length=4, threshold=0.12)
    tokens, seen = run(dream, prompts(), 12, threshold)
    # its own batch's zeros say that a row waited
    replay = replace(threshold, commit_schedule=tuple(zip(*per_step(seen), strict=True)))
    replayed, again = run(dream, prompts(), 12, replay)
    assert torch.equal(tokens, replayed)
    assert per_step(seen) == per_step(again)


def test_blocks_of_one_position(dream: Dream, prompts: Prompts, run: Run) -> None:
    for steps, idle in ((4, "skip"), (8, "run"), (8, "skip")):
        settings = Settings(cache="dual", block_length=1, steps=steps, idle_steps=idle)  # type: ignore[arg-type]
        tokens, seen = run(dream, prompts(), 4, settings)
        assert (tokens != MASK).all()
        assert nfe(seen) == (8 if idle == "run" else 4) == dream.promised_nfe(Shape(3, 5, 4), settings)


def test_natural_ends_with_the_block_in_which_every_row_has_ended(make_network: MakeNetwork, run: Run) -> None:
    network = make_network(shifted_logits=True)
    prompt = torch.tensor([[5, 6, 7]])
    settings = Settings(cache="dual", block_length=4, steps=12)
    tokens, _ = run(Dream(network), prompt, 12, settings)
    eos = int(tokens[0, 5])
    first = tokens[0].tolist().index(eos) // 4 + 1
    ending = Dream(make_network(shifted_logits=True, eos_token_id=eos))
    natural, seen = run(ending, prompt, 12, replace(settings, length_policy="natural"))
    assert torch.equal(natural[:, : 4 * first], tokens[:, : 4 * first])
    assert [f[1] for f in seen.forwards].count("cache_refresh") == first < 3


# What fits, and what does not


def test_it_is_a_generator(dream: Dream) -> None:
    assert isinstance(dream, Generator)
    assert isinstance(dream, Costed)


@pytest.mark.parametrize("settings", [Settings(steps=4), Settings(cache="dual", block_length=4)])
def test_any_network_with_a_mask_fits(run: Run, settings: Settings) -> None:
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "cond_dim": 8}
    config = DiTConfig(**sizes, time_conditioning=False)
    network = random_network(config, 0, torch.float32, "cpu")
    tokens, _ = run(Dream(network), torch.tensor([[1, 2], [3, 4]]), 8, settings)
    assert (tokens != network.config.mask_id).all()


@pytest.mark.slow
@pytest.mark.parametrize("cache", [None, "dual"])
def test_compiled_forwards_give_the_same_tokens(
    make_network: MakeNetwork, prompts: Prompts, run: Run, cache: Any
) -> None:
    settings = Settings(sampler="entropy", cache=cache, block_length=4 if cache else None, steps=6)
    network = make_network(shifted_logits=True)
    eager, _ = run(Dream(network), prompts(), 12, settings)
    compiled, _ = run(Dream(network, engine="compile"), prompts(), 12, settings)
    assert torch.equal(eager, compiled)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sampler": "low_confidence"}, "sampler 'low_confidence': Dream knows origin, maskgit_plus"),
        ({"cfg_scale": 1.0}, "cfg_scale 1.0: Dream does not know it"),
        ({"draw": "gumbel64"}, "draw 'gumbel64': Dream does not know it"),
        ({"remasking": "random"}, "sampler origin"),
        ({"cache": "kv"}, "cache 'kv'"),
        ({"block_length": 4}, "block_length 4: Dream has blocks only with cache"),
        ({"sampler": "origin", "threshold": 0.5}, "commits at random"),
        ({"sampler": "entropy", "threshold": 0.5}, "compared with probabilities"),
        ({"position_temperature": 0.5, "threshold": 0.5}, "drop one"),
        ({"position_temperature": 0.5}, "random already"),
        ({"threshold": 0.5, "steps": 5}, "L=12 is not divisible by T=5"),
        ({"commit_schedule": ((12,),), "suppress_mask": False}, "would break its counts"),
        ({"commit_schedule": ()}, "no rows"),
        ({"commit_schedule": ((6, 5),)}, "row 0: its counts end after 11 positions, expected 12 .*; record it again"),
        ({"commit_schedule": ((13, -1),)}, "row 0: a count is -1, expected 0 or more; record"),
        ({"cache": "dual", "block_length": 5}, "L=12 is not divisible by 5"),
        ({"cache": "dual", "block_length": 4, "steps": 7}, "not divisible by the 3 blocks"),
        ({"cache": "dual", "sampler": "maskgit_plus"}, "always rank by entropy"),
    ],
)
def test_settings_that_do_not_fit(dream: Dream, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dream.prepare(Shape(2, 5, 12), Settings(**wrong))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("engine", ["eager", "cudagraph"])
@pytest.mark.parametrize("cache", [None, "prefix", "dual"])
def test_no_step_waits_for_the_device(make_network: MakeNetwork, prompts: Prompts, cache: Any, engine: str) -> None:
    generator = Dream(make_network("cuda", shifted_logits=True), engine=engine)
    block = 4 if cache else None
    settings = Settings(sampler="entropy", cache=cache, block_length=block, steps=12, position_temperature=0.1)
    request = Request(prompts().cuda(), 12, settings, 0)
    generator.prepare(request.shape, settings)
    counted = []
    for steps in (3, 12):
        request = Request(prompts().cuda(), 12, replace(settings, steps=steps), 0)
        generator.generate(request, Tally())
        with torch.profiler.profile() as profile:
            generator.generate(request, Tally())
        names = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "aten::item", "aten::nonzero")
        counted.append(sum(event.count for event in profile.key_averages() if event.key in names))
    # what waits does so once a generation or once a block, however many steps
    assert counted[0] == counted[1]


def test_a_request_of_another_shape_is_refused(dream: Dream, prompts: Prompts) -> None:
    for settings in (Settings(), Settings(cache="dual", block_length=4)):
        dream.prepare(Shape(3, 5, 12), settings)
        with pytest.raises(InputError, match="prepare"):
            dream.generate(Request(prompts(2), 12, settings, 0), Tally())
