"""A load's tables, once for the terminal, Markdown and the page: levels, portions, what peers would say, faults."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..profiles.metrics import METRICS
from ..profiles.record import Value
from ..profiles.serving.record import EndpointRecord, Level, LoadRun, LoadSettings
from .format import MISSING, SIDES, format_interval, format_number, format_point, percent
from .plain import plain


@dataclass(frozen=True, slots=True)
class LoadTable:
    """A titled table: a row's first cell says what it is of, the others are numbers with their intervals. `note` says
    how to read it."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    numbers: bool = True


def tables(run: LoadRun) -> list[LoadTable]:
    """All tables of a load that have something to say, in the order in which they are read."""
    found = [
        _levels(run),
        _ratios(run),
        _quantiles(run),
        _curve(run),
        _portions(run),
        _peers(run),
        _client(run),
        _server(run),
        _saturation(run),
        _faults(run),
        _certificate(run),
    ]
    return [_inert(table) for table in found if table.rows]


def _inert(table: LoadTable) -> LoadTable:
    """The table with all that came from a server, a user or a file as plain text."""
    return LoadTable(
        plain(table.title),
        tuple(map(plain, table.headers)),
        tuple(tuple(map(plain, row)) for row in table.rows),
        plain(table.note),
        table.numbers,
    )


def endpoint_name(run: LoadRun, place: int) -> str:
    """A server's side, or its model where that is not known; both where two would read alike."""
    endpoint = run.endpoints[place]
    names = [_short(each) for each in run.endpoints]
    return names[place] if names.count(names[place]) == 1 else f"{names[place]} {place + 1} ({plain(endpoint.model)})"


def _short(endpoint: EndpointRecord) -> str:
    return SIDES[endpoint.side] if endpoint.side else plain(endpoint.model)


def level_name(run: LoadRun, level: Level) -> str:
    """A level in a few words: the server, where there are two, and the load."""
    name = f"{endpoint_name(run, level.endpoint)}, " if len(run.endpoints) > 1 else ""
    return f"{name}{level.load.key}"


def shown(name: str, value: Value | None) -> str:
    """A value with its interval; a dash where there is none."""
    if value is None or value.value is None:
        return MISSING
    return f"{format_point(name, value)} {format_interval(name, value)}".rstrip()


def _cells(level: Level, names: Iterable[str]) -> list[str]:
    return [shown(name, level.metrics.get(name)) for name in names]


def _levels(run: LoadRun) -> LoadTable:
    names = ["serving.throughput_tok_s", "serving.requests_s", "serving.latency_s[p50]", "serving.ttft_s[p50]"]
    names += ["serving.first_final_s[p50]"]
    names += ["serving.tok_s_user[p50]", "serving.output_tokens[p50]"]
    if run.objectives:
        names[2:2] = ["serving.goodput_s", "serving.good_share"]
    if any("serving.cost" in level.metrics for level in run.levels):
        names.append("serving.cost_per_mtok")
    rows = []
    for level in run.levels:
        failed = sum(level.faults.values())
        answered = f"{level.requests - failed:,}" + (f" + {failed:,} failed" if failed else "")
        rows.append((level_name(run, level), answered, *_cells(level, names)))
    headers = ("load", "answered", *map(_header, names))
    return LoadTable("Levels", headers, tuple(rows), _INTERVALS)


_INTERVALS = (
    "Over five rounds or more, intervals are 95 % over rounds. Over fewer they have no level: of quantiles, what would "
    "hold if requests were independent (those that a server runs together are not); of rates, the range of the rounds, "
    "or the spread within one window."
)


def _quantiles(run: LoadRun) -> LoadTable:
    keys = [f"serving.{name}" for name in ("latency_s", "ttft_s", "first_final_s", "e2e_per_token_s", "tok_s_user")]
    rows = []
    for level in run.levels:
        for key in keys:
            cells = _cells(level, (f"{key}[{q}]" for q in ("p50", "p90", "p99")))
            if set(cells) != {MISSING}:
                rows.append((level_name(run, level), METRICS[key].header, *cells))
    note = (
        "Over requests; a quantile without an interval is of too few requests for one. Of a rate, p99 is its best end."
    )
    return LoadTable("Quantiles", ("load", "metric", "p50", "p90", "p99"), tuple(rows), note)


