"""The recorded MDLM passes; whatever is changed in the recording or in the weights is found."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dlmbench import InputError
from dlmbench.bench.verify.folder import Folder, Item
from dlmbench.bench.verify.mdlm import check

GOLDEN = Path(__file__).parents[2] / "golden" / "mdlm"
RUN = "ddpm_cache.notc.steps20"


def checked(path: Path) -> dict[str, Item]:
    folder = Folder(path)
    check(folder)
    return {item.name: item for item in folder.items}


def failed(path: Path) -> set[str]:
    return {name for name, item in checked(path).items() if item.passed is False}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The recording, to change."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "copy"))


@pytest.fixture
def change(copy: Path) -> Callable[..., None]:
    """A function that changes one tensor of a file in the copy; None removes it."""

    def apply(file: str, name: str, how: Callable[[Tensor], Tensor] | None) -> None:
        tensors = load_file(copy / file)
        if how is None:
            del tensors[name]
        else:
            tensors[name] = how(tensors[name]).contiguous()
        save_file(tensors, copy / file)

    return apply


def bumped(index: tuple[int, ...], by: float) -> Callable[[Tensor], Tensor]:
    def apply(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor[index] += torch.tensor(by).to(tensor.dtype)
        return tensor

    return apply


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
    file: str, name: str, index: tuple[int, ...], by: float, found: str, copy: Path, change: Callable[..., None]
) -> None:
    change(file, name, bumped(index, by))
    assert failed(copy) == {found}


def test_a_changed_weight_is_found(copy: Path, change: Callable[..., None]) -> None:
    change("model.safetensors", "backbone.blocks.1.mlp.2.bias", bumped((5,), 0.5))
    names = failed(copy)
    assert {"logits_time_cond", "logits_no_time_cond", "model_bare.safetensors"} <= names
    assert any(name.endswith("probs_step0") for name in names)


def test_changed_forwards_and_steps_are_found(copy: Path) -> None:
    recorded = json.loads((copy / "generate.json").read_text())
    recorded["runs"][2]["nfe"] += 1
    recorded["runs"][0]["num_steps"] += 1
    recorded["runs"][1]["num_steps"] -= 1
    (copy / "generate.json").write_text(json.dumps(recorded))
    items = checked(copy)
    assert items[f"{RUN}.nfe"].note == "8, recorded 9"
    assert "4 times that are recorded" in items[recorded["runs"][0]["name"]].note
    assert "1 of 4 recorded draws" in items[f"{recorded['runs'][1]['name']}.uniforms"].note
    wrong = {name for name, item in items.items() if item.passed is False}
    assert wrong == {f"{RUN}.nfe", recorded["runs"][0]["name"], f"{recorded['runs'][1]['name']}.uniforms"}


def test_missing_draws_fail_that_run_alone(copy: Path, change: Callable[..., None]) -> None:
    change("io_generate.safetensors", f"{RUN}.uniforms", None)
    change("io_generate.safetensors", "ddpm.tc.steps4.uniforms", lambda tensor: tensor[..., :-1])
    items = checked(copy)
    assert {name for name, item in items.items() if item.passed is False} == {RUN, "ddpm.tc.steps4"}
    assert f"{RUN}.uniforms is missing" in items[RUN].note
    assert "needs uniforms [2, 8, 97], recorded are [2, 8, 96]" in items["ddpm.tc.steps4"].note


def test_what_is_not_ours_is_skipped_with_the_reason(copy: Path) -> None:
    recorded = json.loads((copy / "generate.json").read_text())
    recorded["runs"][0]["noise_removal"] = False
    (copy / "generate.json").write_text(json.dumps(recorded))
    item = checked(copy)[recorded["runs"][0]["name"]]
    assert item.passed is None
    assert "without noise removal" in item.note


def test_parts_of_a_folder_are_enough(copy: Path) -> None:
    for name in ("generate.json", "io_generate.safetensors", "model_bare.safetensors", "config_training_repo.json"):
        (copy / name).unlink()
    assert failed(copy) == set()
    assert "logits_time_cond" in checked(copy)


def test_another_systems_folder_is_refused() -> None:
    with pytest.raises(InputError, match="holds no MDLM network"):
        check(Folder(GOLDEN.with_name("sedd_absorb")))
