"""DiffusionGemma through transformers' own `generate`, and the autoregressive Gemma 4 that has the very same weights.

Block diffusion without a mask token: an encoder pass writes the prompt (later, each finished canvas) to the cache, and
a canvas of uniformly random tokens is denoised against it. A step predicts the whole canvas, accepts the positions of
least entropy as far as a bound on their sum allows (Ben-Hamu et al. 2025, arXiv 2505.24857), and draws the others anew;
its prediction also conditions the next step. What counts in the end is the last step's most likely token everywhere.

transformers is not changed. For the length of a generation three of the model's methods are wrapped: the encoder, the
denoising forward, and the step around it, whose most likely tokens are announced as they are, on the device. What
`generate` costs by itself stays in: a host synchronisation at every denoising step (have all rows stopped?) and a copy
of the step's number to the device; at every canvas, two more (is anything padded, have all rows ended?).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import InputError
from .costs import Cost
from .footprint import kv_cache_bytes
from .gemma_config import DIFFUSION, UNCONDITIONED, GemmaConfig
from .gemma_hf import gemma_from_hf, gemma_to_hf
from .generator import Held, Observer, Request, Settings, Shape, Side
from .hf_config import first_token, read_json
from .hf_files import pretrained, resolve
from .hf_generate import replaced, seeded

if TYPE_CHECKING:
    from transformers import DiffusionGemmaForBlockDiffusion, Gemma4ForCausalLM

# What transformers does where a checkpoint says nothing else (`DiffusionGemmaGenerationConfig`).
STEPS_PER_CANVAS = 48
ENTROPY_BOUND = 0.1
_TEMPERATURES = {"t_max": 0.8, "t_min": 0.4}
_ADAPTIVE = {"stability_threshold": 1, "confidence_threshold": 0.005}
_NOT_ADAPTIVE = {"stability_threshold": None, "confidence_threshold": None}


class DiffusionGemma:
    """`DiffusionGemmaForBlockDiffusion` behind the `Generator` protocol.

    T (`steps`) counts the denoising steps of all canvases together, and exactly T are run; encoder passes, one a
    canvas, come on top. Without T, a canvas has 48; then, under the policy `natural`, a canvas also ends as soon as
    every row's most likely tokens have not changed and their mean entropy is below 0.005 nat (the model's own adaptive
    stop; rows that are there before the others are frozen). L is rounded up to whole canvases: what lies beyond is
    computed and costs time, but is neither announced nor returned. Under `natural` generation ends with the canvas
    after which every row has an EOS.

    The temperature is the sampler's own, falling from 0.8 to 0.4 over a canvas: that of the settings must be left at 0.
    """

    side: Side = "diffusion"

    def __init__(self, model: DiffusionGemmaForBlockDiffusion, *, eos_id: int | None = None) -> None:
        name = type(model).__name__
        if not callable(getattr(model, "_denoising_step", None)):
            raise InputError(f"{name}: has no _denoising_step to observe, expected transformers 5.23's; install that")
        self.config = gemma_from_hf(model.config.to_dict(), name)
        if not self.config.self_conditioning:
            raise InputError(f"{name} is no diffusion model, expected DiffusionGemmaForBlockDiffusion")
        self.model = model.eval()  # type: ignore[no-untyped-call]
        stated = getattr(model.generation_config, "eos_token_id", None)
        stored = first_token(stated, f"{name}: eos_token_id")
        self.eos_id = next((eos for eos in (eos_id, stored, self.config.eos_token_id) if eos is not None), None)
        self._shape: Shape | None = None

    @classmethod
    def from_config(cls, config: GemmaConfig, seed: int, dtype: torch.dtype, device: torch.device | str) -> Self:
        """Random weights drawn on `device` from `seed`, directly in `dtype`: no more memory than the weights take."""
        if not config.self_conditioning:
            raise InputError("self_conditioning is false, expected true: DiffusionGemma's denoising has it; set it")
        return cls(_random_model(config, seed, dtype, torch.device(device)))

    @classmethod
    def from_path(cls, reference: str, dtype: torch.dtype, device: torch.device | str) -> Self:
        """Load a local folder or a hub id: safetensors only, no code of the checkpoint's. Raises InputError.

        The vision tower is read and dropped: no request here has an image.
        """
        from transformers import DiffusionGemmaForBlockDiffusion

        path = resolve(reference)
        source = path / "config.json"
        raw = read_json(source)
        if raw.get("model_type") != DIFFUSION:
            raise InputError(
                f"{source}: model_type is {raw.get('model_type')!r}, expected {DIFFUSION!r}; choose its checkpoint"
            )
        gemma_from_hf(raw, str(source))
        model = pretrained(DiffusionGemmaForBlockDiffusion, path, dtype)
        return cls(_without_vision(model).to(device).requires_grad_(False))

    def prepare(self, shape: Shape, settings: Settings) -> None:
        """Check T and the settings; nothing is allocated, for transformers' cache grows as it goes."""
        self.promised_nfe(shape, settings)
        self._shape = shape

    def promised_nfe(self, shape: Shape, settings: Settings) -> int | None:
        """T and an encoder pass for each canvas; None where the adaptive stop decides (policy `natural` without T)."""
        self._refuse(settings)
        each = self._steps(shape.length, settings)
        canvases = -(-shape.length // self.config.canvas_length)
        adaptive = settings.length_policy == "natural" and settings.steps is None
        return None if adaptive else canvases * (each + 1)

    @torch.inference_mode()
    def generate(self, request: Request, observer: Observer) -> Tensor:
        """Tokens [B, L]; a batch that ended early (policy `natural`) is filled up with EOS."""
        if request.shape != self._shape:
            raise InputError(f"generate() got {request.shape}, but prepare() was called for {self._shape}")
        if request.prompt_mask is not None or request.draws is not None:
            raise InputError("DiffusionGemma takes no padded prompts and replays no draws; leave both out")
        settings, prompt, length = request.settings, request.prompt_ids, request.length
        self._refuse(settings)
        if prompt.shape[1] == 0:
            prompt = prompt.new_full((prompt.shape[0], 1), self.eos_id or 0)
        natural = settings.length_policy == "natural" and self.eos_id is not None
        bound = ENTROPY_BOUND if settings.entropy_bound is None else settings.entropy_bound
        announcer = _Announcer(observer, length)
        with seeded(request.seed, prompt.device), announcer.listening(self.model):
            tokens: Tensor = self.model.generate(
                prompt,
                # Every one is given: transformers fills what is left out from the checkpoint's generation config.
                max_new_tokens=length,
                max_length=None,
                max_denoising_steps=self._steps(length, settings),
                sampler_config=_sampler(bound),
                **_TEMPERATURES,
                **(_ADAPTIVE if natural and settings.steps is None else _NOT_ADAPTIVE),
                eos_token_id=self.eos_id if natural else None,
                pad_token_id=None,
                cache_implementation=None,
                disable_compile=True,
                return_dict_in_generate=False,
            )
            announcer.commit()
        tokens = tokens[:, prompt.shape[1] : prompt.shape[1] + length]
        short = length - tokens.shape[1]
        return F.pad(tokens, (0, short), value=self.eos_id or 0) if short else tokens

    def held(self) -> Held:
        """Weights; transformers' cache holds the prompt and every canvas but the last, and goes with its generation."""
        dtype, grown = str(self.model.dtype).removeprefix("torch."), 0
        if self._shape is not None:
            canvas, prompt = self.config.canvas_length, max(self._shape.prompt_length, 1)
            encoded = prompt + (math.ceil(self._shape.length / canvas) - 1) * canvas
            grown = kv_cache_bytes(self.config, self._shape.batch, encoded, dtype)
        weights = (*self.model.parameters(), *self.model.buffers())
        return Held(weights, (), self.config.vocab_size * self.model.dtype.itemsize, grown)

    def forward_cost(self, network: str, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str) -> Cost:
        """Analytic work of one announced forward (see `GemmaConfig.forward_cost`)."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        return self.config.forward_cost(
            rows=rows, q_len=q_len, kv_len=kv_len, logit_rows=logit_rows, mask=mask, dtype=dtype
        )

    def _steps(self, length: int, settings: Settings) -> int:
        """Denoising steps of each canvas."""
        if settings.steps is None:
            return STEPS_PER_CANVAS
        canvases = math.ceil(length / self.config.canvas_length)
        if settings.steps % canvases:
            raise InputError(
                f"steps: T={settings.steps} is not divisible by the {canvases} canvases of {self.config.canvas_length} "
                f"positions that L={length} takes; choose a multiple of {canvases}"
            )
        return settings.steps // canvases

    def _refuse(self, settings: Settings) -> None:
        """Raise InputError for a setting that this sampler has no place for."""
        settings.refuse("DiffusionGemma", "entropy_bound", "cache")
        expected = {
            "temperature": (0.0, "its sampler has a schedule of its own, 0.8 to 0.4"),
            "top_k": (0, "its sampler truncates nothing"),
            "top_p": (1.0, "its sampler truncates nothing"),
            "remasking": ("low_confidence", "its sampler goes by entropy"),
            "block_length": (self.config.canvas_length, "that is its canvas"),
            "cache": ("kv", "it always keeps what it has encoded"),
        }
        for name, (value, why) in expected.items():
            if getattr(settings, name) not in (None, value):
                raise InputError(f"{name} {getattr(settings, name)!r}: DiffusionGemma expects {value!r}; {why}")


class _Announcer:
    """Tells the observer of what `generate` does, from inside: encoder passes, denoising forwards, steps, canvases.

    A canvas is committed when the next one is encoded, or at the end: only then is it known to have been the last step.
    """

    def __init__(self, observer: Observer, length: int) -> None:
        self._observer = observer
        self._length = length
        self._encoded = 0
        self._offset = 0
        self._step = 0
        self._draft: Tensor | None = None

    @contextmanager
    def listening(self, model: DiffusionGemmaForBlockDiffusion) -> Iterator[None]:
        """Wrap the model's methods inside the block."""
        encoder = model.model.encoder
        with ExitStack() as stack:
            for owner, name, wrap in (
                (encoder, "forward", self._encoding),
                (model, "forward", self._denoising),
                (model, "_denoising_step", self._stepping),
            ):
                stack.enter_context(replaced(owner, name, wrap(getattr(owner, name))))
            yield

    def commit(self) -> None:
        """Announce the last prediction of the canvas that has just ended, if there is one, as final."""
        if self._draft is not None:
            self._write(self._draft, committed=True)
            self._offset += self._draft.shape[1]
            self._draft = None

    def _encoding(self, call: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(call)
        def announcing(*args: object, **inputs: Any) -> object:
            self.commit()
            rows, q_len = inputs["input_ids"].shape
            self._encoded += q_len
            with self._observer.forward("target", "encode", rows, q_len, self._encoded, 0, "causal"):
                return call(*args, **inputs)

        return announcing

    def _denoising(self, call: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(call)
        def announcing(*args: object, **inputs: Any) -> object:
            rows, q_len = inputs["decoder_input_ids"].shape
            positions = self._encoded + q_len
            first = inputs.get("self_conditioning_logits") is None
            mask = UNCONDITIONED if first else "bidirectional"
            with self._observer.forward("target", "denoise", rows, q_len, positions, rows * q_len, mask):
                return call(*args, **inputs)

        return announcing

    def _stepping(self, call: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
        @functools.wraps(call)
        def announcing(*args: object, **inputs: Any) -> tuple[Tensor, ...]:
            result = call(*args, **inputs)
            self._step += 1
            self._draft = result[1]  # the most likely tokens [B, canvas]; the noisy canvas is the first
            self._write(self._draft, committed=False)
            return result

        return announcing

    def _write(self, canvas: Tensor, *, committed: bool) -> None:
        ids = canvas[:, : self._length - self._offset]
        self._observer.write(None, ids, self._step - 1, offset=self._offset, committed=committed)


def gemma_twin(model: DiffusionGemmaForBlockDiffusion) -> Gemma4ForCausalLM:
    """Gemma 4's causal language model on this model's own tensors: no memory of its own.

    It is DiffusionGemma's encoder with the vocabulary head on top; the self-conditioning is left out.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = gemma_from_hf(model.config.to_dict(), type(model).__name__)
    raw = gemma_to_hf(config.model_copy(update={"self_conditioning": False}))
    theirs = AutoConfig.for_model(str(raw.pop("model_type")), **raw)
    with torch.device("meta"):
        twin: Any = AutoModelForCausalLM.from_config(theirs, dtype=model.dtype)  # type: ignore[no-untyped-call]
    text: nn.Module = model.model.encoder.language_model
    twin.model.load_state_dict(text.state_dict(), assign=True)
    twin.lm_head.load_state_dict(model.lm_head.state_dict(), assign=True)
    # What no state dict holds: the RoPE frequencies, and the factor on embeddings.
    for name, buffer in text.named_buffers():
        owner, _, attribute = name.rpartition(".")
        setattr(twin.model.get_submodule(owner), attribute, buffer)
    twin.generation_config.eos_token_id = getattr(model.generation_config, "eos_token_id", None) or config.eos_token_id
    return twin.eval().requires_grad_(False)  # type: ignore[no-any-return]


def _random_model(
    config: GemmaConfig, seed: int, dtype: torch.dtype, device: torch.device
) -> DiffusionGemmaForBlockDiffusion:
    """The model with weights as in `names.RANDOM_DISTRIBUTION`. What two modules share is allocated once."""
    from transformers import AutoConfig, DiffusionGemmaForBlockDiffusion

    raw = gemma_to_hf(config)
    theirs = AutoConfig.for_model(str(raw.pop("model_type")), **raw)
    with torch.device("meta"):
        model = _without_vision(DiffusionGemmaForBlockDiffusion._from_config(theirs, dtype=dtype))  # type: ignore[no-untyped-call]
    made: dict[int, nn.Parameter] = {}
    shared: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) not in made:
            made[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device=device), requires_grad=False)
        shared[name] = made[id(parameter)]
    model.load_state_dict(shared, strict=False, assign=True)
    with seeded(seed, device):
        for module in model.modules():
            buffers = dict(module.named_buffers(recurse=False))
            for name, buffer in buffers.items():
                # Layers scale their output by one of these, which starts at 1.
                setattr(module, name, torch.ones_like(buffer, device=device))
            if buffers:
                model._init_weights(module)  # sets RoPE frequencies and the factor on embeddings
    random = torch.Generator(device).manual_seed(seed)
    residual = 0.02 / math.sqrt(2 * config.num_hidden_layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                output = name.removesuffix(".weight").endswith(("o_proj", "down_proj"))
                parameter.normal_(0.0, residual if output else 0.02, generator=random)
    return model.requires_grad_(False)  # type: ignore[no-any-return]


def _without_vision(model: Any) -> Any:
    """The model with neither vision tower nor projection, which the class cannot be built without: text needs none."""
    model.model.encoder.vision_tower = model.model.encoder.embed_vision = None
    return model


def _sampler(entropy_bound: float) -> object:
    """transformers' settings of the acceptance rule; the bound in nats."""
    from transformers.models.diffusion_gemma.generation_diffusion_gemma import EntropyBoundSamplerConfig

    return EntropyBoundSamplerConfig(entropy_bound=float(entropy_bound))
