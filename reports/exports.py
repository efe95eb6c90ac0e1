"""A run for other programs: data frames, CSV, Parquet and the JSON of pytest-benchmark.

Text is exported exactly as it was recorded. Columns follow the record: a new axis of a cell or a new field of a
sample becomes a column without a change here. pandas is imported by the functions that need it, since
`dlmbench --help` must not pay for it.
"""

from __future__ import annotations

import json
import os
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..profiles.metrics import METRICS, declared
from ..profiles.record import Cell, Decode, Measurement, Sample, Trial
from ..profiles.store import StoredRun, replace_file
from .plain import plain

if TYPE_CHECKING:
    import pandas as pd

Table = Literal["metrics", "samples"]

# Nullable types: a missing number stays missing in every format, it never turns into NaN or 0.
_DTYPES = {int: "Int64", float: "Float64", bool: "boolean"}
_METRIC_COLUMNS = {
    "key": "string", "status": "string", "reason_code": "string", "metric": "string", "unit": "string",
    "value": "Float64", "low": "Float64", "high": "Float64", "n": "Int64", "level": "Float64", "why": "string",
}  # fmt: skip
_TRIAL_COLUMNS = {
    "key": "string", "status": "string", "pairing": "string", "process": "Int64", "trial_order": "Int64",
    "counted": "boolean",
}  # fmt: skip


def to_frame(stored: StoredRun) -> pd.DataFrame:
    """One row per cell x metric, long form; SI units. A cell with no metrics keeps one row, with `metric` missing."""
    import pandas as pd

    dtypes = {**_axis_dtypes(), **_METRIC_COLUMNS}
    rows = [row for measurement in stored.measurements for row in _metric_rows(measurement)]
    return pd.DataFrame(rows, columns=list(dtypes)).astype(dtypes)


def samples_frame(stored: StoredRun) -> pd.DataFrame:
    """One row a sample, discarded ones too (`counted` is False); seconds, and JSON text where a field is a curve."""
    import pandas as pd

    fields = {name: _dtype(field.annotation) for name, field in Sample.model_fields.items()}
    dtypes = {**_axis_dtypes(), **_TRIAL_COLUMNS, **fields}
    rows = [_sample_row(trial, sample) for trial in stored.trials for sample in trial.samples]
    return pd.DataFrame(rows, columns=list(dtypes)).astype(dtypes)


def write_csv(stored: StoredRun, path: Path, table: Table = "metrics") -> None:
    """Write one of the two frames as CSV: a missing value is an empty field, a number keeps every digit."""
    replace_file(path, _frame(stored, table).to_csv(index=False, lineterminator="\n"))


