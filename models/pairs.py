"""Matched pairs, from TOML: one backbone, two ways to decode it, and the overrides where the two sides differ.

A pair file holds `description`, `source` (where the shape comes from), a `[backbone]` table in `BackboneConfig`'s
fields, and, per side, an optional `generator` and `[ar.backbone]` / `[diffusion.backbone]` with the fields that differ.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from .. import InputError
from .config import BackboneConfig
from .names import AR, MASKED_DIFFUSION
from .tables import read_table, shipped


class SideSpec(BaseModel):
    """One side of a pair: the generator's name and the shape that it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    generator: str
    backbone: BackboneConfig


class Pair(BaseModel):
    """Two generators matched on one backbone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str = ""
    source: str = ""
    ar: SideSpec
    diffusion: SideSpec

    @property
    def vocabulary(self) -> int:
        """Ids below this are valid on both sides."""
        return min(self.ar.backbone.vocab_size, self.diffusion.backbone.vocab_size)

    def on_checkpoint(self, name: str, config: BackboneConfig) -> Pair:
        """This pair's generators on a checkpoint's shape, the same on both sides."""
        sides = {
            side: SideSpec(generator=getattr(self, side).generator, backbone=config) for side in ("ar", "diffusion")
        }
        return Pair(
            name=name,
            description=f"{name}: one checkpoint, decoded both ways",
            source="the checkpoint's config",
            **sides,
        )


def pair_names() -> list[str]:
    """Names of the pairs that ship, smallest first."""
    names = shipped(__package__, "pairs")
    return sorted(names, key=lambda name: (load_pair(name).ar.backbone.total_parameters, name))


def load_pair(reference: str) -> Pair:
    """A shipped pair by name, or one from a `.toml` file. Raises InputError naming file, key and expectation."""
    name, table, place = read_table(reference, kind="pair", package=__package__, folder="pairs")
    base = table.pop("backbone", None)
    if not isinstance(base, dict):
        raise InputError(f"{place}: [backbone] is missing; expected a table of the backbone's shape")
    sides = {side: _side(table.pop(side, {}), base, side, f"{place}") for side in ("ar", "diffusion")}
    try:
        return Pair.model_validate({"name": name, **table, **sides})
    except ValidationError as error:
        detail = error.errors()[0]
        raise InputError(f"{place}: {'.'.join(map(str, detail['loc']))}: {detail['msg']}") from None


def _side(table: Any, base: dict[str, Any], side: str, place: str) -> SideSpec:
    if not isinstance(table, dict):
        raise InputError(f"{place}: {side}: expected a table, found {table!r}")
    overrides = table.pop("backbone", {})
    generator = table.pop("generator", AR if side == "ar" else MASKED_DIFFUSION)
    if not isinstance(generator, str):
        raise InputError(f"{place}: {side}.generator: expected a generator's name, found {generator!r}")
    if table:
        raise InputError(f"{place}: {side}.{next(iter(table))}: unknown key; expected generator or backbone")
    try:
        return SideSpec(generator=generator, backbone=BackboneConfig.model_validate({**base, **overrides}))
    except (ValidationError, TypeError) as error:
        if not isinstance(error, ValidationError):
            raise InputError(f"{place}: {side}.backbone: expected a table") from None
        detail = error.errors()[0]
        key = ".".join(map(str, detail["loc"])) or "backbone"
        found = f", found {detail['input']!r}" if detail["loc"] and detail["type"] != "missing" else ""
        raise InputError(f"{place}: backbone.{key} ({side} side): {detail['msg']}{found}") from None
