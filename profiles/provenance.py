"""Where code comes from: the commit of a file or package that git tracks, or of the folder it was installed from.

An installed copy says by PEP 610's `direct_url.json` where it was installed from. If that is a folder, the folder may
have moved on since: its commit is taken, and whether the copy's files are that commit's is found by comparing them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution
from itertools import accumulate
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from .git import GitError, git, git_state
from .record import Origin

_PACKAGE = "dlmbench"
_TIMEOUT_S = 10.0
_COMPILED = {".pyc", ".so", ".pyd", ".dylib", ".dll"}
_INSTALLED = {"site-packages", "dist-packages"}
# The main module, which is part of one of the others, and what an editable install finds its package by.
_NO_UNITS = ("__main__", "__mp_main__", "__editable__")


def origin_of(path: Path) -> Origin:
    """Where the file or package folder at `path` comes from. Nothing is raised: what is not known has a reason."""
    here = Path(os.path.abspath(path))
    owner = _owner(here, _Installations())
    if owner is not None:
        return _installed(here, owner)
    here = here.resolve()
    state = _tracked(here)
    if state is None:
        return Origin(path=str(here), why="git does not track it, and no installed distribution lists it")
    return Origin(path=str(here), **state)


def loaded_origins(modules: Mapping[str, ModuleType]) -> dict[str, Origin]:
    """The origins of what is loaded and came from no package index, by name; a plug-in's file goes by its path.

    That is dlmbench, however it was installed, and what is not the standard library's, is run from where it lies, or
    was installed from a folder or a repository.
    """
    installations = _Installations()
    found: dict[str, Origin] = {}
    for name, path in _units(modules):
        if name != _PACKAGE:
            home = next((folder for folder in path.parents if installations.of(folder)), None)
            if home is None and (_is_standard(path) or _INSTALLED & set(path.parts)):
                continue
            if home is not None and _owner(path, installations, direct=True) is None:
                continue
        found[str(path) if ":" in name else name] = origin_of(path)
    return found


def installed_from(found: Distribution) -> Path | None:
    """The folder that a distribution was installed from, editable or not; None: from elsewhere, or it does not say."""
    direct = _direct_url(found)
    parts = urlsplit(str(direct.get("url", "")))
    return Path(url2pathname(parts.path)) if parts.scheme == "file" and "dir_info" in direct else None


def public_url(url: str) -> str:
    """An address without what may be secret in it: user, password, query and fragment."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="", fragment="").geturl()


class _Installations:
    """The `*.dist-info` folders in each folder that was looked at."""

    def __init__(self) -> None:
        self._known: dict[Path, list[Path]] = {}

    def of(self, folder: Path) -> list[Path]:
        if folder not in self._known:
            self._known[folder] = sorted(folder.glob("*.dist-info"))
        return self._known[folder]


def _units(modules: Mapping[str, ModuleType]) -> Iterator[tuple[str, Path]]:
    """The outermost package (its folder) or module (its file) of each, namespace packages looked into, and what was
    loaded into a package from outside its folder.

    """
    homes: dict[str, str] = {}
    for name in sorted(modules):
        file = getattr(modules[name], "__file__", None)
        if not isinstance(file, str) or name.startswith(_NO_UNITS):
            continue
        file = os.path.abspath(file)
        above = (homes[parent] for parent in accumulate(name.split("."), "{}.{}".format) if parent in homes)
        if any(file.startswith(home) for home in above) or not os.path.isfile(file):
            continue
        home, is_package = os.path.dirname(file), hasattr(modules[name], "__path__")
        if is_package:
            homes[name] = home + os.sep
        yield name, Path(home if is_package else file)


def _is_standard(path: Path) -> bool:
    libraries = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    return any(path.is_relative_to(library) or path.resolve().is_relative_to(library) for library in libraries)


def _tracked(path: Path) -> dict[str, Any] | None:
    """Commit and state of the repository that has `path` in its commit, or None; a file's state is its folder's."""
    folder = path if path.is_dir() else path.parent
    if folder != path:
        try:
            git(folder, "cat-file", "-e", f"HEAD:./{path.name}", timeout_s=_TIMEOUT_S)
        except GitError:
            return None
    return git_state(folder, _TIMEOUT_S)


def _owner(path: Path, installations: _Installations, *, direct: bool = False) -> Distribution | None:
    """The installed distribution that lists the file, or the package's first file; `direct`: only if from no index."""
    for folder in path.parents:
        name = path.relative_to(folder).as_posix()
        wanted = {f"{start}{name}{end}" for start in ("\n", '\n"') for end in (",", '",', "/__init__.py,")}
        for installed in installations.of(folder):
            if direct and not (installed / "direct_url.json").exists():
                continue
            listed = "\n" + (Distribution.at(installed).read_text("RECORD") or "")
            if any(line in listed for line in wanted):
                return Distribution.at(installed)
    return None


def _installed(path: Path, owner: Distribution) -> Origin:
    known = {"path": str(path), "distribution": owner.metadata["Name"], "version": owner.version}
    direct = _direct_url(owner)
    source = installed_from(owner)
    if not direct:
        return Origin(**known, why="installed from a package index")
    if source is None:
        commit = (direct.get("vcs_info") or {}).get("commit_id")
        why = "installed from an archive" if commit is None else None
        return Origin(**known, source=public_url(str(direct.get("url", ""))), commit=commit, why=why)
    state = git_state(source, _TIMEOUT_S)
    if state is None:
        return Origin(**known, source=str(source), why=f"installed from {source}, which git does not track")
    return Origin(
        **known, source=str(source), commit=state["commit"], dirty=not _copied(owner, source, state["commit"])
    )


def _direct_url(found: Distribution) -> dict[str, Any]:
    try:
        direct = json.loads(found.read_text("direct_url.json") or "{}")
    except ValueError:
        return {}
    return direct if isinstance(direct, dict) else {}


def _copied(owner: Distribution, source: Path, commit: str) -> bool:
    """Whether every file of the installed distribution, but for compiled ones, is byte for byte one of the commit's."""
    try:
        listed = git(source, "ls-tree", "-r", "-z", "--full-tree", commit, timeout_s=_TIMEOUT_S)
        blobs = {entry.split("\t")[0].split()[2] for entry in listed.split("\0") if entry}
        digest = hashlib.sha1 if len(commit) == 40 else hashlib.sha256
        for file in owner.files or ():
            if file.suffix in _COMPILED or ".dist-info/" in str(PurePosixPath(file)) or ".." in file.parts:
                continue
            content = Path(str(file.locate())).read_bytes()
            # How git names a file's content.
            if digest(b"blob %d\0" % len(content) + content).hexdigest() not in blobs:
                return False
    except (GitError, OSError):
        return False
    return True
