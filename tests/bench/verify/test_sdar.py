"""The check of SDAR: it passes on the recording, skips what ours does differently, and sees changes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dlmbench import InputError
from dlmbench.bench.verify import sdar
from dlmbench.bench.verify.sdar import MostProbable, _overtaken
from dlmbench.bench.verify.sdar import _settings as settings
from dlmbench.models.block_forwards import Blocks


@pytest.fixture
def copied(recording: Callable[[str], Any]) -> Any:
    return recording("sdar")


def test_everything_recorded_agrees_but_what_is_skipped(copied: Any) -> None:
    folder = copied.checked()
    assert [item for item in folder.items if item.passed is False] == []
    assert folder.left_over() == []
    recorded = copied.described()["runs"]
    skipped = {run["name"] for run in recorded if "raises" in run or not run["prompt_preserved"]}
    assert {item.name for item in folder.items if item.passed is None} == skipped
    names = {item.name for item in folder.items}
    for run in recorded:
        if run["name"] not in skipped:
            assert {f"{run['name']}.{part}" for part in ("tokens", "forwards", "store_kv_calls")} <= names


def test_a_changed_weight_fails(copied: Any) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.0.self_attn.q_proj.weight"][0] += 0.5

    copied.change("model.safetensors", edit)
    found = copied.failed()
    assert {"logits_block_causal", "logits_full_attention", "logits_kvcache_last_block"} <= set(found)


def test_a_changed_token_fails(copied: Any) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        tensors["sequential.b4s4.tokens"][0, -1] += 1

    copied.change("io_generate.safetensors", edit)
    assert copied.failed() == ["sequential.b4s4.tokens"]


@pytest.mark.parametrize("name", ["block_causal_mask", "train_mask_example_n8_bs4"])
def test_a_changed_mask_fails(name: str, copied: Any) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        flat = tensors[name].view(-1)
        flat[5] = ~flat[5]

    copied.change("io.safetensors", edit)
    assert copied.failed() == [name]


def test_another_amount_of_work_fails(copied: Any) -> None:
    def edit(run: dict[str, Any]) -> None:
        if run["name"] == "low_confidence_dynamic.b6s4.thr0.25":
            run["forwards"] += 1
            run["forward_lengths"][0] += 1
            run["store_kv_calls"][-1] = False
            run["masks_left"] = 1

    copied.edit_runs(edit)
    parts = ("forwards", "forward_lengths", "store_kv_calls", "masks_left")
    assert copied.failed() == [f"low_confidence_dynamic.b6s4.thr0.25.{part}" for part in parts]


def test_names_are_only_names(copied: Any) -> None:
    # A run is what its fields say: renamed, it still passes; with another threshold, it does not.
    def rename(tensors: dict[str, Tensor]) -> None:
        tensors["mine.tokens"] = tensors.pop("low_confidence_dynamic.b4s4.thr0.25.tokens")

    def edit(run: dict[str, Any]) -> None:
        if run["name"] == "low_confidence_dynamic.b4s4.thr0.25":
            run["name"] = "mine"

    copied.change("io_generate.safetensors", rename)
    copied.edit_runs(edit)
    assert copied.failed() == []
    copied.edit_runs(lambda run: run.update(confidence_threshold=0.99) if run["name"] == "mine" else None)
    assert {"mine.tokens", "mine.forwards"} <= set(copied.failed())


def test_missing_parts_are_told_apart(copied: Any) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        del tensors["sequential.b4s1.tokens"]

    copied.change("io_generate.safetensors", edit)
    copied.edit_runs(lambda run: run.pop("greedy", None))
    folder = copied.checked()
    assert [item.name for item in folder.items if item.passed is False] == ["sequential.b4s1"]
    assert {item.note for item in folder.items if item.name == "sequential.b4s2"} == {"its draws were not recorded"}


def test_a_step_that_wants_more_than_is_left_is_seen() -> None:
    # Two steps of two on a block of four, of which one position is the prompt's: the second finds one mask.
    run = {"remasking_strategy": "low_confidence_static", "block_length": 4, "denoising_steps": 2}
    blocks = Blocks(1, 3, 4)
    assert _overtaken(run, blocks)
    assert not _overtaken(run, Blocks(4, 4, 4))
    # How many a threshold left is not recorded: what our own run committed must not turn a miss into a skip.
    assert not _overtaken(run | {"remasking_strategy": "low_confidence_dynamic"}, blocks)
    assert not _overtaken(run | {"remasking_strategy": "sequential"}, blocks)


def test_an_error_of_ours_under_a_threshold_is_a_miss(copied: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a lower one it leaves fewer masks than the next step's k, which once passed for the original's doing."""
    name = "low_confidence_dynamic.b4s2.thr0.5"
    copied.keep_runs(name)
    monkeypatch.setattr(sdar, "_settings", lambda run, blocks: replace(settings(run, blocks), threshold=0.25))
    found = copied.checked().items
    assert not [item for item in found if item.passed is None and item.name == name]
    assert [item.name for item in found if item.passed is False] == [f"{name}.tokens"]


@pytest.mark.parametrize("flagged", [False, True])
def test_an_overwritten_prompt_is_seen_in_the_recorded_tokens(flagged: bool, copied: Any) -> None:
    """Whatever the flag says if there is one; without it, the tokens themselves."""
    name = "sequential.b4s4"
    copied.keep_runs(name)
    copied.edit_runs(lambda run: run.update(prompt_preserved=True) if flagged else run.pop("prompt_preserved"))
    copied.bump("io_generate.safetensors", f"{name}.tokens", (0, 0), 1)
    (item,) = (item for item in copied.checked().items if item.name in (name, f"{name}.tokens"))
    assert item.passed is (False if flagged else None)


def test_nothing_is_drawn() -> None:
    weights = torch.tensor([[1.0, 3.0, 2.0]])
    assert MostProbable().tokens(weights, torch.tensor([0]), (1, 1)).tolist() == [1]
    with pytest.raises(InputError, match="random numbers"):
        MostProbable().uniform(1, 1)
    with pytest.raises(InputError, match="random positions"):
        MostProbable().positions(weights, 1)
