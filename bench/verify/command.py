"""`dlmbench verify DIR`: does this program compute what the original implementation computed?

A folder holds a checkpoint beside tensors and runs recorded from the original code. The system follows from its
`config.json`; a folder with `schedules.safetensors` alone holds noise schedules, one with `verified_recipe.json` the
configs and outcomes of transformers' own classes.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ... import InputError
from ...models.systems import read_system
from ...reports.plain import plain
from .folder import RUNS, Folder, Item

# The check of each system: a module of this package with a function `check(folder)`.
_CHECKS = {
    "mdlm": "mdlm", "sedd": "sedd", "bd3lm": "bd3lm", "llada": "llada", "dream": "dream", "sdar": "sdar",
}  # fmt: skip


def verify_command(path: Path, console: Console) -> dict[str, Any]:
    """Check the folder, show the table, return it as a JSON document. Raises InputError if nothing can be checked."""
    if not path.is_dir():
        raise InputError(f"{path}: not a folder; give one with a checkpoint and its recorded outputs")
    folder = Folder(path)
    system = _system(folder)
    check = importlib.import_module(f"{__package__}.{system}").check
    try:
        check(folder)
    except InputError:
        raise
    except Exception as error:  # a recording can be malformed in any way, and ends as a miss, not as a crash
        folder.fail(f"{system}: the recording", f"cannot be checked to its end ({type(error).__name__}: {error})")
    described = folder.json("generate.json").get("runs") if folder.has("generate.json") else None
    if folder.names(RUNS) and not described:
        folder.fail("generate.json", f"{RUNS} holds runs, but none is described here")
    folder.items.extend(folder.left_over())
    if not folder.items:
        raise InputError(f"{path}: holds no recorded output; expected io.safetensors beside the checkpoint")
    failed = sum(item.passed is False for item in folder.items)
    passed = sum(item.passed is True for item in folder.items)
    document = {
        "folder": str(path),
        "system": system,
        "items": [_plain(item) for item in folder.items],
        "passed": passed,
        "failed": failed,
        "not_checked": len(folder.items) - passed - failed,
    }
    _show(document, folder.items, console)
    return document


def _system(folder: Folder) -> str:
    if folder.has("config.json"):
        name = read_system(folder.path).name
        if name not in _CHECKS:
            raise InputError(
                f"{folder.path / 'config.json'}: no check for {name}; there is one for {', '.join(_CHECKS)}"
            )
        return _CHECKS[name]
    if folder.has("schedules.safetensors"):
        return "schedules"
    if folder.has("verified_recipe.json"):
        return "gemma"
    raise InputError(
        f"{folder.path}: holds no config.json, schedules.safetensors or verified_recipe.json; expected one of them"
    )


def _plain(item: Item) -> dict[str, Any]:
    result = {True: "pass", False: "miss", None: "not checked"}[item.passed]
    return {
        "item": item.name, "error": item.error, "tolerance": item.tolerance, "result": result, "note": item.note,
    }  # fmt: skip


def _show(document: dict[str, Any], items: list[Item], console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("item", overflow="fold")
    table.add_column("largest error", justify="right", no_wrap=True)
    table.add_column("tolerance", justify="right", no_wrap=True)
    table.add_column("result", no_wrap=True)
    styles = {True: "green", False: "bold red", None: "yellow"}
    words = {True: "pass", False: "MISS", None: "not checked"}
    for item in items:
        error = "" if item.error is None else f"{item.error:.2g}"
        tolerance = "" if item.tolerance is None else "exact" if item.tolerance == 0 else f"{item.tolerance:.0e}"
        name = Text(plain(item.name))
        if item.note:
            name.append(f"\n  {plain(item.note)}", style="dim")
        table.add_row(name, error, tolerance, Text(words[item.passed], style=styles[item.passed]))
    console.print(table)
    verdict = "FAILED" if document["failed"] else "passed" if document["passed"] else "nothing was checked"
    text = (
        f"{document['system']}: {document['passed']} passed, {document['failed']} missed, "
        f"{document['not_checked']} not checked: {verdict}"
    )
    console.print(Text(text, style="green" if verdict == "passed" else "bold red"))
