"""A small invented study with the shape of a real one: what `dlmbench run` leaves behind, made in milliseconds.

One pair, L in 16 / 64 / 256, T in L, L/4, 8, batch 1 and 8, five processes. Times follow a two-line cost model (a
forward costs launch overhead plus work) with seeded noise, so AR loses at small T and wins at T = L. At L = 256 and
batch 8, T = 256 failed, T = 64 is invalid and T = 8 was skipped; the shape L = 16, batch 8 ran in two processes only
and so claims no confidence level. Everything is written with the real store and read back with it.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from pathlib import Path

from dlmbench.profiles.record import (
    Calibration,
    Cell,
    CertificateRow,
    Commit,
    ForwardSpan,
    Measurement,
    Origin,
    PairRecord,
    Reason,
    Run,
    Sample,
    Stop,
    Timeline,
    Trial,
    Value,
    Warmup,
    WorkerInfo,
)
from dlmbench.profiles.store import StoredRun, append_trials, read_run, write_measurements, write_run

LENGTHS, BATCHES, PROCESSES, SAMPLES = (16, 64, 256), (1, 8), 5, 4
PEAK = Calibration(matmul_flop_s=1.6e12, read_b_s=1.2e11, dtype="float32")
PARAMETERS = 11_000_000
_OVERHEAD_S, _TOKEN_S, _SAMPLE_S, _PREFILL_S, _IDLE_S = 7e-4, 2.5e-5, 6e-5, 1.6e-3, 4e-5
_STUDENT_T_4 = 2.776  # 97.5th percentile, four degrees of freedom


def synthetic_run(
    folder: Path,
    pair: str = "small",
    message: str = "out of memory: wanted 9.1 GB",
    processes: int = PROCESSES,
    blocks: tuple[int, ...] = (),
) -> StoredRun:
    """Write run.json, trials.jsonl and measurements.jsonl under `folder` and read them back.

    `pair` and `message` (a failed cell's reason and a warning) let a test put hostile text where users' text goes.
    With `blocks`, L = 16 at batch 1 has block diffusion too, at these block lengths and 1, 2 and 4 tokens a step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    noise = random.Random(7)
    trials: list[Trial] = []
    measurements: list[Measurement] = []
    plan = []
    for length in LENGTHS:
        for batch in BATCHES:
            cells = _cells(pair, length, batch) + (_blocked(pair, blocks) if (length, batch) == (16, 1) else ())
            plan.append(cells)
            rounds = 2 if (length, batch) == (16, 8) else processes
            shape_trials = [
                _trial(cell, process, index, noise, message)
                for process in range(rounds)
                for index, cell in enumerate(cells)
            ]
            trials += shape_trials
            measurements += _measure(cells, shape_trials)
    run = Run(
        id="20260301-101500-quick",
        created="2026-03-01T10:15:00+00:00",
        finished="2026-03-01T10:22:41+00:00",
        duration_s=461.2,
        suite="quick",
        suite_description="The embedded small pair at three lengths and two batches.",
        command=("dlmbench", "run", "quick", "--pair", pair, "--seed", "17", "--note", "it's two words"),
        seed=17,
        device="cpu",
        device_name="Example CPU, 4 cores",
        processes=processes,
        settings={"target_ci": 0.02, "budget_s": 600.0, "warmup": {"window": 4, "agree": 0.05}},
        prompts={"source": "embedded", "count": 64, "sha256": "ab" * 32},
        pairs=(_pair(pair),),
        plan=tuple(plan),
        environment={
            "cpu": {"model": "Example CPU", "cores": 4, "governor": "performance"},
            "torch": "2.12.0",
            "OMP_NUM_THREADS": "3",
            "gpu": None,
        },
        peaks=(PEAK,),
        warnings=("Processor frequency changed by 6 % during the run.", message),
        dlmbench_version="0.1.0",
    )
    write_run(folder, run)
    append_trials(folder, trials)
    write_measurements(folder, measurements)
    return read_run(folder)


def _cells(pair: str, length: int, batch: int) -> tuple[Cell, ...]:
    steps = sorted({length, length // 4, 8}, reverse=True)
    ar = Cell(pair=pair, side="ar", generator="ar", length=length, batch=batch)
    return ar, *(
        Cell(pair=pair, side="diffusion", generator="mdlm", length=length, steps=t, block_length=length, batch=batch)
        for t in steps
    )


def _blocked(pair: str, blocks: tuple[int, ...]) -> tuple[Cell, ...]:
    base = Cell(pair=pair, side="diffusion", generator="block-diffusion", length=16)
    return tuple(
        base.model_copy(update={"steps": 16 // tokens, "block_length": block})
        for tokens in (1, 2, 4)
        for block in blocks
        if block >= tokens
    )


def _outcome(cell: Cell, message: str) -> tuple[str, Reason | None]:
    if (cell.length, cell.batch) != (256, 8) or cell.side == "ar":
        return "ok", None
    return {
        256: ("failed", Reason(code="out_of_memory", message=message)),
        64: ("invalid", Reason(code="thermal", message="clocks fell below 80 % of the start while sampling")),
        8: ("skipped", Reason(code="budget", message="the time budget ended before this cell")),
    }[cell.steps or 0]


def _trial(cell: Cell, process: int, order: int, noise: random.Random, message: str) -> Trial:
    status, reason = _outcome(cell, message)
    measured = status == "ok"
    drift = noise.gauss(1.0, 0.012)
    samples = tuple(_sample(cell, i, drift * noise.gauss(1.0, 0.004)) for i in range(SAMPLES)) if measured else ()
    return Trial(
        cell=cell,
        key=cell.key,
        process=process,
        pairing=f"{cell.pair}/L={cell.length},B={cell.batch}#{process}",
        order=order,
        status=status,  # type: ignore[arg-type]
        reason=reason,
        samples=samples,
        counters=_counters(cell) if measured else {},
        prepare_s=0.21 if measured else None,
        warmup=Warmup(samples=3, seconds=0.4, steady=True) if measured else None,
        stop=Stop(rule="target_ci", message="half-width 1.4 % ≤ 2 %", half_width=0.014) if measured else None,
        calibration_before=PEAK,
        calibration_after=PEAK,
        worker=WorkerInfo(
            pid=4000 + process,
            package_path="site-packages/dlmbench",
            package_version="0.1.0",
            commit="0123456789abcdef",
            python="3.12.3",
            torch="2.12.0",
            device="cpu",
            threads=3,
            origins={"dlmbench": Origin(path="/home/someone/dlmbench", commit="0123456789abcdef")},
        ),
        timeline=_timeline(cell, samples[0]) if samples and process == 0 else None,
    )


def _nfe(cell: Cell) -> int:
    """AR: the prefill gives the first token, then one forward a token. Diffusion: T denoising steps, no prefill; block
    diffusion also stores every block but the last."""
    if cell.generator == "block-diffusion":
        return (cell.steps or 0) + cell.length // (cell.block_length or 1) - 1
    return cell.length if cell.side == "ar" else cell.steps or 0


def _forward_s(cell: Cell) -> float:
    queries = cell.block_length if cell.generator == "block-diffusion" else cell.length + cell.prompt_length
    rows_tokens = cell.batch * (1 if cell.side == "ar" else queries or 1)
    return _OVERHEAD_S + _TOKEN_S * rows_tokens


def _sample(cell: Cell, order: int, factor: float) -> Sample:
    ar, steps = cell.side == "ar", _nfe(cell)
    prefill = (_PREFILL_S + _TOKEN_S * cell.batch * cell.prompt_length) * factor if ar else 0.0
    forward = _forward_s(cell) * (steps - 1 if ar else steps) * factor
    sampling, idle = _SAMPLE_S * steps * factor, _IDLE_S * steps * factor
    latency = prefill + forward + sampling + idle
    step = (latency - prefill) / (steps - 1 if ar else steps)
    curve = {}
    for k in (2**i for i in range(int(math.log2(cell.length)) + 1)):
        done = k - 1 if ar else math.ceil(k * steps / cell.length)
        curve[str(k)] = prefill + done * step if k < cell.length else latency
    return Sample(
        order=order,
        round=order,
        prompt=order,
        seed=100 + order,
        started_s=float(order),
        latency_s=latency,
        prefill_s=prefill,
        forward_s=forward,
        sampling_s=sampling,
        idle_s=idle,
        output_tokens=cell.batch * cell.length,
        canvas_tokens=cell.batch * cell.length,
        nfe=steps,
        forward_tokens=cell.batch
        * (cell.prompt_length + cell.length - 1 if ar else steps * (cell.length + cell.prompt_length)),
        ttft_s=curve["1"],
        ttfb_s=curve["1"] if ar else latency,
        itl_s=step if ar else None,
        itl_p99_s=step * 1.3 if ar else None,
        time_to_k_s=curve,
        rows_tokens=(cell.length,) * cell.batch,
        observer_events=2 * steps,
    )


def _counters(cell: Cell) -> dict[str, float | int | str | None]:
    tokens = cell.batch * (
        cell.prompt_length + cell.length - 1 if cell.side == "ar" else _nfe(cell) * (cell.length + cell.prompt_length)
    )
    return {
        "model_flops": 2.0 * PARAMETERS * tokens,
        "model_bytes": 4.0 * PARAMETERS * _nfe(cell),
        "memory_peak_b": 4.0 * PARAMETERS + 3.1e8,
    }


def _timeline(cell: Cell, sample: Sample) -> Timeline:
    """Row 0, one forward and one commit a step; diffusion's step i commits every position p with p % T == i."""
    ar, steps = cell.side == "ar", _nfe(cell)
    width = (sample.latency_s - sample.prefill_s) / (steps - 1 if ar else steps)
    forwards, commits = [], []
    for step in range(steps):
        prefill = ar and step == 0
        begin = 0.0 if prefill else sample.prefill_s + (step - 1 if ar else step) * width
        end = sample.prefill_s if prefill else begin + width
        queries = cell.prompt_length if prefill else 1 if ar else cell.length + cell.prompt_length
        forwards.append(
            ForwardSpan(
                phase="prefill" if prefill else "decode" if ar else "denoise",
                network="target",
                begin_s=begin,
                end_s=begin + (end - begin) * 0.9,
                rows=cell.batch,
                q_len=queries,
                kv_len=cell.prompt_length + step if ar else queries,
                logit_rows=1 if ar else cell.length,
                mask="causal" if ar else "full",
            )
        )
        positions = (step,) if ar else tuple(p for p in range(cell.length) if p % steps == step)
        commits.append(Commit(at_s=end, step=step, positions=positions, tokens=tuple(7 + p for p in positions)))
    return Timeline(
        sample_order=0,
        latency_s=sample.latency_s,
        length=cell.length,
        forwards=tuple(forwards),
        commits=tuple(commits),
    )


def _over_processes(per_process: list[float]) -> Value:
    """Mean of process medians; a Student interval from five processes up, else their spread with no level."""
    centre = statistics.fmean(per_process)
    if len(per_process) < 5:
        return Value(value=centre, low=min(per_process), high=max(per_process), n=len(per_process), level=None)
    half = _STUDENT_T_4 * statistics.stdev(per_process) / math.sqrt(len(per_process))
    return Value(value=centre, low=centre - half, high=centre + half, n=len(per_process), level=0.95)


def _measure(cells: tuple[Cell, ...], trials: list[Trial]) -> list[Measurement]:
    latencies = {
        cell.key: [statistics.median(s.latency_s for s in t.samples) for t in trials if t.key == cell.key and t.samples]
        for cell in cells
    }
    lines = []
    for cell in cells:
        own = [t for t in trials if t.key == cell.key]
        metrics = _metrics(cell, own, cells, latencies) if latencies[cell.key] else {}
        lines.append(Measurement(cell=cell, key=cell.key, status=own[0].status, reason=own[0].reason, metrics=metrics))
    return lines


def _metrics(
    cell: Cell, trials: list[Trial], cells: tuple[Cell, ...], latencies: dict[str, list[float]]
) -> dict[str, Value]:
    ar = cell.side == "ar"
    tokens = cell.batch * cell.length
    absent = Value(value=None, why="AR only: diffusion has no inter-token latency")

    def over(field: str) -> Value:
        return _over_processes([statistics.median(getattr(s, field) for s in t.samples) for t in trials])

    def exact(x: float) -> Value:
        return Value(value=x, low=x, high=x, n=len(trials), level=None)

    counters = trials[0].counters
    flops, moved = float(counters["model_flops"] or 0), float(counters["model_bytes"] or 0)
    mine, base = latencies[cell.key], latencies[cells[0].key]
    metrics = {name: over(name) for name in ("latency_s", "ttft_s", "ttfb_s", "prefill_s", "forward_s")}
    metrics |= {name: over(name) for name in ("sampling_s", "idle_s")}
    metrics |= {
        "throughput_tok_s": _over_processes([tokens / x for x in mine]),
        "tok_s_user": _over_processes([cell.length / x for x in mine]),
        "e2e_per_token_s": _over_processes([x / cell.length for x in mine]),
        "itl_s": over("itl_s") if ar else absent,
        "itl_p99_s": over("itl_p99_s") if ar else absent,
        "prepare_s": exact(0.21),
        "nfe": exact(_nfe(cell)),
        "output_tokens": exact(tokens),
        "forward_tokens": exact(trials[0].samples[0].forward_tokens),
        "tokens_per_forward": exact(cell.length / _nfe(cell)),
        "model_flops": exact(flops),
        "model_bytes": exact(moved),
        "arithmetic_intensity": exact(flops / moved),
        "memory_peak_b": exact(float(counters["memory_peak_b"] or 0)),
        "mfu": _over_processes([flops / x / PEAK.matmul_flop_s for x in mine]),
        "mbu": _over_processes([moved / x / PEAK.read_b_s for x in mine]),
        "roofline_fraction": _over_processes(
            [max(flops / PEAK.matmul_flop_s, moved / PEAK.read_b_s) / x for x in mine]
        ),
    }
    metrics |= {
        f"time_to_k_s[{k}]": _over_processes([statistics.median(s.time_to_k_s[k] for s in t.samples) for t in trials])
        for k in trials[0].samples[0].time_to_k_s
    }
    if ar:
        metrics["crossover_steps"] = _crossover(cells, latencies)
    else:
        metrics["speedup"] = _over_processes([b / m for b, m in zip(base, mine, strict=True)])
    return metrics


def _crossover(cells: tuple[Cell, ...], latencies: dict[str, list[float]]) -> Value:
    """Between two neighbouring T whose latency brackets AR's, a straight line in log T and log latency."""
    if not all(latencies[cell.key] for cell in cells):
        return Value(value=None, why="no diffusion cell of this shape was measured")
    target = statistics.median(latencies[cells[0].key])
    points = sorted((cell.steps or 0, statistics.median(latencies[cell.key])) for cell in cells[1:])
    if points[0][1] > target:
        return Value(value=None, why="none: AR is faster at every T measured")
    for (t0, x0), (t1, x1) in itertools.pairwise(points):
        if x0 <= target < x1:
            at = math.exp(math.log(t0) + math.log(t1 / t0) * math.log(target / x0) / math.log(x1 / x0))
            return Value(value=at, low=at * 0.97, high=at * 1.03, n=PROCESSES, level=0.95)
    return Value(value=None, why="all: diffusion is faster at every T measured")


def _pair(name: str) -> PairRecord:
    rows = (
        ("total parameters", "1", 11_000_000, 11_000_128, 0.001, "equal within 0.01 %"),
        ("weight bytes", "B", 44_000_000, 44_000_512, 0.001, "equal within 0.01 %"),
        ("KV bytes per token", "B", 12_288, 0, -100.0, "diffusion keeps no KV cache"),
        ("FLOPs of one forward at (1, 64, 64)", "FLOP", 1.41e9, 1.43e9, 1.4, "full attention costs 1.4 % more"),
        ("mask", "", "causal", "full", None, "differs by definition"),
        ("tied embeddings", "", True, True, None, "equal"),
    )
    return PairRecord(
        name=name,
        description="Two 11 M transformers with the same blocks, trained on the embedded corpus.",
        weights="trained",
        weights_note="shipped checkpoints, sha256 recorded",
        ar={"generator": "ar", "layers": 6, "d_model": 384},
        diffusion={"generator": "mdlm", "layers": 6, "d_model": 384},
        certificate=tuple(
            CertificateRow(quantity=q, unit=u, ar=a, diffusion=d, difference_percent=p, verdict=v)
            for q, u, a, d, p, v in rows
        ),
    )
