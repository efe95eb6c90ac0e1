"""MDLM's recorded network outputs, parameterisations, losses and sampler runs against ours.

`io.safetensors` holds one noised batch and what the network and each reading of its logits give for it, with and
without time conditioning. `generate.json` lists runs, `io_generate.safetensors` has each run's uniforms and results.
What is there is found by name; sizes and settings come from the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ... import InputError
from ...models.checkpoints import load_network
from ...models.dit import DiT
from ...models.generator import Settings
from ...models.graphs import graph
from ...models.layouts import pieces
from ...models.losses import score_entropy, token_nelbo
from ...models.mdlm import MDLM
from ...models.mdlm_moves import moves
from ...models.noise import NoiseSchedule, noise_schedule
from ...models.parameterisations import d3pm_log_probs, sedd_log_score, subs_log_probs, subs_score
from .folder import RUNS, Folder
from .race import Replay, replay
from .runs import TIMED_LOOP, repeat_runs

BARE = "model_bare.safetensors"
# Absolute, relative: weights of single tokens are small, those of the mask carry the rounding of sums over all.
WEIGHTS = (1e-6, 1e-3)
_PARTS = ("uniforms", "draws", "probs_step0", "probs_last", "x_final")
_CONDITIONED = {"time_cond": True, "no_time_cond": False}


def check(folder: Folder) -> None:
    """Compare everything in the folder. Raises InputError where the checkpoint cannot be loaded."""
    network = load_network(folder.path, torch.float32, "cpu")
    if not isinstance(network, DiT) or network.config.parameterization != "subs":
        raise InputError(f"{folder.path}: holds no MDLM network; choose a folder whose config says model_type mdlm")
    noise = _noise(folder)
    with torch.inference_mode():
        if folder.has(BARE):
            _bare(folder, network)
        if folder.names():
            _outputs(folder, network, noise)
    repeat_runs(folder, lambda name, run: _run(folder, network, noise, name, run))
    folder.skip("the measured loop", TIMED_LOOP)


def training_noise(folder: Folder) -> dict[str, Any]:
    """What the training config says about the schedule; without one, that it is loglinear."""
    file = "config_training_repo.json"
    return {"type": "loglinear"} | (folder.json(file).get("noise", {}) if folder.has(file) else {})


def _noise(folder: Folder) -> NoiseSchedule:
    section = training_noise(folder)
    name = section["type"]
    sized = name in ("geometric", "linear")
    return noise_schedule(name, **{key: section[key] for key in ("sigma_min", "sigma_max") if sized and key in section})


@contextmanager
def time_conditioned(network: DiT, wanted: bool) -> Iterator[None]:
    """The same network with or without time conditioning."""
    config = network.config
    network.config = config.model_copy(update={"time_conditioning": wanted})
    try:
        yield
    finally:
        network.config = config


def head_output(network: DiT, ids: Tensor, sigma: Tensor) -> Tensor:
    """Raw output [B, L, V] for ids [B, L] at noise `sigma` [B]."""
    network.rotary(ids.shape[1])
    return network.logits(network.trunk(ids, mask="bidirectional", condition=network.conditioning(sigma)))


def _bare(folder: Folder, network: DiT) -> None:
    """The same weights under the names without a prefix."""
    parameters = dict(network.named_parameters())
    wrong = [
        piece.name
        for piece in pieces(network.config, "dit")
        if not torch.equal(folder.tensor(piece.name, BARE), piece.of(parameters))
    ]
    folder.exact(BARE, len(wrong), expected=0, note=f"tensors that differ: {', '.join(wrong[:3])}" if wrong else "")


def _outputs(folder: Folder, network: DiT, noise: NoiseSchedule) -> None:
    """The noised batch of io.safetensors: schedule, logits and everything that is read off them."""
    folder.inputs("x0", "input_ids", "t")
    x0, ids, t = (folder.tensor(name) for name in ("x0", "input_ids", "t"))
    mask_id = network.config.mask_id
    assert mask_id is not None  # SUBS has one
    sigma, dsigma = noise.sigma(t), noise.dsigma(t)
    absorb = graph("absorb", network.config.vocab_size)
    readings: dict[str, Callable[[Tensor], Tensor]] = {
        "logits": lambda logits: logits,
        "subs_logprobs": lambda logits: subs_log_probs(logits, ids, mask_id),
        "d3pm_logprobs": d3pm_log_probs,
        "subs_score": lambda logits: subs_score(subs_log_probs(logits, ids, mask_id), ids, sigma, mask_id),
        "sedd_logscore": lambda logits: sedd_log_score(logits, ids, sigma, scale_by_sigma=True),
        "subs_token_nelbo": lambda logits: token_nelbo(subs_log_probs(logits, ids, mask_id), x0, noise.nelbo_weight(t)),
        "sedd_token_loss": lambda logits: (
            dsigma[:, None]
            * score_entropy(absorb, sedd_log_score(logits, ids, sigma, scale_by_sigma=True), ids, x0, sigma)
        ),
    }
    for name, values in (("sigma", sigma), ("dsigma", dsigma)):
        if name in folder.names():
            folder.compare(name, values)
    for kind, wanted in _CONDITIONED.items():
        with time_conditioned(network, wanted):
            logits = head_output(network, ids, sigma)
        for reading, read in readings.items():
            name = f"{reading}_{kind}"
            if name not in folder.names():
                continue
            ours = read(logits)
            if reading == "subs_logprobs":
                compare_log_probs(folder, name, ours)
            else:
                folder.compare(name, ours)


def compare_log_probs(folder: Folder, name: str, ours: Tensor) -> None:
    """Where the recording has a probability, compare; elsewhere both must stand for 0: float32 has no more to say."""
    theirs = folder.tensor(name)
    possible = theirs > -1e5
    folder.compare(name, ours[possible], expected=theirs[possible], note="where > -1e5")
    folder.exact(f"{name}, impossible", int((ours[~possible] > -9e5).sum()), expected=0)


def _run(folder: Folder, network: DiT, noise: NoiseSchedule, name: str, run: dict[str, Any]) -> None:
    """One recorded run: draws, weights of the first and last draw, tokens and forwards."""
    folder.inputs(*(f"{name}.{part}" for part in _PARTS), file=RUNS)
    if not run.get("noise_removal", True):
        folder.skip(name, "recorded without noise removal; ours always removes the masks that are left")
        return
    uniforms, final = folder.tensor(f"{name}.uniforms", RUNS), folder.tensor(f"{name}.x_final", RUNS)
    settings = Settings(temperature=1.0, steps=run["num_steps"], sampler=run["sampler"], epsilon=run["eps"])
    generator = MDLM(network)
    generator.noise = noise
    start = torch.full_like(final, generator.mask_id)
    draws = Replay(list(uniforms), start, generator.mask_id, _closed(run, noise, len(uniforms)))
    with time_conditioned(network, bool(run["time_conditioning"])):
        if not replay(folder, name, run, generator, settings, draws):
            return
    for part, draw in (("probs_step0", 0), ("probs_last", -1)):
        folder.compare(f"{name}.{part}", draws.weights[draw], WEIGHTS, file=RUNS)


def _closed(run: dict[str, Any], noise: NoiseSchedule, count: int) -> list[tuple[float, float]]:
    """Weights, at positions that have a token, of it and of the mask: `ddpm` draws as if p(x0) were the token's alone
    and throws the draw away; by scores nothing but the token has a weight."""
    if run["sampler"] == "analytic":
        return [(1.0, 0.0)] * count
    odds = moves(run["sampler"], noise, run["num_steps"], run["eps"])
    return list(zip(odds.leave, odds.stay, strict=True))