def _curve(run: LoadRun) -> LoadTable:
    """The time to the first k tokens, for the k that all levels have."""
    found = [dict(curve_of(level)) for level in run.levels]
    shared = sorted(set.intersection(*map(set, found))) if found else []
    if not shared:
        return LoadTable("Time to k tokens", (), ())
    rows = [
        (level_name(run, level), *(shown("serving.time_to_k_s", curve[k]) for k in shared))
        for level, curve in zip(run.levels, found, strict=True)
    ]
    note = "Until the first k tokens stood and no later chunk changed them; medians over requests."
    return LoadTable("Time to k tokens", ("load", *(f"k = {k}" for k in shared)), tuple(rows), note)


def curve_of(level: Level) -> list[tuple[int, Value]]:
    """The level's times to k that can be shown, by k."""
    found = []
    for name, value in level.metrics.items():
        k = name.partition("[")[2][:-1]
        if name.startswith("serving.time_to_k_s[") and k.isascii() and k.isdigit() and 1 <= int(k) <= 10**9:
            found += [(int(k), value)] if value.value is not None and drawable(value) else []
    return sorted(found, key=lambda point: point[0])


def drawable(value: Value) -> bool:
    """Whether a value and its interval fit on a logarithmic axis: a file may hold anything."""
    return all(v is None or 1e-9 <= v <= 1e12 for v in (value.value, value.low, value.high))


def _client(run: LoadRun) -> LoadTable:
    """Failures, and what the client itself was late by."""
    names = ("serving.error_share", "serving.timeout_share", "serving.lag_s[p50]", "serving.lag_s[p99]")
    rows = []
    for level in run.levels:
        late = [
            window.late_p99_s
            for window in run.windows
            if (window.load, window.endpoint) == (level.load, level.endpoint) and window.late_p99_s is not None
        ]
        loop = format_number(max(late), "s") if late else MISSING
        rows.append((level_name(run, level), *_cells(level, names), loop))
    headers = ("load", *map(_header, names), "client's loop late, p99")
    note = (
        "Lag: request sent - request due (an open loop's; a closed one has none by definition). The loop: how late the "
        "client's event loop woke up, which is how late it stamps what has arrived; the worst window's."
    )
    return LoadTable("Failures and the client", headers, tuple(rows), note)


def _header(name: str) -> str:
    base, _, index = name.partition("[")
    return METRICS[base].header + (f" {index[:-1]}" if index else "")


def _ratios(run: LoadRun) -> LoadTable:
    names = ("serving.throughput_tok_s", "serving.tok_s_user", "serving.latency_s", "serving.ttft_s")
    rows = [(ratio.load.key, *(_times(ratio.metrics.get(name)) for name in names)) for ratio in run.ratios]
    over = " over ".join(reversed([endpoint_name(run, place) for place in _reference_first(run)]))
    note = "Geometric means of the rounds' ratios, in which the servers took turns (A B, B A); intervals over rounds."
    return LoadTable(over, ("load", *map(_header, names)), tuple(rows), note)


def _reference_first(run: LoadRun) -> list[int]:
    sides = [endpoint.side for endpoint in run.endpoints]
    return [1, 0] if sides == ["diffusion", "ar"] else list(range(len(sides)))


def _times(value: Value | None) -> str:
    if value is None or value.value is None:
        return MISSING
    interval = "" if value.low is None or value.high is None else f" [{value.low:.3g}, {value.high:.3g}]"
    return f"{value.value:.3g}×{interval}"


def _portions(run: LoadRun) -> LoadTable:
    names = ("chunk_gap_s", "block_gap_s", "block_tokens", "blocks", "stall_s", "revised_share")
    keys = [f"serving.{name}[p50]" for name in names] + ["serving.stall_s[p99]"]
    rows = [(level_name(run, level), *_cells(level, keys)) for level in run.levels]
    together = 1e3 * run.settings.together_s
    note = (
        "Medians over requests. A chunk is what the server chose to send; chunks that followed each other within "
        f"{together:g} ms are one block. A gap is never divided by the tokens in it."
    )
    return LoadTable("Portions", ("load", *map(_header, keys)), tuple(rows), note)


