"""Quantiles with their intervals, levels, goodput, cost and ratios, against arithmetic and simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dlmbench.profiles.metrics import declared
from dlmbench.profiles.record import Reason
from dlmbench.profiles.serving.quantiles import needed, quantile
from dlmbench.profiles.serving.record import Load, RequestRecord, Window
from dlmbench.profiles.serving.summary import Price, level_metrics, quantile_over, ratios, share

LOAD = Load(kind="closed", value=4)


def request(number: int, sent: float = 0.0, last: float = 1.0, tokens: int | None = 8, **fields: Any) -> RequestRecord:
    half = None if tokens is None else tokens // 2
    given: dict[str, Any] = {
        "window": 0, "number": number, "part": "counted", "status": "ok", "due_s": sent, "sent_s": sent,
        "closed_s": last + 0.01, "tokens": tokens, "output_tokens": tokens, "visible_s": last / 2,
        "usage_prompt_tokens": 100,
        "usage_output_tokens": tokens, "chunks": ((last / 2, half or 0), (last, tokens or 0)),
    }  # fmt: skip
    return RequestRecord(**(given | fields))


def failed(number: int, code: str = "http_500") -> RequestRecord:
    reason = Reason(code=code, message="no")
    return request(number, status="failed", reason=reason, chunks=(), tokens=None, visible_s=None)


def window(number: int = 0, seconds: float = 10.0, endpoint: int = 0, round_number: int = 0) -> Window:
    began = "2026-11-28T10:00:00"
    return Window(
        number=number, round=round_number, endpoint=endpoint, load=LOAD, began=began, seconds=seconds, stopped_by="x"
    )


def metrics(requests: list[RequestRecord], objectives: Any = None, price: Price | None = None) -> Any:
    return level_metrics([window()], {0: requests}, objectives or {}, 1e-3, price)


@pytest.mark.parametrize(("q", "n"), [(0.5, 6), (0.9, 36), (0.99, 368)])
def test_a_quantile_needs_so_many_values_for_an_interval(q: float, n: int) -> None:
    assert needed(q) == n
    below, enough = quantile(range(n - 1), q), quantile(range(n), q)
    assert (below.low, below.high, below.level) == (None, None, None)
    assert str(n) in (below.why or "")
    assert enough.low is not None
    assert enough.high is not None
    assert enough.low <= (enough.value or 0) <= enough.high
    assert enough.level == 0.95


@pytest.mark.parametrize("q", [0.5, 0.9])
def test_intervals_of_quantiles_hold_the_truth(q: float) -> None:
    draw = np.random.default_rng(1)
    truth = -math.log(1 - q)  # of the exponential distribution
    held = 0
    for _ in range(400):
        found = quantile(draw.exponential(size=60).tolist(), q)
        held += (found.low or 0) <= truth <= (found.high or 0)
    assert held >= 0.93 * 400  # at least 95 %, less three standard errors


def test_a_level_by_hand() -> None:
    found = metrics([request(n, sent=n, last=1.0 + 0.1 * n) for n in range(6)] + [failed(6), failed(7, "timeout")])
    assert found["serving.latency_s[p50]"].value == pytest.approx(1.25)
    assert found["serving.throughput_tok_s"].value == pytest.approx(48 / 10)
    assert found["serving.requests_s"].value == pytest.approx(0.6)
    assert found["serving.error_share"].value == pytest.approx(2 / 8)
    assert found["serving.timeout_share"].value == pytest.approx(1 / 8)
    assert found["serving.time_to_k_s[4]"].value == pytest.approx(0.625)
    assert found["serving.time_to_k_s[8]"].value == pytest.approx(1.25)
    assert found["serving.block_tokens[p50]"].value == 4
    assert found["serving.requests_s"].why == "one window: no interval; --rounds 5 gives one"
    assert found["serving.throughput_tok_s"].level is None
    assert {declared(name).kind for name in found} == {"serving"}


def test_nothing_answered_and_nothing_counted() -> None:
    found = metrics([failed(0)])
    assert found["serving.latency_s[p50]"].value is None
    assert found["serving.throughput_tok_s"].value == 0
    # The server counted, and which chunk held which tokens nobody knows.
    usage = metrics([request(n, output_tokens=None) for n in range(6)])
    assert usage["serving.tok_s_user[p50]"].value == 8
    assert usage["serving.throughput_tok_s"].value == pytest.approx(4.8)
    for name in ("serving.first_final_s[p50]", "serving.block_tokens[p50]"):
        assert "nobody knows" in (usage[name].why or ""), name
    assert not any(name.startswith("serving.time_to_k_s") for name in usage)
    unknown = metrics([request(n, tokens=None, usage_output_tokens=None, output_tokens=None) for n in range(6)])
    assert unknown["serving.throughput_tok_s"].value is None
    assert "no tokenizer" in (unknown["serving.tok_s_user[p50]"].why or "")
    assert unknown["serving.latency_s[p50]"].value == 1.0


def test_goodput_counts_requests_that_meet_every_objective() -> None:
    requests = [request(0, last=0.5), request(1, last=1.0), request(2, last=3.0), failed(3)]
    found = metrics(requests, {"latency": 2.0, "ttft": 0.4})
    assert found["serving.goodput_s"].value == pytest.approx(0.1)
    assert found["serving.good_share"].value == pytest.approx(1 / 4)
    per_token = metrics(requests, {"e2e_per_token": 0.13})
    assert per_token["serving.good_share"].value == pytest.approx(2 / 4)
    # What nobody counted cannot be said to meet a limit per token.
    assert (
        metrics([request(0, tokens=None, output_tokens=None)], {"e2e_per_token": 9.0})["serving.good_share"].value == 0
    )


def test_cost_is_by_the_servers_own_counts() -> None:
    found = metrics([request(n) for n in range(4)], price=Price(2.0, 10.0))
    assert found["serving.cost"].value == pytest.approx(4 * (100 * 2 + 8 * 10) * 1e-6)
    assert found["serving.cost_per_mtok"].value == pytest.approx((100 * 2 + 8 * 10) / 8)
    unknown = metrics([request(0, usage_output_tokens=None, tokens=None, output_tokens=None)], price=Price(2.0, 10.0))
    assert unknown["serving.cost"].value is None


def test_rates_over_five_rounds_have_a_level() -> None:
    windows = [window(n, seconds=10.0 + n) for n in range(5)]
    requests = {n: [request(i) for i in range(10)] for n in range(5)}
    found = level_metrics(windows, requests, {}, 1e-3, None)["serving.throughput_tok_s"]
    rates = [80 / (10 + n) for n in range(5)]
    assert found.value == pytest.approx(np.mean(rates))
    assert found.level == 0.95
    assert found.high - found.low == pytest.approx(2 * 2.776 * np.std(rates, ddof=1) / math.sqrt(5), rel=1e-3)  # type: ignore[operator]


def test_ratios_are_geometric_over_rounds() -> None:
    slow, fast = [request(0, last=2.0)], [request(0, last=1.0)]
    found = ratios([(slow, 10.0, fast, 5.0)] * 2 + [(slow, 10.0, fast, 2.5)] * 3, 1e-3)
    assert found["serving.throughput_tok_s"].value == pytest.approx(2 ** (2 / 5) * 4 ** (3 / 5))
    assert found["serving.latency_s"].value == pytest.approx(0.5)
    assert found["serving.latency_s"].level == 0.95
    two = ratios([(slow, 10.0, fast, 5.0), (slow, 10.0, fast, 2.5)], 1e-3)["serving.throughput_tok_s"]
    assert (two.low, two.high, two.level) == (pytest.approx(2), pytest.approx(4), None)
    assert ratios([(slow, 10.0, [failed(0)], 5.0)], 1e-3)["serving.latency_s"].value is None


def test_quantiles_have_a_level_over_rounds_and_none_within_one() -> None:
    rounds = [[float(10 * r + n) for n in range(10)] for r in range(5)]
    one = quantile_over([[value for values in rounds for value in values]], 0.5)
    assert (one.level, one.low is None) == (None, False)
    five = quantile_over(rounds, 0.5)
    assert (five.value, five.level) == (one.value, 0.95)
    # Medians of rounds: 4.5, 14.5, … with a standard deviation of 15.81; t = 2.776.
    assert five.high - five.value == pytest.approx(2.776 * 15.81 / math.sqrt(5), rel=1e-3)  # type: ignore[operator]
    assert share(1, 10, 1).level is None
    assert share(1, 10, 5).level == 0.95
