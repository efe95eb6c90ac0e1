"""The figure of the gate's power: a panel a curve, both verdicts by name, pairs below."""

from __future__ import annotations

from pathlib import Path

from dlmbench.reports.fig_gate import PowerCurve, gate_figure
from dlmbench.reports.plotting import style


def test_each_curve_is_a_panel_with_its_verdicts_named(tmp_path: Path) -> None:
    curves = [
        PowerCurve(f"sd {n} %", (0.0, 0.1, 0.2), (0.0, 0.5, 1.0), (0.9, 0.1, 0.0), (6.0, 18.0, 9.0)) for n in (1, 2)
    ]
    with style():
        svg = gate_figure(curves, 0.025, tmp_path / "power.png")
    assert svg.count("<svg") == 2
    for text in ("sd 1 %", "sd 2 %", "FAIL", "PASS", "INCONCLUSIVE", "margin", "slowdown planted", "pairs"):
        assert text in svg
    assert (tmp_path / "power.png").read_bytes().startswith(b"\x89PNG")
