"""Recorded runs, and where each stands in the paper's layout: a defence (row) under a threat (column)."""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from armory_mdnf.data.own import is_path
from armory_mdnf.errors import ResultsError, quoted
from armory_mdnf.evaluation.cells import cell_described, cell_named, departures
from armory_mdnf.evaluation.comparison import NO_DEFENCE, defence_label, read_run
from armory_mdnf.evaluation.rates import interval
from armory_mdnf.evaluation.records import Outcome, RunRecord, compare, results_files
from armory_mdnf.metrics.intervals import Interval
from armory_mdnf.metrics.wer import WordCounts

FLAT = " with flat noise"
FRAME = " with noise over the frame"
DEFENCES = (
    NO_DEFENCE,
    "RS",
    "MG",
    "MG-MDNF",
    f"MG-MDNF{FLAT}",
    f"MG-MDNF{FRAME}",
    "WG",
    "WG-MDNF",
    "HG",
    "HG-MDNF",
    f"HG-MDNF{FLAT}",
)
BENIGN = "benign"
STEPS = {"PGD": 100, "CW": 400}  # of the paper: others are named
NATIVE = "results.json"  # of `armory-mdnf run`, whose folder has the name


@dataclass(frozen=True)
class Threat:
    """What a run is up against: its name in the paper's layout, and its place in the order of the columns."""

    label: str
    order: tuple[Any, ...]


@dataclass(frozen=True)
class Placed:
    """A run, its defence, recogniser and threat, its error rates with their intervals, and the paper's number.

    Rates are fractions; ``paper`` is in percent, of LibriSpeech. ``lacks``: in what it is less than its configuration.
    """

    run: RunRecord
    path: str
    defence: str
    threat: Threat
    benign: Interval | None
    attacked: Interval | None
    to_target: Interval | None
    paper: float | None
    lacks: tuple[str, ...]

    @property
    def rate(self) -> Interval | None:
        """The rate that belongs in the run's cell of the table."""
        return self.attacked if self.attacked is not None else self.benign

    @property
    def row(self) -> tuple[str, str]:
        """Defence and recogniser."""
        return self.defence, self.run.recognizer


def read_runs(
    paths: Iterable[str | os.PathLike[str]], tell: Callable[[int], None] = lambda total: None
) -> list[Placed]:
    """Runs from files, and from every results file below folders, in the order of the paper's tables.

    A file is a record, Armory's results or those of ``armory-mdnf run``; in folders other JSON files are passed over.
    ``tell`` is called after each run with how many there are.
    Raises :class:`ResultsError` for a file that is none of these or damaged, and where there is no run at all.
    """
    files, placed = results_files(paths), []
    for path in files:
        placed.append(place(_named(read_run(path), path), str(path)))
        tell(len(files))
    return sorted(placed, key=lambda p: (p.run.split, defence_order(p.defence), p.row, p.threat.order, p.run.name))


def _named(run: RunRecord, path: Path) -> RunRecord:
    return replace(run, name=path.resolve().parent.name) if path.name == NATIVE else run


def place(run: RunRecord, path: str) -> Placed:
    """A run in the paper's layout. Raises :class:`ResultsError` for one whose references have no word."""
    attacked, benign, target = (interval(run, name) for name in ("adversarial", "benign", "target"))
    if attacked is None and benign is None:
        raise ResultsError(f"{path}: expected transcripts, found none")
    defence, threat = row_label(run), threat_of(run)
    lacks = tuple(departures(run, cell_described(run)))
    paper = published(run, defence, threat.label)
    return Placed(run, path, defence, threat, benign, attacked, target, paper, lacks)


def row_label(run: RunRecord) -> str:
    """The paper's name of a run's defence."""
    return row_in(run.config)


def row_in(config: Mapping[str, Any]) -> str:
    """The paper's name of a configuration's defence."""
    label = defence_label(config)
    kwargs = _block(config, "defense").get("kwargs") or {}
    if not label.endswith("MDNF"):
        return label
    flat = FLAT if "curve" in kwargs and kwargs["curve"] is None else ""
    return label + flat + (FRAME if kwargs.get("normalize") == "frame" else "")


def defence_order(label: str) -> int:
    """Place of a defence in the paper's tables; after them one that they do not have."""
    return DEFENCES.index(label) if label in DEFENCES else len(DEFENCES)


def threat_of(run: RunRecord) -> Threat:
    """What a run is up against, in the words of the paper's columns."""
    if all(o.adversarial is None for o in run.outcomes):
        return Threat(BENIGN, (0,))
    return threat_in(run.config, run.name, any(o.target is not None for o in run.outcomes))


