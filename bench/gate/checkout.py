"""A commit of the user's repository as a folder of its own.

The folder is a repository that borrows the user's objects: git can prove what lies in it, it sees tags, filters and
submodules as the user's does, and neither its making nor its end leaves a trace in the user's repository.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from ... import InputError
from ...profiles.git import GitError, git
from .repository import Repository, alternate, find_repository, submodules


def check_out(repository: Repository, commit: str, folder: Path, extra: Path | None = None) -> tuple[str, ...]:
    """Write the commit's files to `folder`, submodules included; `extra`: a further store that may hold its objects.

    Returns sentences on what is not there. Raises InputError where objects are missing.
    """
    stores = [repository.objects, *([extra] if extra is not None and extra.exists() else [])]
    try:
        _borrow(repository, folder, stores)
        git(folder, "checkout", "--quiet", "--detach", commit)
        # Of a file whose content is not there git complains, and goes on.
        missing = git(folder, "ls-files", "--deleted", "-z").split("\0")
        if missing[0]:
            raise GitError(f"the content of {missing[0]} is not there")
        modules = submodules(folder, commit)
    except GitError as error:
        raise InputError(
            f"{repository.root}: commit {commit[:12]} cannot be checked out ({error}); see git fsck and git fetch"
        ) from None
    notes: list[str] = []
    for path, at in modules.items():
        notes += _check_out_submodule(repository.root / path, at, folder / path, path)
    return tuple(notes)


def changed_files(folder: Path) -> list[str]:
    """The tracked files of a checkout that differ from its commit.

    Some may do so from the start, where line endings or a filter do not survive the way through the repository.
    """
    listed = git(folder, "status", "--porcelain", "-z", "--untracked-files=no", "--ignore-submodules=untracked")
    return [entry[3:] for entry in listed.split("\0") if entry]


def clean(folder: Path) -> None:
    """Remove from a checkout whatever is not its commit's."""
    git(folder, "clean", "-ffdxq")


def _borrow(repository: Repository, folder: Path, stores: list[Path]) -> None:
    """An empty repository at `folder` with the user's objects, tags and settings."""
    kind = repository.git("rev-parse", "--show-object-format").strip()
    folder.mkdir(parents=True, exist_ok=True)
    # No template: it could bring hooks.
    git(folder, "init", "--quiet", "--template=", f"--object-format={kind}")
    own = folder / ".git"
    (own / "objects" / "info").mkdir(parents=True, exist_ok=True)
    (own / "objects" / "info" / "alternates").write_text("".join(f"{alternate(store)}\n" for store in stores))
    if repository.shallow:
        shutil.copyfile(repository.common / "shallow", own / "shallow")
    settings = {
        # By reference: filters, line endings and the like; secrets that may be among them are not copied.
        "include.path": str(repository.common / "config"),
        "core.bare": "false",
        "core.sparseCheckout": "false",
        "core.hooksPath": os.devnull,
        "core.fsmonitor": "false",
    }
    for name, value in settings.items():
        git(folder, "config", "--add", name, value)
    # Tools that take a version from the last tag need the tags; nothing else does.
    with contextlib.suppress(GitError):
        tags = repository.git("for-each-ref", "--format=create %(refname) %(objectname)", "refs/tags")
        git(folder, "update-ref", "--stdin", given=tags)


def _check_out_submodule(source: Path, commit: str, folder: Path, name: str) -> tuple[str, ...]:
    if not (source / ".git").exists():
        return (f"submodule {name} is not in the working tree, so it is left out here",)
    repository = find_repository(source)
    try:
        repository.git("cat-file", "-e", f"{commit}^{{commit}}")
    except GitError:
        raise InputError(
            f"submodule {name}: commit {commit[:12]} is not in {source}; run: git -C {name} fetch origin {commit}"
        ) from None
    return tuple(f"{name}: {note}" for note in check_out(repository, commit, folder))
