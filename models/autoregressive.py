"""Autoregressive generation: prefill the prompt once, then one token a forward on a static key-value cache."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import InputError
from .cache import KVCache
from .costs import Cost
from .engines import DecodeStep, Prefill, decode_step, prefill
from .generator import Held, Observer, Request, Settings, Shape, Side
from .network import Network
from .sampling import choose


class Autoregressive:
    """The AR side of a pair, on the pair's backbone with causal attention.

    `engine` says how forwards run (see `engines`). Under the policy `natural`, a row ends at `eos_id` and the batch
    when every row has ended; under `fixed`, EOS is a token like any other.
    """

    side: Side = "ar"

    def __init__(self, network: Network, *, engine: str = "eager", kv_dtype: torch.dtype | None = None) -> None:
        self.network = network
        self.engine = engine
        self.kv_dtype = kv_dtype or network.dtype
        self.eos_id = network.config.eos_token_id
        self._shape: Shape | None = None
        self._cache: KVCache | None = None
        self._prefill: Prefill
        self._step: DecodeStep

    def prepare(self, shape: Shape, settings: Settings) -> None:
        """Allocate the cache for P + L positions, compile or capture the prefill and the decode step."""
        if settings.steps is not None or settings.block_length is not None:
            raise InputError("steps and block_length belong to diffusion; an AR generator takes one step a token")
        if shape == self._shape:
            return
        self._shape = None
        prompt = max(shape.prompt_length, 1)
        capacity = prompt + shape.length
        self.network.rotary(capacity)
        # Other engines of this shape share the network: they leave the layouts as they are.
        if shape.batch > 1 or self.engine == "eager":
            self.network.favour_single_rows(shape.batch == 1)
        cache = KVCache(self.network.config, shape.batch, capacity, self.kv_dtype, self.network.device)
        self._cache = cache
        self._prefill = prefill(self.engine, self.network, cache, shape.batch, prompt)
        self._step = decode_step(self.engine, self.network, cache, shape.batch)
        self._shape = shape

    @torch.inference_mode()
    def generate(self, request: Request, observer: Observer) -> Tensor:
        """Tokens [B, L]. A request without a prompt starts from EOS, which takes the place of a beginning of text."""
        if request.shape != self._shape:
            raise InputError(f"generate() got {request.shape}, but prepare() was called for {self._shape}")
        settings, random = request.settings, request.random()
        natural = settings.length_policy == "natural" and self.eos_id is not None
        prompt = request.prompt_ids
        rows, length = prompt.shape[0], request.length
        if prompt.shape[1] == 0:
            prompt = prompt.new_full((rows, 1), self.eos_id or 0)
        start = prompt.shape[1]
        tokens, column = prompt.new_empty((rows, length)), prompt[:, -1:]
        ended: Tensor | None = prompt.new_zeros((rows, 1), dtype=torch.bool) if natural else None
        watch = _EndWatch(prompt.device) if natural else None

        for index in range(length):
            position = start + index - 1
            if index == 0:
                with observer.forward("target", "prefill", rows, start, start, rows, "causal"):
                    logits = self._prefill(prompt)
            else:
                with observer.forward("target", "decode", rows, 1, position + 1, rows, "causal"):
                    logits = self._step(column, position)
            ids, _ = choose(logits, settings, random)
            column = ids[:, None]
            tokens[:, index] = ids
            if ended is None or watch is None:
                observer.write(None, tokens[:, index : index + 1], index, offset=index)
                continue
            observer.write(~ended, tokens[:, index : index + 1], index, offset=index)
            ended = ended | (column == self.eos_id)
            if watch.all_true(ended):
                break
        return tokens

    def held(self) -> Held:
        """Weights, and the cache for P + L positions. Compiled decoding reads no layouts for single rows."""
        return self.network.held(self._cache, layouts=self.engine == "eager")

    def promised_nfe(self, shape: Shape, settings: Settings) -> int | None:
        """One forward a token: the prefill gives the first."""
        return shape.length

    def forward_cost(self, network: str, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str) -> Cost:
        """Analytic work of one announced forward."""
        kv_dtype = str(self.kv_dtype).removeprefix("torch.")
        return self.network.forward_cost(network, rows, q_len, kv_len, logit_rows, mask, kv_dtype)


_MOST_AHEAD = 2


class _EndWatch:
    """Learns that every row has ended without making the host wait for the device.

    On CUDA the flag travels to the host behind the kernels, and the host runs at most two steps ahead of what has
    arrived: decoding overruns by no more. Those tokens lie after EOS and never count.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._pending: list[tuple[Tensor, torch.cuda.Event]] = []

    def all_true(self, flags: Tensor) -> bool:
        """Whether all `flags`, now or at an earlier call, are known to be set."""
        if not self._cuda:
            return bool(flags.all())
        host = flags.all().to("cpu", non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending.append((host, event))
        if len(self._pending) > _MOST_AHEAD:
            # Launches are far quicker than steps: without a bound the host would queue the whole length.
            self._pending[0][1].synchronize()
        while self._pending and self._pending[0][1].query():
            arrived, _ = self._pending.pop(0)
            if bool(arrived):
                return True
        return False
