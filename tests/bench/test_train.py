"""`dlmbench train`: what it writes, that it goes on where it was, and one line for what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

TINY = (
    "--steps", "6", "--batch", "2", "--length", "16", "--hidden", "32", "--layers", "1", "--threads", "1",
    "--save-every", "2", "--jobs", "1",
)  # fmt: skip
HEAVY = ("torch", "pandas", "matplotlib", "transformers", "scipy", "numpy", "tokenizers")


def weights(folder: Path) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(folder / "model.safetensors").items()}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """`stop_at(5)`: Control-C before the fifth step from now; `stop_at(None)`: no more."""
    from dlmbench.models.training.loop import Training

    plain = Training.advance

    def arm(steps: int | None) -> None:
        left = [steps]

        def advance(self: Training) -> float:
            if left[0] is not None:
                left[0] -= 1
                if left[0] <= 0:
                    raise KeyboardInterrupt
            return plain(self)

        monkeypatch.setattr(Training, "advance", advance)

    return arm


def test_all_four_models(command: Callable[..., Any], tmp_path: Path) -> None:
    from dlmbench.models.systems import read_system

    outcome = command("train", *TINY, "--out", tmp_path / "t", "--json")
    document = json.loads(outcome.out)
    assert (outcome.code, outcome.err) == (0, "")
    assert list(document["models"]) == ["ar", "mdlm", "sedd", "block-diffusion"]
    for model, card in document["models"].items():
        assert card["tokens"] == 6 * 2 * 16
        assert [step for step, _ in card["curve"]] == [1, 2, 3, 4, 5, 6]
        assert card["held_out"]["kind"] == ("exact" if model == "ar" else "bound")
        assert (card["held_out"]["mc_error"] == 0) == (model == "ar")
        # Nothing can cost less than the source itself charges, beyond the Monte Carlo error.
        assert card["held_out"]["ratio"] > 1
        assert json.loads((tmp_path / "t" / model / "training.json").read_text()) == card
        assert read_system(tmp_path / "t" / model).config.num_hidden_layers == 1
    same = [document["models"][model]["parameters"] for model in ("ar", "mdlm", "block-diffusion")]
    assert len(set(same)) == 1
    assert "| sedd |" in (tmp_path / "t" / "card.md").read_text()
    assert not list((tmp_path / "t").rglob("state*"))


def test_people_read_a_table(command: Callable[..., Any], tmp_path: Path) -> None:
    outcome = command("train", *TINY, "--model", "ar", "--out", tmp_path / "t", "--dtype", "bf16")
    assert outcome.code == 0
    assert "entropy rate" in outcome.out
    assert "ar: held-out" in outcome.err
    assert {tensor.dtype for tensor in load_file(tmp_path / "t/ar/model.safetensors").values()} == {
        __import__("torch").bfloat16
    }


@pytest.mark.parametrize("model", ["ar", "block-diffusion"])
def test_resume_ends_at_the_same_bits(
    command: Callable[..., Any], tmp_path: Path, stop_at: Callable[[int | None], None], model: str
) -> None:
    assert command("train", *TINY, "--model", model, "--out", tmp_path / "whole", "--json").code == 0
    stop_at(6)
    stopped = command("train", *TINY, "--model", model, "--out", tmp_path / "parts")
    assert stopped.code == 130
    assert f"dlmbench train --resume {tmp_path / 'parts'}" in stopped.err
    assert (tmp_path / "parts" / model / "state.safetensors").exists()
    stop_at(None)
    outcome = command("train", "--resume", tmp_path / "parts", "--json")
    assert outcome.code == 0
    assert weights(tmp_path / "parts" / model) == weights(tmp_path / "whole" / model)
    cards = [json.loads((tmp_path / name / model / "training.json").read_text()) for name in ("whole", "parts")]
    assert cards[0] | {"seconds": 0} == cards[1] | {"seconds": 0}


def test_resume_of_what_is_done_changes_nothing(
    command: Callable[..., Any], tmp_path: Path, stop_at: Callable[[int | None], None]
) -> None:
    first = command("train", *TINY, "--model", "mdlm", "--out", tmp_path / "t", "--json")
    before = files(tmp_path / "t")
    stop_at(1)
    second = command("train", "--resume", tmp_path / "t", "--json")
    assert json.loads(second.out) == json.loads(first.out)
    assert files(tmp_path / "t") == before


@pytest.mark.slow
def test_a_kill_costs_the_steps_since_the_last_state(command: Callable[..., Any], tmp_path: Path) -> None:
    options = ("--model", "ar", "--batch", "2", "--length", "16", "--hidden", "32", "--layers", "1", "--threads", "1")
    plain = ("train", *options, "--steps", "300", "--save-every", "1")
    command(*plain, "--out", tmp_path / "whole", "--json")
    process = subprocess.Popen(
        [sys.executable, "-m", "dlmbench.bench.cli", *plain, "--out", str(tmp_path / "killed"), "--json"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    state = tmp_path / "killed" / "ar" / "state.safetensors"
    deadline = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert command("train", "--resume", tmp_path / "killed", "--json").code == 0
    assert weights(tmp_path / "killed" / "ar") == weights(tmp_path / "whole" / "ar")


def test_a_text_of_ones_own(command: Callable[..., Any], tmp_path: Path) -> None:
    from dlmbench.models.tokenizer import TEXT_FOLDER

    text = tmp_path / "mine.txt"
    text.write_text("All work and no play makes a dull day. " * 300)
    outcome = command("train", *TINY, "--corpus", text, "--out", tmp_path / "t", "--json")
    document = json.loads(outcome.out)
    assert outcome.code == 0
    assert document["data"]["entropy_rate"] is None
    assert document["models"]["sedd"]["held_out"]["ratio"] is None
    for model in document["models"]:
        stored = (tmp_path / "t" / model / "tokenizer.json").read_bytes()
        assert stored == (TEXT_FOLDER / "tokenizer.json").read_bytes()
    # Another text under the same name is another training.
    text.write_text("Something else altogether. " * 300)
    assert "has changed since this training began" in command("train", "--resume", tmp_path / "t").complaint


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "bert"], "--model 'bert' is unknown; choose from ar, mdlm, sedd, block-diffusion"),
        (["--steps", "0"], "--steps 0: expected 1 to"),
        (["--batch", "0"], "--batch 0"),
        (["--batch", "1000000"], "--batch 1000000"),
        (["--length", "12"], "--length: length 12 is no whole number of blocks of 8"),
        (["--length", "2048"], "--length 2048: expected 1 to 1024"),
        (["--hidden", "40"], "--hidden 40"),
        (["--hidden", "512"], "--hidden 512: expected 1 to 352"),
        (["--layers", "0"], "--layers 0"),
        (["--lr", "0"], "--lr 0"),
        (["--lr", "nan"], "--lr nan"),
        (["--lr", "-1"], "--lr -1"),
        (["--seed", "-1"], "--seed -1"),
        (["--seed", "9" * 30], "--seed 9"),
        (["--save-every", "0"], "--save-every 0"),
        (["--dtype", "int8"], "--dtype 'int8'"),
        (["--threads", "0"], "--threads 0"),
        (["--threads", "100000"], "--threads 100000"),
        (["--tokenizer", "x.json"], "give --corpus FILE too"),
        (["--corpus", "nosuch.txt"], "nosuch.txt: no such file"),
        (["--resume", "nosuch"], "no such file; expected the folder of a training"),
        (["--resume", "nosuch", "--steps", "5"], "--steps: --resume goes on with what"),
        (["--resume", "nosuch", "--quick"], "--quick: --resume goes on"),
        (["--steps", "x"], "--steps"),
        (["extra"], "extra"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_bad_input_is_refused_in_one_line(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in command("train", *arguments).complaint
    assert list(tmp_path.iterdir()) == []


def test_a_short_corpus_is_refused(command: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Too short.")
    complaint = command("train", *TINY, "--corpus", tmp_path / "a.txt", "--out", tmp_path / "t").complaint
    assert "expected at least 320 for windows of 16" in complaint
    assert not (tmp_path / "t").exists()


def test_taken_and_unusable_folders_are_refused(command: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    assert "not an empty folder; choose another" in command("train", *TINY, "--out", tmp_path / "full").complaint
    assert files(tmp_path) == {"full/thesis.txt": b"precious"}
    assert "cannot be written" in command("train", *TINY, "--out", "/proc/no/such").complaint
    (tmp_path / "plain").write_text("")
    assert "not an empty folder" in command("train", *TINY, "--out", tmp_path / "plain").complaint


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": 2}', '{"schema_version": 1, "models": ["x"]}'])
def test_a_broken_plan_is_refused(command: Callable[..., Any], tmp_path: Path, content: str) -> None:
    (tmp_path / "train.json").write_text(content)
    assert "train.json" in command("train", "--resume", tmp_path).complaint
    assert files(tmp_path) == {"train.json": content.encode()}


def test_a_broken_card_or_state_is_refused(
    command: Callable[..., Any], tmp_path: Path, stop_at: Callable[[int | None], None]
) -> None:
    folder = tmp_path / "t"
    stop_at(4)
    command("train", *TINY, "--model", "ar", "--out", folder, "--json")
    state = folder / "ar" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    before = files(folder)
    assert "state.safetensors: cannot be read" in command("train", "--resume", folder).complaint
    assert files(folder) == before
    state.unlink()
    stop_at(None)
    assert command("train", "--resume", folder, "--json").code == 0  # deleted, as the message says: begun afresh
    (folder / "ar" / "training.json").write_text("{}")
    assert "is not the card of this training" in command("train", "--resume", folder).complaint


def test_a_full_disk_is_said_in_one_line_and_can_be_gone_on_from(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the third state: exit code 2, and the second state is whole and goes on."""
    import errno

    from dlmbench.models.training import files as written

    plain, calls = os.replace, []

    def replace(source: Any, target: Any) -> None:
        calls.append(str(target))
        if sum(name.endswith("state.safetensors") for name in calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(written.os, "replace", replace)
        outcome = command("train", *TINY, "--model", "ar", "--out", tmp_path / "t", "--json")
    assert "No space left on device" in outcome.complaint
    assert command("train", *TINY, "--model", "ar", "--out", tmp_path / "whole", "--json").code == 0
    assert command("train", "--resume", tmp_path / "t", "--json").code == 0
    assert weights(tmp_path / "t" / "ar") == weights(tmp_path / "whole" / "ar")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom dlmbench.bench import cli\nsys.argv = ['dlmbench', 'train', '--help']\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"
    assert "--resume" in done.stdout


def test_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from dlmbench.bench.train_view import TrainView
    from dlmbench.models.training.loop import Progress
    from dlmbench.models.training.recipe import Recipe

    now = [0.0]
    view = TrainView(Console(stderr=True), ("ar", "mdlm"), Recipe(steps=100, batch=2, length=8), clock=lambda: now[0])
    with view:
        view.begin("ar", Progress(step=20))  # resumed: the speed is that of the steps since
        now[0] = 20.0
        view.step("ar", Progress(step=30), 2.5)
    # Two seconds a step of 16 tokens; 70 steps left, and 100 of MDLM's at 0.95 of the work.
    shown = capsys.readouterr().err
    assert "step 30/100, loss 2.500 nats, 8 tok/s, 2 min left, about 6 min with the other models" in shown
    assert "ar: goes on from step 20" in shown


@pytest.mark.slow
def test_models_side_by_side_are_those_of_one_after_the_other(command: Callable[..., Any], tmp_path: Path) -> None:
    models = ("--model", "ar", "--model", "mdlm")
    assert command("train", *TINY, *models, "--out", tmp_path / "one", "--json").code == 0
    beside = [value if value != "1" or TINY[at - 1] != "--jobs" else "2" for at, value in enumerate(TINY)]
    outcome = command("train", *beside, *models, "--out", tmp_path / "two")
    assert outcome.code == 0
    assert "mdlm: held-out" in outcome.err
    for model in ("ar", "mdlm"):
        assert weights(tmp_path / "one" / model) == weights(tmp_path / "two" / model)
    assert "| ar |" in (tmp_path / "two" / "card.md").read_text()
    assert not list((tmp_path / "two").rglob(".*"))


@pytest.mark.slow
def test_a_failure_beside_another_training_is_told_in_its_words(command: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "t"
    command("train", *TINY, "--model", "ar", "--model", "mdlm", "--out", folder, "--json")
    (folder / "mdlm" / "config.json").unlink()
    (folder / "mdlm" / "state.safetensors").write_bytes(b"torn")
    (folder / "ar" / "config.json").unlink()
    outcome = command("train", "--resume", folder, "--jobs", "2", "--json")
    assert outcome.code == 2
    assert "state.safetensors" in outcome.err.splitlines()[-1]


def test_one_model_of_a_training_may_go_on_alone(command: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "t"
    assert command("train", *TINY, "--model", "ar", "--out", folder, "--json").code == 0
    assert command("train", "--resume", folder, "--model", "ar", "--json").code == 0
    assert "--model mdlm: " in command("train", "--resume", folder, "--model", "mdlm").complaint


def test_two_processes_do_not_train_one_model(command: Callable[..., Any], tmp_path: Path) -> None:
    import fcntl

    folder = tmp_path / "t"
    assert command("train", *TINY, "--model", "ar", "--out", folder, "--json").code == 0
    (folder / "ar" / "config.json").unlink()
    with open(folder / "ar" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another process is training this model" in command("train", "--resume", folder, "--json").complaint
    assert command("train", "--resume", folder, "--json").code == 0
