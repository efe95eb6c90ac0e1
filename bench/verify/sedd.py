"""SEDD's recorded scores, losses, sampler steps and runs against ours, for the absorbing and the uniform graph.

`io.safetensors` holds one noised batch, the network's scores and losses for it and, for its first sequence, every
quantity of a sampler's step. `generate.json` lists runs, `io_generate.safetensors` has their uniforms and results.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import InputError
from ...models.canvas import schedule_of
from ...models.checkpoints import load_network
from ...models.dit import DiT
from ...models.generator import Settings
from ...models.graphs import graph
from ...models.losses import score_entropy, sedd_loss
from ...models.parameterisations import sedd_log_score
from ...models.sedd import SEDD
from .folder import RUNS, Folder
from .mdlm import WEIGHTS, head_output
from .race import Replay, replay
from .runs import repeat_runs

_PARTS = ("uniforms", "uniforms_denoise", "draws", "probs_step0", "probs_denoise", "x_init", "x_final")


def check(folder: Folder) -> None:
    """Compare everything in the folder. Raises InputError where the checkpoint cannot be loaded."""
    network = load_network(folder.path, torch.float32, "cpu")
    if not isinstance(network, DiT) or network.config.parameterization != "score":
        raise InputError(f"{folder.path}: holds no SEDD network; choose a folder with SEDD's config")
    with torch.inference_mode():
        if folder.names():
            _outputs(folder, network)
    repeat_runs(folder, lambda name, run: _run(folder, network, name, run))


def _outputs(folder: Folder, network: DiT) -> None:
    config, noise = network.config, schedule_of(network)
    of = graph(config.graph, config.vocab_size)
    folder.inputs("x0", "input_ids", "t", "step_size")
    x0, ids, t = (folder.tensor(name) for name in ("x0", "input_ids", "t"))
    sigma, dsigma = noise.sigma(t), noise.dsigma(t)
    raw = head_output(network, ids, sigma)
    log_score = sedd_log_score(raw, ids, sigma, scale_by_sigma=config.scale_by_sigma)
    entropy = score_entropy(of, log_score, ids, x0, sigma)
    ours: dict[str, Tensor] = {
        "sigma": sigma,
        "dsigma": dsigma,
        "raw_output": raw,
        "log_score": log_score,
        "score_entropy_per_token": entropy,
        "loss_per_sequence": sedd_loss(entropy, dsigma),
    }
    if "step_size" in folder.names():
        size = folder.tensor("step_size")
        following = noise.sigma(t - size)
        first, score, change = ids[:1], log_score[:1].exp(), (sigma - following)[:1]
        ours |= {
            "sigma_next": following,
            "reverse_rate_seq0": of.reverse_rate(first, score),
            "staggered_score_seq0": of.staggered_score(score, change),
            "transp_transition_seq0": of.transposed_transition(first, change),
            "analytic_probs_seq0": of.analytic_probs(first, score, change),
            "euler_probs_seq0": of.euler_probs(first, score, size * dsigma[:1]),
            "denoiser_probs_seq0": of.denoiser_probs(first, score, sigma[:1]),
        }
    for name, values in ours.items():
        if name in folder.names():
            folder.compare(name, values)


def _run(folder: Folder, network: DiT, name: str, run: dict[str, Any]) -> None:
    """One recorded run: draws, weights of the first and last draw, tokens and forwards."""
    folder.inputs(*(f"{name}.{part}" for part in _PARTS), file=RUNS)
    if not run.get("denoise", True):
        folder.skip(name, "recorded without the denoising draw; ours always ends with it")
        return
    final = folder.tensor(f"{name}.x_final", RUNS)
    uniforms = [*folder.tensor(f"{name}.uniforms", RUNS), folder.tensor(f"{name}.uniforms_denoise", RUNS)]
    generator, mask_id = SEDD(network), network.config.mask_id
    start = folder.tensor(f"{name}.x_init", RUNS) if mask_id is None else torch.full_like(final, mask_id)
    settings = Settings(temperature=1.0, steps=run["steps"], sampler=run["predictor"], epsilon=run["eps"])
    # Where there is a token, nothing else can be reached: it has all the weight.
    draws = Replay(uniforms, start, mask_id, [(1.0, 0.0)] * len(uniforms), network.config.vocab_size)
    if not replay(folder, name, run, generator, settings, draws):
        return
    for part, draw in (("probs_step0", 0), ("probs_denoise", -1)):
        recorded = folder.tensor(f"{name}.{part}", RUNS)
        note = "each position's largest as 1, negative ones as 0"
        folder.compare(f"{name}.{part}", _shares(draws.weights[draw]), WEIGHTS, expected=_shares(recorded), note=note)


def _shares(weights: Tensor) -> Tensor:
    """What a draw depends on: weights [..., V] relative to the largest of their position. Absolute ones may be as large
    as exp(change), with errors to match; negative ones never win a race, and ours are 0 there."""
    return (weights / weights.amax(dim=-1, keepdim=True)).clamp(min=0)
