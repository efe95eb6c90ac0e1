"""A copy of a recorded folder for a test to spoil, and what its check then says."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dlmbench.bench.verify.folder import Folder, Item

GOLDEN = Path(__file__).parents[2] / "golden"


@dataclass(frozen=True)
class Recording:
    """The copy at `path`, whose name begins with the system that checks it."""

    path: Path

    def checked(self) -> Folder:
        folder = Folder(self.path)
        importlib.import_module(f"dlmbench.bench.verify.{self.path.name.partition('_')[0]}").check(folder)
        return folder

    def items(self) -> dict[str, Item]:
        return {item.name: item for item in self.checked().items}

    def failed(self) -> list[str]:
        return [item.name for item in self.checked().items if item.passed is False]

    def change(self, file: str, edit: Callable[[dict[str, Tensor]], object]) -> None:
        """Edit the tensors of a file."""
        tensors = load_file(self.path / file)
        edit(tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, self.path / file)

    def bump(self, file: str, name: str, index: tuple[int, ...], by: float) -> None:
        """Add to one number."""

        def edit(tensors: dict[str, Tensor]) -> None:
            tensors[name][index] += torch.tensor(by).to(tensors[name].dtype)

        self.change(file, edit)

    def described(self) -> dict[str, Any]:
        """What generate.json says."""
        content: dict[str, Any] = json.loads((self.path / "generate.json").read_text())
        return content

    def describe(self, content: dict[str, Any]) -> None:
        (self.path / "generate.json").write_text(json.dumps(content))

    def edit_runs(self, edit: Callable[[dict[str, Any]], object], which: str | None = None) -> None:
        """Edit what generate.json says of each run, or of the one named."""
        content = self.described()
        for run in content["runs"]:
            if which in (None, run["name"]):
                edit(run)
        self.describe(content)

    def keep_runs(self, *names: str) -> None:
        content = self.described()
        content["runs"] = [run for run in content["runs"] if run["name"] in names]
        assert len(content["runs"]) == len(names)
        self.describe(content)


@pytest.fixture
def recording(tmp_path: Path) -> Callable[[str], Recording]:
    """A function that copies the recording of a system."""
    return lambda name: Recording(Path(shutil.copytree(GOLDEN / name, tmp_path / name)))


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tiny operations gain nothing from threads, and on a busy machine wait for each other's."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
