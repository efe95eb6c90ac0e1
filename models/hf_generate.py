"""transformers' own `generate` as an independent autoregressive baseline.

Nobody who reads a comparison has to trust our AR loop: this is the one that everybody runs. transformers is not
changed. For the length of a generation the model's `forward` is wrapped so that each call is announced, and a stopping
criterion that never stops anything sees the token ids of each step while they are still on the device (a streamer would
copy them to the host). What `generate` does by itself stays as it is, among it one host synchronisation per token, in
which it asks whether every row has ended.

Its settings come from the request alone: the checkpoint's generation config (repetition penalties, sampling defaults)
is set aside. Nothing is compiled unless the engine is `compile`; on a GPU, transformers would compile by itself as soon
as the cache is static.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import InputError
from .backbone import Backbone
from .config import BackboneConfig
from .costs import Cost
from .costs import forward_cost as analytic_cost
from .footprint import kv_cache_bytes
from .gemma_config import GemmaConfig
from .gemma_hf import gemma_from_hf
from .generator import Held, Observer, Phase, Request, Settings, Shape, Side
from .hf_config import first_token, from_hf, to_hf
from .hf_files import pretrained, resolve
from .layouts import pieces

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel
    from transformers.cache_utils import StaticCache

Cache = Literal["dynamic", "static"]
Engine = Literal["eager", "compile"]
# Enough for a compiled decode step to be compiled, warmed up and recorded as a CUDA graph.
_PREPARE_TOKENS = 4


class HFGenerate:
    """Any causal language model of transformers behind the `Generator` protocol.

    `cache` dynamic grows by concatenation (transformers' default); static is allocated in `prepare`. `eos_id`
    overrides the model's. For a Llama-like model, and for Gemma 4 with experts, there is also `forward_cost` (see
    `Costed`); others have none.
    """

    side: Side = "ar"
    forward_cost: Callable[[str, int, int, int, int, str], Cost]

    def __init__(
        self, model: PreTrainedModel, *, cache: Cache = "dynamic", engine: Engine = "eager", eos_id: int | None = None
    ) -> None:
        if cache not in get_args(Cache):
            raise InputError(f"cache is {cache!r}, expected one of {', '.join(get_args(Cache))}")
        if engine not in get_args(Engine):
            raise InputError(f"engine is {engine!r}, expected one of {', '.join(get_args(Engine))} for transformers")
        if engine == "compile" and (cache != "static" or model.device.type == "cpu"):
            raise InputError(
                f"engine compile with a {cache} cache on {model.device.type}: transformers compiles only on an "
                "accelerator and with a static cache; choose engine eager, or cache static there"
            )
        if model.config.is_encoder_decoder:
            raise InputError(f"{type(model).__name__} is an encoder-decoder, expected a decoder-only language model")
        self.model = model.eval()  # type: ignore[no-untyped-call]
        self.cache = cache
        self.engine = engine
        self.eos_id = _model_eos(model) if eos_id is None else eos_id
        self.config = _known_config(model)
        # Set on the instance, so that a model with no known cost does not have the attribute at all.
        if self.config is not None:
            self.forward_cost = functools.partial(_forward_cost, self.config, str(model.dtype).removeprefix("torch."))
        self._shape: Shape | None = None
        self._static: StaticCache | None = None

    @classmethod
    def from_path(
        cls,
        reference: str,
        dtype: torch.dtype,
        device: torch.device | str,
        cache: Cache = "dynamic",
        *,
        engine: Engine = "eager",
    ) -> Self:
        """Load a local folder or a hub id: safetensors only, no code of the checkpoint's. Raises InputError."""
        from transformers import AutoModelForCausalLM

        advice = "expected a causal language model that needs no code of its own; choose another checkpoint"
        model = pretrained(AutoModelForCausalLM, resolve(reference), dtype, advice=advice)
        return cls(model.to(device), cache=cache, engine=engine)

    @classmethod
    def gpt2(cls, seed: int, dtype: torch.dtype, device: torch.device | str) -> Self:
        """GPT-2 small (the class's own defaults), random weights of transformers' own distribution, static cache."""
        from transformers import GPT2Config, GPT2LMHeadModel

        with torch.random.fork_rng(), torch.device(device):
            torch.manual_seed(seed)
            model: Any = GPT2LMHeadModel(GPT2Config(dtype=dtype))
        return cls(model.to(dtype).requires_grad_(False), cache="static")

    @classmethod
    def from_backbone(cls, network: Backbone, cache: Cache = "dynamic", *, engine: Engine = "eager") -> Self:
        """The same network in transformers' code. Its tensors are views of the backbone's: no memory of their own."""
        from transformers import AutoConfig, AutoModelForCausalLM

        config = network.config
        raw = to_hf(config)
        theirs = AutoConfig.for_model(str(raw.pop("model_type")), **raw)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(theirs, dtype=network.dtype)  # type: ignore[no-untyped-call]
        parameters = network.state_dict()
        weights = {piece.name: piece.of(parameters) for piece in pieces(config)}
        if config.tie_word_embeddings:
            weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
        model.load_state_dict(weights, assign=True)
        # The RoPE frequencies are no part of a state dict; made once more, on the device.
        model.model.rotary_emb = type(model.model.rotary_emb)(config=theirs).to(network.device)
        return cls(model.requires_grad_(False), cache=cache, engine=engine)

    def prepare(self, shape: Shape, settings: Settings) -> None:
        """Allocate the static cache for P + L positions; compile and warm up where the engine says so."""
        if settings.steps is not None or settings.block_length is not None:
            raise InputError("steps and block_length belong to diffusion; an AR generator takes one step a token")
        if shape == self._shape:
            return
        self._shape = self._static = None
        prompt = max(shape.prompt_length, 1)
        positions = getattr(self.model.config, "max_position_embeddings", None)
        # Past a learned position table lies an index error (on a GPU: a dead context). RoPE has no such end.
        if self.config is None and positions is not None and prompt + shape.length > positions:
            raise InputError(
                f"prompt {prompt} + length {shape.length} exceeds the {positions} positions of "
                f"{type(self.model).__name__}; choose shorter ones"
            )
        if self.cache == "static":
            from transformers.cache_utils import StaticCache

            # As long as transformers makes it: the last token is never written.
            self._static = StaticCache(config=self.model.config, max_cache_len=prompt + shape.length - 1)
            zeros = torch.zeros((shape.batch, prompt), dtype=torch.int64, device=self.model.device)
            self._run(zeros, min(shape.length, _PREPARE_TOKENS), settings, 0, None, eos_id=None)
        self._shape = shape

    def generate(self, request: Request, observer: Observer) -> Tensor:
        """Tokens [B, L]; after a row's EOS (policy `natural`) its columns hold EOS."""
        if request.shape != self._shape:
            raise InputError(f"generate() got {request.shape}, but prepare() was called for {self._shape}")
        prompt = request.prompt_ids
        if prompt.shape[1] == 0:
            prompt = prompt.new_full((prompt.shape[0], 1), self.eos_id or 0)
        eos_id = self.eos_id if request.settings.length_policy == "natural" else None
        tokens = self._run(prompt, request.length, request.settings, request.seed, observer, eos_id=eos_id)
        short = request.length - tokens.shape[1]
        return F.pad(tokens, (0, short), value=eos_id or 0) if short else tokens

    def held(self) -> Held | None:
        """Weights and the static cache. A dynamic one is sized from the shape: it goes with the generation that grew
        it. None where it is of an unknown model."""
        shape, config = self._shape, self.model.config.get_text_config()
        grown = 0
        if self.cache == "dynamic" and shape is not None:
            if self.config is None:
                return None
            # The last token is never written.
            positions = max(shape.prompt_length, 1) + shape.length - 1
            grown = kv_cache_bytes(self.config, shape.batch, positions, str(self.model.dtype).removeprefix("torch."))
        layers: Any = () if self._static is None else self._static.layers
        kv = tuple(t for layer in layers if layer.is_initialized for t in (layer.keys, layer.values))
        weights = (*self.model.parameters(), *self.model.buffers())
        return Held(weights, kv, config.vocab_size * self.model.dtype.itemsize, grown)

    @torch.inference_mode()
    def _run(
        self, prompt: Tensor, length: int, settings: Settings, seed: int, observer: Observer | None, eos_id: int | None
    ) -> Tensor:
        """New tokens [B, up to L] after `prompt` [B, P >= 1]."""
        from transformers import StoppingCriteriaList

        extra: dict[str, Any] = {}
        if self._static is not None:
            self._static.reset()  # type: ignore[no-untyped-call]
            extra["past_key_values"] = self._static
        if observer is not None:
            extra["stopping_criteria"] = StoppingCriteriaList([_Writes(observer, prompt, eos_id)])
        announced = nullcontext() if observer is None else self._announced(observer)
        random = nullcontext() if settings.temperature == 0 else seeded(seed, prompt.device)
        with random, self._blank_defaults(), announced:
            ids: Tensor = self.model.generate(
                prompt,
                generation_config=self._generation_config(length, settings, eos_id),
                # Without it, transformers looks for padding ids in the prompt, and would mask them.
                attention_mask=torch.ones_like(prompt),
                **extra,
            )
        return ids[:, prompt.shape[1] :]

    def _generation_config(self, length: int, settings: Settings, eos_id: int | None) -> GenerationConfig:
        from transformers import GenerationConfig

        sampling: dict[str, Any] = {"do_sample": False}
        if settings.temperature > 0:
            sampling = {
                "do_sample": True,
                "temperature": settings.temperature,
                "top_k": settings.top_k,
                "top_p": settings.top_p,
            }
        return GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=length,
            use_cache=True,
            eos_token_id=eos_id,
            pad_token_id=eos_id,
            disable_compile=self.engine != "compile",
            **sampling,
        )

    @contextmanager
    def _blank_defaults(self) -> Iterator[None]:
        """Set the checkpoint's generation config aside: transformers fills every unset value from it."""
        from transformers import GenerationConfig

        kept = self.model.generation_config
        self.model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            self.model.generation_config = kept

    @contextmanager
    def _announced(self, observer: Observer) -> Iterator[None]:
        """Announce every forward inside the block: the first is the prefill, each later one a decode step.

        A compiled decode step is announced around the compiled call: inside, the wrapper would be part of the graph.
        """
        model = self.model
        kv_len = 0

        def span(inputs: dict[str, Any]) -> AbstractContextManager[object]:
            nonlocal kv_len
            rows, q_len = inputs["input_ids"].shape
            phase: Phase = "decode" if kv_len else "prefill"
            kv_len += q_len
            kept = inputs.get("logits_to_keep") or q_len
            return observer.forward("target", phase, rows, q_len, kv_len, rows * min(kept, q_len), "causal")

        def announce(call: Callable[..., object]) -> Callable[..., object]:
            @functools.wraps(call)  # generate inspects the signature
            def announcing(*args: object, **inputs: Any) -> object:
                with span(inputs):
                    return call(*args, **inputs)

            return announcing

        with replaced(model, "forward", announce(model.forward)) as restore:
            if self.engine != "compile":
                yield
                return
            compiled = model.get_compiled_call

            def decode_step(config: object) -> Callable[..., object]:
                step = announce(compiled(config))

                def run(*args: object, **inputs: Any) -> object:
                    restore()
                    return step(*args, **inputs)

                return run

            with replaced(model, "get_compiled_call", decode_step):
                yield


