"""Dream and Fast-dLLM's Dream against a folder of recorded outputs: network, cache, padding and every generation.

`io.safetensors` is read by `bidirectional`; `leftpad_*` is Dream's own. A run of `generate.json` is repeated from its
own fields and as published: the mask may be predicted, idle steps are run, recorded draws are replayed. A run whose
tokens are recorded as the same with the mask suppressed is repeated so, too, and then, where it draws nothing, without
idle steps: the path that is measured.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ... import InputError
from ...models.backbone import Backbone
from ...models.checkpoints import load_network
from ...models.dream import Dream, left_padding
from ...models.generator import Request, Settings
from ...models.masked_diffusion import mask_of
from ...models.network import Network
from .bidirectional import compare_forwards
from .dream_draws import Recorded
from .folder import RUNS, Folder
from .runs import compare_unmask_steps, generated, prompts_of, repeat_runs, stored, unmask_steps
from .tally import Tally

# Settings under the reference's names; a threshold is an algorithm there.
_NAMES = {"alg_temp": "position_temperature", "eps": "epsilon"}
_SAME = ("steps", "temperature", "top_p", "top_k", "threshold", "block_length")
_BY_THRESHOLD = "confidence_threshold"


@torch.inference_mode()
def check(folder: Folder) -> None:
    """Compare everything in the folder. Raises InputError for a folder that cannot be read."""
    network = load_network(folder.path, torch.float32, "cpu")
    if not isinstance(network, Backbone):
        raise InputError(f"{folder.path}: holds a {type(network).__name__}, expected Dream's network")
    if "input_ids" in folder.names():
        compare_forwards(folder, network)
        if "leftpad_attention_mask" in folder.names():
            _left_padded(folder, network)
    if not folder.has("generate.json"):
        return
    recorded = folder.json("generate.json")
    if "mask_id" in recorded:
        folder.exact("mask_id", network.config.mask_id, expected=recorded["mask_id"])
    folder.inputs("prompts", "leftpad_prompts", "leftpad_prompt_mask", file=RUNS)
    repeat_runs(folder, lambda name, run: _run(folder, network, name, run))


def _left_padded(folder: Folder, network: Network) -> None:
    """Positions, and logits [B, S, V] of a left-padded batch; recorded as zero where there are only pads."""
    ids, mask = folder.tensor("input_ids"), folder.tensor("leftpad_attention_mask")
    padding = left_padding(mask, ids, 0)
    if "leftpad_position_ids" in folder.names():
        folder.exact("leftpad_position_ids", padding.positions)
    if "leftpad_logits_valid_rows" in folder.names():
        logits = network.logits(network.trunk(ids, mask="bidirectional", padding=padding))
        folder.compare("leftpad_logits_valid_rows", torch.where(mask.bool()[:, :, None], logits, 0.0))


def _run(folder: Folder, network: Network, name: str, run: dict[str, Any]) -> None:
    """Repeat one recorded generation."""
    settings = _settings(run)
    draws = _recorded_draws(folder, name, run)
    prompt, prompt_mask = _prompts(folder, run)
    reason = _not_repeated(run, settings, prompt, mask_of(network))
    if reason:
        folder.inputs(*stored(folder, name), file=RUNS)
        folder.skip(name, reason)
        return
    random = run["alg"] == "origin" or settings.temperature > 0 or settings.position_temperature > 0
    if random and draws is None:
        raise InputError("the run is random, but its draws are not recorded; record uniforms and multinomial draws")
    request = Request(prompt, run["max_new_tokens"], settings, 0, prompt_mask, draws)
    tokens, tally = generated(Dream(network), request)
    folder.exact(f"{name}.tokens", torch.cat((prompt, tokens), dim=1), file=RUNS)
    if draws is not None:
        folder.exact(f"{name}.draws left over", draws.left_over(), expected=0)
    _compare_course(folder, name, run, tally, prompt, tokens, mask_of(network))
    if run.get("same_tokens_if_mask_logit_suppressed"):
        settings = replace(settings, suppress_mask=True, idle_steps="run" if random else "skip")
        again = replace(request, settings=settings, draws=_recorded_draws(folder, name, run) if random else None)
        folder.exact(f"{name}.tokens, mask suppressed", generated(Dream(network), again)[0], expected=tokens)


def _settings(run: dict[str, Any]) -> Settings:
    """The recorded run's settings, as published."""
    given = {key: run[key] for key in _SAME if run.get(key) is not None}
    given |= {ours: run[key] for key, ours in _NAMES.items() if run.get(key) is not None}
    if "dual_cache" in run:
        given["cache"] = "dual" if run["dual_cache"] else "prefix"
    if run["alg"] != _BY_THRESHOLD:
        # Fast-dLLM's blocks rank by entropy, whatever they are asked for.
        given["sampler"] = "entropy" if "cache" in given else run["alg"]
        given.pop("threshold", None)
    elif "threshold" not in given:
        raise InputError(f"alg {_BY_THRESHOLD} without a threshold; record the threshold")
    return Settings(**given, suppress_mask=False, idle_steps="run")


