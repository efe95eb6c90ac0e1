"""What generators refuse and promise, asked of networks that have no numbers: for a dry run. Imports torch."""

from __future__ import annotations

import torch

from ..models.catalog import Context, NetworkSource, outlined
from ..models.generator import Promising
from ..models.pairs import SideSpec
from .opened import generator_of, settings_of, shape_of
from .plan import Plan


def promised_nfe(plan: Plan) -> dict[str, int | None]:
    """Forwards of a generation by the key of each cell; None where data decide them, or nobody can be asked unloaded.

    Raises InputError for a cell that its generator would refuse when it is opened.
    """
    contexts: dict[tuple[str, str, str], Context] = {}
    promised: dict[str, int | None] = {}
    for cell in (cell for pairing in plan.pairings for cell in pairing.cells):
        promised[cell.key] = None
        if not outlined(cell.generator):
            continue
        kind = (cell.pair, cell.side, cell.dtype)
        if kind not in contexts:
            pair = plan.pairs[cell.pair]
            own, other = (pair.ar, pair.diffusion) if cell.side == "ar" else (pair.diffusion, pair.ar)
            source = _source(own)
            contexts[kind] = Context(
                source.config, source.weights, getattr(torch, cell.dtype), plan.device, plan.suite.seed,
                partner=_source(other), outline=True,
            )  # fmt: skip
        generator = generator_of(cell, contexts[kind])
        if isinstance(generator, Promising):
            promised[cell.key] = generator.promised_nfe(shape_of(cell), settings_of(cell))
    return promised


def _source(side: SideSpec) -> NetworkSource:
    return NetworkSource(side.backbone, side.weights)
