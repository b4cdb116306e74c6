"""What another device moves by rounding alone: two runs of one configuration and one seed, utterance by utterance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from armory_mdnf.errors import ResultsError
from armory_mdnf.evaluation.identity import differing, identity_of, other_weights
from armory_mdnf.evaluation.rates import difference
from armory_mdnf.evaluation.records import RunRecord, common_outcomes, compare, read_json

KEPT = Path("bench", "devices.json")
"""Where, in a folder of results, what :func:`compared` gave is kept."""


def read_devices(folder: Path) -> dict[str, Any] | None:
    """What is kept in a folder of results; None where nothing is."""
    path = folder / KEPT
    return read_json(path) if path.exists() else None


def compared(first: RunRecord, second: RunRecord, beside: Iterable[RunRecord] = ()) -> dict[str, Any]:
    """Word errors under attack on both devices, the rates' difference, and that of others from the second run.

    ``beside``: runs of other configurations on the second device, each of which is told less the second run. Rates are
    fractions. Raises :class:`ResultsError` for runs that are not of one configuration, or not of two devices.
    """
    if other := differing(identity_of(first), identity_of(second)) or other_weights(first.weights, second.weights):
        raise ResultsError(f"{first.name} and {second.name} are no runs of one configuration: they differ in {other}")
    devices = [first.device, second.device]
    if None in devices or devices[0] == devices[1]:
        raise ResultsError(f"expected runs on two devices, found {devices[0]} and {devices[1]}")
    rows = []
    for a, b in common_outcomes(first, second):
        counts = [compare(outcome, "adversarial") for outcome in (a, b)]
        if a.id is None or counts[0] is None or counts[1] is None:
            raise ResultsError(f"{a.id}: expected the utterance's id, and attacked transcripts in both runs")
        if a.id not in first.elsewhere and a.id not in second.elsewhere:
            errors = [found.errors for found in counts if found]
            heard = [a.adversarial, b.adversarial]
            rows.append({"id": a.id, "words": counts[0].reference_words, "errors": errors, "adversarial": heard})
    ids = {row["id"] for row in rows}
    own = [replace(run, outcomes=tuple(o for o in run.outcomes if o.id in ids)) for run in (first, second)]
    return {
        "configuration": first.name,
        "devices": devices,
        "utterances": rows,
        **_differences(own[0], own[1]),
        "beside": [{"configuration": run.name, **_beside(run, own[1])} for run in beside],
    }


def _beside(run: RunRecord, second: RunRecord) -> dict[str, Any]:
    if run.device != second.device:
        raise ResultsError(f"{run.name}: expected a run on {second.device}, found one on {run.device}")
    return _differences(run, second)


def _differences(first: RunRecord, second: RunRecord) -> dict[str, Any]:
    found = {}
    for name, insertions in (("difference", True), ("without_insertions", False)):
        interval = difference(first, second, "adversarial", insertions)
        if interval is None:
            raise ResultsError(f"{first.name} and {second.name} have no attacked utterance in common")
        found[name] = asdict(interval)
    return found
