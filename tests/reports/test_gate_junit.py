"""The JUnit report as CI systems read it. The rules stated here are those of Jenkins' xUnit plug-in (junit-10.xsd)."""

from __future__ import annotations

import re
from types import ModuleType
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlmbench.profiles.gate_record import GateDocument
from dlmbench.reports.gate_junit import WHOLE, _text, junit

# element: (required attributes, optional attributes, children)
SCHEMA = {
    "testsuites": (set(), {"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors"},
        {"time", "skipped", "timestamp", "hostname", "id", "package", "file", "log", "url", "group"},
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
    ),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, set(), set()),
    "testcase": ({"name"}, {"time", "classname", "group"}, {"skipped", "error", "failure", "system-out", "system-err"}),
    "failure": (set(), {"type", "message"}, set()),
    "error": (set(), {"type", "message"}, set()),
    "system-out": (set(), set(), set()),
}
TIME = r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]*)?"


def parsed(document: GateDocument) -> ElementTree.Element:
    """The root, after every rule of the schema and the counts of the suite have been checked."""
    root = ElementTree.fromstring(junit(document).encode())
    assert root.tag == "testsuites"
    for element in root.iter():
        required, optional, children = SCHEMA[element.tag]
        assert required <= set(element.attrib) <= required | optional
        assert {child.tag for child in element} <= children
        if "time" in element.attrib:
            assert re.fullmatch(TIME, element.attrib["time"])
    (suite,) = root
    for holder in (root, suite):
        assert int(holder.attrib["tests"]) == len(suite.findall("testcase"))
        assert int(holder.attrib["failures"]) == len(suite.findall("testcase/failure"))
        assert int(holder.attrib["errors"]) == len(suite.findall("testcase/error"))
    assert int(suite.attrib["skipped"]) == len(suite.findall("testcase/skipped")) == 0
    return root


def cases(document: GateDocument) -> dict[str, ElementTree.Element]:
    return {case.attrib["name"]: case for case in parsed(document).iter("testcase")}


def test_a_failed_cell_is_a_failure_that_names_it(gates: ModuleType) -> None:
    found = cases(gates.document())
    assert list(found) == [gates.EQUAL, gates.SLOW, gates.FEWER]  # one a cell, in the order of the suite
    slow = found[gates.SLOW]
    assert (slow.attrib["classname"], slow.attrib["time"]) == ("ci/small", "44.250")
    failure = slow.find("failure")
    assert failure is not None
    assert failure.attrib == {"type": "FAIL.slower", "message": "latency is 5.1 % worse, more than the margin of 3 %"}
    assert "change +5.1 % [+4.0, +6.2], margin 3 %, 50.0 µs, p adjusted <0.001" in (failure.text or "")
    assert [child.tag for child in found[gates.EQUAL]] == ["system-out"]
    assert "time" not in found[gates.EQUAL].attrib  # not measured is absent, not 0


def test_the_suite_says_what_was_compared(gates: ModuleType) -> None:
    root = parsed(gates.document())
    (suite,) = root
    assert suite.attrib["timestamp"] == "2026-11-28T09:20:00"  # 10:20 at +01:00, in UTC
    properties = {entry.attrib["name"]: entry.attrib["value"] for entry in root.iter("property")}
    assert properties["base.commit"] == "0123456789abcdef"
    assert properties["head.commit"] == "fedcba9876543210"
    assert properties["pairs"].startswith("9 pairs of fresh processes, look 2 of 3")
    assert properties["policy"].startswith("alpha 0.01, level 0.95; margins: latency_s ")


@pytest.mark.parametrize(
    ("verdict", "accepted", "wrong"),
    [
        ("PASS", False, None),
        ("FAIL", False, "failure"),
        ("CHANGED", False, "failure"),
        ("CHANGED", True, None),
        ("INCONCLUSIVE", False, "error"),
        ("INVALID", False, "error"),
        ("FAIL", True, "failure"),
    ],
)
def test_only_a_pass_looks_green(gates: ModuleType, verdict: str, accepted: bool, wrong: str | None) -> None:
    document = gates.document([gates.cell("small/ar/L=8", verdict)], verdict=verdict, accept_changed=accepted)
    (case,) = cases(document).values()
    assert [child.tag for child in case] == [wrong or "system-out"]


@pytest.mark.parametrize("verdict", ["FAIL", "INVALID", "INCONCLUSIVE", "CHANGED"])
def test_a_verdict_that_no_cell_explains_is_a_case_of_its_own(gates: ModuleType, verdict: str) -> None:
    for cells in ([], [gates.cell("small/ar/L=8", "PASS")]):
        case = cases(gates.document(cells, verdict=verdict))[WHOLE]
        assert [child.tag for child in case] in (["failure"], ["error"])
    assert not any(WHOLE in name for name in cases(gates.document([], verdict="PASS")))


def test_hostile_text_stays_text(gates: ModuleType) -> None:
    (case,) = cases(gates.hostile()).values()
    assert case.attrib["name"] == 'a|b]]>&<script>"::error::x%0A,y ::set-output name=z::1'


@given(st.text(st.characters(codec=None)))
@settings(max_examples=200, deadline=None)
def test_any_text_makes_valid_xml(text: str) -> None:
    element = ElementTree.Element("e", {"a": _text(text)})
    element.text = _text(text)
    read = ElementTree.fromstring(ElementTree.tostring(element, encoding="unicode").encode())
    assert read.attrib["a"] == _text(text)
    assert (read.text or "") == _text(text)
