"""The project's own samplers on perfect marginals: what they reach stands on the closed form."""

import math
import sys
from dataclasses import replace

import pytest
import torch
from scipy.stats import binomtest

from dlmbench import InputError
from dlmbench.models.autoregressive import Autoregressive
from dlmbench.models.cache import KVCache
from dlmbench.models.generator import Request, Settings, Silent
from dlmbench.models.tasks import (
    Copy,
    PerfectMarginals,
    ReplaceOne,
    Shuffle,
    Task,
    expected_validity,
    latin_square,
    measure,
    sudoku,
)
from dlmbench.models.tasks.__main__ import main

TASKS = [Copy(6), Shuffle(6), Shuffle(6, moved=True), ReplaceOne(6), latin_square(4, 4), sudoku(4, 3, unique=False)]
NAMES = [task.name for task in TASKS]
RANDOM = Settings(temperature=1, remasking="random")


@pytest.mark.parametrize("tokens", [2, 3, 4, None], ids=["k=2", "k=3", "k=4", "all at once"])
@pytest.mark.parametrize("task", TASKS, ids=NAMES)
def test_random_order_stands_on_the_closed_form(task: Task, tokens: int | None) -> None:
    steps = math.ceil(task.length / tokens) if tokens else 1
    found = measure(task, replace(RANDOM, steps=steps), generations=3000, seed=1)
    p_value = found.p_value()
    assert p_value is not None
    assert p_value > 1e-3, found


def test_the_sample_tells_neighbouring_curves_apart() -> None:
    found = measure(Shuffle(6), replace(RANDOM, steps=3), generations=3000, seed=1)
    other = Shuffle(6).independent_validity(Shuffle(6).sample(0), (3, 3))
    assert binomtest(found.valid, found.generations, other).pvalue < 1e-9


@pytest.mark.parametrize("task", [*TASKS, sudoku(4)], ids=[*NAMES, "sudoku with one answer"])
def test_one_token_at_a_time_is_always_right(task: Task) -> None:
    for settings, side in [
        (replace(RANDOM, steps=task.length), "diffusion"),
        (replace(RANDOM, steps=task.length, remasking="low_confidence"), "diffusion"),
        (Settings(temperature=1), "ar"),
    ]:
        found = measure(task, settings, side=side, generations=200)  # type: ignore[arg-type]
        assert found.rate == 1
        assert found.expected in (1, None) or found.expected == pytest.approx(1)


def test_one_answer_survives_any_number_of_tokens_a_step() -> None:
    assert measure(sudoku(4), replace(RANDOM, steps=1), generations=200).rate == 1


def test_blocks_change_a_line_only_through_the_size_of_its_groups() -> None:
    settings = replace(RANDOM, steps=4, block_length=3)  # 2 + 1 in each block
    found = measure(Shuffle(6), settings, generations=3000)
    assert found.expected == pytest.approx(5 / 6 * 1 * 2 / 3 * 1)
    assert (found.p_value() or 0) > 1e-3


def test_low_confidence_puts_off_the_replacement() -> None:
    # n=4 in pairs. A kept token has confidence 3/4, a replaced one 1/4: the first step commits two kept ones unless
    # three (12/256: one of them is committed, right) or four (1/256, wrong) were replaced; the last pair is even.
    valid = 12 / 256 + 243 / 256 / 2
    found = measure(ReplaceOne(4), replace(RANDOM, steps=2, remasking="low_confidence"), generations=3000)
    assert found.expected is None
    assert binomtest(found.valid, found.generations, valid).pvalue > 1e-3
    assert valid < 0.9 * 0.65625  # random order's 3/8 + 9/32


def test_confidence_decides_nothing_where_all_are_equally_sure() -> None:
    found = measure(Shuffle(6), replace(RANDOM, steps=3, remasking="low_confidence"), generations=3000)
    assert binomtest(found.valid, found.generations, 0.3125).pvalue > 1e-3


