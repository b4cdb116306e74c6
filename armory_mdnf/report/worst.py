"""What is left of a defence under the attack that is worst for each utterance: the headline of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from armory_mdnf.evaluation.records import RunRecord, compare
from armory_mdnf.metrics.intervals import FEWEST, Interval, wer_interval
from armory_mdnf.metrics.wer import WordCounts
from armory_mdnf.report.runs import Key, Placed, attacked_counts, have_ids


@dataclass(frozen=True)
class Worst:
    """A recogniser behind a defence under the worst of the ``threats`` untargeted ones that it was put to.

    ``rate`` is where each utterance meets the worst for it, ``alone`` the single threat with the highest rate: both on
    the utterances that met every one of these threats, and both None where there is no such utterance.
    """

    split: str
    defence: str
    recogniser: str
    threats: int
    rate: Interval | None
    alone: str = ""
    alone_rate: Interval | None = None

    @property
    def few(self) -> bool:
        """Whether the utterances are too few for the intervals to say much of others."""
        return self.rate is not None and self.rate.utterances < FEWEST


def worst_cases(placed: Sequence[Placed], rows: Sequence[tuple[str, str]]) -> list[Worst]:
    """The worst case of every split and row, in their order, of those that an untargeted attack was tried on."""
    found = []
    for split in dict.fromkeys(p.run.split for p in placed):
        for row in rows:
            own = [p for p in placed if p.run.split == split and p.row == row and p.untargeted]
            if own:
                found.append(_worst(split, row, _by_threat(own)))
    return found


def worst_places(run: RunRecord) -> list[int]:
    """Places of a run's attacked utterances, that with the most errors under attack first."""
    counts = {place: compare(outcome, "adversarial") for place, outcome in enumerate(run.outcomes)}
    errors = {place: found.errors for place, found in counts.items() if found is not None}
    return sorted(errors, key=lambda place: -errors[place])


def _worst(split: str, row: tuple[str, str], threats: Mapping[str, Mapping[Key, WordCounts]]) -> Worst:
    first = next(iter(threats.values()))
    shared = [key for key in first if all(key in counts for counts in threats.values())]
    if not any(first[key].reference_words for key in shared):
        return Worst(split, *row, len(threats), None)
    alone = max(threats, key=lambda label: sum(threats[label][key].errors for key in shared))
    worst = [max((counts[key] for counts in threats.values()), key=lambda c: c.errors) for key in shared]
    alone_rate = wer_interval([threats[alone][key] for key in shared])
    return Worst(split, *row, len(threats), wer_interval(worst), alone, alone_rate)


def _by_threat(placed: Sequence[Placed]) -> dict[str, dict[Key, WordCounts]]:
    """Of every threat the utterances that one of its runs attacked: the counts with the most errors."""
    threats: dict[str, dict[Key, WordCounts]] = {}
    by_id = have_ids(placed)
    for p in placed:
        worst = threats.setdefault(p.threat.label, {})
        for key, counts in attacked_counts(p, by_id).items():
            if key not in worst or counts.errors > worst[key].errors:
                worst[key] = counts
    return threats
