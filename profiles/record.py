"""The record that a measurement is kept in: cells, samples, trials, measurements and the run that holds them.

A run is a folder. `run.json` says what was asked and on what machine; `trials.jsonl` holds what was observed, a line
a trial, appended as each pairing ends; `measurements.jsonl` is computed from the trials and can be remade from them.
These classes are the schema: unknown fields are refused when written.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from .hardware import DevicePeaks, Hardware
from .stored import Stored

SCHEMA_VERSION = 1

Side = Literal["ar", "diffusion"]
Status = Literal["ok", "failed", "invalid", "skipped"]
Phase = Literal["prefill", "decode", "denoise", "cache_refresh", "encode", "draft", "verify"]
LengthPolicy = Literal["fixed", "natural"]


class CommitSchedule(Stored):
    """How many positions each step commits, row by row, and where that was taken from (its name in a cell's key)."""

    source: str
    rows: tuple[tuple[int, ...], ...]


class Decode(Stored):
    """Decode settings. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep the whole vocabulary.

    The rest belongs to single systems and is described at `models.generator.Settings`; None is the system's default.
    """

    temperature: float = Field(default=0.0, ge=0, le=100)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    remasking: Literal["low_confidence", "random"] = "low_confidence"
    sampler: str | None = None
    threshold: float | None = Field(default=None, ge=0, le=1)
    factor: float | None = Field(default=None, gt=0)
    entropy_bound: float | None = Field(default=None, gt=0)
    commit_schedule: CommitSchedule | None = None
    cfg_scale: float = Field(default=0.0, ge=0)
    position_temperature: float = Field(default=0.0, ge=0)
    epsilon: float | None = Field(default=None, gt=0, lt=1)
    draw: Literal["exact", "gumbel64", "gumbel32"] = "exact"
    suppress_mask: bool = True
    idle_steps: Literal["skip", "run"] = "skip"


class Cell(Stored):
    """One point of a sweep. `length` is L (new tokens per row), `steps` is T (None for AR)."""

    pair: str
    side: Side
    generator: str
    length: int = Field(ge=1)
    steps: int | None = Field(default=None, ge=1)
    block_length: int | None = Field(default=None, ge=1)
    prompt_length: int = Field(default=32, ge=0)
    batch: int = Field(default=1, ge=1)
    dtype: str = "float32"
    kv_dtype: str | None = None
    engine: str = "eager"
    attention: str = "auto"
    cache: Literal["none", "prefix", "dual", "kv"] | None = None
    decode: Decode = Decode()
    length_policy: LengthPolicy = "fixed"

    @property
    def key(self) -> str:
        """Identity across runs: pair, generator, L and T, then only the axes that differ from their defaults."""
        axes: list[tuple[str, object, object]] = [
            ("L", self.length, None),
            ("T", self.steps, None),
            ("block", self.block_length, None),
            ("P", self.prompt_length, 32),
            ("B", self.batch, 1),
            ("dtype", self.dtype, "float32"),
            ("kv_dtype", self.kv_dtype, None),
            ("engine", self.engine, "eager"),
            ("attention", self.attention, "auto"),
            ("cache", self.cache, None),
            ("temperature", self.decode.temperature, 0.0),
            ("top_k", self.decode.top_k, 0),
            ("top_p", self.decode.top_p, 1.0),
            ("remasking", self.decode.remasking, "low_confidence"),
            ("sampler", self.decode.sampler, None),
            ("threshold", self.decode.threshold, None),
            ("factor", self.decode.factor, None),
            ("entropy_bound", self.decode.entropy_bound, None),
            ("schedule", self.decode.commit_schedule and self.decode.commit_schedule.source, None),
            ("cfg", self.decode.cfg_scale, 0.0),
            ("position_temperature", self.decode.position_temperature, 0.0),
            ("epsilon", self.decode.epsilon, None),
            ("draw", self.decode.draw, "exact"),
            ("suppress_mask", self.decode.suppress_mask, True),
            ("idle_steps", self.decode.idle_steps, "skip"),
            ("policy", self.length_policy, "fixed"),
        ]
        shown = ",".join(f"{name}={value}" for name, value, default in axes if value is not None and value != default)
        return f"{self.pair}/{self.generator}/{shown}"

    @property
    def shape(self) -> tuple[str, int, int, int]:
        """What the two sides of a comparison share: (pair, prompt length, length, batch)."""
        return (self.pair, self.prompt_length, self.length, self.batch)


class Reason(Stored):
    """Why a status is not `ok`, or why sampling stopped: a code for programs and a sentence for people."""

    code: str
    message: str


class Sample(Stored):
    """One timed generation. Times are seconds on the device clock; the four parts add up to `latency_s`.

    `time_to_k_s` maps k to the time until the committed contiguous prefix has k tokens (median over rows that emit k).
    `rows_tokens` holds emitted tokens per row. `discarded` says why a sample does not count (None: it counts).
    `foreign_cores` is what other processes and the hypervisor wanted of the processors beyond those that the sample's
    threads left free, in cores (None: the sample was too short to tell). `wall_s` is the same generation by the host's
    clock, where that is not the device's.
    """

    order: int
    round: int
    prompt: int
    seed: int
    started_s: float
    latency_s: float
    prefill_s: float
    forward_s: float
    sampling_s: float
    idle_s: float
    output_tokens: int
    canvas_tokens: int
    nfe: int
    draft_nfe: int = 0
    forward_tokens: int
    ttft_s: float | None = None
    ttfb_s: float | None = None
    block_latency_s: float | None = None
    itl_s: float | None = None
    itl_p99_s: float | None = None
    time_to_k_s: dict[str, float] = {}
    rows_tokens: tuple[int, ...] = ()
    observer_events: int = 0
    foreign_cores: float | None = None
    wall_s: float | None = None
    discarded: str | None = None


class ForwardSpan(Stored):
    """One forward in a timeline: [begin_s, end_s) since the start of the sample and the work that it did."""

    phase: Phase
    network: str
    begin_s: float
    end_s: float
    rows: int
    q_len: int
    kv_len: int
    logit_rows: int
    mask: str


class Commit(Stored):
    """One write in a timeline: at `at_s`, denoising step or decode index `step` wrote `positions` of row 0.

    `tokens` are the ids written there; `final` says that the algorithm can no longer change them.
    """

    at_s: float
    step: int
    positions: tuple[int, ...]
    tokens: tuple[int, ...]
    final: bool = True


class Timeline(Stored):
    """What one sample (the one nearest the median) did, for row 0: forwards and commits on one clock."""

    sample_order: int
    latency_s: float
    length: int
    forwards: tuple[ForwardSpan, ...]
    commits: tuple[Commit, ...]


class Warmup(Stored):
    """How the cell was brought to steady state: generations made, seconds spent, whether two windows agreed."""

    samples: int
    seconds: float
    steady: bool


class Stop(Stored):
    """Which rule ended sampling, and the relative half-width of the within-process interval of the median then."""

    rule: Literal["target_ci", "budget", "max_samples", "failed"]
    message: str
    half_width: float | None = None


class Calibration(Stored):
    """Short calibration beside a pairing: matrix product (FLOP/s, by dtype) and read bandwidth (B/s).

    `read_block_b` is the size of the block read, in bytes: the model's weights, or less if they are very large;
    `matrix` the side of the matrices multiplied.
    """

    matmul_flop_s: float
    read_b_s: float
    dtype: str
    read_block_b: int | None = None
    matrix: int | None = None


class Origin(Stored):
    """Where a piece of code comes from (see `provenance`).

    `path` is its file or package folder. `commit` is that of the repository which tracks it, or, of an installed copy,
    the one it was installed from; `dirty`: what lies at `path` differs from that commit. `why` there is no commit, if
    there is none. `distribution` and `version` are of the installed copy, `source` the folder or address it came from.
    """

    path: str
    commit: str | None = None
    dirty: bool | None = None
    why: str | None = None
    distribution: str | None = None
    version: str | None = None
    source: str | None = None

    @property
    def state(self) -> str | None:
        """The commit in one word: with "-dirty" where what lies there differs from it."""
        return None if self.commit is None else f"{self.commit}{'-dirty' if self.dirty else ''}"


class WorkerInfo(Stored):
    """Who measured: process id, package path and commit, versions, threads and allocator settings in force.

    `origins` is the code in the process that came from no package index, by its name: dlmbench itself, the file of a
    plug-in, packages run from a checkout or installed from one. It is None in records older than it. `cpus` are the
    processors that the worker shares with those it alternates with; None where it was left to run on any.
    """

    pid: int
    package_path: str
    package_version: str
    commit: str | None
    python: str
    torch: str
    device: str
    threads: int
    environment: dict[str, str] = {}
    origins: dict[str, Origin] | None = None
    cpus: tuple[int, ...] | None = None


class Value(Stored):
    """A metric's value with its interval.

    `level` is the confidence of [low, high] over processes, or over texts for what texts are worth; None means that the
    interval is the spread within one process (or over fewer than five) and carries no confidence level. A missing value
    is None with `why`.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    level: float | None = None
    why: str | None = None


class TextQuality(Stored):
    """What `texts` texts of a cell's settings are worth: `quality.*` metrics over texts, none of it timed.

    `flattered` says why their likelihood misleads, if it does. `examples` are the first texts, prompts included.
    """

    texts: int
    seconds: float
    metrics: dict[str, Value]
    flattered: Reason | None = None
    examples: tuple[str, ...] = ()


class Trial(Stored):
    """The samples that one worker process took of one cell in one pairing.

    `pairing` names the shape and the process round that the cell was measured in; trials of one pairing alternated
    sample by sample. `counters` are values that no clock enters: NFE, tokens, FLOPs, bytes, memory, kernel counts.
    `clock_reasons` are all that held the GPU's clocks while the pairing took samples (None: not known). `order` is the
    cell's place among those of its pairing, which is drawn anew in every process round. `drift` says by how much the
    latency moved against the other workers' while samples were taken (0.1: 10 % longer at the end), where that is more
    than noise.
    """

    cell: Cell
    key: str
    process: int
    pairing: str
    order: int
    status: Status
    reason: Reason | None = None
    samples: tuple[Sample, ...] = ()
    counters: dict[str, float | int | str | None] = {}
    prepare_s: float | None = None
    warmup: Warmup | None = None
    stop: Stop | None = None
    calibration_before: Calibration | None = None
    calibration_after: Calibration | None = None
    alternation: Literal["sample", "block"] = "sample"
    worker: WorkerInfo | None = None
    timeline: Timeline | None = None
    quality: TextQuality | None = None
    hardware: Hardware | None = None
    clock_reasons: tuple[str, ...] | None = None
    drift: float | None = None

    def counted(self) -> tuple[Sample, ...]:
        """The samples that count: those not discarded."""
        return tuple(s for s in self.samples if s.discarded is None)


class Measurement(Stored):
    """What the trials of one cell say: one line of `measurements.jsonl`."""

    cell: Cell
    key: str
    status: Status
    reason: Reason | None = None
    metrics: dict[str, Value] = {}


class CertificateRow(Stored):
    """One line of a match certificate: a quantity on both sides, its unit, and the difference in words and per cent."""

    quantity: str
    unit: str
    ar: float | int | str | bool | None
    diffusion: float | int | str | bool | None
    difference_percent: float | None
    verdict: str


class PairRecord(Stored):
    """A pair as it was measured: where its weights came from and how well its two sides match."""

    name: str
    description: str
    weights: str
    weights_note: str
    ar: dict[str, Any]
    diffusion: dict[str, Any]
    certificate: tuple[CertificateRow, ...]


class Run(Stored):
    """`run.json`: everything about a run that is not an observation.

    `settings` are the measuring loop's settings, `plan` the cells of every pairing in order. `peaks` are the best
    calibrations seen in this run, by dtype; `device_peaks` what the device reached at the sizes that suit it best.
    `warnings` are sentences a reader of the numbers must know. `environment["now"]` is the machine as the run began,
    `after` the same readings at its end.
    """

    schema_version: int = SCHEMA_VERSION
    id: str
    created: str
    finished: str | None = None
    duration_s: float | None = None
    suite: str
    suite_description: str = ""
    command: tuple[str, ...]
    seed: int
    device: str
    device_name: str
    processes: int
    settings: dict[str, Any]
    prompts: dict[str, Any]
    pairs: tuple[PairRecord, ...]
    plan: tuple[tuple[Cell, ...], ...]
    environment: dict[str, Any]
    after: dict[str, Any] = {}
    peaks: tuple[Calibration, ...] = ()
    device_peaks: DevicePeaks | None = None
    warnings: tuple[str, ...] = ()
    dlmbench_version: str
