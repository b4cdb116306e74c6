"""An audit as text."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from armory_mdnf.audit.findings import SKIP, Finding, worst

WIDTH = 100


def block(number: int, finding: Finding) -> str:
    """A finding with its verdict, evidence and advice."""
    lines = _wrapped(f"{number}. {finding.check}: {finding.verdict.upper()}. {finding.statement}", "   ")
    for name, value in evidence(finding.evidence):
        lines += _wrapped(f"   {name}: {value}", "     ")
    if finding.advice:
        lines += _wrapped(f"   To do: {finding.advice}", "     ")
    return "\n".join(lines)


def evidence(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The numbers behind a verdict, by name, as texts."""
    return [(name.replace("_", " "), _shown(value)) for name, value in found.items()]


def verdict(findings: Sequence[Finding]) -> str:
    """The worst verdict, and how many there are of each."""
    counted = [finding.verdict for finding in findings if finding.verdict != SKIP]
    tally = ", ".join(f"{counted.count(name)} {name}" for name in dict.fromkeys(counted))
    return f"Verdict: {worst(counted).upper()} ({tally or 'no check applied'})"


def _wrapped(line: str, indent: str) -> list[str]:
    return textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        if set(value) == {"value", "low", "high"}:
            around = "" if value["low"] is None else f" [{value['low']:g}, {value['high']:g}]"
            return f"{value['value']:g}{around}"
        return "; ".join(f"{name.replace('_', ' ')} {_shown(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if value is None else str(value)
