"""The gate as JUnit XML: one test suite, one test case a cell, for CI systems that show tests.

The format has no standard; what is written keeps to the schema of Jenkins' xUnit plug-in (junit-10.xsd), which pytest's
reports follow too and GitLab, Azure and GitHub's reporters read. No verdict but a pass may look green there:

    PASS, CHANGED accepted    a test case with nothing wrong
    FAIL, CHANGED             <failure>: head is slower, or does other work than base
    INCONCLUSIVE, INVALID     <error>: no judgement could be made

INCONCLUSIVE is no <skipped>, which every one of these systems counts as green, and no <failure>, so that a failure is
always something that was shown. `type` is "VERDICT.code", `message` the reason, the text the cell's numbers. Where
the gate's verdict is not that of some cell (another suite, no cell at all), a test case of its own carries it.
"""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from xml.etree import ElementTree

from ..profiles.gate import CellJudgement, Policy, Reasoned
from ..profiles.gate_record import GateDocument
from ..profiles.store import replace_file
from .gate_rows import CounterRow, counter_rows, green, measured_on, pairs_words, sentence, timed_rows
from .plain import plain

WHOLE = "the gate as a whole"
# XML 1.0, section 2.2: allowed characters. `plain` has removed controls and surrogates; U+FFFE and U+FFFF remain.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(document: GateDocument, path: Path) -> None:
    """Write the XML whole or not at all."""
    replace_file(path, junit(document))


def junit(document: GateDocument) -> str:
    """The XML as text, with its declaration."""
    result, context = document.result, document.context
    cases = [_case(document, cell) for cell in result.cells]
    if not green(result.verdict, result.policy) and all(
        cell.outcome.verdict != result.verdict for cell in result.cells
    ):
        cases.insert(0, _judged(_named(_suite(document), WHOLE), result.outcome, result.policy, sentence(result)))
    counts = {
        "tests": len(cases),
        "failures": sum(case.find("failure") is not None for case in cases),
        "errors": sum(case.find("error") is not None for case in cases),
    }
    totals = {name: str(count) for name, count in counts.items()}
    if context.duration_s is not None:
        totals["time"] = _seconds(context.duration_s)
    suite = ElementTree.Element(
        "testsuite", {"name": _suite(document), **totals, "skipped": "0", "timestamp": _timestamp(context.created)}
    )
    suite.append(_properties(document))
    suite.extend(cases)
    root = ElementTree.Element("testsuites", {"name": "dlmbench gate", **totals})
    root.append(suite)
    ElementTree.indent(root)
    body = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _suite(document: GateDocument) -> str:
    return _text(f"dlmbench gate {document.context.suite}")


def _case(document: GateDocument, cell: CellJudgement) -> ElementTree.Element:
    pair = cell.key.partition("/")[0]
    case = _named(_text(f"{document.context.suite}/{pair}"), _text(cell.key))
    seconds = document.context.cell_s.get(cell.key)
    if seconds is not None:
        case.set("time", _seconds(seconds))
    return _judged(case, cell.outcome, document.result.policy, _detail(document, cell))


def _named(classname: str, name: str) -> ElementTree.Element:
    return ElementTree.Element("testcase", {"classname": classname, "name": name})


def _judged(case: ElementTree.Element, outcome: Reasoned, policy: Policy, detail: str) -> ElementTree.Element:
    """The case with what went wrong, or with its numbers as output where nothing did."""
    if green(outcome.verdict, policy):
        ElementTree.SubElement(case, "system-out").text = f"{outcome.verdict}: {_text(outcome.message)}\n{detail}"
        return case
    kind = "failure" if outcome.verdict in ("FAIL", "CHANGED") else "error"
    attributes = {"type": _text(f"{outcome.verdict}.{outcome.code}"), "message": _text(outcome.message)}
    ElementTree.SubElement(case, kind, attributes).text = detail
    return case


def _detail(document: GateDocument, cell: CellJudgement) -> str:
    lines = [
        f"{row.metric}: base {row.base}, change {row.change}, margin {row.margin}, p adjusted {row.p}"
        for row in timed_rows(cell)
    ]
    lines += [_counter_line(row) for row in counter_rows([cell])]
    return "\n".join(map(_text, [*lines, pairs_words(document)]))


def _counter_line(row: CounterRow) -> str:
    return (
        f"{row.counter}: base {row.base}, head {row.head}, {row.change}; {row.outcome.verdict}: {row.outcome.message}"
    )


def _properties(document: GateDocument) -> ElementTree.Element:
    properties = ElementTree.Element("properties")
    base, head = document.context.base, document.context.head
    exact = [
        ("verdict", document.result.verdict),
        ("reason", f"{document.result.outcome.code}: {document.result.outcome.message}"),
        ("base.commit", base.commit or "unknown"),
        ("head.commit", head.commit or "unknown"),
        ("command", " ".join(document.context.command)),
    ]
    for name, value in (*exact, *measured_on(document)):
        ElementTree.SubElement(properties, "property", {"name": _text(name), "value": _text(value)})
    return properties


def _text(text: str) -> str:
    """`text` as one line of characters that XML 1.0 allows."""
    return _FORBIDDEN.sub("", plain(text))


def _seconds(seconds: float) -> str:
    """Without an exponent and without thousands separators: the schema's pattern for a time."""
    return f"{seconds:.3f}"


def _timestamp(created: str) -> str:
    """ISO 8601 in UTC without a zone, as Ant writes it; anything else as it is."""
    try:
        moment = datetime.datetime.fromisoformat(created)
    except ValueError:
        return _text(created)
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="seconds")
