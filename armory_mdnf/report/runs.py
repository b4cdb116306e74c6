"""Recorded runs, and where each stands in the paper's layout: a defence (row) under a threat (column)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from armory_mdnf.data.paths import is_path
from armory_mdnf.errors import ResultsError
from armory_mdnf.evaluation.cells import cell_described, departures
from armory_mdnf.evaluation.comparison import read_run
from armory_mdnf.evaluation.names import NO_DEFENCE
from armory_mdnf.evaluation.paper import BENIGN, FLAT, FRAME, Threat, published, row_label, threat_of
from armory_mdnf.evaluation.rates import interval
from armory_mdnf.evaluation.records import Outcome, RunRecord, compare, results_files
from armory_mdnf.metrics.intervals import Interval
from armory_mdnf.metrics.wer import WordCounts

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
    def untargeted(self) -> bool:
        """Whether it is of an untargeted attack, which white noise, the control, is not."""
        return self.attacked is not None and self.to_target is None and not self.threat.control

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
        placed.append(place(read_run(path), str(path)))
        tell(len(files))
    return sorted(placed, key=lambda p: (p.run.split, defence_order(p.defence), p.row, p.threat.order, p.run.name))


def place(run: RunRecord, path: str) -> Placed:
    """A run in the paper's layout. Raises :class:`ResultsError` for one whose references have no word."""
    attacked, benign, target = (interval(run, name) for name in ("adversarial", "benign", "target"))
    if attacked is None and benign is None:
        raise ResultsError(f"{path}: expected transcripts, found none")
    defence, threat = row_label(run), threat_of(run)
    lacks = tuple(departures(run, cell_described(run)))
    paper = published(run, defence, threat.label)
    return Placed(run, path, defence, threat, benign, attacked, target, paper, lacks)


def defence_order(label: str) -> int:
    """Place of a defence in the paper's tables, whatever its options; after them one that they do not have."""
    kind = label.partition(",")[0]
    return DEFENCES.index(kind) if kind in DEFENCES else len(DEFENCES)


def rows_of(placed: Sequence[Placed]) -> list[tuple[str, str]]:
    """Defences with their recognisers in the paper's order."""
    return sorted({p.row for p in placed}, key=lambda row: (defence_order(row[0]), row))


def columns_of(placed: Sequence[Placed]) -> list[str]:
    """Threats in the paper's order; benign is always the first."""
    threats = {p.threat.label: p.threat.order for p in placed} | {BENIGN: (0,)}
    return sorted(threats, key=lambda label: threats[label])


def cell(placed: Sequence[Placed], row: tuple[str, str], column: str) -> list[tuple[Placed, Interval]]:
    """The runs of a cell with their rates; of the benign column, those of an attacked run if there is no other."""
    own = [p for p in placed if p.row == row]
    found = [(p, p.rate) for p in own if p.threat.label == column]
    if not found and column == BENIGN:
        most = max((p for p in own if p.benign is not None), key=lambda p: len(p.run.outcomes), default=None)
        found = [(most, most.benign)] if most else []
    return [(p, rate) for p, rate in found if rate is not None]


def names_of(run: RunRecord) -> list[str]:
    """What its utterances are called: their ids, where the results name none their numbers."""
    return [outcome.id or f"{number}" for number, outcome in enumerate(run.outcomes, 1)]


Key = tuple[str, str, int]


def have_ids(placed: Iterable[Placed]) -> bool:
    """Whether every utterance of some runs has an id; older records and Armory's results have none."""
    return all(outcome.id is not None for p in placed for outcome in p.run.outcomes)


def keys_of(outcomes: Iterable[Outcome], by_id: bool) -> list[Key]:
    """What tells an utterance of a run from its others, and is the same in another run.

    Its id, if ``by_id``, its reference, and which it is of those that are equal in both.
    """
    seen: Counter[tuple[str, str]] = Counter()
    keys = []
    for outcome in outcomes:
        words = (outcome.id or "" if by_id else "", outcome.reference)
        keys.append((*words, seen[words]))
        seen[words] += 1
    return keys


def attacked_counts(p: Placed, by_id: bool) -> dict[Key, WordCounts]:
    """Word counts under attack of every utterance that has them."""
    found = zip(keys_of(p.run.outcomes, by_id), p.run.outcomes, strict=True)
    return {key: counts for key, o in found if (counts := compare(o, "adversarial")) is not None}


def data_name(split: str) -> str:
    """What a split is called for a reader: of one's own recordings, whose split is a path, the last part of it."""
    return f"{Path(split).name} (own recordings)" if is_path(split) else split
