"""JSON files that tell their schema's version: read by every later dlmbench, refused in one line otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from .. import InputError

_Model = TypeVar("_Model", bound=BaseModel)


def read_versioned(
    path: Path, kind: type[_Model], newest: int, *, expected: str, again: str, missing: str | None = None
) -> _Model:
    """The document in a file. Raises InputError, in one line that names the file.

    `expected` says what the file should be ("expected a run written by dlmbench"), `again` how to get a sound one
    ("restore it or measure again"), `missing` what to say where there is no such file.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(missing or f"{path}: cannot be read as JSON ({error}); {expected}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); {again}") from None
    version: Any = document.get("schema_version") if isinstance(document, dict) else None
    if not isinstance(version, int):
        raise InputError(f"{path}: no schema_version; {expected}")
    if version > newest:
        raise InputError(
            f"{path}: schema_version {version} is newer than this dlmbench reads ({newest}); upgrade dlmbench"
        )
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error)}; {again}") from None


def first_problem(error: ValidationError) -> str:
    """Where a document is not what it should be, and what is wrong there."""
    detail = error.errors()[0]
    where = ".".join(str(part) for part in detail["loc"]) or "document"
    return f"{where}: {detail['msg']}"
