"""`dlmbench verify`: what passes, misses or is bad input, and that a recording cannot write on the screen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from dlmbench import InputError
from dlmbench.bench.verify.command import verify_command

GOLDEN = Path(__file__).parents[2] / "golden"
IO = "io.safetensors"


def verified(path: Path, width: int = 120) -> tuple[dict[str, Any], str]:
    """The document, and what was shown."""
    screen = StringIO()
    document = verify_command(path, Console(file=screen, width=width, no_color=True, legacy_windows=False))
    return document, screen.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """LLaDA with grouped heads: a checkpoint and one recorded forward, which a test may spoil."""
    return Path(shutil.copytree(GOLDEN / "llada_gqa", tmp_path / "folder"))


def edit(file: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def test_a_folder_that_agrees_passes(folder: Path) -> None:
    document, shown = verified(folder)
    assert (document["system"], document["passed"], document["failed"]) == ("llada", 1, 0)
    (item,) = document["items"]
    assert (item["item"], item["result"], item["tolerance"]) == ("logits", "pass", 1e-4)
    assert item["error"] < 1e-4
    assert shown.rstrip().endswith("llada: 1 passed, 0 missed, 0 not checked: passed")


def test_one_wrong_value_is_a_miss(folder: Path) -> None:
    edit(folder / IO, lambda t: t["logits"][0, 3].__setitem__(5, t["logits"][0, 3, 5] + 0.01))
    document, shown = verified(folder)
    assert (document["passed"], document["failed"]) == (0, 1)
    assert document["items"][0]["error"] == pytest.approx(0.01, rel=0.01)
    assert "MISS" in shown
    assert shown.rstrip().endswith("0 passed, 1 missed, 0 not checked: FAILED")


def test_a_changed_weight_is_a_miss(folder: Path) -> None:
    edit(folder / "model.safetensors", lambda t: t["model.transformer.ln_f.weight"].mul_(1.01))
    assert verified(folder)[0]["failed"] == 1


def test_what_no_check_knows_is_listed_and_fails_nothing(folder: Path) -> None:
    edit(folder / IO, lambda t: t.__setitem__("new_quantity", torch.zeros(2)))
    document, shown = verified(folder)
    assert (document["passed"], document["failed"], document["not_checked"]) == (1, 0, 1)
    assert document["items"][-1] == {
        "item": "new_quantity", "error": None, "tolerance": None, "result": "not checked",
        "note": "no check knows this tensor",
    }  # fmt: skip
    assert "not checked" in shown


# The command


def test_exit_codes_and_the_json_document(command: Any, folder: Path) -> None:
    done = command("verify", folder, "--json")
    assert done.code == 0
    document = json.loads(done.out)
    assert set(document) >= {"folder", "system", "items", "passed", "failed", "not_checked"}
    assert document["folder"] == str(folder)
    assert "logits" in done.err, "the table is for people, on the other stream"
    edit(folder / IO, lambda t: t["logits"].mul_(1.1))
    missed = command("verify", folder, "--json")
    assert missed.code == 1
    assert json.loads(missed.out)["failed"] == 1
    assert command("verify", folder).code == 1


def test_without_json_the_table_is_the_output(command: Any, folder: Path) -> None:
    done = command("verify", folder)
    assert done.code == 0
    assert "logits" in done.out
    assert done.err == ""


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: shutil.rmtree(path), "not a folder"),
        (lambda path: [file.unlink() for file in path.iterdir()], "holds no config.json, schedules.safetensors or"),
        (lambda path: (path / IO).unlink(), IO),
        (lambda path: (path / IO).write_bytes(b"broken"), "io.safetensors: cannot be read"),
        (lambda path: (path / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda path: (path / "model.safetensors").write_bytes(b"x"), "not a whole safetensors file"),
        (lambda path: (path / "config.json").write_text("{"), "config.json: not valid JSON"),
        (lambda path: (path / "config.json").write_text('{"model_type": "mamba"}'), "model_type is 'mamba'"),
        (lambda path: edit(path / IO, lambda t: t.pop("input_ids")), "input_ids is missing"),
        (lambda path: edit(path / "model.safetensors", lambda t: t.popitem()), "1 of 21 tensors missing"),
        (lambda path: (path / "generate.json").write_text("[]"), "generate.json: holds a JSON list"),
    ],
)
def test_bad_input_is_one_line_and_2(command: Any, folder: Path, spoil: Callable[[Path], object], words: str) -> None:
    spoil(folder)
    assert words in command("verify", folder).complaint
    assert words in command("verify", folder, "--json").complaint


def test_a_system_without_a_check_is_named(tmp_path: Path, command: Any) -> None:
    from dlmbench.models.backbone import Backbone
    from dlmbench.models.checkpoints import save_checkpoint
    from dlmbench.models.config import BackboneConfig
    from dlmbench.models.weights import random_network

    config = BackboneConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    network = random_network(config, 0, torch.float32, "cpu")
    assert isinstance(network, Backbone)
    save_checkpoint(network, tmp_path / "llama")
    assert "no check for llama; there is one for mdlm, sedd" in command("verify", tmp_path / "llama").complaint


def test_a_checkpoint_without_recordings_has_nothing_to_check(folder: Path) -> None:
    (folder / IO).unlink()
    with pytest.raises(InputError, match=r"io\.safetensors"):
        verified(folder)


# Hostile recordings

HOSTILE = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "[bold red]markup[/bold red]",
    "[/]",
    "two\nlines\rback",
    "right\u202eto left",
    "null\x00byte",
    "x" * 5000,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_cannot_write_on_the_screen(folder: Path, name: str) -> None:
    """Shown as the text that it is: no escape, no markup, no line of its own; in the document as it was."""
    edit(folder / IO, lambda t: t.__setitem__(name, torch.zeros(1)))
    document, shown = verified(folder)
    assert document["items"][-1]["item"] == name
    assert json.loads(json.dumps(document)) == document
    assert all(character.isprintable() or character == "\n" for character in shown)
    if name.startswith("["):
        assert name in shown
    assert document["failed"] == 0


def test_a_path_cannot_write_on_the_screen(command: Any, tmp_path: Path) -> None:
    assert "not a folder" in command("verify", tmp_path / "\x1b[31mred[/]").complaint


@pytest.mark.parametrize("name", ["[red]llada[/red]", "\x1b[31m"])
def test_a_config_cannot_either(command: Any, folder: Path, name: str) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": name}))
    complaint = command("verify", folder).complaint
    assert "model_type is" in complaint
    assert "\x1b" not in complaint


def test_a_run_with_a_hostile_name_fails_alone(tmp_path: Path) -> None:
    """Runs are repeated from their own fields; one that makes no sense is a miss of its own."""
    path = Path(shutil.copytree(GOLDEN / "llada", tmp_path / "folder"))
    recorded = json.loads((path / "generate.json").read_text())
    good = recorded["runs"][0]
    recorded["runs"] = [good, {**good, "name": "orig.[red]\x1b[31m", "gen_length": "many"}]
    (path / "generate.json").write_text(json.dumps(recorded))
    document, shown = verified(path)
    missed = [item["item"] for item in document["items"] if item["result"] == "miss"]
    assert missed == ["orig.[red]\x1b[31m"]
    assert "\x1b" not in shown
    assert "orig.[red]" in shown


@pytest.mark.parametrize("width", [50, 80])
def test_narrow_screens_keep_every_word(folder: Path, width: int) -> None:
    name = "a_rather_long_name_for_a_tensor_that_nobody_knows"
    edit(folder / IO, lambda t: t.__setitem__(name, torch.zeros(1)))
    _, shown = verified(folder, width)
    rows = shown.splitlines()[:-1]
    assert name in "".join(line.split("  ")[0].strip() for line in rows)
    assert "not checked" in "\n".join(rows)
    assert max(len(line) for line in shown.splitlines()) <= width


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_the_document_is_json_whatever_was_recorded(command: Any, folder: Path, value: float) -> None:
    """NaN and Infinity are no JSON: other programs refuse the whole document."""
    edit(folder / IO, lambda t: t["logits"][0, 0].__setitem__(0, value))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    done = command("verify", folder, "--json")
    assert done.code == 1
    json.loads(done.out, parse_constant=refuse)
