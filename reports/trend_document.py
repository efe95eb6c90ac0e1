"""The trend as one JSON document: of each run who it is, of each cell its points, gaps, levels and steps."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .history import PastRun
from .trend import Group, Series, Trend


def trend_document(trend: Trend) -> dict[str, Any]:
    """Plain data for `--json`; runs are named by their place in their group."""
    return {
        "folder": trend.folder,
        "metric": trend.metric,
        "alpha": trend.alpha,
        "groups": [_group(group) for group in trend.groups],
        "notes": [{"path": str(note.path), "text": note.text} for note in trend.notes],
    }


def _group(group: Group) -> dict[str, Any]:
    return {
        "suite": group.suite,
        "device": group.device,
        "device_name": group.device_name,
        "runs": [_run(run) for run in group.runs],
        "moved": [asdict(moved) for moved in group.moved],
        "cells": [_series(series) for series in group.series],
    }


def _run(run: PastRun) -> dict[str, Any]:
    return {
        "path": str(run.path),
        "id": run.id,
        "created": run.created.isoformat(),
        "commit": run.commit,
        "dlmbench_version": run.dlmbench,
    }


def _series(series: Series) -> dict[str, Any]:
    normalised = series.normalised_fit
    return {
        "key": series.key,
        "points": [
            {"run": point.run, **point.value.model_dump(mode="json"), "normalised": point.normalised}
            for point in series.points
        ],
        "gaps": [asdict(gap) for gap in series.gaps],
        "noise": series.fit.noise,
        "not_searched": series.fit.why,
        "not_normalised": series.not_normalised,
        "levels": [asdict(level) for level in series.fit.levels],
        "normalised_levels": [asdict(level) for level in normalised.levels] if normalised else None,
        "steps": [asdict(shift) for shift in series.shifts],
    }
