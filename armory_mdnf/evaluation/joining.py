"""Runs of one configuration on different utterances, perhaps made on different days, as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from armory_mdnf.errors import ResultsError, quoted
from armory_mdnf.evaluation.identity import differing, identity_of
from armory_mdnf.evaluation.records import Outcome, RunRecord

INDEX = "dataset.index"
SEEDED = ("user_init", "attack", "defense")


def joined(runs: Mapping[str, RunRecord]) -> RunRecord:
    """The runs, by the names of their files, as one; an utterance of several is that of the first that has it.

    Raises :class:`ResultsError` for runs that differ in more than their utterances: in the configuration, a seed, the
    weights, the device or Armory's flags; or that do not name their utterances.
    """
    (first_name, first), *_ = runs.items()
    outcomes: dict[str, Outcome] = {}
    for name, run in runs.items():
        _check_same(first_name, first, name, run)
        for outcome in run.outcomes:
            if outcome.id is None:
                raise ResultsError(f"{name}: expected utterances with their ids, found one without")
            outcomes.setdefault(outcome.id, outcome)
    index = sorted({position for name, run in runs.items() for position in _positions(name, run)})
    every = list(runs.values())
    whole = first.changed.get(INDEX, [None])[0]
    return replace(
        first,
        outcomes=tuple(outcomes.values()),
        config={**first.config, "dataset": {**first.config["dataset"], "index": index}},
        changed={**first.changed, INDEX: [whole, index]},
        chosen=len(index),
        left_out=tuple({left.id: left for run in every for left in run.left_out if left.id not in outcomes}.values()),
        seconds={key: sum(run.seconds.get(key, 0.0) for run in every) for key in first.seconds},
        versions=_together(run.versions for run in every),
        timestamp=max((run.timestamp for run in every if run.timestamp is not None), default=None),
    )


def _check_same(first_name: str, first: RunRecord, name: str, run: RunRecord) -> None:
    found = differing(identity_of(first), identity_of(run))
    seeds = [
        [(other.config.get(part) or {}).get("kwargs", {}).get("seed") for part in SEEDED] for other in (first, run)
    ]
    found += [f"{part}.kwargs.seed" for part, a, b in zip(SEEDED, *seeds, strict=True) if a != b]
    changed = [{key: pair for key, pair in other.changed.items() if key != INDEX} for other in (first, run)]
    found += [f"changed.{key}" for key in differing(*changed)]
    found += [key for key in ("weights", "device", "flags", "split_size") if getattr(first, key) != getattr(run, key)]
    if found:
        raise ResultsError(f"{name} and {first_name} are no parts of one run: they differ in {', '.join(found)}")


def _positions(name: str, run: RunRecord) -> Sequence[int]:
    index = run.config["dataset"].get("index")
    if not isinstance(index, list) or not all(isinstance(position, int) for position in index):
        raise ResultsError(
            f"{name}: {INDEX}: expected a list of positions, as a part of a split has, found {quoted(index)}"
        )
    return index


def _together(versions: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Each package's version, or its versions."""
    found: dict[str, list[str]] = {}
    for each in versions:
        for package, version in each.items():
            if version not in found.setdefault(package, []):
                found[package].append(version)
    return {package: ", ".join(several) for package, several in found.items()}
