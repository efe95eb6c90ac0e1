"""What to try a gate on: real repositories, small and read back byte for byte, and workers that answer at once."""

from __future__ import annotations

import hashlib
import os
import random
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


class Scratch:
    """A git repository at `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def git(self, *arguments: str) -> str:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always")
        command = ["git", "-C", str(self.root), "--no-optional-locks", *who, *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def put(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def commit(self, files: dict[str, str], message: str = "a change") -> str:
        """Write files, commit everything, return the commit."""
        for name, text in files.items():
            self.put(name, text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def everything(self) -> dict[str, str]:
        """Every file below the root, git's own among them, by a digest of its content."""
        return {
            str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
        }


@pytest.fixture(autouse=True)
def plain_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """Git without the settings of whoever runs the tests."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)


@pytest.fixture
def scratch(tmp_path: Path) -> Callable[..., Scratch]:
    """`scratch("name", *options of init)` makes an empty repository on branch main; its path is as hostile as a path
    can be that tools other than git take."""

    def make(name: str = "a répo, [x]", *options: str) -> Scratch:
        root = tmp_path / name
        root.mkdir(parents=True)
        made = Scratch(root)
        made.git("init", "--quiet", "--initial-branch=main", *options)
        return made

    return make


WORKER = shlex.join([sys.executable, "-m", "dlmbench.bench.worker"])
FORM = ("--base-cmd", f"{WORKER} --base", "--head-cmd", f"{WORKER} --head")


@pytest.fixture
def gate(
    command: Callable[..., Any],
    handles: Any,
    fakes: ModuleType,
    suite_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Any]:
    """`gate(slower=0.1, key="T=4")` runs a gate whose head takes 10 % longer in cells that have `key` in theirs.

    `started` is told of every worker whose loading is waited for: two a pair of processes, numbered from 0.
    """
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)

    def call(
        *flags: object,
        slower: float = 0.0,
        key: str = "",
        noise: float = 0.004,
        forwards: int = 0,
        broken: str = "",
        started: Callable[[Any], object] = lambda handle: None,
    ) -> Any:
        draw = random.Random(7)

        def plan(handle: Any) -> None:
            head = handle.launch is not None and "--head" in handle.launch.command
            process = draw.gauss(0, noise)

            def latency(cell: Any, number: int) -> float:
                more = slower if head and key in cell.key else 0.0
                return 0.01 * (1 + more) * (1 + process) * (1 + 0.01 * draw.random())

            handle.worker.latency = latency
            handle.worker.more_forwards = forwards if head else 0
            if head and broken:
                handle.worker.failures["sample", broken] = [fakes.refused(message="RuntimeError: broken")]

        handles.plan, handles.ready = staticmethod(plan), staticmethod(started)
        return command("gate", suite_file, *FORM, "--out", tmp_path / "out", "--device", "cpu", *flags)

    return call
