"""The canvas of a generation in blocks, and the bookkeeping of what may still be committed.

`BlockCanvas` is what LLaDA's loop and Fast-dLLM's share. It keeps, compactly, the columns that are still masked in the
current block, so that a step computes logits for these only: their number is known on the host wherever the number of
commits is, and then nothing here waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .candidates import Candidates, Rule, even
from .draws import Draws
from .generator import Observer, Request, Settings
from .network import Network
from .predict import predict


class BlockCanvas:
    """Prompt and canvas `ids` [B, P + L] of one request, denoised block by block."""

    def __init__(self, network: Network, mask_id: int, request: Request, draws: Draws, observer: Observer) -> None:
        self.network, self.mask_id, self.draws, self.observer = network, mask_id, draws, observer
        self.settings: Settings = request.settings
        self.rows, self.start = request.prompt_ids.shape
        self.ids = request.prompt_ids.new_full((self.rows, self.start + request.length), mask_id)
        self.ids[:, : self.start] = request.prompt_ids
        self.shifted = getattr(network.config, "shifted_logits", False)
        self.step = 0
        self.left: list[int] = []  # masks of the current block in each row, as far as the host can know
        self._random = self.settings.remasking == "random"
        # One order a block commits the same random sets as a fresh choice at every step, as long as each commit counts.
        self._ordered = self._random and self.settings.suppress_mask and not draws.whole

    def enter(self, offset: int, length: int) -> None:
        """Begin the block at output column `offset`."""
        self.begin, self.end = self.start + offset, self.start + offset + length
        columns = torch.arange(self.begin, self.end, device=self.ids.device).expand(self.rows, length)
        if self._ordered:
            columns = columns.gather(1, self.draws.uniform(self.rows, length).argsort(dim=1))
        self.left = [length] * self.rows
        self._candidates = Candidates(columns)
        # Without suppression, masks of earlier blocks may be left, and are written late.
        self._seen_from = self.begin if self.settings.suppress_mask else self.start
        self._masked = self.ids[:, self._seen_from : self.end] == self.mask_id

    def wanted(self, counts: tuple[int, ...] | None, rule: Rule, *, leftovers: bool = True) -> Candidates:
        """The candidates whose logits the next step needs; `counts` per row, if known, say how many it will commit.

        `leftovers` False keeps to the block where masks of earlier ones are left.
        """
        if not self.settings.suppress_mask:
            begin = self.start if leftovers else self.begin
            columns = torch.arange(begin, self.end, device=self.ids.device).expand(self.rows, -1)
            return Candidates(columns, self.ids[:, begin : self.end] == self.mask_id)
        found = self._candidates
        if counts is None:
            return found
        if list(counts) == self.left:
            self._candidates = Candidates(found.columns[:, :0])
            return Candidates(found.columns, found.open, settled=True)
        if not self._ordered:
            return found
        if found.open is None and even(counts):
            columns, self._candidates = found.split(None, counts[0])
            return Candidates(columns, settled=True)
        # In a random order, equal scores: the leftmost.
        chosen = rule(found.masked(torch.zeros_like(found.columns, dtype=torch.float32)))
        self._candidates = found.without(chosen, [a - b for a, b in zip(self.left, counts, strict=True)])
        return found.take(chosen, counts, settled=True)

    def logits(self, hidden: Tensor, wanted: Candidates, begin: int = 0) -> Tensor:
        """Logits [B n, V] of the candidates, from hidden states [B, q, d] of the positions from `begin` on.

        With twice the rows of hidden states (guidance), twice as many logits.
        """
        places = wanted.columns - begin if begin else wanted.columns
        if self.shifted:
            places = (places - 1).clamp_(min=0)
        if hidden.shape[0] != self.rows:
            places = places.repeat(hidden.shape[0] // self.rows, 1)
        size = hidden.shape[-1]
        return self.network.logits(hidden.gather(1, places[:, :, None].expand(-1, -1, size)).view(-1, size))

    def commit(
        self, wanted: Candidates, logits: Tensor, counts: tuple[int, ...] | None, rule: Rule, fed: range | None = None
    ) -> None:
        """Sample, commit by `rule` and announce it. `fed` are the positions that the forward computed (None: all).

        What is left is counted on the device, for which the host waits, unless `counts` say it.
        """
        fed = fed or range(self.ids.shape[1])
        columns, width = wanted.columns, wanted.columns.shape[1]
        where = None
        if self.draws.whole:
            row = torch.arange(self.rows, device=columns.device)[:, None]
            where = (row * len(fed) + columns - fed.start).flatten()
        suppress = self.mask_id if self.settings.suppress_mask else None
        score = not (wanted.settled or self._random)
        predicted, confidence = predict(
            logits, self.settings, self.draws, where, (self.rows, len(fed)), suppress=suppress, confidence=score
        )
        ids, chosen = predicted.view(self.rows, width), wanted.open
        scores = None if confidence is None else confidence.view(self.rows, width)
        if self._random and not self._ordered:
            scores = self._uniforms(columns, fed)  # the published loop draws them also where all are taken
        if scores is not None and not wanted.settled:
            if counts is not None and even(counts) and wanted.open is None:
                # What every planned rule comes to here: the best `count` of each row.
                order = scores.argsort(dim=1, descending=True, stable=True)
                columns, self._candidates = wanted.split(order, counts[0])
                ids = ids.gather(1, order[:, : counts[0]])
            else:
                chosen = rule(wanted.masked(scores))
        if chosen is not None:
            ids = torch.where(chosen, ids, self.ids.gather(1, columns))
        self.ids.scatter_(1, columns, ids)
        masked = self._announce()
        if counts is None:
            self.left = masked[:, self.begin - self._seen_from :].sum(dim=1).tolist()
        elif self.settings.suppress_mask:
            self.left = [before - count for before, count in zip(self.left, counts, strict=True)]
        if chosen is not None and not wanted.settled and self.settings.suppress_mask:
            self._candidates = wanted.without(chosen, self.left)

    def ended(self, eos_id: int | None) -> bool:
        """Whether every row holds an EOS by the end of the block just denoised; the host waits for it."""
        return eos_id is not None and bool((self.ids[:, self.start : self.end] == eos_id).any(dim=1).all())

    def _uniforms(self, columns: Tensor, fed: range) -> Tensor:
        """Random scores of `columns` [B, n]: of every position that was fed, where a draw is of them all."""
        if not self.draws.whole:
            return self.draws.uniform(*columns.shape)
        return self.draws.uniform(self.rows, len(fed)).gather(1, columns - fed.start)

    def _announce(self) -> Tensor:
        """Tell the observer what has left the mask; which columns of the window [B, n] are still masked."""
        ids = self.ids[:, self._seen_from : self.end].clone()
        masked = ids == self.mask_id
        self.observer.write(self._masked ^ masked, ids, self.step, offset=self._seen_from - self.start)
        self._masked = masked
        self.step += 1
        return masked
