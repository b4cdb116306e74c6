"""Runs of one configuration on different utterances, perhaps made on different days, as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from armory_mdnf.errors import ResultsError, quoted
from armory_mdnf.evaluation.identity import differing, identity_of
from armory_mdnf.evaluation.names import block_of
from armory_mdnf.evaluation.records import Outcome, RunRecord
from armory_mdnf.files.provenance import leaves

INDEX = "dataset.index"
SEEDED = ("user_init", "attack", "defense")


def joined(runs: Mapping[str, RunRecord], any_device: bool = False) -> RunRecord:
    """The runs, by the names of their files, as one; an utterance of several is that of the first that has it.

    The utterances are in the order of their positions, where the runs together tell these.

    The device is the first run's; with ``any_device`` the others may have been computed on another one, and the whole
    names the utterances that were. Rounding changes what an attack finds for an utterance, not what it is.

    Raises :class:`ResultsError` for runs that differ in more than their utterances: in the configuration, a seed, the
    weights, the device or Armory's flags; or that do not name their utterances, or their device where it matters.
    """
    (first_name, first), *_ = runs.items()
    nature = _nature(first)
    outcomes: dict[str, Outcome] = {}
    elsewhere: dict[str, str] = {}
    for name, run in runs.items():
        own = _nature(run)
        found = [key for key in differing(nature, own) if not (any_device and key == "device")]
        if found:
            was, now = (quoted(side.get(found[0])) for side in (nature, own))
            more = f" (and {', '.join(found[1:])})" if found[1:] else ""
            raise ResultsError(
                f"{name} and {first_name} are no parts of one run: they differ in {found[0]}, {now} and {was}{more}"
            )
        if any_device and run.device is None:
            raise ResultsError(f"{name}: expected the device of the run, found none")
        for outcome in run.outcomes:
            if outcome.id is None:
                raise ResultsError(f"{name}: expected utterances with their ids, found one without")
            device = run.elsewhere.get(outcome.id, run.device)
            if outcome.id not in outcomes and device is not None and device != first.device:
                elsewhere[outcome.id] = device
            outcomes.setdefault(outcome.id, outcome)
    places = _places(runs)
    if outcomes.keys() <= places.keys():
        outcomes = dict(sorted(outcomes.items(), key=lambda item: places[item[0]]))
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
        elsewhere=elsewhere,
        timestamp=max((run.timestamp for run in every if run.timestamp is not None), default=None),
    )


def _nature(run: RunRecord) -> dict[str, Any]:
    """All that the parts of one run have in common: dotted keys and plain values."""
    parts = leaves({part: run.config.get(part) for part in SEEDED})
    seeds = {key: value for key, value in parts if key.endswith(".kwargs.seed")}
    changed = {f"changed.{key}": pair for key, pair in run.changed.items() if key != INDEX}
    further = {key: getattr(run, key) for key in ("weights", "device", "flags", "split_size")}
    return identity_of(run) | seeds | changed | further


def _places(runs: Mapping[str, RunRecord]) -> dict[str, int]:
    """Positions of the utterances, of which a run names those that it chose, and not which of them it left out."""
    places: dict[str, int] = {}
    more = True
    while more:
        before = len(places)
        for name, run in runs.items():
            ids = [str(outcome.id) for outcome in run.outcomes]
            others = {place for key, place in places.items() if key not in ids}
            left = [place for place in sorted(_positions(name, run)) if place not in others]
            if len(left) == len(ids):
                places |= zip(ids, left, strict=True)
        more = len(places) > before
    return places


def _positions(name: str, run: RunRecord) -> Sequence[int]:
    index = block_of(run.config, "dataset").get("index")
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
