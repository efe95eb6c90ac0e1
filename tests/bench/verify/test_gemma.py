"""Recorded outcomes of transformers' own DiffusionGemma and Gemma 4 against our counts and hidden states."""

from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dlmbench import InputError
from dlmbench.bench.verify.command import verify_command

GOLDEN = Path(__file__).parents[2] / "golden" / "diffusion_gemma"
RECIPE = "verified_recipe.json"


def verified(path: Path) -> dict[str, dict[str, Any]]:
    document = verify_command(path, Console(file=StringIO(), width=120))
    assert document["system"] == "gemma"
    return {item["item"]: item for item in document["items"]}


def recipe() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / RECIPE).read_text())
    return content


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "folder"))


def spoil(folder: Path, *path: str, value: Any) -> Path:
    """The recipe with one outcome changed."""
    content = recipe()
    target = content
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    (folder / RECIPE).write_text(json.dumps(content))
    return folder


def results(items: dict[str, dict[str, Any]], kind: str) -> set[str]:
    return {name for name, item in items.items() if item["result"] == kind}


def test_the_recording_passes_with_reasons_for_what_it_cannot_say() -> None:
    items = verified(GOLDEN)
    assert results(items, "pass") == {
        "parameters with vision tower",
        "generated positions",
        "decoder forwards",
        "encoder passes: one a canvas",
        "tokens per decoder forward",
        "parameters of the AR twin",
        "AR twin: cached tokens equal uncached",
        "AR twin: hidden states equal the encoder's",
        "AR twin: tensors that are not the encoder's own",
    }
    assert results(items, "miss") == set()
    assert {name: items[name]["note"] for name in results(items, "not checked")} == {
        "diffusion_gemma.init.vision=False": "full-size vision tower: never built here, it is neither run nor counted",
        "diffusion_gemma.generate.vision=False": (
            "full-size vision tower: never built here, it is neither run nor counted"
        ),
        "diffusion_gemma.forward+selfcond+save_load": "its values follow from weights of an unknown seed",
        "gemma4_ar.dense": "DiffusionGemma has no dense variant, so neither has its pair",
        "generate: token ids": "drawn from weights of an unknown seed",
    }


@pytest.mark.parametrize(
    ("outcome", "field", "value", "missed", "note"),
    [
        ("diffusion_gemma.init.vision=True", "params", 234157, "parameters with vision tower",
         "234156, recorded 234157"),
        ("gemma4_ar.moe", "params", 180000, "parameters of the AR twin", "180684, recorded 180000"),
        ("diffusion_gemma.generate.vision=True", "tokens_per_forward", [4.0, 4.0], "tokens per decoder forward",
         "2.0, recorded 4.0"),
    ],
)  # fmt: skip
def test_a_changed_outcome_is_a_miss(
    folder: Path, outcome: str, field: str, value: Any, missed: str, note: str
) -> None:
    items = verified(spoil(folder, "results", outcome, "result", field, value=value))
    assert results(items, "miss") == {missed}
    assert note in items[missed]["note"]


def test_an_outcome_that_breaks_its_check_fails_alone(folder: Path) -> None:
    items = verified(spoil(folder, "results", "gemma4_ar.moe", value={"ok": False, "error": "no"}))
    assert results(items, "miss") == {"gemma4_ar.moe"}
    assert items["gemma4_ar.moe"]["note"].startswith("KeyError")
    assert "decoder forwards" in results(items, "pass")


def test_an_outcome_of_another_type_fails_alone(folder: Path) -> None:
    items = verified(spoil(folder, "results", "gemma4_ar.moe", value=None))
    assert results(items, "miss") == {"gemma4_ar.moe"}


def test_an_unknown_outcome_is_listed(folder: Path) -> None:
    items = verified(spoil(folder, "results", "something.new", value={}))
    assert items["something.new"]["note"] == "no check knows this outcome"
    assert results(items, "miss") == set()


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("results",), None, "text_config or results is missing; record it again"),
        (("text_config",), [], "text_config or results is missing; record it again"),
        (("text_config", "num_experts"), None, "num_experts"),
        (("text_config", "hidden_size"), "wide", "hidden_size"),
    ],
)
def test_a_recipe_without_its_parts_is_bad_input(folder: Path, path: tuple[str, ...], value: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        verified(spoil(folder, *path, value=value))


def test_a_recipe_with_no_outcomes_has_nothing_to_check(folder: Path) -> None:
    with pytest.raises(InputError, match="holds no recorded output"):
        verified(spoil(folder, "results", value={}))
