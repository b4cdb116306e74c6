"""Baselines: what runs found once, kept so that later runs can be held against it, and published numbers.

A cell is one configuration: its :mod:`identity`, pooled rates, and per utterance the errors and words behind them,
which a paired comparison needs. Published numbers are cells without utterances.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from armory_mdnf.errors import ResultsError, quoted
from armory_mdnf.evaluation.identity import identity_of, without_defaults
from armory_mdnf.evaluation.records import COMPARISONS, RunRecord, are_words, as_number, compare
from armory_mdnf.files import strict_json
from armory_mdnf.files.atomic import write_text
from armory_mdnf.files.provenance import of_values

FORMAT = "armory_mdnf_baseline/1"
MEASURES = (*COMPARISONS, "snr_db")
"""Pooled word error rates as fractions, and the mean SNR of the attack in dB."""
Counts = tuple[tuple[int, int], ...]
MOST = 2**53
"""The largest number of errors or words: up to it a float tells every whole number from the next."""
_KEYS = ("identity", "utterances", "values", "counts", "snr_db", "references", "targets", "ids", "weights", "note")
_NAMES = ("references", "targets", "ids")
"""Of each utterance what tells it from others; empty where that is not known."""


@dataclass(frozen=True)
class BaselineCell:
    """One configuration's numbers.

    ``counts``: per comparison the errors and reference words of each utterance; empty for published numbers.
    ``snr_db``: per utterance, None where it is not finite. ``references``: a short checksum of each; empty where only
    counts are known. ``targets``: likewise of the attacker's, empty in baselines of older versions too. ``ids`` are
    empty where the results name no utterances. ``weights``: SHA-256 of what was computed with, by name, where the
    results say it. ``note``: where a published number comes from. ``chosen``: the utterances that the run was to
    evaluate, if it says so; ``left_out``: the ids of those that it could not; neither is kept in a file.
    """

    name: str
    identity: Mapping[str, Any]
    utterances: int
    values: Mapping[str, float]
    counts: Mapping[str, Counts] = field(default_factory=dict)
    snr_db: tuple[float | None, ...] = ()
    references: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    weights: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    chosen: int | None = None
    left_out: tuple[str, ...] = ()

    def select(self, places: Sequence[int]) -> BaselineCell:
        """The same cell of the utterances at these places."""
        counts = {name: tuple(pairs[i] for i in places) for name, pairs in self.counts.items()}
        snr = tuple(self.snr_db[i] for i in places) if self.snr_db else ()
        known: dict[str, Any] = {"weights": self.weights}
        for key in _NAMES:
            names = getattr(self, key)
            known[key] = tuple(names[i] for i in places if names)
        return make_cell(self.name, self.identity, counts, snr, **known)


@dataclass(frozen=True)
class Baseline:
    """Cells by name, and where their numbers come from."""

    name: str
    source: str
    cells: Mapping[str, BaselineCell]


def make_cell(
    name: str,
    identity: Mapping[str, Any],
    counts: Mapping[str, Counts],
    snr_db: Sequence[float | None],
    **known: Any,
) -> BaselineCell:
    """A cell with the values that follow from its utterances. Raises :class:`ResultsError` if they do not agree."""
    sizes = {len(pairs) for pairs in counts.values()} | ({len(snr_db)} if snr_db else set())
    if len(sizes) != 1 or 0 in sizes:
        raise ResultsError(f"{name}: expected every measure of the same utterances, found {sorted(sizes)} of them")
    values: dict[str, float] = {}
    for comparison, pairs in counts.items():
        words = sum(w for _, w in pairs)
        if words:
            values[comparison] = sum(e for e, _ in pairs) / words
    finite = [value for value in snr_db if value is not None]
    if finite:
        values["snr_db"] = statistics.fmean(finite)
    return BaselineCell(name, identity, sizes.pop(), values, counts, tuple(snr_db), **known)


def cell_of(run: RunRecord, name: str) -> BaselineCell:
    """What a run found, as a cell. Raises :class:`ResultsError` for one that has a transcript of some only."""
    counts: dict[str, Counts] = {}
    for comparison in COMPARISONS:
        found = [c for c in (compare(outcome, comparison) for outcome in run.outcomes) if c is not None]
        if found and len(found) != len(run.outcomes):
            raise ResultsError(f"{name}: {len(found)} of {len(run.outcomes)} utterances have {comparison} transcripts")
        if found:
            counts[comparison] = tuple((c.errors, c.reference_words) for c in found)
    ids = [outcome.id for outcome in run.outcomes if outcome.id is not None]
    return make_cell(
        name,
        identity_of(run),
        counts,
        [outcome.snr_db for outcome in run.outcomes] if "adversarial" in counts else (),
        references=_checksums(outcome.reference for outcome in run.outcomes),
        targets=_checksums(outcome.target for outcome in run.outcomes) if "target" in counts else (),
        ids=tuple(ids) if len(ids) == len(run.outcomes) else (),
        weights=run.weights,
        chosen=run.chosen,
        left_out=tuple(left.id for left in run.left_out),
    )


def _checksums(texts: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(of_values([text])[:12] for text in texts)


def write_baseline(path: str | os.PathLike[str], baseline: Baseline) -> None:
    """Write a baseline as strict JSON, a line per cell."""
    head = {"format": FORMAT, "name": baseline.name, "source": baseline.source}
    lines = [f" {strict_json.dumps(key)}: {strict_json.dumps(value)}" for key, value in head.items()]
    cells = []
    for name, cell in sorted(baseline.cells.items()):
        plain = strict_json.dumps(_as_json(cell), sort_keys=True, error=ResultsError, name=f"the cell {quoted(name)}")
        cells.append(f"  {strict_json.dumps(name)}: {plain}")
    body = ",\n".join([*lines, ' "cells": {\n' + ",\n".join(cells) + "\n }"])
    write_text(path, "{\n" + body + "\n}\n")


def _as_json(cell: BaselineCell) -> dict[str, Any]:
    plain = {key: getattr(cell, key) for key in _KEYS}
    return {key: value for key, value in plain.items() if value not in ({}, (), "")}


def read_baseline(path: str | os.PathLike[str]) -> Baseline:
    """Read a baseline. Raises :class:`ResultsError` if it is missing or damaged, or its numbers disagree."""
    content = strict_json.read_json(path, ResultsError)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else content
        raise ResultsError(f"{path}: expected a baseline of format {FORMAT!r}, found {quoted(found)}")
    if set(content) != {"format", "name", "source", "cells"} or not isinstance(content["cells"], dict):
        raise ResultsError(f"{path}: expected the keys format, name, source, cells, found {quoted(sorted(content))}")
    for key in ("name", "source"):
        if not isinstance(content[key], str):
            raise ResultsError(f"{path}: expected {key} as a text, found {quoted(content[key])}")
    cells = {}
    for name, plain in content["cells"].items():
        try:
            cells[name] = _from_json(name, plain)
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ResultsError(f"{path}: cell {quoted(name)} is damaged: {error}") from error
    known: dict[str, str] = {}
    for name, cell in cells.items():
        size = cell.utterances if not cell.counts else None  # what was published of 500 and of 100 is two cells
        if (other := known.setdefault(repr((sorted(cell.identity.items()), size)), name)) != name:
            raise ResultsError(f"{path}: {quoted(other)} and {quoted(name)} are of the same configuration")
    return Baseline(content["name"], content["source"], cells)


def _from_json(name: str, plain: Mapping[str, Any]) -> BaselineCell:
    if unknown := sorted(set(plain) - set(_KEYS)):
        raise ResultsError(f"unknown key {quoted(unknown[0])}")
    for key in ("identity", "values", "counts"):
        if not isinstance(plain[key] if key in ("identity", "values") else plain.get(key, {}), dict):
            raise ResultsError(f"expected {key} as an object, found {quoted(plain[key])}")
    identity, values, n = without_defaults(plain["identity"].items()), plain["values"], plain["utterances"]
    for key, value in values.items():
        number = as_number(value)
        if key not in MEASURES or number is None or (number < 0 and key != "snr_db"):
            raise ResultsError(f"expected a number of one of {', '.join(MEASURES)}, found {quoted({key: value})}")
    if not values:
        raise ResultsError(f"expected a number of one of {', '.join(MEASURES)}, found none")
    if type(n) is not int or n < 1:
        raise ResultsError(f"expected utterances as a whole number >= 1, found {quoted(n)}")
    known: dict[str, Any] = {"weights": plain.get("weights", {}), "note": plain.get("note", "")}
    if not are_words(known["weights"]):
        raise ResultsError(f"expected weights with their checksums, found {quoted(known['weights'])}")
    if not isinstance(known["note"], str):
        raise ResultsError(f"expected note as a text, found {quoted(known['note'])}")
    names = {key: _column(plain, key, "texts", lambda value: isinstance(value, str)) for key in _NAMES}
    snr = _column(plain, "snr_db", "numbers", lambda value: value is None or as_number(value) is not None)
    if not plain.get("counts"):
        if given := [key for key in ("snr_db", *_NAMES) if plain.get(key)]:
            raise ResultsError(f"expected counts of the utterances beside {given[0]}, found none")
        return BaselineCell(name, identity, n, values, **known)
    counts = {key: tuple((_count(e), _count(w)) for e, w in pairs) for key, pairs in plain["counts"].items()}
    if unknown := sorted(set(counts) - set(COMPARISONS)):
        raise ResultsError(f"unknown comparison {quoted(unknown[0])}")
    cell = make_cell(name, identity, counts, snr, **known, **names)
    if any(names[key] and len(names[key]) != n for key in names) or cell.utterances != n:
        raise ResultsError(f"expected {n} utterances, found {cell.utterances}")
    same = cell.values.keys() == values.keys()
    if not same or any(not math.isclose(cell.values[k], values[k], rel_tol=1e-9) for k in values):
        raise ResultsError(f"states {quoted(values)}, but its utterances give {quoted(dict(cell.values))}")
    return cell


def _column(plain: Mapping[str, Any], key: str, kind: str, fits: Callable[[Any], bool]) -> tuple[Any, ...]:
    """One value per utterance of a key that may be absent, as the file has them."""
    found = plain.get(key, [])
    if not isinstance(found, list):
        raise ResultsError(f"expected {key} as a list of {kind}, found {quoted(found)}")
    for value in found:
        if not fits(value):
            raise ResultsError(f"expected {key} as a list of {kind}, found {quoted(value)} in it")
    return tuple(found)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MOST:
        raise ResultsError(f"expected a whole number from 0 to {MOST}, found {quoted(value)}")
    return value


def changes(before: Baseline | None, after: Baseline) -> Iterable[str]:
    """A line per cell that a rewritten baseline adds, changes or no longer has."""
    old = before.cells if before else {}
    for name in sorted(old.keys() | after.cells.keys()):
        if name not in after.cells:
            yield f"removed  {name}"
        elif name not in old:
            yield f"added    {name}: {_numbers(after.cells[name])}"
        elif old[name] != after.cells[name]:
            yield f"changed  {name}: {_numbers(old[name])} -> {_numbers(after.cells[name])}"


def _numbers(cell: BaselineCell) -> str:
    found = [f"{key} {shown(key, value)}" for key, value in cell.values.items()]
    return ", ".join([*found, f"{cell.utterances} utterances"])


def shown(measure: str, value: float) -> str:
    """A value of a measure: percent, or decibels."""
    return f"{value:.1f}" if measure == "snr_db" else f"{100 * value:.1f}"
