"""The record of a load: what was asked of which server, every request's outcome, and what came of each level."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ..record import CertificateRow, Reason, Side, Value
from ..stored import Stored

LOAD_SCHEMA = 2  # since 2: options, cwd
Kind = Literal["closed", "poisson", "constant"]
Outcome = Literal["ok", "failed"]
# Requests of a ramp or a warm-up are kept and not counted.
Part = Literal["warmup", "ramp", "counted"]
# What an objective may be stated of, in seconds.
OBJECTIVES = ("ttft", "first_final", "latency", "e2e_per_token", "stall")

# Nothing here takes thirty years; what says so is no record.
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
# A warm-up request is sent before its window begins.
Moment = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=10**12)]


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
    value: float = Field(gt=0, le=1e6, allow_inf_nan=False)

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
    due_s: Moment
    sent_s: Moment
    headers_s: Seconds | None = None
    closed_s: Seconds
    reused: bool | None = None
    retries: Count = 0
    retry_after_s: float | None = None
    prompt_tokens: Count | None = None
    usage_prompt_tokens: Count | None = None
    output_tokens: Count | None = None
    hidden_tokens: Count = 0
    usage_output_tokens: Count | None = None
    tokens: Count | None = None
    finish_reason: str | None = None
    chunks: tuple[tuple[Seconds, Count], ...] = ()
    visible_s: Seconds | None = None
    revised: Count = 0
    notes: tuple[str, ...] = ()
    served: dict[str, Any] = {}


class Window(Stored):
    """An endpoint under one load for a while. `endpoint` is its place in the load's list; windows of one `round` follow
    each other, in the order of their numbers. `seconds` is from the first counted request to the end of the last,
    `late_p99_s` by how much the client's event loop woke up late.
    """

    number: int
    round: int
    endpoint: int
    load: Load
    began: str
    seconds: Seconds = 0.0
    stopped_by: str = ""
    most_open: int = 0
    late_p99_s: Seconds | None = None
    sha256_of_bodies: str = ""
    warnings: tuple[str, ...] = ()


class Level(Stored):
    """One endpoint at one load, over all its windows."""

    endpoint: int
    load: Load
    windows: Count
    requests: Count
    metrics: dict[str, Value]
    faults: dict[str, Count] = {}
    usage_differs: str | None = None
    notes: tuple[str, ...] = ()


class Ratio(Stored):
    """Diffusion over AR (or second endpoint over first) at one load: metrics, from the windows of each round."""

    load: Load
    metrics: dict[str, Value]


class Tokens(Stored):
    """How tokens were counted: by the tokenizer `name`, or by the server alone, and `why`."""

    name: str | None
    sha256: str | None = None
    why: str | None = None
    prompts_cut_by: str | None = None


class Prompts(Stored):
    """What was sent: `tokens` of text from `source`, as `form`. `sha256_of_bodies`: of each server's windows;
    `used`: how many prompts have been made for it, those of a window that was cut off too.
    """

    source: str
    sha256: str
    tokens: Count
    form: Literal["text", "token ids"]
    sha256_of_bodies: tuple[str, ...] = ()
    used: tuple[Count, ...] = ()


class LoadSettings(Stored):
    """What a window did and how requests were made; prices are in money a million tokens."""

    output_tokens: Count
    temperature: float | None = None
    requests: Count | None = None
    duration_s: Seconds
    ramp_s: Seconds = 0.0
    warmup: Count | None = None
    rounds: Count
    timeout_s: Seconds
    retries: Count = 0
    connections: str
    together_s: Seconds
    sweep: bool = False
    seed: int = 0
    price_prompt: float | None = None
    price_output: float | None = None


class Offered(Stored):
    """A level of a sweep: the load, and how many requests were answered a second."""

    value: float
    requests_s: float


class Saturation(Stored):
    """A sweep's end: the levels, the first that was as good as the best by the `rule`, and why there were no more."""

    kind: Kind
    levels: tuple[Offered, ...]
    at: float | None
    rule: str
    ended: str


class LoadRun(Stored):
    """All of a load but its requests. `options` are what was asked for, in the folder `cwd`: a load that was cut off
    goes on from them.
    """

    schema_version: int = LOAD_SCHEMA
    id: str
    created: str
    finished: str | None = None
    duration_s: Seconds | None = None
    command: tuple[str, ...]
    endpoints: tuple[EndpointRecord, ...]
    tokenizer: Tokens
    prompts: Prompts
    settings: LoadSettings
    objectives: dict[str, float] = {}
    certificate: tuple[CertificateRow, ...] = ()
    unknown: tuple[str, ...] = ()
    fault_meanings: dict[str, str] = {}
    windows: tuple[Window, ...] = ()
    levels: tuple[Level, ...] = ()
    ratios: tuple[Ratio, ...] = ()
    saturation: Saturation | None = None
    environment: dict[str, Any]
    warnings: tuple[str, ...] = ()
    dlmbench_version: str
    options: dict[str, Any] = {}
    cwd: str | None = None

    @model_validator(mode="after")
    def _endpoints_exist(self) -> LoadRun:
        count = len(self.endpoints)
        places = [window.endpoint for window in self.windows] + [level.endpoint for level in self.levels]
        if not 1 <= count <= 2 or not all(0 <= place < count for place in places):
            raise ValueError("a window or a level is of an endpoint that is not listed")
        return self
