"""SDAR: block diffusion on a Llama-like backbone (Cheng et al. 2025, "SDAR: A Synergistic Diffusion-AutoRegression
Paradigm for Scalable Sequence Generation").

A block starts as masks; a forward predicts all of them, a rule commits some, until none is left. With k the step's
share of the block (as even as can be, larger ones first):

- `sequential`: the k leftmost masks;
- `low_confidence_static`: the k masks whose predicted tokens are most probable;
- `low_confidence_dynamic` (the published default): all above a probability of `threshold` (0.85), or k if fewer are;
- `entropy_bounded`: the masks of least entropy while those entropies add up to at most `entropy_bound` (0.35 nats), at
  least one. The published code of this rule does not run; the sum counts the last one's own entropy, which
  `selection.within_entropy`, the rule of Ben-Hamu et al. 2025, leaves out.

The same class, by any of these rules at any block length, is the line from autoregression to diffusion on one set of
weights. Its ends are not quite the two: a block of 1 sees what an AR model sees, but its token is predicted at a mask
in its own place, not from the token before (unless the network's logits are shifted: then it is the AR model's choice).
A block as long as everything is full masked diffusion; blocks of L after a prompt of whole blocks are that with the
prompt cached, which a bidirectional model would run again at every step.
"""

from __future__ import annotations

from functools import partial

import torch

from .. import InputError
from .block_diffusion import BlockDiffusion, Decoding, Denoise
from .block_forwards import Blocks
from .block_plan import even_plan, recorded_plan, steps_of_each_block
from .candidates import Rule, Step, standing_in
from .commit_schedule import Plan
from .confidence import Measure
from .generator import Settings, Shape
from .network import Network
from .schedule import transfer_counts
from .sdar_loops import even, uneven, within_budget
from .selection import above_threshold, top_k

SAMPLERS = ("sequential", "low_confidence_static", "low_confidence_dynamic", "entropy_bounded")
BLOCK_LENGTH = 4  # the published default, for a network that does not name its own
THRESHOLD = 0.85
ENTROPY_BOUND = 0.35

# What a sampler ranks masks by; the sequential one by their place.
_MEASURES: dict[str, Measure | None] = {"sequential": None, "entropy_bounded": "entropy"}


