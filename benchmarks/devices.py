"""What another device moves by rounding alone: ``python -m benchmarks.devices FIRST SECOND``.

Two runs of one configuration and one seed, on two devices: word errors under attack of the utterances that both have.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from armory_mdnf.errors import ResultsError
from armory_mdnf.evaluation.comparison import read_run
from armory_mdnf.evaluation.identity import differing, identity_of, other_weights
from armory_mdnf.evaluation.rates import difference
from armory_mdnf.evaluation.records import RunRecord, common_outcomes, compare
from armory_mdnf.files.atomic import write_text


def compared(first: RunRecord, second: RunRecord) -> dict[str, Any]:
    """Errors of each utterance on both devices, and the difference of the rates. Raises :class:`ResultsError`."""
    if other := differing(identity_of(first), identity_of(second)) or other_weights(first.weights, second.weights):
        raise ResultsError(f"{first.name} and {second.name} are no runs of one configuration: they differ in {other}")
    devices = [first.device, second.device]
    if None in devices or devices[0] == devices[1]:
        raise ResultsError(f"expected runs on two devices, found {devices[0]} and {devices[1]}")
    pairs = [
        (a, b) for a, b in common_outcomes(first, second) if not {a.id, b.id} & {*first.elsewhere, *second.elsewhere}
    ]
    rows = []
    for a, b in pairs:
        counts = [compare(outcome, "adversarial") for outcome in (a, b)]
        if counts[0] is None or counts[1] is None:
            raise ResultsError(f"{a.id}: expected attacked transcripts in both runs")
        same = a.adversarial == b.adversarial
        rows.append(
            {"id": a.id, "words": counts[0].reference_words, "errors": [c.errors for c in counts if c], "same": same}
        )
    ids = {row["id"] for row in rows}
    own = [replace(run, outcomes=tuple(o for o in run.outcomes if o.id in ids)) for run in (first, second)]
    interval = difference(own[0], own[1], "adversarial")
    return {
        "configuration": first.name,
        "devices": devices,
        "utterances": rows,
        "difference": None if interval is None else asdict(interval),
    }


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.devices", description=__doc__)
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="results of `armory-mdnf run`, or a record")
    parser.add_argument("--out", type=Path, default=Path("results/bench/devices.json"))
    args = parser.parse_args(argv)
    content = compared(*map(read_run, args.runs))
    write_text(args.out, json.dumps(content, indent=1) + "\n")
    rows = content["utterances"]
    words, *errors = (sum(row["words"] for row in rows), *(sum(row["errors"][i] for row in rows) for i in (0, 1)))
    print(f"{len(rows)} utterances, {words} words; errors: {dict(zip(content['devices'], errors, strict=True))}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
