"""The pytest plug-in, in a pytest of its own: counters as assertions, broken contracts in one line."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

# Loaded by name, whether or not the package is installed with its entry point.
LOADED = ("-p", "no:dlmbench", "-p", "dlmbench.bench.pytest_plugin", "-p", "no:cacheprovider")
MINE = """
import torch

class Mine:
    side = "ar"
    def __init__(self, context): pass
    def prepare(self, shape, settings): pass
    def generate(self, request, observer):
        ids = torch.zeros((1, request.length), dtype=torch.int64)
        for i in range(request.length):
            with observer.forward("target", "decode", 1, 1, 7, 1, "causal"):
                pass
            observer.write(None, ids[:, i : i + 1], i, offset=i)
        return ids

class Short(Mine):
    def generate(self, request, observer):
        return super().generate(request, observer)[:, 1:]

class Crashing(Mine):
    def generate(self, request, observer):
        raise RuntimeError("out of ideas")
"""
TESTS = """
def test_mine(dlmbench_cell):
    cell = dlmbench_cell("mine.py:Mine", length=8)
    assert (cell.nfe, cell.forward_tokens, cell.output_tokens) == (8, 8, 8)
    assert cell.model_flops is None and cell.model_bytes is None
    seconds = cell.latency(samples=5)
    assert 0 < seconds.low <= seconds.value <= seconds.high
    assert seconds.level is None

def test_diffusion(dlmbench_cell):
    cell = dlmbench_cell("masked-diffusion", length=16, steps=4, batch=2, prompt_length=8)
    assert cell.key == "small/masked-diffusion/L=16,T=4,P=8,B=2"
    assert (cell.nfe, cell.forward_tokens) == (4, 4 * 2 * 24)
    assert cell.model_flops > 4 * 2 * 2 * 24 * 400_000

def test_too_much(dlmbench_cell):
    assert dlmbench_cell("mine.py:Mine", length=8).nfe < 8

def test_short(dlmbench_cell):
    dlmbench_cell("mine.py:Short", length=8)

def test_crashing(dlmbench_cell):
    dlmbench_cell("mine.py:Crashing", length=8)

def test_nowhere(dlmbench_cell):
    dlmbench_cell("nowhere.py:Mine")
"""


def test_cells_as_tests(tmp_path: Path) -> None:
    folder = tmp_path / "checks"
    folder.mkdir()
    (folder / "mine.py").write_text(MINE)
    (folder / "test_mine.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *LOADED, "-q", "checks"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("4 failed, 2 passed"), done.stdout
    broken = "dlmbench_cell: the generator broke its contract: it returned tokens (1, 7), expected (1, 8)"
    assert broken in lines  # a line of its own: no traceback through this program
    assert "E       RuntimeError: out of ideas" in lines
    assert any("generator file nowhere.py: no such file" in line for line in lines)
    assert any("assert 8.0 < 8" in line or "assert 8 < 8" in line for line in lines)


def test_loading_it_is_cheap() -> None:
    code = "import sys, dlmbench.bench.pytest_plugin; print([n for n in ('torch', 'numpy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_entry_point_leads_to_it() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"dlmbench": "dlmbench.bench.pytest_plugin"}
    assert pytest.importorskip("dlmbench.bench.pytest_plugin").dlmbench_cell