def _peers(run: LoadRun) -> LoadTable:
    """What peers' formulas make of the same replies, beside the time a token took from end to end."""
    rows = []
    for level in run.levels:
        truth = level.metrics.get("serving.e2e_per_token_s[p50]")
        names = ("serving.peer_tpot_s", "serving.peer_itl_chunks_s", "serving.peer_tpot_with_ttft_s")
        row = [level_name(run, level), shown("serving.e2e_per_token_s", truth)]
        row += [_beside(name, level.metrics.get(name), truth) for name in names]
        own = level.metrics.get("serving.tok_s_user[p50]")
        row += [shown("serving.tok_s_user", own)]
        row.append(_beside("serving.peer_tok_s_user", level.metrics.get("serving.peer_tok_s_user"), own))
        rows.append(tuple(row))
    headers = (
        "load",
        "E2E/token",
        "TPOT: vLLM's bench, loadgen; ITL: guidellm, aiperf",
        "ITL: vLLM's bench",
        "TPOT: guidellm",
        "tok/s/user",
        "tok/s/user: aiperf",
    )
    note = (
        "Medians over requests, in brackets how far the formula is from E2E/token or tok/s/user. (last chunk - first) "
        "/ (tokens - 1) counts the first block's tokens and not its time: too low by about 1 / blocks, and 0 for one "
        "block. Gaps between chunks say nothing of tokens where a chunk holds several."
    )
    return LoadTable("What other load tools would say", headers, tuple(rows), note)


def _beside(name: str, value: Value | None, truth: Value | None) -> str:
    if value is None or value.value is None:
        return MISSING
    point = format_point(name, value)
    if truth is None or not truth.value:
        return point
    return f"{point} ({percent(value.value / truth.value - 1, 0)} %)"


def _server(run: LoadRun) -> LoadTable:
    """The client's times beside those that `dlmbench serve` told of the same replies."""
    rows = []
    pairs = (("serving.server_first_s[p50]", "serving.ttft_s[p50]"),)
    pairs += (("serving.server_last_s[p50]", "serving.latency_s[p50]"),)  # type: ignore[assignment]
    for level in run.levels:
        if pairs[0][0] not in level.metrics:
            continue
        row = [level_name(run, level)]
        for server, client in pairs:
            told, seen = level.metrics.get(server), level.metrics.get(client)
            row += [_point(server, told), _difference(seen, told)]
        row += [_point(name, level.metrics.get(name)) for name in ("serving.added_s[p50]", "serving.added_s[p99]")]
        rows.append(tuple(row))
    headers = ("load", "first sent", "seen here", "last sent", "seen here", "added p50", "added p99")
    note = "By the server's own clock, and how much later the client saw it; added: a chunk's stamps at both ends."
    return LoadTable("Against the server's own times", headers, tuple(rows), note)


def _point(name: str, value: Value | None) -> str:
    return MISSING if value is None or value.value is None else format_point(name, value)


def _difference(seen: Value | None, told: Value | None) -> str:
    if seen is None or told is None or not seen.value or not told.value:
        return MISSING
    return f"{percent(seen.value / told.value - 1, 2)} %"


def _saturation(run: LoadRun) -> LoadTable:
    found = run.saturation
    if found is None:
        return LoadTable("Saturation", (), ())
    name = "concurrency" if found.kind == "closed" else "requests/s offered"
    rows = [
        (f"{level.value:g}" + (" (saturated)" if level.value == found.at else ""), f"{level.requests_s:.3g}")
        for level in found.levels
    ]  # fmt: skip
    note = f"Saturated: {found.rule}. The sweep ended: {found.ended}."
    return LoadTable("Saturation", (name, "answered requests/s"), tuple(rows), note)


def _faults(run: LoadRun) -> LoadTable:
    rows = [
        (
            level_name(run, level),
            f"{count:,}",
            percent(count / max(level.requests, 1)).lstrip("+") + " %",
            code,
            run.fault_meanings.get(code, ""),
        )
        for level in run.levels
        for code, count in level.faults.items()
    ]
    return LoadTable(
        "Requests that failed", ("load", "requests", "of all", "fault", "in words"), tuple(rows), numbers=False
    )


def _certificate(run: LoadRun) -> LoadTable:
    rows = [(row.quantity, _said(row.ar), _said(row.diffusion), row.verdict) for row in run.certificate]
    first, second = (endpoint_name(run, place) for place in _reference_first(run)) if rows else ("", "")
    note = f"Not known of either: {'; '.join(run.unknown)}." if run.unknown else ""
    headers = ("quantity", first, second, "")
    return LoadTable("What is known of both servers", headers, tuple(rows), note, numbers=False)


