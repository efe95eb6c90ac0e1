"""What a generation holds in memory beside its weights: caches of keys and values, and the widest moment of a forward.

From shapes alone, in bytes. A forward without gradients keeps little: the widest moment of one layer is the widest of
all. Each count below follows the layer's code, in numbers of the weights' dtype for each position that is fed. d, Q, K
and I are the widths of the hidden state, of all queries, of all keys (and of all values), and of the MLP. A name keeps
its tensor until the function ends, so the MLP runs beside what attention left:

- ours, Llama-like, I being larger than Q: x twice (before and after attention), the fused q, k, v, the rotated q and k,
  the attended values; then gate and up, SiLU(gate), the MLP's output: 3 (d + Q + K + I).
- ours, DiT: x twice, q, k, v, the rotated q and k, the attended values (together 8 d), up and GELU(up): 16 d.
- transformers' Llama: embeddings, the layer's input, the residual, the normed state, activated gate, up and their
  product: 4 d + 3 I.
- transformers' GPT-2: the residual, the normed state, the MLP's 4 d and four terms of its tanh GELU as wide: 22 d.
- transformers' Gemma with experts: seven hidden states, and for each of a position's k experts its input and output,
  and the weighted output twice in float32, in routed order and in the positions': 7 d + k (2 d + 2 d in float32).
"""

from __future__ import annotations

from .architecture import Config
from .config import DTYPE_BYTES, BackboneConfig
from .dit_config import DiTConfig
from .gemma_config import GemmaConfig

# GPT-2 small (Radford et al. 2019) in this family's terms: two matrices of 3072 in its MLP are three of 2048.
GPT2_SMALL = BackboneConfig(
    vocab_size=50_257, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
    num_key_value_heads=12, head_dim=64, max_position_embeddings=1024, tie_word_embeddings=True, eos_token_id=50_256,
    mask_token_id=0,
)  # fmt: skip


def kv_cache_bytes(config: Config, rows: int, positions: int, dtype: str) -> int:
    """Keys and values of `rows` sequences of `positions`, over all layers."""
    if isinstance(config, GemmaConfig):
        return rows * config.kv_bytes(positions, dtype)
    return rows * positions * config.kv_bytes_per_token(dtype)


def forward_bytes(config: Config, rows: int, q_len: int, dtype: str) -> int:
    """The widest moment of a forward of `rows` x `q_len` positions through our own code, the head apart."""
    if isinstance(config, DiTConfig):
        width = 16 * config.hidden_size
    elif isinstance(config, BackboneConfig):
        width = 3 * (config.hidden_size + config.query_size + config.kv_size + config.intermediate_size)
    else:
        return transformers_forward_bytes(config, rows, q_len, dtype)
    return rows * q_len * width * DTYPE_BYTES[dtype]


def transformers_forward_bytes(config: Config, rows: int, q_len: int, dtype: str) -> int:
    """The same through transformers' classes."""
    d, each = config.hidden_size, DTYPE_BYTES[dtype]
    if isinstance(config, GemmaConfig):
        width = 7 * d * each + config.top_k_experts * 2 * d * (each + 4)
    elif config is GPT2_SMALL:
        width = 22 * d * each
    else:
        width = (4 * d + 3 * config.intermediate_size) * each
    return rows * q_len * width


def score_bytes(config: Config, rows: int, q_len: int, kv_len: int, dtype: str) -> int:
    """What attention written out (kernel `math`) holds more: scores, their softmax, and a mask's copy of them."""
    return 3 * rows * config.num_attention_heads * q_len * kv_len * DTYPE_BYTES[dtype]


def single_row_layout_bytes(config: Config) -> int:
    """Second copies of the weights with more outputs than inputs, float32 (see `linear.Linear.favour_single_rows`)."""
    d, vocabulary = config.hidden_size, config.vocab_size
    if isinstance(config, DiTConfig):
        matrices = [(3 * d, d), (4 * d, d)]
    else:
        queries = config.query_size
        matrices = [(queries + 2 * config.kv_size, d), (d, queries), (2 * config.intermediate_size, d)]
        matrices.append((d, config.intermediate_size))
    layer = sum(out * size_in for out, size_in in matrices if out > size_in)
    head = vocabulary * d if vocabulary > d else 0
    return 4 * (config.num_hidden_layers * layer + head)