class _Writes:
    """A stopping criterion that stops nothing: it passes the newest ids on to the observer, on the device."""

    def __init__(self, observer: Observer, prompt: Tensor, eos_id: int | None) -> None:
        self._observer = observer
        self._start = prompt.shape[1]
        self._eos_id = eos_id
        self._never = torch.zeros(prompt.shape[0], dtype=torch.bool, device=prompt.device)
        self._alive: Tensor | None = None if eos_id is None else ~self._never[:, None]

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:
        """Which rows are to end, [B] bool: none. `input_ids` [B, P + i + 1] end with the ids of step i."""
        step = input_ids.shape[1] - 1 - self._start
        # A copy of one column: a view would keep every step's whole sequence alive.
        ids = input_ids[:, -1:].clone()
        self._observer.write(self._alive, ids, step, offset=step)
        if self._alive is not None:
            self._alive = self._alive & (ids != self._eos_id)
        return self._never


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[Callable[[], None]]:
    """Shadow a method by an attribute of the instance inside the block; yields a function that undoes it early."""
    before = owner.__dict__.get(name)

    def restore() -> None:
        if before is not None:
            setattr(owner, name, before)
        elif name in owner.__dict__:
            delattr(owner, name)

    setattr(owner, name, value)
    try:
        yield restore
    finally:
        restore()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, which transformers draws from, and give them back as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _model_eos(model: PreTrainedModel) -> int | None:
    """The EOS of the generation config, else of the config; the first of several, as for our own backbones."""
    for config in (model.generation_config, model.config):
        eos = getattr(config, "eos_token_id", None)
        if eos is not None:
            return first_token(eos, f"{type(model).__name__}: eos_token_id")
    return None


def _known_config(model: PreTrainedModel) -> BackboneConfig | GemmaConfig | None:
    """The model's shape in our terms, None where it is not one that the cost formulae describe."""
    readers: tuple[Callable[[dict[str, object], str], BackboneConfig | GemmaConfig], ...]
    readers = (from_hf, gemma_from_hf)
    for read in readers:
        with suppress(InputError):
            return read(model.config.to_dict(), type(model).__name__)
    return None


def _forward_cost(
    config: BackboneConfig | GemmaConfig,
    dtype: str,
    network: str,
    rows: int,
    q_len: int,
    kv_len: int,
    logit_rows: int,
    mask: str,
) -> Cost:
    """Work of one announced forward (see `costs`)."""
    cost = config.forward_cost if isinstance(config, GemmaConfig) else functools.partial(analytic_cost, config)
    return cost(rows=rows, q_len=q_len, kv_len=kv_len, logit_rows=logit_rows, mask="causal", dtype=dtype)
