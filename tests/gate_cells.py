"""Cells of a baseline, and how the gate judges them, for its tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from armory_mdnf.evaluation.baselines import Baseline, BaselineCell, make_cell
from armory_mdnf.evaluation.gate import Options, gate

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
BUNDLED = ROOT / "baselines" / "bundled.json"
DEFENDED = {"dataset.name": "d", "defense.name": "MDNF", "model.name": "m", "attack.name": "a"}
UNDEFENDED = {"dataset.name": "d", "model.name": "m", "attack.name": "a"}


def cell(
    identity: dict[str, Any],
    counts: dict[str, list[tuple[int, int]]],
    snr: list[float | None] | None = None,
    **known: Any,
) -> BaselineCell:
    n = len(next(iter(counts.values())))
    known.setdefault("references", tuple(f"r{i}" for i in range(n)))
    pairs = {key: tuple(value) for key, value in counts.items()}
    return make_cell("split/name", identity, pairs, snr or [], **known)


def judged(found: BaselineCell, expected: BaselineCell, **options: Any) -> dict[str, str]:
    report = gate({"results.json": found}, Baseline("b", "s", {expected.name: expected}), Options(**options))
    assert not report.refusals, report.refusals
    return {f.measure: f.verdict for f in report.findings}


def refused(found: BaselineCell, expected: BaselineCell, **options: Any) -> str:
    report = gate({"results.json": found}, Baseline("b", "s", {expected.name: expected}), Options(**options))
    assert report.code == 2
    (refusal,) = report.refusals
    return refusal.why


BEFORE = [(e, 8) for e in (2, 0, 3, 1, 4, 2, 0, 1, 3, 2, 1, 2)]
WORSE = [(e + 3, w) for e, w in BEFORE]
