"""TOML tables by name: the ones that ship in a room's folder, or a user's file."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from .. import InputError


def shipped(package: str, folder: str) -> list[str]:
    """Names of the tables in `folder` of `package`, sorted."""
    entries = (resources.files(package) / folder).iterdir()
    return sorted(entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml"))


def read_table(reference: str, *, kind: str, package: str, folder: str) -> tuple[str, dict[str, Any], str]:
    """(name, table, place for messages) of a shipped table by name, or of a `.toml` file by path.

    Raises InputError naming the `kind` of table, what was given and what there is.
    """
    if reference.endswith(".toml"):
        path = Path(reference)
        try:
            return path.stem, _parsed(path.read_text(encoding="utf-8"), str(path)), str(path)
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{kind} file {path}: cannot be read ({error}); give a readable TOML file") from None
    names = shipped(package, folder)
    if reference not in names:
        raise InputError(f"{kind} {reference!r} is unknown; choose from {', '.join(names)}, or give a .toml file")
    text = (resources.files(package) / folder / f"{reference}.toml").read_text(encoding="utf-8")
    return reference, _parsed(text, f"{reference}.toml"), f"{reference}.toml"


def _parsed(text: str, place: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number or a nesting too long has no TOML error of its own
        raise InputError(f"{place}: not valid TOML ({error})") from None
