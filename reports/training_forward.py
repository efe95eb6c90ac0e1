"""What a training forward would cost, from a stored match certificate: parameters, layers and heads say it all.

A report may not ask the models, and need not: each token takes a multiply-add with every active parameter but those of
the embedding, and under a causal mask attention takes two for each pair of positions, head and dimension (Kaplan et al.
2020, "Scaling Laws for Neural Language Models", section 2.1).
"""

from __future__ import annotations

from collections.abc import Iterable

from ..profiles.record import CertificateRow


def training_forward_flops(certificate: Iterable[CertificateRow], rows: int, positions: int) -> float | None:
    """FLOPs of a causal forward of the AR side over `rows` x `positions` tokens with logits for all of them.

    None where the certificate does not state the shape. Sliding windows, which save some, are not known here.
    """
    stated = {row.quantity: row.ar for row in certificate}

    def number(quantity: str) -> float:
        value = stated.get(quantity)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")

    idle = number("total parameters") - number("active parameters")  # the experts that a token is not routed to
    head = number("hidden size") * number("vocabulary")
    products = positions * (number("non-embedding parameters") - idle + head)
    pairs = positions * (positions + 1) / 2
    attention = 2 * number("layers") * number("query heads") * number("head size") * pairs
    flops = 2 * rows * (products + attention)
    return flops if flops > 0 else None  # false for nan: a number is missing