class SDAR(BlockDiffusion):
    """SDAR's samplers on any network with a mask token. `sampler` is used where the settings name none.

    - `steps`: T, of all blocks together; default one for each position. What commits more than one a step or shares
      a block with the prompt needs fewer: a block ends when no mask is left. The published program takes the steps of
      one block instead, which may exceed its length; that needs `idle_steps` run.
    - `commit_schedule`: takes the place of T and of the numbers that the rule comes to, not of its work: what is
      committed is still the rule's best, and where data would decide, the host still waits for how many are left.
    - `temperature`, `top_k`, `top_p`: of the tokens. Confidence and entropy are of the distribution that is drawn from
      (temperature 0: of the untempered one).
    - `suppress_mask` False: a mask may be predicted, and its position stays masked, for good if the block's steps run
      out, where the published loop fails.

    Never more positions are taken than masks are left, and the prompt is never changed; the published loop overwrites
    known positions, also the prompt's, where k exceeds the masks.
    """

    name = "SDAR"

    def __init__(
        self,
        network: Network,
        *,
        engine: str = "eager",
        kv_dtype: torch.dtype | None = None,
        sampler: str = "low_confidence_dynamic",
    ) -> None:
        super().__init__(network, engine=engine, kv_dtype=kv_dtype)
        self.sampler = _known(sampler)

    def blocks(self, shape: Shape, settings: Settings) -> Blocks:
        default = self.network.config.block_size or BLOCK_LENGTH
        found = Blocks(shape.prompt_length, shape.length, settings.block_length or default)
        self._check(settings)
        if settings.commit_schedule is None:
            self._table(found, settings)
        else:
            self._plan(found, settings, shape.batch)
        return found

    def denoising_steps(self, shape: Shape, settings: Settings) -> int | None:
        plan = self._plan(self.blocks(shape, settings), settings, shape.batch)
        return None if plan is None else sum(map(len, plan))

    def _check(self, settings: Settings) -> None:
        known = ("sampler", "cache", "threshold", "entropy_bound", "commit_schedule", "suppress_mask", "idle_steps")
        settings.refuse(self.name, *known)
        sampler = self._sampler(settings)
        if settings.remasking != "low_confidence":
            raise InputError(f"remasking {settings.remasking}: {self.name} has samplers; choose {', '.join(SAMPLERS)}")
        for name, owner in (("threshold", "low_confidence_dynamic"), ("entropy_bound", "entropy_bounded")):
            if getattr(settings, name) is not None and sampler != owner:
                raise InputError(f"{name} {getattr(settings, name):g}: sampler {sampler} has none; choose {owner}")
        if sampler == "entropy_bounded" and settings.steps is not None and settings.commit_schedule is None:
            raise InputError(f"steps: T={settings.steps}, but entropy_bounded decides itself; leave steps out")
        if settings.commit_schedule is not None and not settings.suppress_mask:
            raise InputError("commit_schedule needs suppress_mask: a predicted mask would commit less than it says")

    def _sampler(self, settings: Settings) -> str:
        return _known(settings.sampler or self.sampler)

    def _table(self, blocks: Blocks, settings: Settings) -> list[int]:
        """k of each step of a block."""
        most = None if settings.idle_steps == "run" else blocks.size
        # T = L is one step a position, also where the prompt's end shares a block and T does not divide.
        whole = settings.steps == blocks.length and blocks.length % len(blocks.starts)
        steps = None if whole else settings.steps
        return transfer_counts(blocks.size, steps_of_each_block(blocks, steps, blocks.size, most))

    def _plan(self, blocks: Blocks, settings: Settings, rows: int) -> Plan | None:
        """What each step commits, where neither data nor a predicted mask decide it."""
        if settings.commit_schedule is not None:
            return recorded_plan(blocks, settings.commit_schedule, rows, idle=settings.idle_steps == "run")
        if self._sampler(settings) in SAMPLERS[:2] and settings.suppress_mask:
            return even_plan(blocks, self._table(blocks, settings), rows)
        return None

    def _denoising(self, run: Decoding) -> Denoise:
        measure = _MEASURES.get(self._sampler(run.settings), "probability")
        plan = self._plan(run.blocks, run.settings, run.canvas.shape[0])
        if plan is None:
            rules = self._rules(run.blocks, run.settings)
            return lambda start: uneven(run, start, rules, measure, self.mask_id)
        rule = self._rule(run.settings)
        flat = [counts for steps in plan for counts in steps]
        planned = dict(zip(run.blocks.starts, plan, strict=True))
        if rule is None and all(len(set(counts)) == 1 for counts in flat):
            return lambda start: even(run, start, [counts[0] for counts in planned[start]], measure, self.mask_id)
        # Counts that differ between rows go to the device here, all at once.
        table = iter(torch.tensor(flat, device=run.canvas.device).unbind())
        steps: dict[int, list[Step]] = {}
        for start, block in planned.items():
            chosen = [(counts, partial(top_k, count=next(table))) for counts in block]
            steps[start] = [(c, k) if rule is None else (None, standing_in(k, rule)) for c, k in chosen]
        return lambda start: uneven(run, start, steps[start], measure, self.mask_id)

    def _rules(self, blocks: Blocks, settings: Settings) -> list[Step]:
        """The steps of a block whose counts the data decide."""
        steps: list[Step] = []
        for k in self._table(blocks, settings):
            rule = self._rule(settings, least=k)
            if rule is not None:
                steps.append((None, rule))
            elif k or settings.idle_steps == "run":
                steps.append((None, partial(top_k, count=k)))
        return steps

    def _rule(self, settings: Settings, least: int = 1) -> Rule | None:
        """The rule by which the data decide how many a step commits, if the sampler has one."""
        sampler = self._sampler(settings)
        if sampler == "entropy_bounded":
            bound = ENTROPY_BOUND if settings.entropy_bound is None else settings.entropy_bound
            return partial(within_budget, bound=bound)
        if sampler == "low_confidence_dynamic":
            threshold = THRESHOLD if settings.threshold is None else settings.threshold
            return partial(above_threshold, threshold=threshold, least=least, strict=True)
        return None


def _known(sampler: str) -> str:
    if sampler not in SAMPLERS:
        raise InputError(f"sampler {sampler!r} is not SDAR's; choose {', '.join(SAMPLERS)}")
    return sampler
