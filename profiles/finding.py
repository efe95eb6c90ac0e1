"""What a check of the machine found, and the careful look into a captured document that every check begins with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["ok", "info", "warning"]
Document = Mapping[str, Any]
Findings = Iterator["Finding"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`message` says what was found, `effect` what it does to the numbers, `remedy` what to do (printed, never run).

    `code` is for programs and does not change (`cpu.governor`); `subject` is for people. A finding that is `ok` has
    neither effect nor remedy.
    """

    code: str
    severity: Severity
    subject: str
    message: str
    effect: str = ""
    remedy: str = ""


def look(document: Document, path: str) -> Any:
    """The value at "section.field", or None if any part of the way is missing: a stored run may be of any age."""
    value: Any = document
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def number(document: Document, path: str) -> float | None:
    """The value at the path if it is a number, else None."""
    value = look(document, path)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def usable_cores(environment: Document) -> float | None:
    """The processors this process can really have: its affinity (else all), cut by the container's quota."""
    counts = [number(environment, "cpu.usable_cores") or number(environment, "cpu.logical_cores")]
    counts.append(number(environment, "limits.cpu_quota_cores"))
    return min((count for count in counts if count is not None), default=None)


def default_threads(environment: Document) -> int | None:
    """One fewer than the usable cores, at least one: what a run on a CPU should take if it is not told.

    Physical cores where they are known: a second thread on a core adds nothing to a matrix product.
    """
    counts = [usable_cores(environment), number(environment, "cpu.usable_physical_cores")]
    cores = min((count for count in counts if count is not None), default=None)
    return max(1, int(cores) - 1) if cores is not None else None


def records(value: Any) -> list[Document]:
    """The mappings of a list; empty for anything else."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def cores_text(count: float) -> str:
    """Cores for people: "4", "2.5"."""
    return f"{round(count, 2):g}"


def threads_text(count: int) -> str:
    """Threads for people: "1 thread", "3 threads"."""
    return "1 thread" if count == 1 else f"{count} threads"


def size(count: float) -> str:
    """Bytes for people: "3.2 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
