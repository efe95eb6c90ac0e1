"""The smallest network of a system: what its generators announce is the same, and a forward costs next to nothing.

Which forwards a generator runs follows from the request, the settings and a few facts of its network (block size,
longest canvas, shifted logits, noise), never from how wide or deep it is. So a generation on a miniature tells the
forwards of one on the real network before that is loaded, on any machine.
"""

from __future__ import annotations

from .. import InputError
from .architecture import Config
from .config import BackboneConfig
from .dit_config import DiTConfig

VOCABULARY = 8


def miniature(config: Config) -> Config:
    """`config` with one narrow layer and `VOCABULARY` ids, no EOS, and everything else as it is.

    Raises InputError for a network that is not one of ours (Gemma's runs through transformers' classes).
    """
    if isinstance(config, BackboneConfig):
        small = {
            "hidden_size": 2, "intermediate_size": 2, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2,
            "mask_token_id": VOCABULARY - 1,
        }  # fmt: skip
    elif isinstance(config, DiTConfig):
        small = {"hidden_size": 2, "num_attention_heads": 1, "cond_dim": 2}
    else:
        raise InputError(f"a network of family {config.family!r} has no miniature")
    small |= {"num_hidden_layers": 1, "vocab_size": VOCABULARY}
    return type(config).model_validate({**config.model_dump(), **small, "eos_token_id": None})
