"""A training that stops and goes on ends at the same bits; damaged files are refused and left alone."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dlmbench import InputError
from dlmbench.models.training.files import ready, write_whole
from dlmbench.models.training.loop import Progress, Training
from dlmbench.models.training.shapes import MODELS, Model
from dlmbench.models.training.state import STATE, load_state, save_state

Make = Callable[[Model], Training]


def run(training: Training, steps: int) -> Training:
    for _ in range(steps):
        training.progress = training.progress.after(training.advance(), training.recipe.steps, 1.0)
    return training


def weights(training: Training) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in training.network.named_parameters()}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stop", [1, 4])
def test_going_on_is_bitwise_the_same(training: Make, tmp_path: Path, model: Model, stop: int) -> None:
    whole = run(training(model), 6)
    save_state(run(training(model), stop), tmp_path)
    second = training(model)
    assert load_state(second, tmp_path)
    assert second.progress.step == stop
    run(second, 6 - stop)
    assert second.progress == whole.progress
    expected = weights(whole)
    for name, value in weights(second).items():
        assert torch.equal(value, expected[name]), name
    assert any(not torch.equal(value, expected[name]) for name, value in weights(training(model)).items())


def test_training_learns(training: Make) -> None:
    made = training("ar")
    first = made.advance()
    assert min(made.advance() for _ in range(30)) < first  # the progress stands still: one batch again and again


def test_no_state_is_a_beginning(training: Make, tmp_path: Path) -> None:
    assert not load_state(training("ar"), tmp_path)


@pytest.mark.parametrize("keep", [0, 7, 100, 0.5, -1])
def test_a_torn_state_is_refused(training: Make, tmp_path: Path, keep: float) -> None:
    save_state(run(training("ar"), 1), tmp_path)
    path = tmp_path / STATE
    data = path.read_bytes()
    torn = data[: int(keep * len(data)) if isinstance(keep, float) else keep]
    path.write_bytes(torn)
    with pytest.raises(InputError, match=r"state\.safetensors: cannot be read .*; delete it") as caught:
        load_state(training("ar"), tmp_path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == torn


def test_a_state_of_another_training_is_refused(training: Make, tmp_path: Path) -> None:
    save_state(run(training("ar"), 1), tmp_path)
    with pytest.raises(InputError, match="another training"):
        load_state(training("mdlm"), tmp_path)
    other = training("ar")
    other.recipe = other.recipe.model_copy(update={"seed": 1})
    with pytest.raises(InputError, match="another training"):
        load_state(other, tmp_path)


def test_a_full_disk_leaves_the_older_state(training: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run(training("ar"), 1)
    save_state(made, tmp_path)
    before = (tmp_path / STATE).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\).*--resume"):
        save_state(run(made, 1), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [STATE]
    assert (tmp_path / STATE).read_bytes() == before


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for call in (lambda: ready(tmp_path / "file"), lambda: write_whole(tmp_path / "file" / "x", b"")):
        with pytest.raises(InputError, match="file"):
            call()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read anything
    with pytest.raises(InputError, match="no permission to read and write it"):
        ready(tmp_path)


def test_a_loss_that_is_no_number_stops_the_training(training: Make) -> None:
    made = training("mdlm")
    with torch.no_grad():
        made.network.embedding.fill_(torch.inf)
    with pytest.raises(InputError, match="mdlm: the loss is nan at step 1, expected a number; train again with --lr"):
        made.advance()


def test_the_curve_holds_means() -> None:
    progress = Progress()
    for loss in (1.0, 3.0, 5.0):
        progress = progress.after(loss, 300, 0.5)
    assert (progress.step, progress.curve, progress.pending, progress.seconds) == (3, ((3, 3.0),), (), 1.5)
    assert progress.after(2.0, 300, 0.5).pending == (2.0,)
    # The last step makes a point of what is left.
    assert Progress(step=300, pending=(2.0,)).after(4.0, 301, 0.1).curve == ((301, 3.0),)
