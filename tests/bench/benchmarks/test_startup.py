"""How long `dlmbench --help` takes, against a Python that imports the two libraries which any such program needs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .interleave import Rounds


def test_startup(interleave: Callable[..., Rounds], tell: Callable[..., None]) -> None:
    script = Path(sys.executable).with_name("dlmbench")
    command = [str(script)] if script.is_file() else [sys.executable, "-m", "dlmbench.bench.cli"]

    def libraries() -> None:
        subprocess.run([sys.executable, "-c", "import typer, rich"], check=True)

    def ours() -> str:
        return subprocess.run([*command, "--help"], check=True, capture_output=True, text=True).stdout

    assert "Usage" in ours()
    taken = interleave({"libraries": libraries, "dlmbench": ours}, rounds=20)
    tell(
        "time of dlmbench --help / time of importing typer and rich",
        taken.ratio("dlmbench", "libraries"),
        "×",
        "≤ 1.7",
    )
