"""Matched pairs, from TOML: one backbone, two ways to decode it, and the overrides where the two sides differ.

A pair file holds `description`, `source` (where the shape comes from), a `[backbone]` table in the fields of its family
(`BackboneConfig`'s, or with `family = "dit"` `DiTConfig`'s), and, per side, an optional `generator`, `hub` (the
published checkpoint), `trained` (the checkpoint that ships) and `[ar.backbone]` / `[diffusion.backbone]` with the
fields that differ.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from .. import InputError
from .architecture import NetworkConfig, network_config
from .names import (
    AR,
    BLOCK_DIFFUSION,
    DREAM,
    FAST_DLLM,
    LLADA,
    MASKED_DIFFUSION,
    RANDOM,
    SDAR,
    SPECULATIVE,
)
from .systems import System
from .tables import read_table, shipped
from .trained import reference_to

Side = Literal["ar", "diffusion"]


class SideSpec(BaseModel):
    """One side of a pair: the generator's name, the shape that it runs, and its weights.

    `hub` is the published checkpoint, `trained` the name of the one that ships, `weights` what is to be measured:
    "random", `trained:NAME`, or a checkpoint's folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    generator: str
    hub: str | None = None
    trained: str | None = None
    weights: str = RANDOM
    backbone: NetworkConfig


class Pair(BaseModel):
    """Two generators matched on one backbone; `rivals` are measured beside them and match less closely."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str = ""
    source: str = ""
    rivals: tuple[str, ...] = ()
    ar: SideSpec
    diffusion: SideSpec

    @property
    def vocabulary(self) -> int:
        """Ids below this are valid on both sides."""
        return min(self.ar.backbone.vocab_size, self.diffusion.backbone.vocab_size)

    def seen_from(self, side: str) -> tuple[SideSpec, SideSpec]:
        """The side "ar" or "diffusion", and its partner."""
        return (self.ar, self.diffusion) if side == "ar" else (self.diffusion, self.ar)

    def on_checkpoint(self, name: str, system: System, folder: str) -> Pair:
        """One checkpoint decoded both ways: this pair's AR generator and the generator that the checkpoint is for."""
        own = system.generator if system.generator != MASKED_DIFFUSION else self.diffusion.generator
        sides = {
            side: SideSpec(generator=generator, backbone=system.config, weights=folder)
            for side, generator in (("ar", self.ar.generator), ("diffusion", own))
        }
        return Pair(
            name=name,
            description=f"{name}: one checkpoint, decoded both ways",
            source="the checkpoint's config",
            **sides,
        )

    def on_trained(self, *sides: Side) -> Pair:
        """This pair on the checkpoints that ship for these sides; InputError where there is none."""
        changed: dict[str, SideSpec] = {}
        for side in sides:
            spec = self.ar if side == "ar" else self.diffusion
            if spec.trained is None:
                raise InputError(f"pair {self.name} ships no trained weights for its {side} side; choose others")
            changed[side] = spec.model_copy(update={"weights": reference_to(spec.trained)})
        return self.model_copy(update=changed)

    @property
    def default(self) -> Pair:
        """This pair on the weights that it is measured with unless others are asked for: trained ones if they ship."""
        ships = self.ar.trained is not None and self.diffusion.trained is not None
        return self.on_trained("ar", "diffusion") if ships else self

    def with_side(self, side: Side, system: System, folder: str) -> Pair:
        """This pair with a checkpoint on one side; where its config differs from the pair's file, the config wins."""
        spec = self.ar if side == "ar" else self.diffusion
        generator = spec.generator
        if side == "diffusion" and system.generator != MASKED_DIFFUSION and not _serves(generator, system.generator):
            generator = system.generator
        loaded = SideSpec(
            generator=generator, hub=spec.hub, trained=spec.trained, backbone=system.config, weights=folder
        )
        return self.model_copy(update={side: loaded})


def _serves(generator: str, system: str) -> bool:
    """Whether a pair's generator is one for a checkpoint of this system: its own, or another one that fits it."""
    others = {LLADA: (MASKED_DIFFUSION, FAST_DLLM), DREAM: (FAST_DLLM,), SDAR: (BLOCK_DIFFUSION,)}
    return generator in (system, SPECULATIVE, *others.get(system, ()))


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
    hub, trained = table.pop("hub", None), table.pop("trained", None)
    for key, value in (("generator", generator), ("hub", hub), ("trained", trained)):
        if not isinstance(value, str | None):
            raise InputError(f"{place}: {side}.{key}: expected a name, found {value!r}")
    if table:
        raise InputError(
            f"{place}: {side}.{next(iter(table))}: unknown key; expected generator, hub, trained or backbone"
        )
    if not isinstance(overrides, dict):
        raise InputError(f"{place}: {side}.backbone: expected a table")
    # A side of another family shares no field with the pair's table.
    same = overrides.get("family", base.get("family", "llama")) == base.get("family", "llama")
    try:
        shape = network_config({**base, **overrides} if same else overrides)
        return SideSpec(generator=generator, hub=hub, trained=trained, backbone=shape)
    except InputError as error:
        raise InputError(f"{place}: backbone ({side} side): {error}") from None
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(map(str, detail["loc"])) or "backbone"
        found = f", found {detail['input']!r}" if detail["loc"] and detail["type"] != "missing" else ""
        raise InputError(f"{place}: backbone.{key} ({side} side): {detail['msg']}{found}") from None
