"""What a pair's trained networks do apart from any cell: the lesson's sentence, tasks, likelihood, infilling.

Nothing here is timed. Each study needs networks that speak the embedded source's words; where a study does not apply,
`Studies.why` says so under its name.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..models.autoregressive import Autoregressive
from ..models.backbone import Backbone
from ..models.catalog import Context
from ..models.gemma_config import GemmaConfig
from ..models.generator import Request, Settings, Shape, Silent
from ..models.infill import infill
from ..models.names import RANDOM
from ..models.network import Network
from ..models.scoring import token_log_probs
from ..models.source import Source
from ..models.training.data import seed_of
from ..models.training.shapes import Model
from ..profiles.quality.intervals import share
from ..profiles.record import Value
from ..profiles.studies import InfillStudy, LikelihoodStudy, Studies
from .likelihood import LENGTH, held_out, held_out_ids, objective_of
from .sentence import sentence_study
from .task_curves import task_curves

_LEFT, _GAP, _RIGHT = 24, 8, 16
_BEST_OF = 8


def pair_studies(
    pair: str, generator: str, context: Context, source: Source | None, *, seed: int, tasks: bool = True
) -> Studies:
    """All studies of a pair, on its diffusion side's context (`context.partner` is AR); `tasks` also those of none."""
    curves = task_curves(seed) if tasks else ()
    partner = context.partner
    if source is None or partner is None or partner.weights == RANDOM or isinstance(context.config, GemmaConfig):
        missing = "the pair has no weights on both sides that were trained on the embedded source (dlmbench train)"
        return Studies(pair=pair, tasks=curves, why=dict.fromkeys(("sentence", "infill", "likelihood"), missing))
    ar, network = context.partner_network(), context.network()
    kind = objective_of(generator)
    why: dict[str, str] = {}
    both_ways = kind == "mdlm" and isinstance(network, Backbone)
    if not both_ways:
        reason = f"{generator}: not a masked diffusion model that sees the whole canvas and needs no noise level"
        why |= {"sentence": reason, "infill": reason}
    if kind is None:
        why["likelihood"] = f"{generator}: the bound that its network was trained on is not known"
    return Studies(
        pair=pair,
        tasks=curves,
        sentence=sentence_study(network, source, seed=seed) if both_ways else None,
        infill=infill_study(ar, network, source, seed=seed) if both_ways else None,
        likelihood=None if kind is None else likelihood_study(ar, network, kind, source, seed=seed),
        why=why,
    )


def likelihood_study(
    ar: Network, network: Network, kind: Model, source: Source, *, seed: int, texts: int = 128, passes: int = 4
) -> LikelihoodStudy:
    """Nats a token of `texts` texts of the source under both networks: AR's exact, the other's a bound.

    The texts are of a seed that no training uses.
    """
    nats: dict[str, Value] = {}
    exact: dict[str, bool] = {}
    error: dict[str, float] = {}
    sides: tuple[tuple[str, Network, Model], ...] = (("ar", ar, "ar"), ("diffusion", network, kind))
    for side, judged, model in sides:
        found = held_out(judged, model, source, texts=texts, passes=passes, seed=seed)
        nats[side], exact[side], error[side] = found.nats, found.exact, found.monte_carlo_error
    ids = held_out_ids(source, texts, seed).numpy()
    own = -float(source.score(ids).log_prob.sum()) / ids.size
    return LikelihoodStudy(texts=texts, length=LENGTH, nats=nats, exact=exact, monte_carlo_error=error, source=own)


def infill_study(ar: Network, network: Network, source: Source, *, seed: int, texts: int = 192) -> InfillStudy:
    """Fill a gap in texts of the source: by the diffusion network, by AR, and by AR with the best of several tries.

    The last is what AR can do about it at several times the cost: draw fills, and keep the one after which it finds
    the right side likeliest.
    """
    whole = torch.from_numpy(source.texts(texts, _LEFT + _GAP + _RIGHT, seed_of("infill", seed)).astype(np.int64))
    whole = whole.to(network.device)
    mask_id, eos_id = source.tokenizer.mask_id, source.tokenizer.eos_id
    assert mask_id is not None
    assert eos_id is not None
    begin, end = _LEFT, _LEFT + _GAP
    right = whole[:, end:].repeat_interleave(_BEST_OF, dim=0)
    left = whole[:, :begin].repeat_interleave(_BEST_OF, dim=0)
    drawn = torch.cat((left, _continued(ar, left, seed), right), dim=1)
    fits = token_log_probs(ar, drawn, eos_id)[:, end:].sum(dim=1).view(texts, _BEST_OF)
    tries = drawn.view(texts, _BEST_OF, -1)
    filled = {
        "diffusion": infill(network, whole, begin, end, mask_id=mask_id, seed=seed),
        "ar": tries[:, 0],
        f"ar, best of {_BEST_OF}": tries[torch.arange(texts, device=fits.device), fits.argmax(dim=1)],
    }
    validity, example = {}, {"original": _shown(source, whole[0], begin, end)}
    for name, ids in filled.items():
        valid = source.score(ids.cpu().numpy()).valid
        validity[name] = share(int(valid.sum()), texts)
        example[name] = _shown(source, ids[0], begin, end)
    return InfillStudy(texts=texts, left=_LEFT, gap=_GAP, right=_RIGHT, validity=validity, example=example)


@torch.inference_mode()
def _continued(ar: Network, prompt: Tensor, seed: int) -> Tensor:
    """What AR writes behind prompts [B, P] at temperature 1. [B, gap]."""
    generator, settings = Autoregressive(ar), Settings(temperature=1.0)
    generator.prepare(Shape(len(prompt), prompt.shape[1], _GAP), settings)
    return generator.generate(Request(prompt, _GAP, settings, seed), Silent())


def _shown(source: Source, ids: Tensor, begin: int, end: int) -> str:
    """The text with the gap's part in double brackets."""
    row = ids.tolist()
    left, gap, right = (source.tokenizer.decode(part) for part in (row[:begin], row[begin:end], row[end:]))
    return f"{left} ⟦{gap}⟧ {right}"
