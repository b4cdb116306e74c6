"""Bars of a benchmark: whether a ratio held its own, and the table that says so."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from armory_mdnf.evaluation.tables import markdown

HELD, MISSED, SKIPPED, OPEN = "held", "MISSED", "skipped", "no bar"
HEAD = ("what", "defence", "s", "ratio", "range", "against", "bar", "")


def holds(ratio: float, bar: str) -> bool:
    """Whether a ratio keeps within a bar: ``<= 1.05``, ``>= 4``, or ``0.8 to 1.2``. Raises ValueError for another."""
    if found := re.fullmatch(r"(<=|>=) ([\d.]+)", bar):
        limit = float(found[2])
        return ratio <= limit if found[1] == "<=" else ratio >= limit
    if found := re.fullmatch(r"([\d.]+) to ([\d.]+)", bar):
        return float(found[1]) <= ratio <= float(found[2])
    raise ValueError(f"expected a bar such as '<= 1.05' or '0.8 to 1.2', got {bar!r}")


def judge(row: Mapping[str, Any]) -> str:
    """What became of the bar of a row of results."""
    if "skipped" in row:
        return SKIPPED
    if not row["bar"]:
        return OPEN
    return HELD if holds(row["ratio"], row["bar"]) else MISSED


def missed(rows: Sequence[Mapping[str, Any]]) -> int:
    """How many bars are missed."""
    return sum(judge(row) == MISSED for row in rows)


def table(content: Mapping[str, Any]) -> str:
    """A Markdown table of a results file, and a line that counts."""
    rows = []
    for row in content["rows"]:
        if "skipped" in row:
            rows.append([row["what"], row["defence"], "-", "-", "", row["skipped"], row["bar"], SKIPPED])
            continue
        span = f"{row['lowest']:.2f} to {row['highest']:.2f}" if "lowest" in row else ""
        numbers = f"{row['seconds']:.3f}", f"{row['ratio']:.2f}"
        rows.append([row["what"], row["defence"], *numbers, span, row["against"], row["bar"], judge(row)])
    found = [judge(row) for row in content["rows"]]
    counts = ", ".join(f"{found.count(kind)} {kind}" for kind in (HELD, MISSED, SKIPPED, OPEN) if kind in found)
    return f"{markdown(rows, HEAD)}\n\n{len(found)} rows: {counts}"
