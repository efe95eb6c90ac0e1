"""What would spoil a measurement on this machine, what it would do to the numbers, and what to do about it.

    for finding in examine(capture_environment(), threads=3, live=probe()):
        print(finding.severity, finding.subject, finding.message, finding.effect, finding.remedy)

`examine` is a pure function of documents, so a stored run can be examined as well as this machine. Remedies are words
and commands to print: nothing here changes a setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .check_cpu import check_cpu
from .check_gpu import check_gpu
from .check_peaks import check_kept_peaks
from .check_system import check_system
from .finding import Finding, Severity
from .probes import probe

__all__ = ["Finding", "Severity", "examine", "probe"]

_ORDER: dict[Severity, int] = {"warning": 0, "info": 1, "ok": 2}


def examine(
    environment: Mapping[str, Any], threads: int | None = None, live: Mapping[str, Any] | None = None
) -> list[Finding]:
    """All findings, warnings first. `environment` is from `capture_environment`, `live` from `probe`.

    `threads` is how many a run on the CPU would use; None: one fewer than the usable processors. A reading that is
    missing yields no finding: no news of a thing is not good news of it. Raises ValueError for fewer than one thread.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}; expected at least 1, or None for the default")
    live = live or {}
    findings = [
        *check_cpu(environment, live, threads),
        *check_system(environment, live),
        *check_gpu(environment, live),
        *check_kept_peaks(environment, live),
    ]
    return sorted(findings, key=lambda finding: _ORDER[finding.severity])
