"""Policies from files and flags: what they mean, what they refuse, and that writing one loses nothing."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlmbench import InputError
from dlmbench.bench.gate.policy import overridden, policy_toml, read_policy
from dlmbench.profiles.gate import CellPolicy, Margin, MarginChange, Policy

FILE = """
[gate]
alpha = 0.02
looks = [6, 12]
ungated = ["launches_per_token"]

[gate.margins.latency_s]
relative = 0.04
floor = 1e-4

[gate.margins.ttft_s]
relative = 0.1

[gate.counters]
memory_peak_b = 0.1

[[gate.cells]]
match = "small/ar/*"
margins.latency_s.relative = 0.05

[[gate.cells]]
match = "*L=64*"
margins.latency_s.floor = 2e-4
counters.memory_peak_b = 0.2
ungated = ["ttft_s"]
"""


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "gate.toml"
    path.write_text(FILE)
    return path


def test_a_file_says_what_holds_for_each_cell(written: Path) -> None:
    policy = read_policy(written)
    assert (policy.alpha, policy.level, policy.looks) == (0.02, 0.95, (6, 12))
    assert policy.margin("small/mdlm/L=32", "latency_s") == Margin(relative=0.04, floor=1e-4)
    assert policy.margin("small/ar/L=32", "latency_s") == Margin(relative=0.05, floor=1e-4)
    assert policy.margin("small/ar/L=64,B=4", "latency_s") == Margin(relative=0.05, floor=2e-4)
    assert policy.margin("small/ar/L=32", "ttft_s") == Margin(relative=0.1)
    assert policy.margin("small/ar/L=64", "ttft_s") is None
    assert policy.margin("small/ar/L=32", "itl_s") is None
    assert policy.tolerance("small/ar/L=32", "nfe") == 0
    assert policy.tolerance("small/ar/L=32", "memory_peak_b") == 0.1
    assert policy.tolerance("small/ar/L=64", "memory_peak_b") == 0.2
    assert policy.tolerance("small/ar/L=64", "launches_per_token") is None


def test_a_curve_s_margin_holds_for_each_of_its_points() -> None:
    policy = Policy(margins={"time_to_k_s": Margin(relative=0.1)})
    assert policy.margin("any", "time_to_k_s[32]") == Margin(relative=0.1)
    one = Policy(margins={"time_to_k_s[8]": Margin(relative=0.1)})
    assert one.margin("any", "time_to_k_s[8]") == Margin(relative=0.1)
    assert one.margin("any", "time_to_k_s[16]") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[gate]\nalfa = 0.01", "gate.alfa: unknown key; remove it; found 0.01"),
        ("[gate]\nalpha = 0.7", "gate.alpha: Input should be less than 0.5; found 0.7"),
        ("[gate]\nalpha = nan", "gate.alpha: Input should be"),
        ("[gate]\nalpha = '0.01'", "gate.alpha: Input should be a valid number; found '0.01'"),
        ("[gate]\nlevel = true", "gate.level: Input should be a valid number; found True"),
        ("[gate]\nlooks = [9, 6]", "gate.looks: expected rising numbers of pairs, at least one"),
        ("[gate]\nlooks = []", "gate.looks: expected rising numbers of pairs, at least one"),
        ("[gate]\nlooks = [3, 6]", "gate.looks.0: Input should be greater than or equal to 6; found 3"),
        ("[gate.margins.latency_s]\nfloor = 1", "gate.margins.latency_s.relative: Field required"),
        ("[gate.margins.latency_s]\nrelative = 5", "gate.margins.latency_s.relative: Input should be less than 1"),
        ("[gate.margins.latency]\nrelative = 0.1", "gate.margins.latency: expected the name of a timed metric"),
        ("[gate.margins.latency]\nrelative = 0.1", "did you mean latency_s?"),
        ("[gate.margins.nfe]\nrelative = 0.1", "gate.margins.nfe: expected the name of a timed metric"),
        ("[gate.margins.mfu]\nrelative = 0.1", "gate.margins.mfu: expected the name of a timed metric; choose from "),
        ("[gate.margins.sm_clock_mhz]\nrelative = 0.1", "gate.margins.sm_clock_mhz: expected the name of a timed"),
        ("[gate.counters]\nlatency_s = 0.1", "gate.counters.latency_s: expected the name of a counter"),
        ("[gate.counters]\nnfe = inf", "gate.counters.nfe: Input should be a finite number; found inf"),
        ("[gate.counters]\nnfe = -1", "gate.counters.nfe: Input should be greater than or equal to 0; found -1"),
        ("[gate]\nungated = ['quality.validity']", "gate.ungated.quality.validity: expected the name of a metric"),
        ("[gate]\nungated = ['nfs']", "gate.ungated.nfs: expected the name of a metric; did you mean nfe?"),
        ("[[gate.cells]]\nmargins.latency_s.relative = 0.1", "gate.cells.0.match: Field required"),
        ("[[gate.cells]]\nmatch = 'a'\nmargins.ttft_s.floor = 0.1", "gate: cells 'a' give ttft_s no relative margin"),
        ("[[gate.cells]]\nmatch = 'a'\nmargins.lat.relative = 0.1", "gate.cells.0.margins.lat: expected the name"),
        ("alpha = 0.01", "alpha: unknown key; expected one table, [gate]"),
        ("", "gate: expected a table [gate]; found None"),
        ("gate = 3", "gate: expected a table [gate]; found 3"),
        ("[gate", "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_that_names_it(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        read_policy(path)
    message = str(refused.value)
    assert message.startswith(f"policy {path}: ")
    assert expected in message
    assert "\n" not in message


def test_counters_that_no_metric_declares_may_be_named() -> None:
    policy = overridden(Policy(counters={"launches": 0.1}), ungated=["total parameters (ar)"])
    assert policy.tolerance("any", "launches") == 0.1
    assert policy.tolerance("any", "total parameters (ar)") is None


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_policy(tmp_path / "absent.toml")


def test_flags_win_over_the_file(written: Path) -> None:
    policy = overridden(
        read_policy(written),
        alpha=0.05,
        looks="6, 9",
        margins=["7%", "itl_s=0.1"],
        floors=["itl_s=0.001"],
        ungated=["nfe"],
        accept_changed=True,
    )
    assert (policy.alpha, policy.looks, policy.accept_changed) == (0.05, (6, 9), True)
    assert policy.margins["latency_s"] == Margin(relative=0.07, floor=1e-4)
    assert policy.margins["itl_s"] == Margin(relative=0.1, floor=0.001)
    assert policy.ungated == ("launches_per_token", "nfe")
    assert overridden(policy) == policy


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"margins": ["wide"]}, "--margin 'wide': expected a number, or NAME=NUMBER"),
        ({"margins": ["ttft=0.1"]}, "expected the name of a timed metric"),
        ({"margins": ["120%"]}, "margins.latency_s.relative: Input should be less than 1; found 1.2"),
        ({"floors": ["ttft_s=1"]}, "ttft_s has no margin; give it one with --margin ttft_s=0.05"),
        ({"looks": "6,x"}, "--looks '6,x': expected rising numbers of pairs"),
        ({"looks": "9,6"}, "looks: expected rising numbers of pairs"),
        ({"alpha": 2.0}, "alpha: Input should be less than 0.5"),
        ({"ungated": ["latency"]}, "expected the name of a metric; did you mean latency_s?"),
    ],
)
def test_a_wrong_flag_is_refused(flags: dict[str, object], expected: str) -> None:
    with pytest.raises(InputError) as refused:
        overridden(Policy(), **flags)  # type: ignore[arg-type]
    assert expected in str(refused.value)


shares = st.floats(0.001, 0.9)
policies = st.builds(
    Policy,
    alpha=st.floats(0.001, 0.4),
    level=st.floats(0.6, 0.99),
    looks=st.sets(st.integers(6, 50), min_size=1, max_size=5).map(lambda looks: tuple(sorted(looks))),
    margins=st.dictionaries(
        st.sampled_from(["latency_s", "ttft_s", "throughput_tok_s"]),
        st.builds(Margin, relative=shares, floor=st.floats(0, 1)),
    ),
    counters=st.dictionaries(st.sampled_from(["nfe", "memory_peak_b"]), shares),
    ungated=st.lists(st.sampled_from(["nfe", "itl_s"]), max_size=2).map(tuple),
    cells=st.lists(
        st.builds(
            CellPolicy,
            match=st.text(min_size=1, max_size=8),
            margins=st.dictionaries(st.sampled_from(["latency_s", "itl_s"]), st.builds(MarginChange, relative=shares)),
            counters=st.dictionaries(st.just("nfe"), shares),
        ),
        max_size=2,
    ).map(tuple),
    accept_changed=st.booleans(),
)


@settings(max_examples=50, deadline=None)
@given(policies)
def test_a_policy_that_is_written_and_read_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, policy: Policy
) -> None:
    text = policy_toml(policy, ["learned from 18 pairs of small/\nalpha = 0.4"])
    assert tomllib.loads(text)
    path = tmp_path_factory.getbasetemp() / "round.toml"
    path.write_text(text, encoding="utf-8")
    assert read_policy(path) == policy
