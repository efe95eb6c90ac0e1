"""The check of BD3LM: it passes on the recording, and sees every kind of change to it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dlmbench import InputError
from dlmbench.bench.verify.bd3lm import check
from dlmbench.bench.verify.block_race import BlockRace
from dlmbench.bench.verify.folder import Folder, Item

GOLDEN = Path(__file__).parents[2] / "golden" / "bd3lm"


@pytest.fixture
def copied(recording: Callable[[str], Any]) -> Any:
    return recording("bd3lm")


def test_everything_recorded_is_compared_and_agrees(copied: Any) -> None:
    folder = copied.checked()
    assert [item.name for item in folder.items if item.passed is not True] == ["the measured loop"]
    assert folder.left_over() == []
    names = {item.name for item in folder.items}
    for run in copied.described()["runs"]:
        parts = ("probs_step0", "draws", "x_final", "forwards", "sampling_steps_reported")
        assert {f"{run['name']}.{part}" for part in parts} <= names


def test_a_changed_weight_fails(copied: Any) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        name = next(name for name in tensors if name.endswith("blocks.0.attn_qkv.weight"))
        tensors[name][0] += 0.5

    copied.change("model.safetensors", edit)
    found = copied.failed()
    for name in ("logits_train", "logits_kvcache_last_block", "logits_full_attention", "first_hitting.kv.probs_step0"):
        assert name in found


@pytest.mark.parametrize(
    ("run", "part"),
    [
        *((run, part) for run in ("first_hitting.kv", "ddpm.nocache") for part in ("draws", "x_final", "probs_step0")),
        ("first_hitting.kv", "position_choice"),
        ("first_hitting.kv.nucleus0.9", "probs_step0"),
    ],
)
def test_a_changed_recording_fails(run: str, part: str, copied: Any) -> None:
    name = f"{run}.{part}"

    def edit(tensors: dict[str, Tensor]) -> None:
        flat = tensors[name].view(-1)
        flat[-1] = flat[-1] + 1

    copied.change("io_generate.safetensors", edit)
    assert any(found.startswith(run) for found in copied.failed())


@pytest.mark.parametrize("name", ["attention_mask_train", "input_ids_train", "input_ids_kvcache_equiv", "token_nelbo"])
def test_a_changed_output_fails(name: str, copied: Any) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        flat = tensors[name].view(-1)
        flat[3] = ~flat[3] if flat.dtype == torch.bool else flat[3] + 1

    copied.change("io.safetensors", edit)
    assert copied.failed() == [name]


@pytest.mark.parametrize("key", ["forwards", "sampling_steps_reported"])
@pytest.mark.parametrize("run", ["ddpm.kv", "first_hitting.nocache"])
def test_another_number_of_forwards_fails(key: str, run: str, copied: Any) -> None:
    def edit(entry: dict[str, Any]) -> None:
        entry[key] += 1

    copied.edit_runs(edit, run)
    assert f"{run}.{key}" in copied.failed()


@pytest.mark.parametrize("run", ["ddpm.kv", "first_hitting.kv"])
@pytest.mark.parametrize("more", [False, True])
def test_draws_must_neither_run_out_nor_be_left_over(run: str, more: bool, copied: Any) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        name = f"{run}.uniforms"
        tensors[name] = torch.cat((tensors[name], tensors[name][:1])) if more else tensors[name][:-1]

    copied.change("io_generate.safetensors", edit)
    (item,) = (item for item in copied.checked().items if item.passed is False)
    assert run in item.name
    assert ("1 recorded draws were not asked for" if more else "draws more often than the") in item.note


def test_a_run_that_cannot_be_made_fails_alone(copied: Any) -> None:
    copied.edit_runs(lambda run: run.pop("num_strides"), "ddpm.kv")
    items = [item for item in copied.checked().items if item.passed is False]
    assert items == [Item("ddpm.kv", None, None, False, "KeyError: 'num_strides'")]


def test_another_system_is_refused() -> None:
    with pytest.raises(InputError, match="holds no BD3LM network"):
        check(Folder(GOLDEN.parent / "mdlm"))


def test_the_race_replays_in_order_only() -> None:
    uniforms = torch.full((2, 1, 2, 4), 0.5)
    uniforms[:, 0, 1, 2] = 0.99  # the race is won by the largest uniform at equal weights
    weights = torch.ones(2, 4, dtype=torch.float64)
    race = BlockRace(uniforms, torch.tensor([1, 3]), 3, choices=torch.tensor([0, 0]), stays=None)
    with pytest.raises(InputError, match=r"draw 0 is at \[0\], but open are \[1\]"):
        race.tokens(weights[:1], torch.tensor([0]), (1, 2))
    with pytest.raises(InputError, match="a choice of 1 among"):
        race.positions(torch.ones(1, 1), 1)
    assert race.tokens(weights[:1], torch.tensor([1]), (1, 2)).tolist() == [2]
    assert race.draws[0].tolist() == [1, 2]  # the first position holds its token
    assert race.positions(torch.ones(1, 1), 1).tolist() == [[0]]
    assert race.unused == 2
    # Position 1 was kept, so a block of masks follows.
    assert race.tokens(weights, torch.tensor([0, 1]), (1, 2)).shape == (2,)
    with pytest.raises(InputError, match=r"uniforms \[1, 2\] are not recorded"):
        race.uniform(1, 2)
