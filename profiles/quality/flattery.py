"""Whether likelihood speaks too well of texts."""

from __future__ import annotations

from ..record import Reason, Value
from .intervals import shown

TOLERANCE = 0.02


def flattered(
    cross_entropy: Value,
    gap: Value,
    unigram_entropy: Value,
    source_unigram: Value | float,
    *,
    word_kl: Value | None = None,
    tolerance: float = TOLERANCE,
) -> Reason | None:
    """Why cross-entropy and perplexity flatter these texts, in a sentence; None if nothing says so.

    A likelihood below the source's own entropy cannot be a merit: the source's texts do not have it. It means that only
    the likeliest words are written, as a low temperature, a nucleus or a low-precision Gumbel draw does. Flagged where
    the 95 % interval of the gap, or of the unigram entropy, lies wholly below the source's by more than `tolerance` (a
    share of the source's value: on many texts a difference too small to matter is significant).

    `gap` is `cross_entropy` minus the source's entropy. `source_unigram`: exact nats, or the same statistic
    of the source's own texts behind the same prompts, whose interval then counts as well.
    """
    found: list[str] = []
    if gap.value is not None and gap.high is not None and cross_entropy.value is not None:
        own = cross_entropy.value - gap.value
        if gap.high < -tolerance * own:
            found.append(f"the cross-entropy, {shown(cross_entropy)} nats, lies below the source's own {own:.3g}")
    exact = source_unigram if isinstance(source_unigram, Value) else Value(value=source_unigram)
    floor = exact.value if exact.low is None else exact.low
    if unigram_entropy.high is not None and floor is not None and unigram_entropy.high < (1 - tolerance) * floor:
        found.append(f"the words' entropy, {shown(unigram_entropy)} nats, lies below the source's {exact.value:.3g}")
    if not found:
        return None
    distance = "" if word_kl is None or word_kl.value is None else f" (word KL {shown(word_kl)} nats)"
    message = (
        f"Likelihood flatters these texts: {' and '.join(found)}. Only the likeliest words are written, as by a low "
        f"temperature; a low perplexity is no merit here, the distance from the source{distance} is the measure."
    )
    return Reason(code="flattered_by_low_entropy", message=message)
