"""Draws have exactly the distribution asked for: by hand, against float64, and by goodness of fit.

Statistical tests use fixed seeds: they pass or fail for good. Their p-values are compared with 1e-3.
"""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from dlmbench import InputError
from dlmbench.models.draws import inverse_cdf
from dlmbench.models.generator import Settings
from dlmbench.models.sampling import choose

CHUNK = 512  # a multiple of any chunk that a two-level search would take: around it, one can go wrong
SIZES = [1, 2, 3, 127, 128, 129, 511, 512, 513, 1024, 1500]
BELOW_ONE = math.nextafter(1.0, 0.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(rows: int, size: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(rows, size, generator=seeded(seed))


def draws(row: Tensor, count: int, chosen: Settings, seed: int = 0, suppress: int | None = None) -> Tensor:
    """`count` ids drawn from one row of logits [V]."""
    rows = row.expand(count, -1)
    return choose(rows if suppress is None else rows.clone(), chosen, seeded(seed), suppress=suppress)[0]


def fits(ids: Tensor, probabilities: Tensor) -> bool:
    """Whether a chi-square test accepts that `ids` were drawn from `probabilities` [V] (0 where nothing may come)."""
    observed = torch.bincount(ids, minlength=len(probabilities)).double()
    assert not observed[probabilities == 0].any()
    expected = probabilities / probabilities.sum() * len(ids)
    assert (expected[probabilities > 0] > 5).all()
    kept = probabilities > 0
    if kept.sum() == 1:
        return True
    return bool(stats.chisquare(observed[kept].numpy(), expected[kept].numpy()).pvalue > 1e-3)


# Greedy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("confidence", [False, True])
def test_greedy_is_the_argmax(dtype: torch.dtype, confidence: bool) -> None:
    logits = noise(50, 300).to(dtype)
    ids, _ = choose(logits.clone(), Settings(), seeded(), confidence=confidence)
    assert ids.dtype is torch.int64
    assert torch.equal(logits.gather(1, ids[:, None])[:, 0], logits.max(dim=-1).values)


@pytest.mark.parametrize("confidence", [False, True])
def test_greedy_takes_the_first_of_a_tie(confidence: bool) -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    assert choose(logits, Settings(), seeded(), confidence=confidence)[0].tolist() == [1, 0]


def test_greedy_uses_no_randomness() -> None:
    random = seeded()
    before = random.get_state()
    choose(noise(4, 10), Settings(), random, confidence=True)
    assert torch.equal(random.get_state(), before)


# Confidence ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "chosen",
    [
        Settings(),
        Settings(temperature=1.0),
        Settings(temperature=0.5),
        Settings(temperature=2.0),
        Settings(temperature=1.0, top_k=5),
        Settings(temperature=1.0, top_p=0.5),
    ],
)
def test_confidence_is_the_untempered_probability(chosen: Settings, dtype: torch.dtype) -> None:
    logits = noise(64, 300).to(dtype)
    ids, confidence = choose(logits.clone(), chosen, seeded(), confidence=True)
    assert confidence is not None
    assert confidence.dtype is torch.float32
    expected = logits.double().softmax(-1).gather(1, ids[:, None])[:, 0]
    torch.testing.assert_close(confidence.double(), expected, rtol=1e-5, atol=0)


def test_a_suppressed_id_has_no_share_in_the_confidence() -> None:
    # Without the second id, the others have odds of 1 : 3.
    logits = torch.tensor([[0.0, 9.0, math.log(3.0)]])
    ids, confidence = choose(logits, Settings(), seeded(), suppress=1, confidence=True)
    assert ids.tolist() == [2]
    assert confidence is not None
    assert confidence.item() == pytest.approx(0.75)


# The inverse CDF -------------------------------------------------------------------------------------


def test_draws_by_hand() -> None:
    # Running sums 1, 1, 3, 3, 4 of a total of 4: u in [0, 1/4) is id 0, [1/4, 3/4) id 2, [3/4, 1) id 4.
    weights = torch.tensor([[1.0, 0.0, 2.0, 0.0, 1.0]])
    cases = [(0.0, 0), (0.2499, 0), (0.25, 2), (0.5, 2), (0.7499, 2), (0.75, 4), (BELOW_ONE, 4)]
    for uniform, expected in cases:
        assert inverse_cdf(weights, torch.tensor([uniform], dtype=torch.float64)).item() == expected


@pytest.mark.parametrize("size", SIZES)
def test_the_ends_are_the_first_and_the_last_id_of_any_weight(size: int) -> None:
    weights = torch.ones(1, size)
    ends = torch.tensor([0.0, BELOW_ONE], dtype=torch.float64)
    assert inverse_cdf(weights.repeat(2, 1), ends).tolist() == [0, size - 1]
    if size > 2:
        weights[:, [0, -1]] = 0
        assert inverse_cdf(weights.repeat(2, 1), ends).tolist() == [1, size - 2]


def test_equal_weights_cut_the_interval_evenly() -> None:
    """2,048 ids: u = k / 2048 is where id k begins, exactly, in every chunk and at every border between two."""
    count = 4 * CHUNK
    begin = torch.arange(count, dtype=torch.float64) / count
    weights = torch.ones(count, count)
    assert torch.equal(inverse_cdf(weights, begin), torch.arange(count))
    last = torch.nextafter(begin[1:], torch.tensor(0.0, dtype=torch.float64))
    assert torch.equal(inverse_cdf(weights[1:], last), torch.arange(count - 1))


def test_chunks_without_weight_are_passed_over() -> None:
    weights = torch.zeros(1, 5 * CHUNK + 7)
    weights[0, [CHUNK + 3, 3 * CHUNK]] = 1.0  # odds 1 : 1
    for uniform, expected in ((0.0, CHUNK + 3), (0.4999, CHUNK + 3), (0.5, 3 * CHUNK), (BELOW_ONE, 3 * CHUNK)):
        assert inverse_cdf(weights, torch.tensor([uniform], dtype=torch.float64)).item() == expected


@settings(deadline=None, max_examples=60)
@given(
    size=st.sampled_from(SIZES),
    seed=st.integers(0, 2**20),
    scale=st.sampled_from([0.0, 1.0, 10.0, 30.0]),
    zeros=st.sampled_from([0.0, 0.5, 0.99]),
)
def test_draws_agree_with_a_plain_float64_search(size: int, seed: int, scale: float, zeros: float) -> None:
    rows = 40
    weights = (noise(rows, size, seed, scale) - 3 * scale).clamp(max=0).exp()
    weights[torch.rand(weights.shape, generator=seeded(seed + 1)) < zeros] = 0
    weights[:, seed % size] = 1
    uniforms = torch.rand(rows, dtype=torch.float64, generator=seeded(seed + 2))
    ids = inverse_cdf(weights, uniforms)
    assert (weights.gather(1, ids[:, None]) > 0).all()
    # The uniform must lie in the id's interval, up to the float32 rounding of the chunks' sums that is documented.
    ends = weights.double().cumsum(-1)
    ends = ends / ends[:, -1:]
    high = ends.gather(1, ids[:, None])[:, 0]
    low = high - weights.double().gather(1, ids[:, None])[:, 0] / weights.double().sum(-1)
    assert (uniforms >= low - 1e-6).all()
    assert (uniforms <= high + 1e-6).all()
    plain = torch.searchsorted(ends, uniforms[:, None], right=True)[:, 0]
    assert (ids == plain).sum() >= rows - 2


def test_rows_do_not_see_each_other() -> None:
    weights = noise(30, 700).exp()
    uniforms = torch.rand(30, dtype=torch.float64, generator=seeded(1))
    together = inverse_cdf(weights, uniforms)
    alone = torch.cat([inverse_cdf(weights[i : i + 1], uniforms[i : i + 1]) for i in range(30)])
    assert torch.equal(together, alone)


def test_rows_worked_on_in_pieces_are_the_same_rows() -> None:
    """700 rows of 2,000 logits (5.6 MB) are more than are worked on at once; a smaller batch has the same uniforms."""
    logits = noise(700, 2000)
    for confidence in (False, True):
        many, their = choose(logits.clone(), Settings(temperature=1.0), seeded(7), confidence=confidence)
        few, our = choose(logits[:600].clone(), Settings(temperature=1.0), seeded(7), confidence=confidence)
        assert torch.equal(many[:600], few)
        assert (their is None) == (our is None) == (not confidence)
        if their is not None and our is not None:
            torch.testing.assert_close(their[:600], our)
        cold, _ = choose(logits.clone(), Settings(temperature=1e-4), seeded(7), confidence=confidence)
        assert torch.equal(cold, logits.argmax(-1))


def test_greedy_confidence_is_that_of_its_own_row() -> None:
    logits = noise(700, 2000)
    ids, confidence = choose(logits.clone(), Settings(), seeded(), confidence=True)
    assert torch.equal(ids, logits.argmax(-1))
    assert confidence is not None
    torch.testing.assert_close(confidence.double(), logits.double().softmax(-1).amax(-1), rtol=1e-5, atol=0)


# Tails -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", [1e-6, 1e-9])
def test_the_rare_come_at_their_rate(tail: float) -> None:
    """One id of weight 1, then 2,047 of weight `tail`.

    With float32 uniforms, a Gumbel is at most -log(-log(1 - 2^-24)) = 16.6 and at least -log(log(2^24)) = -2.8; an id
    19.4 nats (4e-9) below the best is never drawn. Here the uniforms that lie in the tail are spread over it evenly, so
    that each of its ids must come equally often, and none of those below it may leave the first id.
    """
    size, count = 4 * CHUNK, 8188
    weights = torch.full((1, size), tail)
    weights[0, 0] = 1.0
    rare = float(torch.tensor(tail).double())  # as float32 holds it
    mass = (size - 1) * rare
    spread = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    head = 1 / (1 + mass)
    ids = inverse_cdf(weights.expand(count, -1), head + (1 - head) * spread)
    # A chunk's float32 sum is off by up to 1e-7 of the whole: tail ids in the head's own chunk share that error.
    far = ids[ids >= CHUNK]
    tally = torch.bincount(far, minlength=size)[CHUNK:]
    assert len(far) == pytest.approx(count * (size - CHUNK) / (size - 1), rel=0.1 if tail < 1e-7 else 0.01)
    assert tally.min() >= 3
    assert tally.max() <= 5
    assert (inverse_cdf(weights.expand(count, -1), head * spread * (1 - 1e-6)) == 0).all()


def test_random_draws_reach_the_tail_at_their_rate() -> None:
    """249 ids of 4e-6 each: 200,000 draws hold Binomial(200000, 996e-6) of them, about 199 +- 14."""
    row = torch.full((250,), math.log(4e-6))
    row[0] = math.log(1 - 996e-6)
    found = int((draws(row, 200_000, Settings(temperature=1.0)) > 0).sum())
    assert stats.binomtest(found, 200_000, 996e-6).pvalue > 1e-3


# Distributions ---------------------------------------------------------------------------------------

# Probabilities from 0.4 down to 2e-4, out of order.
ODDS = torch.tensor([0.1, 2e-4, 0.4, 1e-3, 0.05, 0.2488, 2e-2, 0.18], dtype=torch.float64)
ROW = ODDS.log().float() + 3.0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_tempered_softmax(temperature: float) -> None:
    tempered = ODDS ** (1 / temperature)
    tempered = tempered / tempered.sum()
    drawn = 200_000
    if temperature == 0.5:  # the squares of the rare ones are too rare to count: leave them out of this row
        tempered[tempered < 1e-4] = 0
        tempered = tempered / tempered.sum()
    row = torch.where(tempered > 0, ROW, -torch.inf)
    assert fits(draws(row, drawn, Settings(temperature=temperature)), tempered)


def test_the_test_would_notice() -> None:
    ids = draws(ROW, 200_000, Settings(temperature=1.0))
    tempered = ODDS**0.97
    assert not fits(ids, tempered / tempered.sum())


def nucleus(probabilities: Tensor, top_p: float) -> set[int]:
    """The definition: the fewest most probable ids whose mass reaches `top_p`; the one that crosses is in."""
    kept: set[int] = set()
    mass = 0.0
    for index in probabilities.argsort(descending=True).tolist():
        if mass >= top_p:
            break
        kept.add(index)
        mass += float(probabilities[index])
    return kept


def only(probabilities: Tensor, kept: set[int]) -> Tensor:
    held = torch.zeros_like(probabilities)
    held[list(kept)] = probabilities[list(kept)]
    return held / held.sum()


@pytest.mark.parametrize("top_k", [1, 3, 7, 8, 100])
def test_top_k_keeps_the_k_best(top_k: int) -> None:
    kept = set(ODDS.argsort(descending=True)[:top_k].tolist())
    assert fits(draws(ROW, 40_000, Settings(temperature=1.0, top_k=top_k)), only(ODDS, kept))


# The sorted masses run 0.4, 0.6488, 0.8288, 0.9288, 0.9788, 0.9988, ...
@pytest.mark.parametrize(("top_p", "size"), [(0.01, 1), (0.39, 1), (0.41, 2), (0.64, 2), (0.66, 3), (0.95, 5)])
def test_top_p_keeps_the_id_that_crosses(top_p: float, size: int) -> None:
    kept = nucleus(ODDS, top_p)
    assert len(kept) == size
    assert fits(draws(ROW, 40_000, Settings(temperature=1.0, top_p=top_p)), only(ODDS, kept))


def test_top_p_of_half_keeps_one_of_two_equals() -> None:
    """Mass 0.5 is reached by the first; the second would begin at 0.5, which is not below it."""
    assert len(set(draws(torch.zeros(2), 200, Settings(temperature=1.0, top_p=0.5)).tolist())) == 1
    assert len(set(draws(torch.zeros(2), 200, Settings(temperature=1.0, top_p=0.51)).tolist())) == 2


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**20),
    size=st.integers(2, 12),
    top_k=st.integers(0, 12),
    top_p=st.floats(0.05, 0.999),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_truncation_is_temperature_then_top_k_then_top_p(
    seed: int, size: int, top_k: int, top_p: float, temperature: float
) -> None:
    row = noise(1, size, seed, 1.0)[0]
    tempered = (row.double() / temperature).softmax(-1)
    best = set(tempered.argsort(descending=True)[: top_k or size].tolist())
    kept = nucleus(only(tempered, best), top_p)
    edge = only(tempered, best).sort(descending=True).values.cumsum(-1)
    if (edge - top_p).abs().min() < 1e-5:
        return  # which side of the border float32 falls on is its own affair
    ids = draws(row, 300, Settings(temperature=temperature, top_k=top_k, top_p=top_p), seed)
    assert set(ids.tolist()) <= kept
    likely = {i for i in kept if only(tempered, kept)[i] > 0.1}  # missed in 300 draws with probability 2e-14
    assert likely <= set(ids.tolist())


