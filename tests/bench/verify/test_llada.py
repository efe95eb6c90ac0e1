"""`verify` of LLaDA: the recorded folders pass whole, and nothing that is wrong in one goes unnoticed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dlmbench import InputError
from dlmbench.bench.verify.folder import RUNS, Folder, Item
from dlmbench.bench.verify.llada import check

GOLDEN = Path(__file__).parents[2] / "golden"

Runs = list[dict[str, Any]]


@pytest.fixture
def copied(recording: Callable[[str], Any]) -> Callable[..., Any]:
    """A function that copies the folder with only the runs whose names it is given, and changes their fields."""

    def copy(*names: str, **changes: Any) -> Any:
        folder = recording("llada")
        folder.keep_runs(*names)
        folder.edit_runs(lambda run: run.update(changes))
        return folder

    return copy


@pytest.mark.parametrize("name", ["llada", "llada_gqa"])
def test_the_recorded_folder_passes(name: str) -> None:
    book = Folder(GOLDEN / name)
    check(book)
    assert [item for item in book.items if item.passed is False] == []
    assert book.left_over() == []
    skipped = [item.name for item in book.items if item.passed is None]
    if name == "llada_gqa":
        assert [item.name for item in book.items] == ["logits"]
        return
    runs: Runs = json.loads((GOLDEN / name / "generate.json").read_text())["runs"]
    assert skipped == [run["name"] for run in runs if "raises" in run]
    checked = {item.name for item in book.items}
    for run in runs:
        if "raises" not in run:
            assert {f"{run['name']}.{what}" for what in ("tokens", "forwards", "unmask_step")} <= checked
    tensors = {"logits", "logits_attention_mask", "prefix_cache_logits", "dual_cache_logits", "hidden_embed",
               "hidden_block1_in", "hidden_final_norm", "kv_cache_layer0_k", "kv_cache_layer0_v"}  # fmt: skip
    assert tensors <= checked


def test_a_perturbed_weight_fails(copied: Callable[..., Any]) -> None:
    folder = copied()

    def perturb(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.transformer.blocks.1.q_proj.weight"][0] += 0.05

    folder.change("model.safetensors", perturb)
    assert {"logits", "hidden_final_norm", "dual_cache_logits"} <= set(folder.failed())


@pytest.mark.parametrize("name", ["orig.g16b8s8", "fast.g16b8.thr0.3", "prefix.g16b8s8", "dual.g16b8.thr0.3"])
def test_a_wrong_token_step_or_count_fails(name: str, copied: Callable[..., Any]) -> None:
    folder = copied(name)

    def other(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{name}.tokens"][0, -1] = (tensors[f"{name}.tokens"][0, -1] + 1) % 80
        tensors[f"{name}.unmask_step"][0, -1] += 1

    folder.change(RUNS, other)
    assert folder.failed() == [f"{name}.tokens", f"{name}.unmask_step"]
    runs = folder.described()
    runs["runs"][0]["forwards"] += 1
    if "forward_lengths" in runs["runs"][0]:
        runs["runs"][0]["forward_lengths"][0] -= 1
    folder.describe(runs)
    wrong = {f"{name}.{what}" for what in ("tokens", "unmask_step", "forwards")}
    wrong |= set() if name.startswith("orig") else {f"{name}.forward_lengths"}
    wrong |= set() if "thr" in name else {f"{name}.promised_nfe"}
    assert set(folder.failed()) == wrong


@pytest.mark.parametrize("change", ["shorter", "longer", "missing", "other shape"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("orig.temp0.7.g8b4s4", "uniforms_f64"), ("orig.random_remask.g8b4s4", "confidence_uniforms")],
)
def test_draws_that_run_out_or_are_left_over_fail(
    name: str, kind: str, change: str, copied: Callable[..., Any]
) -> None:
    folder = copied(name)

    def redraw(tensors: dict[str, torch.Tensor]) -> None:
        draws = tensors.pop(f"{name}.{kind}")
        if change != "missing":
            tensors[f"{name}.{kind}"] = {
                "shorter": draws[:-1], "longer": torch.cat((draws, draws[:1])), "other shape": draws[:, :, 1:]
            }[change].contiguous()  # fmt: skip

    folder.change(RUNS, redraw)
    book = folder.checked()
    (item,) = [item for item in book.items if item.passed is False]
    expected = {
        "shorter": "have run out", "longer": "1 recorded draws were not used", "missing": "draws are not recorded",
        "other shape": "are drawn here",
    }  # fmt: skip
    assert expected[change] in item.note


def test_other_draws_fail(copied: Callable[..., Any]) -> None:
    name = "orig.temp0.7.g8b4s4"
    folder = copied(name)
    folder.change(RUNS, lambda tensors: tensors[f"{name}.uniforms_f64"].copy_(tensors[f"{name}.uniforms_f64"].flip(3)))
    assert f"{name}.tokens" in folder.failed()


def test_a_prompt_with_masks_is_skipped(copied: Callable[..., Any]) -> None:
    folder = copied("orig.g16b8s8")
    folder.change(RUNS, lambda tensors: tensors["prompts"][:, 1].fill_(91))
    book = folder.checked()
    (item,) = [item for item in book.items if item.passed is None]
    assert item == Item("orig.g16b8s8", None, None, None, item.note)
    assert "which the reference fills in" in item.note


def test_a_run_that_cannot_be_made_fails_and_the_others_go_on(copied: Callable[..., Any]) -> None:
    folder = copied("orig.g16b8s8", "dual.g16b8s8", prompts="row 7")
    assert folder.failed() == ["orig.g16b8s8", "dual.g16b8s8"]


def test_a_loop_that_nobody_knows_is_skipped(copied: Callable[..., Any]) -> None:
    folder = copied("orig.g16b8s8")
    text = (folder.path / "generate.json").read_text().replace("orig.g16b8s8", "triple.g16b8s8")
    (folder.path / "generate.json").write_text(text)
    book = folder.checked()
    assert [item.note for item in book.items if item.passed is None] == ["no loop 'triple' is known"]


def test_another_mask_id_fails(copied: Callable[..., Any]) -> None:
    folder = copied()
    (folder.path / "generate.json").write_text('{"mask_id": 90, "runs": []}')
    assert folder.failed() == ["mask_id"]


def test_a_folder_of_another_system_is_refused() -> None:
    with pytest.raises(InputError, match="expected LLaDA's network"):
        check(Folder(GOLDEN / "mdlm"))
