"""A level's metrics from its requests, and the ratio of two endpoints from windows that took turns.

Distributions are over requests, each of which counts once; a rate is a window's. With five rounds or more the interval
of either is over rounds; within fewer it carries no level, since requests of one window depend on each other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from ..quality.intervals import LEVEL, mean, t_quantile, transformed, wilson
from ..record import Value
from .delivery import Delivery, typical
from .quantiles import quantile
from .record import RequestRecord, Window

QUANTILES = (0.5, 0.9, 0.99)
MIN_ROUNDS = 5
# A window's tokens are counted in so many slices of equal length.
_SLICES = 10


@dataclass(frozen=True, slots=True)
class Price:
    """Money a million tokens of prompts and of outputs."""

    prompt: float
    output: float

    def of(self, requests: Sequence[RequestRecord]) -> float | None:
        """What the requests cost by the server's own counts, or ours where it gave none; None where neither is."""
        total = 0.0
        for request in requests:
            prompt = request.usage_prompt_tokens if request.usage_prompt_tokens is not None else request.prompt_tokens
            output = request.usage_output_tokens if request.usage_output_tokens is not None else request.tokens
            if prompt is None or output is None:
                return None
            total += prompt * self.prompt + output * self.output
        return total * 1e-6


def delivery(request: RequestRecord, together_s: float) -> Delivery:
    """The reply of an answered request."""
    assert request.chunks
    return Delivery(
        at_s=tuple(at for at, _ in request.chunks),
        # The server may have counted; which chunk held which tokens only a tokenizer can tell.
        final=None if request.output_tokens is None else tuple(final for _, final in request.chunks),
        tokens=request.tokens,
        visible_s=request.visible_s if request.visible_s is not None else request.chunks[0][0],
        revised=request.revised,
        together_s=together_s,
    )


# One number a request, by the name of the metric.
_OF_A_REPLY: dict[str, Callable[[Delivery], float | None]] = {
    "serving.latency_s": lambda d: d.latency_s,
    "serving.ttft_s": lambda d: d.visible_s,
    "serving.first_final_s": lambda d: d.first_final_s,
    "serving.e2e_per_token_s": lambda d: d.e2e_per_token_s,
    "serving.tok_s_user": lambda d: d.tok_s_user,
    "serving.chunk_gap_s": lambda d: typical(d.chunk_gaps_s),
    "serving.block_gap_s": lambda d: typical(d.block_gaps_s),
    "serving.block_tokens": lambda d: typical([b.tokens for b in d.blocks]) if d.final is not None else None,
    "serving.output_tokens": lambda d: d.tokens,
    "serving.blocks": lambda d: len(d.blocks),
    "serving.stall_s": lambda d: max(d.chunk_gaps_s, default=None),
    "serving.revised_share": lambda d: d.revised / max(len(d.at_s) - 1, 1),
}
_MISSING = {
    "serving.first_final_s": "no tokenizer was named: nobody knows where a token ends",
    "serving.e2e_per_token_s": "no tokenizer was named and the server gave no count",
    "serving.tok_s_user": "no tokenizer was named and the server gave no count",
    "serving.chunk_gap_s": "replies came in one chunk",
    "serving.block_gap_s": "replies came in one block",
    "serving.stall_s": "replies came in one chunk",
    "serving.block_tokens": "no tokenizer was named: nobody knows how many tokens a chunk held",
}


def level_metrics(
    windows: Sequence[Window],
    requests: Mapping[int, Sequence[RequestRecord]],
    objectives: Mapping[str, float],
    together_s: float,
    price: Price | None,
) -> dict[str, Value]:
    """All metrics of one endpoint at one load. `requests` are those that count, by window."""
    everything = [request for window in windows for request in requests[window.number]]
    answered = [request for request in everything if request.status == "ok"]
    rounds = [[delivery(r, together_s) for r in requests[w.number] if r.status == "ok"] for w in windows]
    metrics: dict[str, Value] = {}
    for name, read in _OF_A_REPLY.items():
        values = [[value for reply in each if (value := read(reply)) is not None] for each in rounds]
        for q in QUANTILES:
            why = _MISSING.get(name) if answered and not any(values) else None
            found = quantile_over(values, q) if why is None else Value(value=None, why=why)
            metrics[f"{name}[p{100 * q:g}]"] = found
    usage = [[r.usage_output_tokens for r in requests[w.number] if r.usage_output_tokens is not None] for w in windows]
    if any(usage):
        metrics["serving.usage_output_tokens[p50]"] = quantile_over(usage, 0.5)
    metrics |= _curve(rounds)
    metrics |= _peers([reply for each in rounds for reply in each])
    metrics |= _rates(windows, requests, rounds, objectives)
    counts = Counter("timeout" if r.reason and r.reason.code == "timeout" else r.status for r in everything)
    metrics["serving.error_share"] = share(len(everything) - counts["ok"], len(everything), len(windows))
    metrics["serving.timeout_share"] = share(counts["timeout"], len(everything), len(windows))
    lags = [[request.sent_s - request.due_s for request in requests[window.number]] for window in windows]
    for q in QUANTILES:
        metrics[f"serving.lag_s[p{100 * q:g}]"] = quantile_over(lags, q)
    metrics |= _against_the_server(answered)
    if price is not None:
        cost = price.of(answered)
        why = "the server gave no counts and no tokenizer was named"
        tokens = sum(request.tokens or 0 for request in answered)
        metrics["serving.cost"] = Value(value=None, why=why) if cost is None else Value(value=cost, n=len(answered))
        per = None if cost is None or not tokens else 1e6 * cost / tokens
        metrics["serving.cost_per_mtok"] = Value(value=per, n=len(answered), why=why if per is None else None)
    return metrics


