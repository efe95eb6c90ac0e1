"""How likely a network finds texts that no training has seen: AR's exact value, or the bound of a diffusion model."""

from __future__ import annotations

import numpy as np
import torch

from ..models.names import AR, BLOCK_DIFFUSION, FAST_DLLM, LLADA, MASKED_DIFFUSION, MDLM, SDAR, SEDD
from ..models.network import Network
from ..models.source import Source
from ..models.training.data import seed_of
from ..models.training.heldout import held_out_loss
from ..models.training.objectives import objective
from ..models.training.shapes import Model, Vocabulary
from ..profiles.quality import HeldOut, heldout_from_errors
from ..profiles.record import Value

LENGTH = 128  # tokens of a text: the windows that the shipped models were trained on
_ROWS = 32
_OBJECTIVES: dict[str, Model] = {
    AR: "ar", MASKED_DIFFUSION: "mdlm", LLADA: "mdlm", FAST_DLLM: "mdlm", MDLM: "mdlm", SEDD: "sedd",
    BLOCK_DIFFUSION: "block-diffusion", SDAR: "block-diffusion",
}  # fmt: skip


def objective_of(generator: str) -> Model | None:
    """What a generator's network was trained on; None where that is not known."""
    return _OBJECTIVES.get(generator)


def held_out_ids(source: Source, texts: int, seed: int) -> torch.Tensor:
    """Ids [texts, LENGTH] of a seed that no training and no cell uses."""
    return torch.from_numpy(source.texts(texts, LENGTH, seed_of("likelihood", seed)).astype(np.int64))


def held_out(network: Network, model: Model, source: Source, *, texts: int, passes: int, seed: int) -> HeldOut:
    """Nats a token of `texts` unseen texts of the source, a bound being the mean of `passes` estimates."""
    eos_id, mask_id = source.tokenizer.eos_id, source.tokenizer.mask_id
    assert eos_id is not None
    assert mask_id is not None
    judged = objective(model, Vocabulary(source.vocab_size, eos_id, mask_id), network.config.block_size or 1)
    ids = held_out_ids(source, texts, seed).to(network.device)
    loss = held_out_loss(network, judged, ids, batch=_ROWS, passes=passes, seed=seed)
    return heldout_from_errors(
        loss.nats, loss.text_error, loss.mc_error, texts=texts, draws=loss.passes, exact=judged.exact
    )


def held_out_metrics(network: Network, generator: str, source: Source, *, seed: int) -> dict[str, Value]:
    """The declared metrics of a network's likelihood, on few enough texts to take a second or two on a CPU."""
    model = objective_of(generator)
    if model is None:
        why = f"{generator}: what its network was trained on is not known"
        return {"quality.heldout_nats": Value(value=None, why=why)}
    found = held_out(network, model, source, texts=64, passes=4, seed=seed)
    metrics = {"quality.heldout_nats": found.nats}
    if not found.exact:
        metrics["quality.heldout_mc_nats"] = Value(value=found.monte_carlo_error, n=found.draws)
    return metrics
