"""The recorded SEDDs pass; whatever is changed in the recordings or in the weights is found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlmbench import InputError
from dlmbench.bench.verify.folder import Folder
from dlmbench.bench.verify.sedd import check

GOLDEN = Path(__file__).parents[2] / "golden"
SYSTEMS = ("sedd_absorb", "sedd_uniform")
RUN = "analytic.steps5"


@pytest.fixture(params=SYSTEMS)
def copied(recording: Callable[[str], Any], request: pytest.FixtureRequest) -> Any:
    return recording(request.param)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_recording_passes(system: str) -> None:
    folder = Folder(GOLDEN / system)
    check(folder)
    assert [item for item in folder.items if item.passed is not True] == []
    assert folder.left_over() == []
    names = {item.name for item in folder.items}
    runs = json.loads((GOLDEN / system / "generate.json").read_text())["runs"]
    for run in runs:
        for part in ("draws", "probs_step0", "probs_denoise", "x_final", "nfe"):
            assert f"{run['name']}.{part}" in names
    assert len(runs) == 3


@pytest.mark.parametrize(
    ("file", "name", "index", "found"),
    [
        ("io.safetensors", "euler_probs_seq0", (0, 3, 5), "euler_probs_seq0"),
        ("io.safetensors", "loss_per_sequence", (1,), "loss_per_sequence"),
        ("io_generate.safetensors", f"{RUN}.x_final", (0, 2), f"{RUN}.x_final"),
        ("io_generate.safetensors", f"{RUN}.draws", (5, 0, 2), f"{RUN}.draws"),
        ("io_generate.safetensors", f"{RUN}.probs_denoise", (0, 2, 8), f"{RUN}.probs_denoise"),
    ],
)
def test_a_changed_number_is_found(file: str, name: str, index: tuple[int, ...], found: str, copied: Any) -> None:
    copied.bump(file, name, index, 1)
    assert set(copied.failed()) == {found}


def test_a_changed_weight_is_found(copied: Any) -> None:
    copied.bump("model.safetensors", "sigma_map.mlp.2.weight", (5, 5), 1.0)
    assert {"raw_output", "log_score", "loss_per_sequence"} <= set(copied.failed())


def test_changed_forwards_and_steps_are_found(copied: Any) -> None:
    recorded = copied.described()
    recorded["runs"][0]["nfe"] += 1
    recorded["runs"][1]["steps"] += 1
    recorded["runs"][2]["steps"] -= 1
    copied.describe(recorded)
    first, second, third = (run["name"] for run in recorded["runs"])
    items = copied.items()
    assert items[f"{first}.nfe"].note == "6, recorded 7"
    wrong = {name for name, item in items.items() if item.passed is False}
    # With other steps, draws have other widths (the mask's column is dropped at the end) or are too many or too few.
    assert {name for name in wrong if name.startswith(f"{first}.")} == {f"{first}.nfe", f"{first}.nfe, promised"}
    assert wrong & {second, f"{second}.uniforms"}
    assert wrong & {third, f"{third}.uniforms"}


@pytest.mark.parametrize("part", ["uniforms", "uniforms_denoise", "x_init"])
def test_missing_draws_fail_that_run_alone(part: str, copied: Any) -> None:
    if part == "x_init" and copied.path.name == "sedd_absorb":
        return  # masks at first: nothing is recorded
    copied.change("io_generate.safetensors", lambda tensors: tensors.pop(f"{RUN}.{part}"))
    items = copied.items()
    assert {name for name, item in items.items() if item.passed is False} == {RUN}
    assert f"{RUN}.{part} is missing" in items[RUN].note


def test_what_is_not_ours_is_skipped_with_the_reason(copied: Any) -> None:
    recorded = copied.described()
    recorded["runs"][0]["denoise"] = False
    copied.describe(recorded)
    item = copied.items()[recorded["runs"][0]["name"]]
    assert item.passed is None
    assert "without the denoising draw" in item.note


def test_another_systems_folder_is_refused() -> None:
    with pytest.raises(InputError, match="holds no SEDD network"):
        check(Folder(GOLDEN / "mdlm"))