def _recorded_draws(folder: Folder, name: str, run: dict[str, Any]) -> Recorded | None:
    """The draws recorded for a run, cut into calls; None if there are none."""
    calls: dict[str, list[Tensor]] = {}
    for kind, lengths in (("uniforms", "uniform_lengths"), ("multinomial", "multinomial_lengths")):
        entry = f"{name}.{kind}_concat"
        if entry in folder.names(RUNS):
            drawn = folder.tensor(entry, RUNS)
            if sum(run.get(lengths, [])) != len(drawn):
                raise InputError(
                    f"{entry} holds {len(drawn)} draws, but {lengths} add up to {sum(run.get(lengths, []))}"
                )
            calls[kind] = list(drawn.split(run[lengths]))
    return Recorded(name, calls.get("uniforms", []), calls.get("multinomial", [])) if calls else None


def _prompts(folder: Folder, run: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """The prompts [B, P] that a run began with (`all` of them, `row N`, or the left-padded ones) and their mask."""
    which = str(run.get("prompts", "all"))
    if which.startswith("leftpad_prompts"):
        return folder.tensor("leftpad_prompts", RUNS), folder.tensor("leftpad_prompt_mask", RUNS).bool()
    return prompts_of(folder, which), None


def _not_repeated(run: dict[str, Any], settings: Settings, prompt: Tensor, mask_id: int) -> str | None:
    """Why a run is not repeated, if ours differs from it on purpose."""
    if "raises" in run:
        return f"the reference raises {run['raises']}"
    if bool((prompt == mask_id).any()):
        return "the prompt holds masks, which the reference fills in and ours leaves alone"
    if settings.cache is None or settings.threshold is not None:
        return None
    blocks = run["max_new_tokens"] // settings.block_length if settings.block_length else 0
    if settings.steps == blocks and settings.block_length != 1:
        return "with one step a block the reference leaves masks behind; ours finishes the block"
    if settings.temperature > 0:
        return "the reference draws for every position at a block's first forward; ours for the one that it commits"
    return None


def _compare_course(
    folder: Folder, name: str, run: dict[str, Any], tally: Tally, prompt: Tensor, tokens: Tensor, mask_id: int
) -> None:
    """Forwards, and what was committed after each."""
    masked = tokens == mask_id
    forwards, steps = tally.nfe, unmask_steps(tally, tokens)
    folder.exact(f"{name}.forwards", forwards, expected=run["forwards"])
    if "forward_lengths" in run:
        folder.exact(f"{name}.forward_lengths", tally.lengths, expected=run["forward_lengths"])
    if "masks_left" in run:
        folder.exact(f"{name}.masks_left", int(masked.sum()), expected=run["masks_left"])
    if "masks_before_each_forward" in run:
        before = [int((masked | (steps > done)).sum()) for done in range(forwards)]
        folder.exact(f"{name}.masks_before", before, expected=run["masks_before_each_forward"])
    compare_unmask_steps(folder, name, prompt, steps, masked)