def _against_the_server(answered: Sequence[RequestRecord]) -> dict[str, Value]:
    """What `dlmbench serve` says of itself: when it sent its first and its last chunk, and how much later they came."""
    sent = [times for request in answered if (times := request.served.get("sent_s"))]
    if not sent:
        return {}
    found = {
        "serving.server_first_s[p50]": quantile([times[0] for times in sent], 0.5),
        "serving.server_last_s[p50]": quantile([times[-1] for times in sent], 0.5),
    }
    added = [late for request in answered for late in request.served.get("added_s", ())]
    for q in (0.5, 0.99) if added else ():
        value = Value(value=float(np.quantile(added, q)), n=len(added), why="chunks of one window depend on each other")
        found[f"serving.added_s[p{100 * q:g}]"] = value
    return found


def share(count: int, n: int, windows: int) -> Value:
    """A share of n requests with its Wilson interval, which has a level only over rounds enough: requests of one window
    depend on each other."""
    if not n:
        return Value(value=None, why="no request was sent")
    low, high = wilson(count, n)
    return Value(value=count / n, low=low, high=high, n=n, level=LEVEL if windows >= MIN_ROUNDS else None)


def quantile_over(rounds: Sequence[Sequence[float]], q: float) -> Value:
    """The q-quantile of all values, from each round's.

    With five rounds or more its interval is Student's t over the rounds' own quantiles, around the quantile of all, and
    has a level. Within fewer it is the interval between order statistics, which would hold for requests that are
    independent; those that a server runs together are not, so that it has none.
    """
    pooled = [value for values in rounds for value in values]
    found = quantile(pooled, q)
    own = [float(np.quantile(values, q)) for values in rounds if values]
    if len(own) < MIN_ROUNDS or found.value is None or found.low is None:
        return found.model_copy(update={"level": None})
    half = t_quantile(len(own) - 1) * float(np.std(own, ddof=1)) / math.sqrt(len(own))
    return Value(value=found.value, low=found.value - half, high=found.value + half, n=len(pooled), level=LEVEL)


def _curve(rounds: Sequence[Sequence[Delivery]]) -> dict[str, Value]:
    """The median time to the first 1, 2, 4, … tokens, as far as half of the replies reach, and to the last."""
    replies = [reply for each in rounds for reply in each]
    counted = [reply for reply in replies if reply.tokens and reply.final is not None]
    if not counted:
        return {}
    reach = int(np.median([reply.tokens or 0 for reply in counted]))
    found = {}
    for k in [1 << power for power in range(reach.bit_length()) if 1 << power < reach] + [reach]:
        # A text that ended before k has no such time: leaving it out says how long those took that have one.
        times = [[time for reply in each if (time := reply.time_to(k)) is not None] for each in rounds]
        found[f"serving.time_to_k_s[{k}]"] = quantile_over(times, 0.5)
    return found


def _peers(replies: Sequence[Delivery]) -> dict[str, Value]:
    """The medians over requests of what peers' formulas give."""
    found: dict[str, list[float]] = {}
    for reply in replies:
        for name, value in reply.peers.items():
            found.setdefault(name, [])
            if value is not None:
                found[name].append(value)
    why = "the formula gives no number for replies of one chunk"
    return {name: quantile(values, 0.5) if values else Value(value=None, why=why) for name, values in found.items()}


def met(reply: Delivery, objectives: Mapping[str, float]) -> bool:
    """Whether a reply meets every objective; one that cannot be judged (no count of tokens) does not."""
    limits = {
        "ttft": reply.visible_s,
        "first_final": reply.first_final_s,
        "latency": reply.latency_s,
        "e2e_per_token": reply.e2e_per_token_s,
        "stall": max(reply.chunk_gaps_s, default=0.0),
    }
    return all((value := limits[name]) is not None and value <= limit for name, limit in objectives.items())