def threat_in(config: Mapping[str, Any], name: str, targeted: bool) -> Threat:
    """The threat of a configuration's attack. Raises :class:`ResultsError` with ``name`` for one that is malformed."""
    block = _block(config, "attack")
    kwargs = block.get("kwargs") or {}
    if not isinstance(kwargs, Mapping):
        raise ResultsError(f"{name}: expected attack.kwargs to be an object, found {quoted(kwargs)}")
    family, size, kind = _bound(str(block.get("name")), kwargs)
    steps = kwargs.get("max_iter")
    extras = []
    if targeted and kind in ("l2", "linf"):
        extras.append("targeted")
    if not targeted and kind in ("snr", "cw"):
        extras.append("untargeted")
    if isinstance(steps, int) and steps != STEPS.get(family, steps):
        extras.append(f"{steps} steps")
    if gradient := gradient_of(config):
        extras.append(f"{gradient} gradient")
    draws = kwargs.get("eot_draws", 1)
    label = f"EOT-{draws} at {size}" if isinstance(draws, int) and draws > 1 else size
    label = ", ".join([label, *extras])
    rank = {"l2": 1, "linf": 2, "snr": 3, "cw": 4}.get(kind, 5)
    return Threat(label, (rank, draws if isinstance(draws, int) else 1, extras, -strength(kwargs, kind), label))


def gradient_of(config: Mapping[str, Any]) -> str:
    """The gradient that an attack followed where its configuration says so, and it is not the exact one."""
    named = [_block(config, "model").get("wrapper_kwargs") or {}, _block(config, "attack").get("kwargs") or {}]
    found = next((str(block["gradient"]) for block in named if block.get("gradient")), "exact")
    return "" if found == "exact" else found


def _bound(name: str, kwargs: Mapping[str, Any]) -> tuple[str, str, str]:
    """Family, bound in the paper's words, and its kind: l2, linf, snr, cw, noise or other."""
    eps, norm = kwargs.get("eps"), str(kwargs.get("norm", "l2"))
    kind = {"2": "l2", "l2": "l2", "inf": "linf", "linf": "linf"}.get(norm)
    if name == "RandomNoise":
        size = f"{kind} {eps}" if kind else f"{kwargs.get('snr_db')} dB"
        return name, f"white noise, {size}", "noise"
    if "CarliniWagner" in name:
        return "CW", f"CW {eps}", "cw"
    if norm == "snr" and isinstance(kwargs.get("snr_db"), (int, float)):
        return "PGD", f"{kwargs['snr_db']:g} dB", "snr"
    if norm == "snr_db" and isinstance(eps, (int, float)):
        return "PGD", f"{eps:g} dB", "snr"
    if norm == "snr" and isinstance(eps, (int, float)) and eps > 0:
        return "PGD", f"power ratio {eps:g} ({10 * math.log10(eps):.1f} dB)", "snr"
    family = "PGD" if name in ("PGD", "ProjectedGradientDescent", "ProjectedGradientDescentNumpy") else name
    if kind is None or eps is None:
        return family, name, "other"
    return family, f"{kind} {eps}" if family == "PGD" else f"{name} {kind} {eps}", kind


def strength(kwargs: Mapping[str, Any], kind: str) -> float:
    """How much a bound allows, to order the columns from strong to weak within a kind."""
    value = kwargs.get("snr_db", kwargs.get("eps")) if kind == "snr" else kwargs.get("eps")
    if not isinstance(value, (int, float)):
        return 0.0
    return -float(value) if kind == "snr" else float(value)


@functools.cache
def paper() -> dict[str, Any]:
    """The published tables and their source, as they are in ``paper.json``."""
    content: dict[str, Any] = json.loads((resources.files(__package__) / "paper.json").read_text(encoding="utf-8"))
    return content


CONTROL = re.compile(r": (?:not in the paper|Table \d|text),? (?:row )?none-")
"""How the description of a cell says that it is a control which the paper lacks."""


def published(run: RunRecord, defence: str, threat: str) -> float | None:
    """The paper's number in percent for that defence and threat; its attacks follow the published gradient."""
    cell = cell_described(run) or cell_named(run, run.name)
    if cell is not None and CONTROL.search(cell.description):
        return None
    row = "none" if defence == NO_DEFENCE else defence
    column = threat.removesuffix(", published gradient")
    for table in paper()["tables"].values():
        if row in table["rows"] and column in table["columns"]:
            value = table["rows"][row][table["columns"].index(column)]
            if value is not None:
                return float(value)
    return None


Key = tuple[str, str, int]


def keys_of(outcomes: Iterable[Outcome]) -> list[Key]:
    """What tells an utterance of a run from its others, and is the same in another run.

    Its id, its reference, and which it is of those that are equal in both.
    """
    seen: Counter[tuple[str, str]] = Counter()
    keys = []
    for outcome in outcomes:
        words = (outcome.id or "", outcome.reference)
        keys.append((*words, seen[words]))
        seen[words] += 1
    return keys


def attacked_counts(p: Placed) -> dict[Key, WordCounts]:
    """Word counts under attack of every utterance that has them."""
    found = zip(keys_of(p.run.outcomes), p.run.outcomes, strict=True)
    return {key: counts for key, o in found if (counts := compare(o, "adversarial")) is not None}


def data_name(split: str) -> str:
    """What a split is called for a reader: of one's own recordings, whose split is a path, the last part of it."""
    return f"{Path(split).name} (own recordings)" if is_path(split) else split


def _block(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    block = config.get(name)
    return block if isinstance(block, Mapping) else {}
