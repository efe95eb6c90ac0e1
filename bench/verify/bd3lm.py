"""BD3LM's recorded network outputs, training loss and sampler runs against ours.

`io.safetensors` holds one noised batch `xt` of `x0`, and the logits for it in training (noisy and clean copy under the
block mask), in sampling (block-causal), beside a cache and under full attention. `generate.json` lists runs of the
published sampler from its beginning of text, which is a prompt of one token here; `io_generate.safetensors` has each
run's draws. Sizes and settings come from the folder.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ... import InputError
from ...models.bd3lm import BD3LM
from ...models.bd3lm_loops import stay_chances
from ...models.block_diffusion import training_mask
from ...models.checkpoints import load_network
from ...models.dit import DiT
from ...models.generator import Request, Settings
from ...models.losses import token_nelbo
from ...models.network import Padding
from ...models.noise import block_noise
from ...models.parameterisations import subs_log_probs
from .block_race import BlockRace
from .folder import RUNS, Folder
from .mdlm import compare_log_probs, time_conditioned, training_noise
from .runs import TIMED_LOOP, generated, repeat_runs
from .sdar import last_block

# With this ending, the network saw the noise level.
_TIMED = "_time_cond"


@torch.inference_mode()
def check(folder: Folder) -> None:
    """Compare everything in the folder. Raises InputError where the checkpoint cannot be loaded."""
    network = load_network(folder.path, torch.float32, "cpu")
    if not isinstance(network, DiT) or network.config.block_size is None:
        raise InputError(f"{folder.path}: holds no BD3LM network; choose a folder whose config says model_type bd3lm")
    if "xt" in folder.names():
        _outputs(folder, network, network.config.block_size)
    if not folder.has("generate.json"):
        return
    recorded = folder.json("generate.json")
    repeat_runs(folder, lambda name, run: _run(folder, network, name, run, recorded))
    folder.skip("the measured loop", TIMED_LOOP)


def _outputs(folder: Folder, network: DiT, size: int) -> None:
    x0, xt = folder.tensor("x0"), folder.tensor("xt")
    rows, length = xt.shape
    both = torch.cat((xt, x0), dim=1)
    network.rotary(2 * length)
    prefix = int(folder.tensor("sample_prefix_len")) if "sample_prefix_len" in folder.names() else length
    mask = training_mask(length, size)
    # The clean copy is at the same positions as the noisy one.
    restarting = torch.arange(length).repeat(2).expand(rows, -1)
    padding = Padding(torch.ones_like(both, dtype=torch.bool), restarting)
    folder.inputs("timesteps")
    for name in folder.names():
        if not name.startswith("logits_"):
            continue
        with time_conditioned(network, True) if name.endswith(_TIMED) else nullcontext():
            sigma = folder.tensor("timesteps") if name.endswith(_TIMED) else None
            condition = network.conditioning(sigma)
        kind = name.removesuffix(_TIMED)
        if kind == "logits_train":
            hidden = network.trunk(both, mask=mask, padding=padding, condition=condition)[:, :length]
        elif kind in ("logits_sample_nocache", "logits_sample_nocache_prefix"):
            ids = xt[:, :prefix] if kind.endswith("prefix") else xt
            hidden = network.trunk(ids, mask="block_causal", block_length=size, condition=condition)
        elif kind == "logits_full_attention":
            hidden = network.trunk(xt, mask="bidirectional", condition=condition)
        elif name == "logits_kvcache_last_block":
            hidden = last_block(network, x0, xt, size)
        else:
            continue
        folder.compare(name, network.logits(hidden))
    if "input_ids_train" in folder.names():
        folder.exact("input_ids_train", both)
    if "attention_mask_train" in folder.names():
        folder.exact("attention_mask_train", mask)
    if "input_ids_kvcache_equiv" in folder.names():
        folder.exact("input_ids_kvcache_equiv", torch.cat((x0[:, :-size], xt[:, -size:]), dim=1))
    _loss(folder, network, network.logits(network.trunk(both, mask=mask, padding=padding)[:, :length]), x0, xt)


def _loss(folder: Folder, network: DiT, logits: Tensor, x0: Tensor, xt: Tensor) -> None:
    """SUBS log-probabilities of the training forward, and each token's part of the bound at its block's time."""
    mask_id = network.config.mask_id
    assert mask_id is not None  # SUBS has one
    log_probs = subs_log_probs(logits, xt, mask_id)
    if "subs_logprobs_train" in folder.names():
        compare_log_probs(folder, "subs_logprobs_train", log_probs)
    if "token_nelbo" in folder.names():
        noise = block_noise(training_noise(folder)["type"])
        folder.compare("token_nelbo", token_nelbo(log_probs, x0, noise.nelbo_weight(folder.tensor("t"))))


def _run(folder: Folder, network: DiT, name: str, run: dict[str, Any], recorded: dict[str, Any]) -> None:
    """One run: draws, weights of the first draw, tokens and forwards."""
    size, mask_id = recorded["block_size"], recorded["mask_token_id"]
    # The times of first hitting change nothing: the network does not see them.
    folder.inputs(f"{name}.np_uniforms", file=RUNS)
    final = folder.tensor(f"{name}.x_final", RUNS)
    choices = folder.tensor(f"{name}.position_choice", RUNS) if run["first_hitting"] else None
    folder.exact(f"{name}.mask_id", network.config.mask_id, expected=mask_id)
    prompt = final.new_full((1, 1), recorded["bos_token_id"])
    folder.exact(f"{name}.length", run["num_strides"] * size, expected=final.shape[1])
    first = final.new_full((size,), mask_id)
    first[0] = recorded["bos_token_id"]
    draws = BlockRace(
        folder.tensor(f"{name}.uniforms", RUNS),
        first,
        mask_id,
        choices=choices,
        stays=None if run["first_hitting"] else stay_chances(run["num_steps"], strict=True),
    )
    settings = Settings(
        temperature=1.0,
        top_p=run["nucleus_p"],
        steps=None if run["first_hitting"] else run["num_steps"] * run["num_strides"],
        block_length=size,
        sampler="first_hitting" if run["first_hitting"] else "ddpm",
        cache="kv" if run["kv_cache"] else "none",
        idle_steps="run",
    )
    request = Request(prompt, final.shape[1] - 1, settings, 0, draws=draws)
    generator = BD3LM(network)
    tokens, tally = generated(generator, request)
    if draws.unused:
        folder.fail(f"{name}.uniforms", f"{draws.unused} recorded draws were not asked for, expected none")
    folder.compare(f"{name}.probs_step0", draws.weights[0].view(1, size, -1), file=RUNS)
    folder.exact(f"{name}.draws", torch.stack(draws.draws)[:, None], file=RUNS)
    folder.exact(f"{name}.x_final", torch.cat((prompt, tokens), dim=1), file=RUNS)
    folder.exact(f"{name}.forwards", tally.nfe, expected=run["forwards"])
    denoised = sum(forward[1] == "denoise" for forward in tally.forwards)
    folder.exact(f"{name}.sampling_steps_reported", denoised, expected=run["sampling_steps_reported"])
    promised = generator.promised_nfe(request.shape, settings)
    if promised is not None:
        folder.exact(f"{name}.promised_nfe", promised, expected=run["forwards"])