def test_nothing_is_promised_where_draws_are_changed() -> None:
    task, grid = Shuffle(6), latin_square(4, 8)
    for changed in (
        {"temperature": 0.5},
        {"top_k": 3},
        {"top_p": 0.9},
        {"cfg_scale": 1.0},
        {"remasking": "low_confidence"},
    ):
        assert expected_validity(task, task.sample(0), replace(RANDOM, steps=3, **changed)) is None  # type: ignore[arg-type]
    assert expected_validity(grid, grid.sample(0), replace(RANDOM, steps=8, block_length=4)) is None
    assert expected_validity(grid, grid.sample(0), replace(RANDOM, steps=8)) is not None
    assert expected_validity(sudoku(9), sudoku(9).sample(0), replace(RANDOM, steps=9)) is None


@pytest.mark.parametrize("task", TASKS, ids=NAMES)
def test_causal_probabilities_multiply_to_one_over_the_answers(task: Task) -> None:
    # The chain rule: read left to right, every right answer has the same probability.
    instance = task.sample(3)
    network = PerfectMarginals(task)
    generator = Autoregressive(network)
    request = Request(torch.tensor([instance.prompt] * 4), task.length, Settings(temperature=1), 7)
    generator.prepare(request.shape, request.settings)
    ids = torch.cat([request.prompt_ids, generator.generate(request, Silent())], dim=1)
    logs = network.logits(network.trunk(ids, mask="causal"))[:, task.prompt_length - 1 : -1]
    chosen = logs.gather(2, ids[:, task.prompt_length :, None])
    assert instance.answers is not None
    torch.testing.assert_close(chosen.sum(dim=(1, 2)), torch.full((4,), -math.log(instance.answers)))


def test_the_cache_is_what_was_read() -> None:
    task = ReplaceOne(5)
    network, ids = PerfectMarginals(task), torch.tensor([[*task.sample(0).prompt, *task.sample(0).prompt[:4]]])
    cache = KVCache(network.config, 1, 11, torch.bfloat16, "cpu")
    parts = [network.trunk(ids[:, a:b], mask="causal", cache=cache, start=a) for a, b in [(0, 6), (6, 7), (7, 10)]]
    assert torch.equal(torch.cat(parts, dim=1), network.trunk(ids, mask="causal"))


def test_a_lost_canvas_is_filled_evenly_and_never_with_the_mask() -> None:
    task = Shuffle(3, 4)
    prompt = list(task.sample(0).prompt)
    hidden = PerfectMarginals(task).trunk(torch.tensor([[*prompt, prompt[0], prompt[0], 4]]), mask="bidirectional")
    assert hidden[0, 5].tolist() == [0, 0, 0, 0, -math.inf]


def test_refusals() -> None:
    with pytest.raises(InputError, match="only its scorer"):
        PerfectMarginals(sudoku(9))
    with pytest.raises(InputError, match="generations 0"):
        measure(Copy(3), RANDOM, generations=0)
    with pytest.raises(InputError, match="T=4 exceeds"):
        measure(Copy(3), replace(RANDOM, steps=4))
    network = PerfectMarginals(Copy(3))
    with pytest.raises(InputError, match="prompt of 3 and an answer of 3"):
        network.trunk(torch.zeros(1, 5, dtype=torch.int64), mask="bidirectional")
    with pytest.raises(InputError, match="bidirectional without a cache, or causal"):
        network.trunk(torch.zeros(1, 6, dtype=torch.int64), mask="block_causal")
    network.rotary(6)
    cache = KVCache(network.config, 1, 6, torch.float32, "cpu")
    with pytest.raises(InputError, match="choose the engine eager"):
        network.static_step(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), cache, 6)


def test_the_table_can_be_printed_and_refuses_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tasks", "--generations", "20"])
    main()
    printed = capsys.readouterr().out
    assert "  2      0.3125   " in printed
    assert "scorer only" in printed
    monkeypatch.setattr(sys, "argv", ["tasks", "--generations", "0"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err.splitlines()[-1].endswith("generations 0, instances 8: expected at least 1 of each")
