"""Speed joined with quality across a pair: the speed-up and the fewest steps at which texts are as good as AR's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..profiles.quality import Allowance, Contender, smallest_steps_within, speedup_at_equal_quality
from ..profiles.record import Measurement, Value

QUALITY = "quality.validity"
# Texts may be valid five in a hundred less often than AR's: less than that, a few hundred texts cannot tell.
ALLOWANCE = Allowance(higher_is_better=True, absolute=0.05, estimate="share")


def add_equal_quality(measured: dict[str, Measurement], rivals: Mapping[str, Sequence[Measurement]]) -> None:
    """Add both metrics to each AR cell of `rivals` (its key -> diffusion cells) whose own texts were judged."""
    for key, others in rivals.items():
        m = measured[key]
        own = m.metrics.get(QUALITY)
        contenders = [
            Contender(o.key, o.cell.steps, o.metrics["speedup"], o.metrics[QUALITY])
            for o in others
            if QUALITY in o.metrics
        ]
        if own is None or not contenders:
            continue
        found: dict[str, Value] = {
            "speedup_at_equal_quality": speedup_at_equal_quality(contenders, own, ALLOWANCE).value,
            "steps_at_equal_quality": smallest_steps_within(contenders, own, ALLOWANCE).value,
        }
        measured[key] = m.model_copy(update={"metrics": {**m.metrics, **found}})