def test_a_tie_at_rank_k_is_kept_whole() -> None:
    row = torch.tensor([0.0, 1.0, 0.0, -5.0])  # ranks: 1, then a tie of 0 and 2
    assert set(draws(row, 400, Settings(temperature=1.0, top_k=2)).tolist()) == {0, 1, 2}
    assert set(draws(row, 400, Settings(temperature=1.0, top_k=1)).tolist()) == {1}


def test_ties_share_evenly() -> None:
    assert fits(draws(torch.zeros(150), 20_000, Settings(temperature=0.7)), torch.ones(150, dtype=torch.float64))


def test_bfloat16_logits_are_taken_at_their_value() -> None:
    logits = noise(200, 600).bfloat16()
    for chosen in (Settings(temperature=0.8), Settings(temperature=1.0, top_k=9, top_p=0.9)):
        narrow, _ = choose(logits.clone(), chosen, seeded(3))
        wide, _ = choose(logits.float(), chosen, seeded(3))
        assert torch.equal(narrow, wide)


@pytest.mark.parametrize("suppress", [0, 5, 11])
@pytest.mark.parametrize(
    "chosen",
    [Settings(), Settings(temperature=1.0), Settings(temperature=100.0), Settings(temperature=100.0, top_p=0.999)],
)
def test_a_suppressed_id_never_comes(chosen: Settings, suppress: int) -> None:
    row = torch.zeros(12)
    row[suppress] = 50.0  # by far the best
    ids = draws(row, 5000, chosen, suppress=suppress)
    assert not (ids == suppress).any()
    if chosen.temperature == 100:
        assert len(ids.unique()) == 11


