"""llama.cpp as a generator: the pair's own weights, decoded by the engine that most people run on a CPU.

    pip install -e '.[llamacpp]'
    dlmbench run --generator tests/bench/benchmarks/llamacpp.py:llamacpp

The weights are written once as a float32 GGUF into a temporary folder, and llama.cpp's server, inside this process,
answers on a local port: token ids in, token ids out, streamed step by step. A forward is announced around the wait for
its tokens, so that it contains llama.cpp's own sampling; what the stream costs (parsing some text per token) is part
of what is measured. The same threads as torch, keys and values in float32 unless the context says float16.

Wheels of xllamacpp for Linux are built for AVX2: on a CPU with AVX-512, llama.cpp built at home is faster.
"""

from __future__ import annotations

import http.client
import json
import tempfile
from collections import deque
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from dlmbench import InputError
from dlmbench.models.backbone import Backbone
from dlmbench.models.costs import Cost
from dlmbench.models.generator import Observer, Request, Settings, Shape, Side
from dlmbench.models.layouts import pieces

if TYPE_CHECKING:
    from dlmbench.models.catalog import Context

_KV = {torch.float32: "F32", torch.float16: "F16"}


class LlamaCpp:
    """A `Generator` of the AR side: greedy, fixed length, float32 on a CPU."""

    side: Side = "ar"

    def __init__(self, network: Backbone, kv_dtype: torch.dtype | None = None) -> None:
        config = network.config
        if network.dtype != torch.float32 or network.device.type != "cpu":
            raise InputError(f"llamacpp: found {network.dtype} on {network.device}; expected float32 on cpu")
        if config.attention_bias or config.qk_norm or config.rope_scaling is not None:
            raise InputError("llamacpp: found biases, QK norms or RoPE scaling; expected a plain Llama backbone")
        self.kv_dtype = kv_dtype or torch.float32
        if self.kv_dtype not in _KV:
            raise InputError(f"llamacpp: found a {kv_dtype} cache; expected float32 or float16")
        self.network = network
        self._folder = tempfile.TemporaryDirectory(prefix="dlmbench-llamacpp-")
        self._file = Path(self._folder.name) / "model.gguf"
        _write_gguf(network, self._file)
        self._shape: Shape | None = None
        self._server: Any = None

    def prepare(self, shape: Shape, settings: Settings) -> None:
        """Start a server with one slot a row, each of P + L positions."""
        if settings.steps is not None or settings.block_length is not None:
            raise InputError("steps and block_length belong to diffusion; an AR generator takes one step a token")
        if settings.temperature > 0 or settings.length_policy != "fixed":
            raise InputError("llamacpp: expected temperature 0 and the length policy fixed; choose those")
        if shape == self._shape:
            return
        import xllamacpp

        self._shape = self._server = None
        params = xllamacpp.CommonParams()
        params.verbosity = -1
        params.model.path = str(self._file)
        # Slots share the context evenly, each a multiple of 256 positions.
        params.n_parallel = shape.batch
        params.n_ctx = shape.batch * -(-(max(shape.prompt_length, 1) + shape.length) // 256) * 256
        params.n_batch = params.n_ubatch = max(512, shape.batch * shape.prompt_length)
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
        params.n_gpu_layers = 0
        params.cache_ram_mib = 0
        params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{_KV[self.kv_dtype]}")
        # Its fused attention is made for half precision: in float32 it takes three times as long as the plain one.
        flash = xllamacpp.llama_flash_attn_type
        params.flash_attn_type = (
            flash.LLAMA_FLASH_ATTN_TYPE_ENABLED
            if self.kv_dtype == torch.float16
            else flash.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        self._server = xllamacpp.Server(params)
        self._shape = shape

    def generate(self, request: Request, observer: Observer) -> Tensor:
        """Tokens [B, L]. A request without a prompt starts from EOS, as with our own generator."""
        if request.shape != self._shape:
            raise InputError(f"generate() got {request.shape}, but prepare() was called for {self._shape}")
        prompt = request.prompt_ids
        rows = prompt.shape[0]
        if prompt.shape[1] == 0:
            prompt = prompt.new_full((rows, 1), self.network.config.eos_token_id or 0)
        start = prompt.shape[1]
        columns: list[Tensor] = []
        stream = self._columns(prompt.tolist(), request.length)
        for index in range(request.length):
            if index == 0:
                span = observer.forward("target", "prefill", rows, start, start, rows, "causal")
            else:
                span = observer.forward("target", "decode", rows, 1, start + index, rows, "causal")
            with span:
                column = torch.tensor(next(stream), dtype=torch.int64)[:, None]
            observer.write(None, column, index, offset=index)
            columns.append(column)
        stream.close()
        return torch.cat(columns, dim=1)

    def _columns(self, prompts: list[list[int]], length: int) -> Generator[list[int], None, None]:
        """One token id of every row at a time, as the server's stream brings them."""
        address = urlsplit(self._server.listening_address)
        connection = http.client.HTTPConnection(address.hostname or "", address.port)
        body = {
            "prompt": prompts,
            "n_predict": length,
            "samplers": ["top_k"],
            "top_k": 1,
            "temperature": 0,
            "ignore_eos": True,
            "return_tokens": True,
            "cache_prompt": False,
            "stream": True,
        }
        waiting: list[deque[int]] = [deque() for _ in prompts]
        try:
            connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise RuntimeError(f"llama.cpp answered {response.status}: {response.read(500)!r}")
            while line := response.readline():
                name, _, data = line.partition(b": ")
                event = json.loads(data) if name == b"data" else None
                if name == b"error" or (event and "error" in event):
                    raise RuntimeError(f"llama.cpp's stream broke off: {line[:500]!r}")
                if not event:  # blank lines between events, and a null while the first tokens are under way
                    continue
                waiting[event["index"]].extend(event["tokens"])
                while all(waiting):
                    yield [row.popleft() for row in waiting]
        finally:
            connection.close()

    def forward_cost(self, network: str, rows: int, q_len: int, kv_len: int, logit_rows: int, mask: str) -> Cost:
        """Analytic work of one announced forward."""
        kv_dtype = str(self.kv_dtype).removeprefix("torch.")
        return self.network.forward_cost(network, rows, q_len, kv_len, logit_rows, mask, kv_dtype)


def llamacpp(context: Context) -> LlamaCpp:
    """The factory that `--generator` names."""
    return LlamaCpp(context.network(), context.kv_dtype)


llamacpp.side = "ar"  # type: ignore[attr-defined]


def _write_gguf(network: Backbone, file: Path) -> None:
    """The network as GGUF of the architecture `llama`, with one id more than it has.

    llama.cpp stops at a row's EOS, and `ignore_eos` forbids that id altogether; in our fixed-length requests EOS is an
    id like any other. So the file names an EOS of its own behind the vocabulary, with a row of zeros.
    """
    import gguf

    config = network.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size + 1)
    # A tokenizer is compulsory, if only to turn ids into text that nobody reads; so is a merge.
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"<{index}>" for index in range(config.vocab_size + 1)])
    writer.add_token_types([gguf.TokenType.NORMAL] * config.vocab_size + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["< 0"])
    writer.add_eos_token_id(config.vocab_size)
    writer.add_bos_token_id(config.vocab_size)
    writer.add_add_bos_token(False)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    parameters = network.state_dict()
    for piece in pieces(config):
        tensor = piece.of(parameters)
        if "q_proj" in piece.name:
            tensor = _interleaved(tensor, config.num_attention_heads)
        elif "k_proj" in piece.name:
            tensor = _interleaved(tensor, config.num_key_value_heads)
        elif piece.parameter in ("embedding", "head.weight"):
            tensor = torch.cat((tensor, tensor.new_zeros(1, tensor.shape[1])))
        writer.add_tensor(names.get_name(piece.name, try_suffixes=(".weight",)), tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleaved(weight: Tensor, heads: int) -> Tensor:
    """Rows of a projection [H x D, d] from RoPE's half-split order to llama.cpp's, in which pairs are neighbours."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
