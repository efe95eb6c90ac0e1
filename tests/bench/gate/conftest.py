"""Real repositories to try things on: small, and read back byte for byte."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

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
