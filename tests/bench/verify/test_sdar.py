"""The check of SDAR: it passes on the recording, skips what ours does differently, and sees changes."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dlmbench import InputError
from dlmbench.bench.verify.folder import Folder
from dlmbench.bench.verify.sdar import MostProbable, _overtaken, check
from dlmbench.bench.verify.tally import Tally
from dlmbench.models.block_forwards import Blocks

GOLDEN = Path(__file__).parents[2] / "golden" / "sdar"


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tiny operations gain nothing from threads, and on a busy machine wait for each other's."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "sdar"))


def checked(path: Path) -> Folder:
    folder = Folder(path)
    check(folder)
    return folder


def failed(path: Path) -> list[str]:
    return [item.name for item in checked(path).items if item.passed is False]


def change(file: Path, edit: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(file)
    edit(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def runs(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    recorded = json.loads((path / "generate.json").read_text())
    for run in recorded["runs"]:
        edit(run)
    (path / "generate.json").write_text(json.dumps(recorded))


def test_everything_recorded_agrees_but_what_is_skipped() -> None:
    folder = checked(GOLDEN)
    assert [item for item in folder.items if item.passed is False] == []
    assert folder.left_over() == []
    recorded = json.loads((GOLDEN / "generate.json").read_text())["runs"]
    skipped = {run["name"] for run in recorded if "raises" in run or not run["prompt_preserved"]}
    assert {item.name for item in folder.items if item.passed is None} == skipped
    names = {item.name for item in folder.items}
    for run in recorded:
        if run["name"] not in skipped:
            assert {f"{run['name']}.{part}" for part in ("tokens", "forwards", "store_kv_calls")} <= names


def test_a_changed_weight_fails(copied: Path) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.0.self_attn.q_proj.weight"][0] += 0.5

    change(copied / "model.safetensors", edit)
    found = failed(copied)
    assert {"logits_block_causal", "logits_full_attention", "logits_kvcache_last_block"} <= set(found)


def test_a_changed_token_fails(copied: Path) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        tensors["sequential.b4s4.tokens"][0, -1] += 1

    change(copied / "io_generate.safetensors", edit)
    assert failed(copied) == ["sequential.b4s4.tokens"]


@pytest.mark.parametrize("name", ["block_causal_mask", "train_mask_example_n8_bs4"])
def test_a_changed_mask_fails(name: str, copied: Path) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        flat = tensors[name].view(-1)
        flat[5] = ~flat[5]

    change(copied / "io.safetensors", edit)
    assert failed(copied) == [name]


def test_another_amount_of_work_fails(copied: Path) -> None:
    def edit(run: dict[str, Any]) -> None:
        if run["name"] == "low_confidence_dynamic.b6s4.thr0.25":
            run["forwards"] += 1
            run["forward_lengths"][0] += 1
            run["store_kv_calls"][-1] = False
            run["masks_left"] = 1

    runs(copied, edit)
    parts = ("forwards", "forward_lengths", "store_kv_calls", "masks_left")
    assert failed(copied) == [f"low_confidence_dynamic.b6s4.thr0.25.{part}" for part in parts]


def test_names_are_only_names(copied: Path) -> None:
    # A run is what its fields say: renamed, it still passes; with another threshold, it does not.
    def rename(tensors: dict[str, Tensor]) -> None:
        tensors["mine.tokens"] = tensors.pop("low_confidence_dynamic.b4s4.thr0.25.tokens")

    def edit(run: dict[str, Any]) -> None:
        if run["name"] == "low_confidence_dynamic.b4s4.thr0.25":
            run["name"] = "mine"

    change(copied / "io_generate.safetensors", rename)
    runs(copied, edit)
    assert failed(copied) == []
    runs(copied, lambda run: run.update(confidence_threshold=0.99) if run["name"] == "mine" else None)
    assert {"mine.tokens", "mine.forwards"} <= set(failed(copied))


def test_missing_parts_are_told_apart(copied: Path) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        del tensors["sequential.b4s1.tokens"]

    change(copied / "io_generate.safetensors", edit)
    runs(copied, lambda run: run.pop("greedy", None))
    folder = checked(copied)
    assert [item.name for item in folder.items if item.passed is False] == ["sequential.b4s1"]
    assert {item.note for item in folder.items if item.name == "sequential.b4s2"} == {"its draws were not recorded"}


def test_a_step_that_wants_more_than_is_left_is_seen() -> None:
    # Two steps of two on a block of four, of which one position is the prompt's: the second finds one mask.
    run = {"remasking_strategy": "low_confidence_static", "block_length": 4, "denoising_steps": 2}
    blocks = Blocks(1, 3, 4)
    assert _overtaken(Tally(), run, blocks, mask_id=9), "fixed counts need no look at what was committed"
    assert not _overtaken(Tally(), run, Blocks(4, 4, 4), mask_id=9)
    run |= {"remasking_strategy": "low_confidence_dynamic"}
    tally = Tally()
    tally.write(torch.tensor([[True, True, False]]), torch.tensor([[5, 5, 9]]), 0, offset=0)
    assert not _overtaken(tally, run, blocks, mask_id=9)
    tally.write(torch.tensor([[False, False, True]]), torch.tensor([[5, 5, 5]]), 1, offset=0)
    assert _overtaken(tally, run, blocks, mask_id=9)
    assert not _overtaken(tally, run | {"remasking_strategy": "sequential"}, blocks, mask_id=9)


def test_nothing_is_drawn() -> None:
    weights = torch.tensor([[1.0, 3.0, 2.0]])
    assert MostProbable().tokens(weights, torch.tensor([0]), (1, 1)).tolist() == [1]
    with pytest.raises(InputError, match="random numbers"):
        MostProbable().uniform(1, 1)
    with pytest.raises(InputError, match="random positions"):
        MostProbable().positions(weights, 1)
