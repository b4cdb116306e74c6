"""What is left of a defence under the attack that is worst for each utterance: the headline of a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from armory_mdnf.evaluation.records import RunRecord, compare
from armory_mdnf.metrics.intervals import Interval, wer_interval
from armory_mdnf.metrics.wer import WordCounts
from armory_mdnf.report.runs import Key, Placed, attacked_counts, have_ids


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
            own = [p for p in placed if p.run.split == split and p.row == row and p.untargeted]
            if own:
                single = max(own, key=lambda p: p.attacked.value if p.attacked else 0)
                assert single.attacked is not None
                threats = len({p.threat.label for p in own})
                rate = wer_interval(list(_worst_counts(own).values()))
                found.append(Worst(split, *row, rate, threats, single.threat.label, single.attacked))
    return found


def worst_places(run: RunRecord) -> list[int]:
    """Places of a run's attacked utterances, that with the most errors under attack first."""
    counts = {place: compare(outcome, "adversarial") for place, outcome in enumerate(run.outcomes)}
    errors = {place: found.errors for place, found in counts.items() if found is not None}
    return sorted(errors, key=lambda place: -errors[place])


def _worst_counts(placed: Sequence[Placed]) -> dict[Key, WordCounts]:
    """Of every utterance that one of the runs attacked, the counts with the most errors."""
    worst: dict[Key, WordCounts] = {}
    by_id = have_ids(placed)
    for p in placed:
        for key, counts in attacked_counts(p, by_id).items():
            if key not in worst or counts.errors > worst[key].errors:
                worst[key] = counts
    return worst
