"""The shapes that a network can have, told apart by their `family`. Naming them imports no torch."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from .. import InputError
from .config import BackboneConfig
from .dit_config import DiTConfig
from .gemma_config import GemmaConfig

Config = BackboneConfig | DiTConfig | GemmaConfig

FAMILIES: dict[str, type[Config]] = {"llama": BackboneConfig, "dit": DiTConfig, "gemma": GemmaConfig}


def _family(value: Any) -> str:
    found = value.get("family", "llama") if isinstance(value, dict) else getattr(value, "family", "llama")
    return str(found)


NetworkConfig = Annotated[
    Annotated[BackboneConfig, Tag("llama")] | Annotated[DiTConfig, Tag("dit")] | Annotated[GemmaConfig, Tag("gemma")],
    Discriminator(_family),
]


def network_config(table: dict[str, Any]) -> Config:
    """A shape from plain data; `family` says which, llama by default.

    Raises InputError for an unknown family, pydantic's ValidationError for a field that is wrong.
    """
    family = _family(table)
    if family not in FAMILIES:
        raise InputError(f"family {family!r} is unknown; choose from {', '.join(FAMILIES)}")
    return FAMILIES[family].model_validate(table)
