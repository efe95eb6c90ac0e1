"""DiffusionGemma and its Gemma 4 twin against the outcomes recorded from transformers' own classes.

No checkpoint is recorded: the recipe holds the tiny configs and what came out of them (parameters, shapes, forwards,
equal hidden states). Tokens were drawn from weights of an unknown seed and cannot be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ... import InputError
from ...models.diffusion_gemma import DiffusionGemma, gemma_twin
from ...models.gemma_config import DIFFUSION, GemmaConfig
from ...models.gemma_hf import gemma_from_hf
from ...models.generator import Request, Settings, Shape
from ...models.hf_generate import HFGenerate
from .folder import Folder
from .tally import Tally

_CANVAS = 16  # of the recipe's notes; its file does not repeat it


def check(folder: Folder) -> None:
    """Compare every recorded outcome that this program has a counterpart of."""
    recipe = folder.json("verified_recipe.json")
    text, vision, results = (recipe.get(name) for name in ("text_config", "vision_config", "results"))
    if not isinstance(text, dict) or not isinstance(results, dict):
        raise InputError(f"{folder.path / 'verified_recipe.json'}: text_config or results is missing; record it again")
    raw = {"model_type": DIFFUSION, "text_config": text, "vision_config": vision, "canvas_length": _CANVAS}
    config = gemma_from_hf(raw, "verified_recipe.json")
    ours = DiffusionGemma.from_config(config, 0, torch.float32, "cpu")
    checks: dict[str, Callable[[], None]] = {
        "diffusion_gemma.init.vision=True": lambda: _parameters(folder, recipe, config),
        "diffusion_gemma.generate.vision=True": lambda: _generate(folder, results, ours),
        "gemma4_ar.moe": lambda: _causal(folder, results, ours),
        "gemma4_ar weights == diffusion_gemma encoder": lambda: _shared(folder, ours),
    }
    for name in results:
        if name not in checks:
            folder.skip(name, _REASONS.get(name, "no check knows this outcome"))
            continue
        try:
            checks[name]()
        except (InputError, RuntimeError, KeyError, TypeError, ValueError) as error:
            folder.fail(name, f"{type(error).__name__}: {error}")


_REASONS = {
    "diffusion_gemma.init.vision=False": "full-size vision tower: never built here, it is neither run nor counted",
    "diffusion_gemma.generate.vision=False": "full-size vision tower: never built here, it is neither run nor counted",
    "diffusion_gemma.forward+selfcond+save_load": "its values follow from weights of an unknown seed",
    "gemma4_ar.dense": "DiffusionGemma has no dense variant, so neither has its pair",
}


def _parameters(folder: Folder, recipe: dict[str, Any], config: GemmaConfig) -> None:
    """The recorded count includes the tiny vision tower and what joins it to the text, which transformers counts."""
    from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion

    whole = DiffusionGemmaConfig(
        text_config=recipe["text_config"], vision_config=recipe["vision_config"], canvas_length=_CANVAS,
        image_token_id=95, boi_token_id=94, eoi_token_id=93,
    )  # fmt: skip
    with torch.device("meta"):
        model: Any = DiffusionGemmaForBlockDiffusion(whole)
    parts = [p for name, p in model.named_parameters() if "vision" in name]
    vision = sum(p.numel() for p in parts)
    recorded = recipe["results"]["diffusion_gemma.init.vision=True"]["result"]["params"]
    note = f"our count of the text model, and {vision} of the vision tower by transformers"
    folder.exact("parameters with vision tower", config.total_parameters + vision, expected=recorded, note=note)


def _generate(folder: Folder, results: dict[str, Any], ours: DiffusionGemma) -> None:
    recorded = results["diffusion_gemma.generate.vision=True"]["result"]
    rows, total = recorded["shape"]
    new = total - total % _CANVAS
    canvases, prompt = new // _CANVAS, total - new
    steps = recorded["decoder_forwards"]
    shape, settings = Shape(rows, prompt, new), Settings(steps=steps)
    ours.prepare(shape, settings)
    tally = Tally()
    tokens = ours.generate(Request(torch.ones(rows, prompt, dtype=torch.int64), new, settings, 0), tally)
    folder.exact("generated positions", [tokens.shape[0], prompt + tokens.shape[1]], expected=recorded["shape"])
    phases = [forward[1] for forward in tally.forwards]
    folder.exact("decoder forwards", phases.count("denoise"), expected=steps)
    folder.exact("encoder passes: one a canvas", phases.count("encode"), expected=canvases)
    folder.exact(
        "tokens per decoder forward", float(new / phases.count("denoise")), expected=recorded["tokens_per_forward"][0],
        note="the recorded figure leaves out the encoder passes, which count here as forwards",
    )  # fmt: skip
    folder.skip("generate: token ids", "drawn from weights of an unknown seed")


def _causal(folder: Folder, results: dict[str, Any], ours: DiffusionGemma) -> None:
    recorded = results["gemma4_ar.moe"]["result"]
    rows, total = recorded["shape"]
    twin = HFGenerate(gemma_twin(ours.model), cache="dynamic")
    # The head is the embedding: one tensor under two names.
    own = {p.data_ptr(): p.numel() for p in twin.model.parameters()}
    folder.exact("parameters of the AR twin", sum(own.values()), expected=recorded["params"])
    settings, prompt = Settings(), torch.arange(3, 13).expand(rows, -1)
    length = total - prompt.shape[1]
    twin.prepare(Shape(rows, prompt.shape[1], length), settings)
    cached = twin.generate(Request(prompt, length, settings, 0), Tally())
    ids = prompt
    for _ in range(length):
        with torch.inference_mode():
            logits = twin.model(ids, use_cache=False).logits
        ids = torch.cat((ids, logits[:, -1:].argmax(dim=-1)), dim=1)
    folder.exact("AR twin: cached tokens equal uncached", cached, expected=ids[:, prompt.shape[1] :])


def _shared(folder: Folder, ours: DiffusionGemma) -> None:
    twin: Any = gemma_twin(ours.model)
    ids = torch.arange(3, 20)[None]
    with torch.inference_mode():
        theirs = twin.model(ids).last_hidden_state
        encoder: Any = ours.model.model.encoder
        hidden = encoder(input_ids=ids).last_hidden_state
    folder.exact("AR twin: hidden states equal the encoder's", hidden, expected=theirs)
    shared = dict(encoder.language_model.named_parameters())
    apart = [name for name, p in twin.model.named_parameters() if shared[name].data_ptr() != p.data_ptr()]
    folder.exact("AR twin: tensors that are not the encoder's own", len(apart), expected=0)
