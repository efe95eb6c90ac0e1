"""Every figure of a run, drawn once: a PNG each for people and papers, and themed SVG for the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..profiles.store import StoredRun
from .fig_blocks import blocks_figure
from .fig_crossover import crossover_figure
from .fig_energy import energy_figure
from .fig_flame import flame_figure
from .fig_kernels import kernels_figure
from .fig_memory import memory_figure
from .fig_pareto import pareto_figure
from .fig_power import power_figure
from .fig_roofline import roofline_figure
from .fig_sentence import sentence_figure
from .fig_sweeps import batch_figure, length_figure, steps_figure
from .fig_tasks import tasks_figure
from .fig_time_split import time_split_figure
from .fig_time_to_k import time_to_k_figure
from .fig_timeline import timeline_figure
from .fig_utilisation import utilisation_figure
from .fig_wall_clock import wall_clock_figure
from .plotting import Figure, style
from .study import Study

DRAWN = (
    pareto_figure,
    timeline_figure,
    wall_clock_figure,
    steps_figure,
    length_figure,
    batch_figure,
    blocks_figure,
    crossover_figure,
    time_to_k_figure,
    time_split_figure,
    roofline_figure,
    utilisation_figure,
    power_figure,
    energy_figure,
    kernels_figure,
    flame_figure,
    memory_figure,
    sentence_figure,
    tasks_figure,
)


def write_figures(stored: StoredRun, folder: Path) -> list[Figure]:
    """Write `folder`/*.png and return every figure for the page; one that lacks its data comes back with a reason."""
    study = Study(stored)
    with style():
        figures = [draw(study, folder) for draw in DRAWN]
    if study.shapes:
        return figures
    return [replace(figure, skipped="No cell of this run has a valid result (yet).") for figure in figures]