def _rates(
    windows: Sequence[Window],
    requests: Mapping[int, Sequence[RequestRecord]],
    rounds: Sequence[Sequence[Delivery]],
    objectives: Mapping[str, float],
) -> dict[str, Value]:
    """Rates over whole windows, of which `rounds` are the replies: tokens, requests, and requests that met the
    objectives, a second."""
    tokens: list[float | None] = []
    answered, good, counted = [], [], 0
    for window, replies in zip(windows, rounds, strict=True):
        meeting = sum(met(reply, objectives) for reply in replies)
        counted += meeting
        if window.seconds <= 0:
            continue
        known = all(reply.tokens is not None for reply in replies)
        tokens.append(sum(reply.tokens or 0 for reply in replies) / window.seconds if known else None)
        answered.append(len(replies) / window.seconds)
        good.append(meeting / window.seconds)
    rates = {"serving.requests_s": _over_rounds(answered, lambda: None)}
    if any(rate is None for rate in tokens):
        rates["serving.throughput_tok_s"] = Value(value=None, why=_MISSING["serving.tok_s_user"])
    else:
        found = [rate for rate in tokens if rate is not None]
        only = windows[0] if len(windows) == 1 else None
        rates["serving.throughput_tok_s"] = _over_rounds(
            found, lambda: _within(only, requests[only.number]) if only is not None else None
        )
    if objectives:
        total = sum(len(requests[window.number]) for window in windows)
        rates["serving.goodput_s"] = _over_rounds(good, lambda: None)
        rates["serving.good_share"] = share(counted, total, len(windows))
    return rates


def _over_rounds(values: Sequence[float], within: Callable[[], tuple[float, float] | None]) -> Value:
    """One value a window -> their mean, with a t interval over at least five; else their range, or that of `within`."""
    n = len(values)
    if not n:
        return Value(value=None, why="no window was measured")
    if n >= MIN_ROUNDS:
        return mean(np.asarray(values, dtype=float))
    bounds = (min(values), max(values)) if n > 1 else within()
    if bounds is None:
        return Value(value=fmean(values), n=n, why="one window: no interval; --rounds 5 gives one")
    return Value(value=fmean(values), low=bounds[0], high=bounds[1], n=n)


def _within(window: Window, requests: Sequence[RequestRecord]) -> tuple[float, float] | None:
    """The interval of a window's token rate from ten slices of it, which depend on each other: it has no level."""
    begin = min((request.sent_s for request in requests), default=0.0)
    counts = np.zeros(_SLICES)
    for request in requests:
        before = 0
        for at, final in request.chunks if request.status == "ok" else ():
            place = (request.sent_s - begin + at) / window.seconds
            counts[min(int(place * _SLICES), _SLICES - 1)] += final - before
            before = final
    if not counts.any() or any(request.output_tokens is None for request in requests if request.status == "ok"):
        return None
    rates = counts * _SLICES / window.seconds
    half = t_quantile(_SLICES - 1) * float(rates.std(ddof=1)) / math.sqrt(_SLICES)
    return max(float(rates.mean()) - half, 0.0), float(rates.mean()) + half


RATIOS = ("serving.throughput_tok_s", "serving.tok_s_user", "serving.latency_s", "serving.ttft_s")


def ratios(
    pairs: Sequence[tuple[Sequence[RequestRecord], float, Sequence[RequestRecord], float]], together_s: float
) -> dict[str, Value]:
    """Second endpoint over first, one log-ratio a round: `pairs` are (requests, seconds) of both windows of a round.

    Geometric mean with a t interval on the logarithms from five rounds on; the range of fewer.
    """
    found: dict[str, Value] = {}
    for name in RATIOS:
        logs: list[float] = []
        for first, first_s, second, second_s in pairs:
            a, b = _summary(name, first, first_s, together_s), _summary(name, second, second_s, together_s)
            if a and b:
                logs.append(math.log(b / a))
        found[name] = _geometric(logs)
    return found


def _summary(name: str, requests: Sequence[RequestRecord], seconds: float, together_s: float) -> float | None:
    ok = [request for request in requests if request.status == "ok"]
    if name == "serving.throughput_tok_s":
        counts = [request.tokens for request in ok]
        return None if seconds <= 0 or None in counts else sum(count or 0 for count in counts) / seconds
    return typical([v for r in ok if (v := _OF_A_REPLY[name](delivery(r, together_s))) is not None])


def _geometric(logs: Sequence[float]) -> Value:
    n = len(logs)
    if not n:
        return Value(value=None, why="no round has both sides")
    if n >= MIN_ROUNDS:
        return transformed(mean(np.asarray(logs, dtype=float)), math.exp)
    centre = fmean(logs)
    if n == 1:
        return Value(value=math.exp(centre), n=1, why="one round: no interval; --rounds 5 gives one")
    return Value(value=math.exp(centre), low=math.exp(min(logs)), high=math.exp(max(logs)), n=n)