def write_parquet(stored: StoredRun, path: Path, table: Table = "metrics") -> None:
    """Write one of the two frames as Parquet; a crash leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _frame(stored, table).to_parquet(temporary, engine="pyarrow", index=False)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_pytest_benchmark_json(stored: StoredRun, path: Path) -> None:
    """Write the counted samples' `latency_s` as pytest-benchmark saves its own, for `pytest-benchmark compare`.

    One benchmark a cell, the samples of its processes pooled; cells of one shape form a group. Cells with no counted
    sample are left out: the format cannot say "failed". Its mean and deviation treat correlated samples as
    independent, so the intervals of a run are not in it; `extra_info.process_rounds` says which samples are whose, so
    that a gate which reads the file back still has its processes.
    """
    from pytest_benchmark import __version__ as version

    trials: dict[str, list[Trial]] = {}
    for trial in stored.trials:
        if trial.status == "ok" and trial.counted():
            trials.setdefault(trial.key, []).append(trial)
    measurements = {m.key: m for m in stored.measurements}
    document = {
        "machine_info": _machine_info(stored),
        "commit_info": _commit_info(stored),
        "benchmarks": [_benchmark(stored, group, measurements.get(key)) for key, group in trials.items()],
        "datetime": stored.run.created,
        "version": version,
    }
    replace_file(path, json.dumps(document, indent=1) + "\n")


def _frame(stored: StoredRun, table: Table) -> pd.DataFrame:
    return to_frame(stored) if table == "metrics" else samples_frame(stored)


def _dtype(annotation: object) -> str:
    """The column type of a field: nullable number or truth value, else text."""
    if isinstance(annotation, types.UnionType):
        annotation = next(option for option in typing.get_args(annotation) if option is not type(None))
    return _DTYPES.get(annotation, "string") if isinstance(annotation, type) else "string"


def _axis_dtypes() -> dict[str, str]:
    axes = {name: _dtype(field.annotation) for name, field in Cell.model_fields.items() if name != "decode"}
    return axes | {name: _dtype(field.annotation) for name, field in Decode.model_fields.items()}


def _axes(cell: Cell) -> dict[str, Any]:
    return cell.model_dump(exclude={"decode"}) | cell.decode.model_dump()


def _metric_rows(measurement: Measurement) -> list[dict[str, Any]]:
    reason = measurement.reason
    common = {
        **_axes(measurement.cell),
        "key": measurement.key,
        "status": measurement.status,
        "reason_code": reason.code if reason else None,
    }
    if not measurement.metrics:
        return [common | {"n": 0, "why": reason.message if reason else "no metrics were computed"}]
    return [
        common | {"metric": name, "unit": _unit(name)} | value.model_dump()
        for name, value in measurement.metrics.items()
    ]


def _unit(name: str) -> str | None:
    """The declared unit; None for a metric that a newer dlmbench recorded and this one does not know."""
    return declared(name).unit if name.partition("[")[0] in METRICS else None


def _sample_row(trial: Trial, sample: Sample) -> dict[str, Any]:
    fields = {
        name: json.dumps(value) if isinstance(value, dict | tuple) else value
        for name, value in sample.model_dump().items()
    }
    return {
        **_axes(trial.cell),
        "key": trial.key,
        "status": trial.status,
        "pairing": trial.pairing,
        "process": trial.process,
        "trial_order": trial.order,
        "counted": sample.discarded is None,
        **fields,
    }


def _benchmark(stored: StoredRun, trials: list[Trial], measurement: Measurement | None) -> dict[str, Any]:
    # pytest-benchmark's own class, so that quartiles and outliers mean here what they mean in its tables.
    from pytest_benchmark.stats import Stats

    cell = trials[0].cell
    stats: Any = Stats()  # type: ignore[no-untyped-call]
    for trial in trials:
        for sample in trial.counted():
            stats.update(sample.latency_s)
    extra = {
        "run": stored.run.id,
        "key": cell.key,
        "processes": len(trials),
        # in the order of stats.data
        "process_rounds": [{"process": trial.process, "rounds": len(trial.counted())} for trial in trials],
        "metrics": {name: value.model_dump() for name, value in measurement.metrics.items()} if measurement else {},
    }
    name = cell.key.removeprefix(f"{cell.pair}/")
    return {
        # its tables print names as they are, so these three must not carry escape sequences
        "group": plain(f"{cell.pair} P={cell.prompt_length} L={cell.length} B={cell.batch}"),
        "name": plain(name),
        "fullname": plain(cell.key),
        "params": _axes(cell),
        "param": None,
        "extra_info": extra,
        "options": {},
        "stats": {**stats.as_dict(), "data": list(stats.data), "iterations": 1},
    }


def _machine_info(stored: StoredRun) -> dict[str, Any]:
    worker = next((trial.worker for trial in stored.trials if trial.worker), None)
    return {
        "device": stored.run.device,
        "device_name": stored.run.device_name,
        "python_version": worker.python if worker else None,
        "torch": worker.torch if worker else None,
        "threads": worker.threads if worker else None,
        "environment": stored.run.environment,
    }


def _commit_info(stored: StoredRun) -> dict[str, Any]:
    worker = next((trial.worker for trial in stored.trials if trial.worker), None)
    commit = worker.commit if worker else None
    git = stored.run.environment.get("git")
    dirty = git.get("dirty") if isinstance(git, dict) else None
    return {"id": commit or "unknown", "time": None, "dirty": dirty, "project": "dlmbench", "branch": None}
