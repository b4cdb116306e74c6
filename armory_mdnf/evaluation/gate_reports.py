"""What a gate found: for a terminal, as JUnit XML for a CI server, and as JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any
from xml.etree import ElementTree

from armory_mdnf.console import printable
from armory_mdnf.evaluation.baselines import shown
from armory_mdnf.evaluation.gate import LABELS, Finding, Report
from armory_mdnf.metrics.intervals import CONFIDENCE

FORMAT = "armory_mdnf_gate/1"
VERDICTS = {0: "passed", 1: "regression", 2: "cannot compare"}
# What XML 1.0 has no way to write.
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def text(report: Report) -> str:
    """Every comparison on a line, what could not be compared, and the sum."""
    compared = report.findings
    lines = [f"baseline {report.baseline.name}: {report.baseline.source}", f"tolerance {tolerance(report)}", ""]
    if compared:
        width = max(len(f.cell) for f in compared)
        lines.append(f"{'cell':{width}}  {'measure':20}{'baseline':>9}{'found':>9}  difference")
        lines += [_line(report, finding, width) for finding in compared]
        lines.append("")
    lines += [f"note: {note}" for note in report.notes]
    if report.not_run:
        lines.append(f"not run: {len(report.not_run)} of the baseline's {len(report.baseline.cells)} cells")
    lines += [f"CANNOT COMPARE {refusal.results}: {refusal.why}" for refusal in report.refusals]
    number = {v: sum(f.verdict == v for f in compared) for v in ("same", "better", "worse")}
    parts = [f"{number['same']} as before", f"{number['better']} better", f"{number['worse']} worse"]
    lines.append(f"{len(compared)} compared: {', '.join(parts)}; {len(report.refusals)} results cannot be compared")
    return "\n".join(map(printable, [*lines, f"gate: {VERDICTS[report.code]}"])) + "\n"


def tolerance(report: Report) -> str:
    """How differences were judged, in words."""
    options = report.options
    size = f"SNR {options.snr_db:g} dB"
    if options.points is not None:
        return f"{options.points:g} points, {size}"
    level = f"{100 * CONFIDENCE:g} % over all comparisons that moved"
    return f"paired difference over utterances, {level}, each interval as it was judged, and {size}"


def unit(measure: str, value: float) -> str:
    """A value as the reports show it."""
    return f"{value:g}" if measure == "utterances" else shown(measure, value)


def difference(finding: Finding) -> str:
    """The difference with its interval where there is one."""
    if finding.found is None:
        return finding.why
    scale = 1 if finding.measure in ("snr_db", "utterances") else 100
    found = f"{scale * (finding.found - finding.expected):+.1f}"
    if finding.low is not None and finding.high is not None:
        found += f" [{scale * finding.low:+.1f}, {scale * finding.high:+.1f}]"
    return f"{found} ({finding.why})" if finding.why else found


def _line(report: Report, finding: Finding, width: int) -> str:
    values = [unit(finding.measure, finding.expected)]
    values.append("-" if finding.found is None else unit(finding.measure, finding.found))
    mark = "" if finding.verdict == "same" else f"  {finding.verdict.upper()}"
    cells = f"{finding.cell:{width}}  {LABELS[finding.measure]:20}{values[0]:>9}{values[1]:>9}"
    return f"{cells}  {difference(finding)}{mark}"


def as_json(report: Report) -> dict[str, Any]:
    """Plain values; rates are fractions."""
    return {
        "format": FORMAT,
        "baseline": report.baseline.name,
        "verdict": VERDICTS[report.code],
        "exit_code": report.code,
        "tolerance": asdict(report.options) | {"words": tolerance(report)},
        "findings": [asdict(f) | {"failed": report.failed(f)} for f in report.findings],
        "cannot_compare": [asdict(refusal) for refusal in report.refusals],
        "not_run": list(report.not_run),
        "notes": list(report.notes),
    }


def junit(report: Report) -> str:
    """JUnit XML: a test case per comparison, a failure per regression, an error per refusal, cells not run skipped."""
    cases = list(_cases(report))
    count = {kind: sum(case.find(kind) is not None for case in cases) for kind in ("failure", "error", "skipped")}
    suite = ElementTree.Element(
        "testsuite",
        name=_xml(f"gate {report.baseline.name}"),
        tests=str(len(cases)),
        failures=str(count["failure"]),
        errors=str(count["error"]),
        skipped=str(count["skipped"]),
    )
    suite.extend(cases)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root, " ")
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _cases(report: Report) -> Iterator[ElementTree.Element]:
    for finding in report.findings:
        case = _case(finding.cell, LABELS[finding.measure])
        if report.failed(finding):
            found = "none" if finding.found is None else unit(finding.measure, finding.found)
            message = f"expected {unit(finding.measure, finding.expected)}, found {found}: {difference(finding)}"
            ElementTree.SubElement(case, "failure", message=_xml(message))
        yield case
    for refusal in report.refusals:
        case = _case(refusal.results, "comparable")
        ElementTree.SubElement(case, "error", message=_xml(refusal.why))
        yield case
    for name in report.not_run:
        case = _case(name, "run")
        ElementTree.SubElement(case, "skipped", message="no results of this cell")
        yield case


def _case(group: str, name: str) -> ElementTree.Element:
    return ElementTree.Element("testcase", classname=_xml(group), name=_xml(name))


def _xml(value: str) -> str:
    return NOT_XML.sub("?", value)
