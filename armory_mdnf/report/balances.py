"""What defences cost where nobody attacks, and what they give under attack, against no defence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from armory_mdnf.evaluation.claim_runs import fine_tuning_of
from armory_mdnf.evaluation.names import NO_DEFENCE
from armory_mdnf.evaluation.paper import BENIGN
from armory_mdnf.evaluation.rates import difference
from armory_mdnf.metrics.intervals import Interval
from armory_mdnf.report.runs import Placed, cell, columns_of, data_name, rows_of


@dataclass(frozen=True)
class Held:
    """A paired difference to no defence, and the undefended recogniser where it is another than the defence's."""

    difference: Interval
    against: str


@dataclass(frozen=True)
class Balance:
    """What a defence costs where nobody attacks, and what it gives under one threat, against no defence.

    ``kept``: the gain without insertions, of the words that were said.
    """

    defence: str
    recogniser: str
    threat: str
    benign: Interval
    attacked: Interval
    cost: Held | None
    gain: Held | None
    kept: Held | None


def balances(placed: Sequence[Placed]) -> list[Balance]:
    """Cost and gain of every row of each split, under the threat that most of the split's rows were put to."""
    found = []
    for split in dict.fromkeys(p.run.split for p in placed):
        there = [p for p in placed if p.run.split == split]
        threat = _main_threat(there)
        for row in rows_of(there):
            p, benign = _longest(there, row, threat), _benign(there, row)
            if p is None or p.attacked is None or benign is None or benign.benign is None:
                continue
            rows = _undefended(there, row)
            cost = _held(benign, [_benign(there, own) for own in rows], BENIGN)
            undefended = [_longest(there, own, threat) for own in rows]
            gain, kept = (_held(p, undefended, "adversarial", insertions) for insertions in (True, False))
            where = f"{threat}, {data_name(split)}"
            found.append(Balance(*row, where, benign.benign, p.attacked, cost, gain, kept))
    return found


def _main_threat(placed: Sequence[Placed]) -> str:
    """The untargeted threat that most defences were put to; of equals, the first column."""
    rows: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for p in placed:
        if p.untargeted:
            rows[p.threat.label].add(p.row)
    order = {label: i for i, label in enumerate(columns_of(placed))}
    return min(rows, key=lambda label: (-len(rows[label]), order[label]), default="")


def _undefended(placed: Sequence[Placed], row: tuple[str, str]) -> list[tuple[str, str]]:
    """The rows that a defence may be held against, the best first: its recogniser, then what that is fine-tuned from.

    Another recogniser's would tell the two recognisers apart, not what the defence does.
    """
    defence, recogniser = row
    if defence == NO_DEFENCE:
        return []
    base = (fine_tuning_of(recogniser)[0], "base")
    rows = dict.fromkeys(p.row for p in placed if p.defence == NO_DEFENCE)
    own = [plain for plain in rows if plain[1] == recogniser]
    return own + [plain for plain in rows if plain not in own and fine_tuning_of(plain[1]) == base]


def _held(p: Placed, undefended: Iterable[Placed | None], comparison: str, insertions: bool = True) -> Held | None:
    """A run held against the first that shares utterances with it: the points that it adds benign, else takes off."""
    for other in undefended:
        if other is not None:
            first, second = (p, other) if comparison == BENIGN else (other, p)
            if found := difference(first.run, second.run, comparison, insertions):
                return Held(found, "" if other.row[1] == p.row[1] else other.row[1])
    return None


def _benign(placed: Sequence[Placed], row: tuple[str, str]) -> Placed | None:
    """The run that tells what a row understands where nobody attacks."""
    found = cell(placed, row, BENIGN)
    return found[0][0] if found else None


def _longest(placed: Sequence[Placed], row: tuple[str, str], threat: str) -> Placed | None:
    """Of the runs of a cell the one with the most utterances."""
    own = [p for p in placed if p.row == row and p.threat.label == threat]
    return max(own, key=lambda p: len(p.run.outcomes), default=None)
