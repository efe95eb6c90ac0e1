"""SDAR's recorded outputs: logits with and without the cache, the training mask, and runs of the published sampler.

`io.safetensors`: `input_ids` and the logits of them under full attention, under a block-causal mask (recorded too),
and of the last block beside a cache of the earlier ones; `train_mask_example_n{N}_bs{B}`. `generate.json` and
`io_generate.safetensors`: runs whose multinomial draw was replaced by the most probable token, from `prompt`.

Skipped are runs in which, by what is recorded of them, the published loop raises, overwrites the prompt, or has to take
more positions of a block than are masked and so overwrites what it had committed: ours does none of it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ... import InputError
from ...models.attention import block_causal_mask
from ...models.block_diffusion import training_mask
from ...models.block_forwards import Blocks
from ...models.cache import KVCache
from ...models.checkpoints import load_network
from ...models.generator import Request, Settings
from ...models.network import Network
from ...models.schedule import transfer_counts
from ...models.sdar import SAMPLERS, SDAR
from .folder import RUNS, Folder
from .runs import generated, repeat_runs

_MASK = re.compile(r"train_mask_example_n(?P<length>[0-9]+)_bs(?P<block>[1-9][0-9]*)")


class MostProbable:
    """Draws that take the largest weight, as the recorded runs did."""

    whole = False

    def tokens(self, weights: Tensor, where: Tensor, window: tuple[int, int]) -> Tensor:
        return weights.argmax(dim=-1)

    def uniform(self, rows: int, columns: int) -> Tensor:
        raise InputError("a run asked for random numbers, expected none: the recording has none")

    def positions(self, weights: Tensor, count: int) -> Tensor:
        raise InputError("a run asked for random positions, expected none: the recording has none")


@torch.inference_mode()
def check(folder: Folder) -> None:
    """Compare everything in the folder. Raises InputError where it cannot be read."""
    network = load_network(folder.path, torch.float32, "cpu")
    if "input_ids" in folder.names():
        _logits(folder, network)
    for name in folder.names():
        found = _MASK.fullmatch(name)
        if found:
            folder.exact(name, training_mask(int(found["length"]), int(found["block"])))
    repeat_runs(folder, lambda name, run: _run(folder, network, name, run))


def _logits(folder: Folder, network: Network) -> None:
    names, ids = folder.names(), folder.tensor("input_ids")
    size = int(folder.tensor("block_size"))
    rows, length = ids.shape
    network.rotary(length)
    if "block_causal_mask" in names:
        ours = block_causal_mask(length, length, size, ids.device).expand(rows, -1, -1)
        folder.exact("block_causal_mask", ours)
    if "logits_block_causal" in names:
        hidden = network.trunk(ids, mask="block_causal", block_length=size)
        folder.compare("logits_block_causal", network.logits(hidden))
    if "logits_full_attention" in names:
        folder.compare("logits_full_attention", network.logits(network.trunk(ids, mask="bidirectional")))
    if "logits_kvcache_last_block" in names:
        folder.compare("logits_kvcache_last_block", network.logits(last_block(network, ids, ids, size)))


def last_block(network: Network, stored: Tensor, ids: Tensor, size: int) -> Tensor:
    """Hidden states [B, size, d] of the last block of `ids`, the earlier blocks of `stored` being in a cache."""
    rows, length = ids.shape
    first = length - size
    cache = KVCache(network.config, rows, length, network.dtype, network.device)
    for start in range(0, first, size):
        network.trunk(stored[:, start : start + size], mask="bidirectional", cache=cache, start=start)
    return network.trunk(ids[:, first:], mask="bidirectional", cache=cache, start=first)


def _run(folder: Folder, network: Network, name: str, run: dict[str, Any]) -> None:
    if "raises" in run:
        folder.skip(name, f"the published loop raises here ({run['raises']})")
        return
    recorded, prompt = folder.tensor(f"{name}.tokens", RUNS), folder.tensor("prompt", RUNS)
    if not run.get("prompt_preserved", torch.equal(recorded[:, : prompt.shape[1]], prompt)):
        folder.skip(name, "the published loop overwrote the prompt; ours never does")
        return
    if "greedy" not in run:
        folder.skip(name, "its draws were not recorded")
        return
    if run["remasking_strategy"] not in SAMPLERS:
        folder.skip(name, f"no sampler {run['remasking_strategy']} is known; known are {', '.join(SAMPLERS)}")
        return
    blocks = Blocks(prompt.shape[1], run["gen_length"], run["block_length"])
    if _overtaken(run, blocks):
        folder.skip(name, "the published loop overwrote tokens that it had committed; ours never does")
        return
    folder.exact(f"{name}.total_length", blocks.end, expected=recorded.shape[1])
    request = Request(prompt, recorded.shape[1] - prompt.shape[1], _settings(run, blocks), 0, draws=MostProbable())
    generator = SDAR(network)
    new, tally = generated(generator, request)
    tokens = torch.cat((prompt, new), dim=1)
    folder.exact(f"{name}.tokens", tokens, expected=recorded)
    folder.exact(f"{name}.forwards", tally.nfe, expected=run["forwards"])
    folder.exact(f"{name}.forward_lengths", tally.lengths, expected=run["forward_lengths"])
    stored = [forward[1] in ("prefill", "cache_refresh") for forward in tally.forwards]
    folder.exact(f"{name}.store_kv_calls", stored, expected=run["store_kv_calls"])
    folder.exact(f"{name}.masks_left", int((tokens == generator.mask_id).sum()), expected=run["masks_left"])
    promised = generator.promised_nfe(request.shape, replace(request.settings, suppress_mask=True))
    if promised is not None and run.get("same_tokens_if_mask_logit_suppressed"):
        folder.exact(f"{name}.promised_nfe", promised, expected=run["forwards"])


def _settings(run: dict[str, Any], blocks: Blocks) -> Settings:
    """The run's settings. The confidence is the drawn token's probability at the run's temperature, so it is kept."""
    sampler = run["remasking_strategy"]
    return Settings(
        temperature=run["temperature"],
        top_k=run["top_k"],
        top_p=run["top_p"],
        steps=None if sampler == "entropy_bounded" else run["denoising_steps"] * len(blocks.starts),
        block_length=run["block_length"],
        sampler=sampler,
        threshold=run.get("confidence_threshold") if sampler == "low_confidence_dynamic" else None,
        suppress_mask=False,
        idle_steps="run",
    )


def _overtaken(run: dict[str, Any], blocks: Blocks) -> bool:
    """Whether a step's fixed k exceeds the masks that are left, where the published rule then takes known positions.

    Under a threshold nothing that is recorded says how many were left: such a run is compared, and ours cannot excuse
    itself by what it did.
    """
    if run["remasking_strategy"] != "low_confidence_static":
        return False
    left = blocks.new(blocks.starts[0])
    for count in transfer_counts(run["block_length"], run["denoising_steps"]):
        if 0 < left < count:
            return True
        left = max(left - count, 0)
    return False
