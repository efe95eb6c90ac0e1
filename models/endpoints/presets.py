"""The servers that dlmbench knows by name, from `presets.toml`."""

from __future__ import annotations

import functools
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ... import InputError

_FILE = Path(__file__).with_name("presets.toml")
GENERIC = "openai"


class Preset(BaseModel):
    """How a known server wants to be asked; see the file's own comments. `tokenize` is whose /tokenize it has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    url: str | None = None
    model: str | None = None
    side: Literal["ar", "diffusion"] | None = None
    key_env: str | None = None
    ignore_eos: str | None = None
    diffusing: str | None = None
    tokenize: Literal["vllm", "llamacpp"] | None = None
    note: str = ""


@functools.cache
def presets() -> dict[str, Preset]:
    """All presets by name."""
    tables = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    return {name: Preset(name=name, **table) for name, table in tables.items()}


def preset(name: str) -> Preset:
    """The preset of that name. Raises InputError, which lists them, for any other."""
    found = presets().get(name)
    if found is None:
        raise InputError(f"preset {name[:80]!r}: unknown; expected one of {', '.join(presets())}")
    return found