def _said(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return MISSING if value is None else plain(str(value))


def facts(run: LoadRun) -> list[tuple[str, str]]:
    """How it was measured, line by line."""
    settings, tokenizer = run.settings, run.tokenizer
    found = [(f"server {n}", _server_words(each)) for n, each in enumerate(run.endpoints, 1)]
    found.append(("tokens counted by", plain(tokenizer.name or tokenizer.why or MISSING)))
    prompts = run.prompts
    words = f"{prompts.tokens:,} tokens of {plain(prompts.source)}, sent as {prompts.form}; a new one for each request "
    words += "as far as they were made beforehand"
    found.append(("prompts", words))
    found.append(("output", f"at most {settings.output_tokens:,} tokens"))
    limit = f"{settings.requests:,} requests" if settings.requests else "any number of requests"
    found.append(("a window", f"{limit}, at most {settings.duration_s:g} s, after {_before(settings)}"))
    found.append(("rounds", f"{settings.rounds}"))
    found.append(("connections", plain(settings.connections)))
    retries = settings.retries
    found.append(("retries", f"up to {retries} a request, whose wait counts" if retries else "none"))
    found.append(("time limit of a request", f"{settings.timeout_s:g} s"))
    if run.objectives:
        found.append(("objectives", ", ".join(f"{n} ≤ {v:g} s" for n, v in run.objectives.items())))
    if run.duration_s is not None:
        found.append(("duration", f"{run.duration_s:.0f} s"))
    found.append(("started", run.created))
    return found


def _server_words(endpoint: EndpointRecord) -> str:
    parts = [f"{plain(endpoint.model)} at {plain(endpoint.url)}"]
    if endpoint.side:
        parts.append(SIDES[endpoint.side])
    parts.append(f"{endpoint.style}, {'streamed' if endpoint.stream else 'answered at once'}")
    if endpoint.replaces:
        parts.append("each chunk replaces the text before")
    parts.append(
        "told not to stop early" if endpoint.ignore_eos else "stops where it likes: output lengths are its own"
    )
    return "; ".join(parts)


def _before(settings: LoadSettings) -> str:
    warmup, ramp = settings.warmup, settings.ramp_s
    words = "a warm-up" if warmup is None else f"{warmup} requests of warm-up"
    return words + (f" and a ramp of {ramp:g} s" if ramp else "")


def notes(run: LoadRun) -> list[str]:
    """What makes numbers other than they look: warnings of the load, of windows, of counts."""
    found = list(run.warnings)
    if run.finished is None:
        found.append("This load was cut off: the windows that had ended are shown, and others are missing.")
    lengths = [
        value.value
        for level in run.levels
        if (value := level.metrics.get("serving.output_tokens[p50]")) is not None and value.value
    ]
    if len(run.endpoints) > 1 and lengths and max(lengths) > 1.01 * min(lengths):
        found.append(
            f"Answers differ in length, from {min(lengths):g} to {max(lengths):g} tokens at the median: compare rates "
            "and times to k, not latencies."
        )
    for level in run.levels:
        name = level_name(run, level)
        found += [f"{name}: {note}" for note in (level.usage_differs, *level.notes) if note]
        p99 = level.metrics.get("serving.latency_s[p99]")
        if p99 is not None and p99.value is not None and p99.low is None and p99.why:
            found.append(f"{name}: p99 has no interval: {p99.why}")
    return [plain(note) for note in dict.fromkeys(found)]


def headline(run: LoadRun) -> list[str]:
    """One sentence a level, the numbers that are asked for first."""
    sentences = []
    for level in run.levels:
        throughput = level.metrics.get("serving.throughput_tok_s")
        latency = level.metrics.get("serving.latency_s[p50]")
        what = shown("serving.throughput_tok_s", throughput)
        sentences.append(
            f"{level_name(run, level)}: {what if what != MISSING else 'tokens not counted'}, latency p50 "
            f"{shown('serving.latency_s', latency)}"
        )
    return sentences


def picked(run: LoadRun, most: int = 6) -> Sequence[Level]:
    """A few levels spread over all of them, for curves that would hide each other."""
    levels = [level for level in run.levels if level.metrics]
    if len(levels) <= most:
        return levels
    return [levels[round(i * (len(levels) - 1) / (most - 1))] for i in range(most)]