def test_large_logits_do_not_overflow() -> None:
    row = torch.tensor([3e38, 3e38, -3e38, -torch.inf])
    ids, confidence = choose(row.repeat(100, 1), Settings(temperature=1.0), seeded(), confidence=True)
    assert set(ids.tolist()) == {0, 1}
    assert confidence is not None
    assert torch.allclose(confidence, torch.tensor(0.5))


@pytest.mark.parametrize("temperature", [1e-3, 1e-4])
def test_a_low_temperature_is_greedy(temperature: float) -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, -1.0, 0.0]])
    assert choose(logits, Settings(temperature=temperature), seeded())[0].tolist() == [1, 0]


# Seeds -----------------------------------------------------------------------------------------------


def test_the_seed_decides() -> None:
    logits = noise(50, 300)
    first, again, other = (choose(logits.clone(), Settings(temperature=1.0), seeded(s))[0] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_torchs_global_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    choose(noise(5, 30), Settings(temperature=1.0), seeded())
    assert torch.equal(torch.get_rng_state(), before)


def test_calls_on_one_stream_are_independent() -> None:
    random = seeded()
    row = torch.zeros(1000, 64)
    first, second = (choose(row.clone(), Settings(temperature=1.0), random)[0].numpy() for _ in range(2))
    assert (first == second).mean() < 0.05  # 1/64 by chance
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.12


@pytest.mark.parametrize("temperature", [-1.0, 1e-30])
def test_a_temperature_that_float32_cannot_divide_by_is_refused(temperature: float) -> None:
    with pytest.raises(InputError, match=r"temperature .*: expected 0 \(greedy\) or at least 0\.0001"):
        Settings(temperature=temperature)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no /proc here")
def test_on_a_cpu_temporaries_do_not_pile_up() -> None:
    """4096 x 4096 logits, 67 MB in float32, go through 2 MiB at a time: what is held beside them is a few parts."""
    program = (
        "import torch; from dlmbench.models.generator import Settings; from dlmbench.models.sampling import choose; "
        "from dlmbench.profiles.memory import MemoryMeter; torch.set_num_threads(1); meter = MemoryMeter('cpu'); "
        "logits = torch.zeros(4096, 4096, dtype=torch.bfloat16); random = torch.Generator(); before = meter.start(); "
        "choose(logits, Settings(), random, confidence=True); print(meter.peak_b() - before)"
    )
    kept = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}  # as in a worker
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True,
                          env={**os.environ, **kept})  # fmt: skip
    assert int(done.stdout) < 40 << 20
