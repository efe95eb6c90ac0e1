"""The record of a load: what was asked of which server, every request's outcome, and what came of each level."""

from __future__ import annotations

from typing import Any, Literal

from ..record import CertificateRow, Reason, Side, Value
from ..stored import Stored

LOAD_SCHEMA = 1
Kind = Literal["closed", "poisson", "constant"]
Outcome = Literal["ok", "failed"]
# Requests of a ramp or a warm-up are kept and not counted.
Part = Literal["warmup", "ramp", "counted"]


class EndpointRecord(Stored):
    """A server and how it was asked. `key` says where the key came from, never what it is."""

    url: str
    model: str
    side: Side | None = None
    style: str
    stream: bool
    preset: str | None = None
    ignore_eos: str | None = None
    replaces: bool = False
    extra: dict[str, Any] = {}
    key: str | None = None
    public: bool = False
    about: dict[str, Any] = {}


class Load(Stored):
    """How hard: `closed` keeps `value` requests open; `poisson` and `constant` begin `value` requests a second,
    whatever becomes of them.
    """

    kind: Kind
    value: float

    @property
    def key(self) -> str:
        """How the level is named: `concurrency=8`, `rate=4 (poisson)`."""
        return f"concurrency={self.value:g}" if self.kind == "closed" else f"rate={self.value:g} ({self.kind})"


class RequestRecord(Stored):
    """One request of a window. Times are in seconds, `due_s` and `sent_s` since the window began, all others since the
    request was sent.

    `chunks` are (time, final tokens so far) of each chunk with text; `usage_*` are the server's own counts,
    `output_tokens` ours (None without a tokenizer), `tokens` the ones that metrics use. `served` is what `dlmbench
    serve` says of itself.
    """

    window: int
    number: int
    part: Part
    status: Outcome
    reason: Reason | None = None
    http_status: int | None = None
    due_s: float
    sent_s: float
    headers_s: float | None = None
    closed_s: float
    reused: bool | None = None
    retries: int = 0
    retry_after_s: float | None = None
    prompt_tokens: int | None = None
    usage_prompt_tokens: int | None = None
    output_tokens: int | None = None
    hidden_tokens: int = 0
    usage_output_tokens: int | None = None
    tokens: int | None = None
    finish_reason: str | None = None
    chunks: tuple[tuple[float, int], ...] = ()
    visible_s: float | None = None
    revised: int = 0
    notes: tuple[str, ...] = ()
    served: dict[str, Any] = {}


class Window(Stored):
    """An endpoint under one load for a while. `endpoint` is its place in the load's list; windows of one `round` follow
    each other, in the order of their numbers. `seconds` is from the first counted request to the end of the last.
    """

    number: int
    round: int
    endpoint: int
    load: Load
    began: str
    seconds: float = 0.0
    stopped_by: str = ""
    most_open: int = 0
    warnings: tuple[str, ...] = ()


class Level(Stored):
    """One endpoint at one load, over all its windows."""

    endpoint: int
    load: Load
    windows: int
    requests: int
    metrics: dict[str, Value]
    faults: dict[str, int] = {}
    usage_differs: str | None = None
    notes: tuple[str, ...] = ()


class Ratio(Stored):
    """Diffusion over AR (or second endpoint over first) at one load: metrics, from the windows of each round."""

    load: Load
    metrics: dict[str, Value]


class LoadRun(Stored):
    """All of a load but its requests."""

    schema_version: int = LOAD_SCHEMA
    id: str
    created: str
    finished: str | None = None
    duration_s: float | None = None
    command: tuple[str, ...]
    endpoints: tuple[EndpointRecord, ...]
    tokenizer: dict[str, Any]
    prompts: dict[str, Any]
    settings: dict[str, Any]
    objectives: dict[str, float] = {}
    certificate: tuple[CertificateRow, ...] = ()
    unknown: tuple[str, ...] = ()
    windows: tuple[Window, ...] = ()
    levels: tuple[Level, ...] = ()
    ratios: tuple[Ratio, ...] = ()
    saturation: dict[str, Any] = {}
    environment: dict[str, Any]
    warnings: tuple[str, ...] = ()
    dlmbench_version: str
