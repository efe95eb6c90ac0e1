"""Generative perplexity under an AR checkpoint that took no part in a run: what `--judge` says of every cell's texts.

Published perplexities are of GPT-2 large, so GPT-2 runs here too, in transformers' class; Llama-like checkpoints run in
our own network. The judge reads text, not ids: where its tokenizer is another, texts are decoded and tokenised again,
and what is averaged is nats per token of the *judge*. So its perplexities compare generators under one judge, never two
judges. Each text is read behind the judge's start token and the text's prompt; neither is scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .. import InputError
from ..models.checkpoints import load_network
from ..models.hf_config import ARCHITECTURES, first_token, read_json
from ..models.hf_files import pretrained, resolve, stored_tensors
from ..models.names import AR, GPT2
from ..models.systems import read_system
from ..models.tokenizer import Tokenizer, load_tokenizer
from ..models.training.export import CARD
from ..profiles.quality import Texts, gen_ppl
from ..profiles.quality.texts import Floats
from ..profiles.record import Value

ROWS = 32
_LOGITS = 512  # positions whose logits are held at once: 0.3 GB in float32 for a vocabulary of 150 000


@dataclass(frozen=True, slots=True)
class _Read:
    """One text in the judge's tokens: those given, then those scored."""

    given: list[int]
    text: list[int]


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """A causal network, its own tokenizer, and how many positions it can read (`context`).

    `start_id` stands before every text: the checkpoint's begin-of-text token or, like GPT-2's, its end-of-text token.
    """

    name: str
    tokenizer: Tokenizer
    context: int
    start_id: int | None
    _device: str
    _trunk: Callable[[Tensor], Tensor]  # ids [B, S] -> hidden states [B, S, d], causal
    _head: Callable[[Tensor], Tensor]  # [M, d] -> logits [M, V]

    @classmethod
    def load(cls, reference: str, device: str) -> Self:
        """A local folder, a hub id or `trained:NAME`: safetensors only, no code of the checkpoint's.

        float32 on a CPU and for weights stored so, else bfloat16. Raises InputError for a diffusion checkpoint (its
        likelihood is a bound), a system that is not known here, or a missing tokenizer.
        """
        try:
            return cls._loaded(reference, resolve(reference), device)
        except InputError as error:
            raise InputError(f"judge: {error}") from None

    @classmethod
    def _loaded(cls, reference: str, path: Path, device: str) -> Self:
        raw = read_json(path / "config.json")
        system = raw["model_type"] if raw.get("model_type") is not None else read_system(path).name
        if system not in (*ARCHITECTURES, GPT2):
            raise InputError(
                f"{path}: model_type is {system!r}, expected an autoregressive one of {', '.join(ARCHITECTURES)} or "
                f"{GPT2}: a diffusion model gives only a bound; choose another checkpoint"
            )
        card = path / CARD
        trained = read_json(card).get("model", AR) if card.is_file() else AR
        if trained != AR:
            raise InputError(f"{card}: trained as {trained!r}, expected {AR!r}: choose an autoregressive checkpoint")
        tokenizer = load_tokenizer(path)
        full = device == "cpu" or all(tensor.dtype == "F32" for tensor in stored_tensors(path).values())
        dtype = torch.float32 if full else torch.bfloat16
        if system == GPT2:
            context, vocabulary, trunk, head = _gpt2(path, dtype, device)
        else:
            context, vocabulary, trunk, head = _own(path, dtype, device)
        start = first_token(raw.get("bos_token_id"), f"{path}/config.json: bos_token_id")
        start = tokenizer.eos_id if start is None else start
        if max(tokenizer.vocab_size - 1, start or 0) >= vocabulary:
            raise InputError(
                f"{path}: its tokenizer has {tokenizer.vocab_size} ids and starts texts with {start}, its network has "
                f"only {vocabulary}; expected files of one model; download the checkpoint again"
            )
        return cls(reference, tokenizer, context, start, device, trunk, head)

    def perplexity(self, texts: Texts, tokenizer: Tokenizer) -> Value:
        """exp of the mean nats per token of the judge over all texts (see `gen_ppl`), with its interval over texts.

        `tokenizer` is that of the texts: if it is the judge's (the same file), ids are scored as they are. A prompt
        longer than the context has room for loses its beginning. Null with a reason where a text alone does not fit, or
        where nothing stands before its first token. Raises InputError for ids or words that the judge does not have.
        """
        same = tokenizer.sha256 == self.tokenizer.sha256
        start, reads = texts.prompt_length, []
        for number, (row, count) in enumerate(zip(texts.ids.tolist(), texts.emitted.tolist(), strict=True)):
            ids = row[: start + count]
            prompt, text = (ids[:start], ids[start:]) if same else self._again(ids, start, tokenizer)
            if same and max(ids, default=0) >= self.tokenizer.vocab_size:
                raise InputError(
                    f"judge {self.name}: text {number} holds id {max(ids)}, its tokenizer has only "
                    f"{self.tokenizer.vocab_size}; choose a judge for these texts"
                )
            if len(text) > self.context:
                why = f"text {number} has {len(text)} of the judge's tokens, its context only {self.context}"
                return Value(value=None, n=len(texts.ids), why=why)
            given = self._given(prompt, self.context - len(text) + 1)
            if text and not given:
                why = f"text {number} has no prompt and the judge no start token: nothing to predict its first from"
                return Value(value=None, n=len(texts.ids), why=why)
            reads.append(_Read(given, text))
        lengths = np.array([len(read.text) for read in reads])
        size = max(1, int(lengths.max()))
        ids = np.array([read.text + [0] * (size - len(read.text)) for read in reads])
        return gen_ppl(Texts(ids, 0, lengths), self._log_probs(reads, size))

    def _given(self, prompt: list[int], room: int) -> list[int]:
        """Start token and prompt, of which the last `room` tokens count; the start token stays."""
        start = [] if self.start_id is None else [self.start_id]
        kept = room - len(start)
        return start + (prompt[-kept:] if kept > 0 else [])

    def _again(self, ids: Sequence[int], start: int, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
        """Ids in the judge's tokens, those before and those from `start` on encoded separately.

        Decoded as one, since the text's first space may depend on the prompt's last word. Between two end-of-text
        tokens there is a document; they become the judge's own and never the characters that they are shown as.
        """
        prompt: list[int] = []
        text: list[int] = []
        begin = 0
        ends = [place for place, token in enumerate(ids) if token == tokenizer.eos_id]
        for end in (*ends, len(ids)):
            cut = min(max(start, begin), end)
            lead, whole = (tokenizer.decode(list(ids[begin:stop])) for stop in (cut, end))
            # A character whose bytes lie on both sides is shown broken in the first of them.
            rest = whole[len(lead) :] if whole.startswith(lead) else tokenizer.decode(list(ids[cut:end]))
            prompt += self.tokenizer.encode(lead)
            text += self.tokenizer.encode(rest)
            if end < len(ids) and self.tokenizer.eos_id is not None:
                (prompt if end < start else text).append(self.tokenizer.eos_id)
            begin = end + 1
        return prompt, text

    @torch.inference_mode()
    def _log_probs(self, reads: Sequence[_Read], size: int) -> Floats:
        """Nats [N, size] of each text's tokens given all before them; 0 behind a text's end."""
        found = np.zeros((len(reads), size))
        kept = [(place, read) for place, read in enumerate(reads) if read.text]
        for first in range(0, len(kept), ROWS):
            rows = [read for _, read in kept[first : first + ROWS]]
            width = max(len(read.given) + len(read.text) for read in rows) - 1
            # Padded on the right, where a causal network does not look.
            inputs = torch.zeros((len(rows), width), dtype=torch.long)
            judged = torch.zeros((len(rows), width), dtype=torch.bool)
            for number, read in enumerate(rows):
                last = len(read.given) + len(read.text) - 1
                inputs[number, :last] = torch.tensor((read.given + read.text)[:-1])
                judged[number, len(read.given) - 1 : last] = True
            targets = torch.tensor([token for read in rows for token in read.text], device=self._device)
            hidden = self._trunk(inputs.to(self._device))[judged.to(self._device)]
            nats = [
                F.cross_entropy(self._head(part).float(), target, reduction="none")
                for part, target in zip(hidden.split(_LOGITS), targets.split(_LOGITS), strict=True)
            ]
            values = torch.cat(nats).double().cpu().split([len(read.text) for read in rows])
            for (place, _), own in zip(kept[first : first + ROWS], values, strict=True):
                found[place, : len(own)] = -own.numpy()
        return found


_Scorer = tuple[int, int, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


def _own(path: Path, dtype: torch.dtype, device: str) -> _Scorer:
    """Context, rows of the embedding, trunk and head of a Llama-like checkpoint."""
    network = load_network(path, dtype, device)

    def trunk(ids: Tensor) -> Tensor:
        network.rotary(ids.shape[1])
        return network.trunk(ids, mask="causal")

    return network.config.max_position_embeddings, network.config.vocab_size, trunk, network.logits


def _gpt2(path: Path, dtype: torch.dtype, device: str) -> _Scorer:
    """The same of a GPT-2, whose learned positions our network does not have."""
    from transformers import GPT2LMHeadModel

    model: Any = pretrained(GPT2LMHeadModel, path, dtype).to(device)

    def trunk(ids: Tensor) -> Tensor:
        hidden: Tensor = model.transformer(input_ids=ids, use_cache=False).last_hidden_state
        return hidden

    return model.config.n_positions, model.config.vocab_size, trunk, model.lm_head
