"""What is left of a defence under the attack that is worst for each utterance: the headline of a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from armory_mdnf.metrics.intervals import Interval, wer_interval
from armory_mdnf.metrics.wer import WordCounts
from armory_mdnf.report.runs import Key, Placed, attacked_counts


@dataclass(frozen=True)
class Worst:
    """A recogniser behind a defence under the worst of the ``threats`` untargeted ones that it was put to.

    ``rate`` is where each utterance meets the worst for it, ``alone`` the single threat with the highest rate.
    """

    split: str
    defence: str
    recogniser: str
    rate: Interval
    threats: int
    alone: str
    alone_rate: Interval


def worst_cases(placed: Sequence[Placed], rows: Sequence[tuple[str, str]]) -> list[Worst]:
    """The worst case of every split and row, in their order, of those that an untargeted attack was tried on."""
    found = []
    for split in dict.fromkeys(p.run.split for p in placed):
        for row in rows:
            own = [p for p in placed if p.run.split == split and p.row == row and _counts_here(p)]
            if own:
                single = max(own, key=lambda p: p.attacked.value if p.attacked else 0)
                assert single.attacked is not None
                threats = len({p.threat.label for p in own})
                rate = wer_interval(list(_worst_counts(own).values()))
                found.append(Worst(split, *row, rate, threats, single.threat.label, single.attacked))
    return found


def _counts_here(p: Placed) -> bool:
    return p.attacked is not None and p.to_target is None


def _worst_counts(placed: Sequence[Placed]) -> dict[Key, WordCounts]:
    """Of every utterance that one of the runs attacked, the counts with the most errors."""
    worst: dict[Key, WordCounts] = {}
    for p in placed:
        for key, counts in attacked_counts(p).items():
            if key not in worst or counts.errors > worst[key].errors:
                worst[key] = counts
    return worst
