"""Runs first in every Python of a side: what the side has not, it gets from the environment that the gate runs in.

A copy of this file lies in the side's own environment, with what it has to know beside it as JSON. The side's packages
come first; then its checkout; then the parent environment with all that it was told about editable installs. What
would lead into the user's own tree leads to the same place in the side's checkout instead, or nowhere: a module that
only the other side has must not be found.
"""

from __future__ import annotations

import json
import os
import site
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any


class Places:
    """The user's tree, and the folders of the side that stands in for it (its checkout the first of them)."""

    def __init__(self, tree: str, own: Sequence[str]) -> None:
        self._tree = tree
        self._own = own

    def of_side(self, path: str) -> bool:
        """Whether a path lies in a folder of the side."""
        return any(_inside(os.path.realpath(path), folder) for folder in self._own)

    def of_user(self, path: str) -> bool:
        """Whether a path lies in the user's tree, and not in an environment that lies there too."""
        real = os.path.realpath(path)
        return _inside(real, self._tree) and not self.of_side(real) and not _is_environment(real)

    def mapped(self, path: str) -> str:
        """The path, or its place in the checkout where it lies in the user's tree."""
        if not self.of_user(path):
            return path
        return os.path.normpath(os.path.join(self._own[0], os.path.relpath(os.path.realpath(path), self._tree)))


class Kept:
    """A finder of the parent environment, kept from what is the side's.

    It is not asked for what lies below a package of the side, and what it finds in the user's tree it has not found.
    """

    def __init__(self, finder: Any, places: Places) -> None:
        self._finder = finder
        self._places = places

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        above = getattr(sys.modules.get(name.rpartition(".")[0]), "__file__", None)
        if above is not None and self._places.of_side(above):
            return None
        spec: ModuleSpec | None = self._finder.find_spec(name, path, target)
        found = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
        return None if any(place is not None and self._places.of_user(place) for place in found) else spec

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


def lay(places: Places, paths: Sequence[str], sites: Sequence[str]) -> None:
    """Put `paths` and the parent's site folders `sites` behind what is on the path of modules now."""
    before, finders = list(sys.path), list(sys.meta_path)
    sys.path += paths
    for folder in sites:
        site.addsitedir(folder)
    added = [places.mapped(path) for path in sys.path if path not in before]
    sys.path[:] = [*before, *dict.fromkeys(added)]
    sys.meta_path[:] = [
        finder if finder in finders or not hasattr(finder, "find_spec") else Kept(finder, places)
        for finder in sys.meta_path
    ]


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _is_environment(path: str) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(Path(path).parts)


def main() -> None:
    """Read what to do from the JSON file beside this one, and do it."""
    told = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    lay(Places(told["tree"], told["own"]), told["paths"], told["sites"])
