"""The recorded MDLM passes; whatever is changed in the recording or in the weights is found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlmbench import InputError
from dlmbench.bench.verify.folder import Folder
from dlmbench.bench.verify.mdlm import check

GOLDEN = Path(__file__).parents[2] / "golden" / "mdlm"
RUN = "ddpm_cache.notc.steps20"


@pytest.fixture
def copied(recording: Callable[[str], Any]) -> Any:
    return recording("mdlm")


def test_the_recording_passes() -> None:
    folder = Folder(GOLDEN)
    check(folder)
    assert [item.name for item in folder.items if item.passed is not True] == ["the measured loop"]
    assert folder.left_over() == []
    names = {item.name for item in folder.items}
    runs = json.loads((GOLDEN / "generate.json").read_text())["runs"]
    for run in runs:
        for part in ("draws", "probs_step0", "probs_last", "x_final", "nfe"):
            assert f"{run['name']}.{part}" in names
    assert len(runs) == 7


@pytest.mark.parametrize(
    ("file", "name", "index", "by", "found"),
    [
        ("io.safetensors", "subs_score_no_time_cond", (0, 3, 5), 0.01, "subs_score_no_time_cond"),
        ("io.safetensors", "sigma", (1,), 0.01, "sigma"),
        ("io_generate.safetensors", f"{RUN}.x_final", (0, 2), 1, f"{RUN}.x_final"),
        ("io_generate.safetensors", f"{RUN}.draws", (7, 0, 2), 1, f"{RUN}.draws"),
        ("io_generate.safetensors", f"{RUN}.draws", (19, 0, 2), 1, f"{RUN}.draws"),
        ("io_generate.safetensors", f"{RUN}.probs_step0", (0, 2, 8), 1e-4, f"{RUN}.probs_step0"),
        ("io_generate.safetensors", f"{RUN}.probs_last", (0, 2, 8), 1e-4, f"{RUN}.probs_last"),
        ("model_bare.safetensors", "output_layer.linear.bias", (0,), 0.5, "model_bare.safetensors"),
    ],
)
def test_a_changed_number_is_found(
    file: str, name: str, index: tuple[int, ...], by: float, found: str, copied: Any
) -> None:
    copied.bump(file, name, index, by)
    assert set(copied.failed()) == {found}


def test_a_changed_weight_is_found(copied: Any) -> None:
    copied.bump("model.safetensors", "backbone.blocks.1.mlp.2.bias", (5,), 0.5)
    names = set(copied.failed())
    assert {"logits_time_cond", "logits_no_time_cond", "model_bare.safetensors"} <= names
    assert any(name.endswith("probs_step0") for name in names)


def test_changed_forwards_and_steps_are_found(copied: Any) -> None:
    recorded = copied.described()
    recorded["runs"][2]["nfe"] += 1
    recorded["runs"][0]["num_steps"] += 1
    recorded["runs"][1]["num_steps"] -= 1
    copied.describe(recorded)
    items = copied.items()
    assert items[f"{RUN}.nfe"].note == "8, recorded 9"
    assert "4 times that are recorded" in items[recorded["runs"][0]["name"]].note
    assert "1 of 4 recorded draws" in items[f"{recorded['runs'][1]['name']}.uniforms"].note
    wrong = {name for name, item in items.items() if item.passed is False}
    assert wrong == {f"{RUN}.nfe", recorded["runs"][0]["name"], f"{recorded['runs'][1]['name']}.uniforms"}


def test_missing_draws_fail_that_run_alone(copied: Any) -> None:
    copied.change("io_generate.safetensors", lambda tensors: tensors.pop(f"{RUN}.uniforms"))
    copied.change(
        "io_generate.safetensors",
        lambda tensors: tensors.update({"ddpm.tc.steps4.uniforms": tensors["ddpm.tc.steps4.uniforms"][..., :-1]}),
    )
    items = copied.items()
    assert {name for name, item in items.items() if item.passed is False} == {RUN, "ddpm.tc.steps4"}
    assert f"{RUN}.uniforms is missing" in items[RUN].note
    assert "needs uniforms [2, 8, 97], recorded are [2, 8, 96]" in items["ddpm.tc.steps4"].note


def test_what_is_not_ours_is_skipped_with_the_reason(copied: Any) -> None:
    recorded = copied.described()
    recorded["runs"][0]["noise_removal"] = False
    copied.describe(recorded)
    item = copied.items()[recorded["runs"][0]["name"]]
    assert item.passed is None
    assert "without noise removal" in item.note


def test_parts_of_a_folder_are_enough(copied: Any) -> None:
    for name in ("generate.json", "io_generate.safetensors", "model_bare.safetensors", "config_training_repo.json"):
        (copied.path / name).unlink()
    assert set(copied.failed()) == set()
    assert "logits_time_cond" in copied.items()


def test_another_systems_folder_is_refused() -> None:
    with pytest.raises(InputError, match="holds no MDLM network"):
        check(Folder(GOLDEN.with_name("sedd_absorb")))
