"""What a check finds: a verdict, the numbers behind it, and what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from armory_mdnf.metrics.intervals import CONFIDENCE, ROUNDING, Interval, difference_interval
from armory_mdnf.metrics.wer import WordCounts

PASS, WARN, FAIL, SKIP = "pass", "warn", "fail", "skip"
VERDICTS = (SKIP, PASS, WARN, FAIL)
"""From the best to the worst; "skip" says that a check does not apply here, and why."""

# Points of word error rate, as a fraction, from which a difference is worth a warning though it may be chance.
NOTABLE = 0.05

# Differences that a whole audit judges: 1 of published, 2 of convergence, 5 of budget, 3 of adaptive in words and 3 in
# losses, 5 of steps. All together are held to the usual confidence, whichever checks are made: no verdict hangs on
# which others are.
COMPARISONS = 19
TOGETHER = 1 - (1 - CONFIDENCE) / COMPARISONS


@dataclass(frozen=True)
class Finding:
    """What one check found. ``evidence`` has finite numbers, texts, None, and lists and objects of these."""

    check: str
    verdict: str
    statement: str
    evidence: dict[str, Any]
    advice: str = ""


def worst(verdicts: Sequence[str]) -> str:
    """The worst of some verdicts; "skip" if there is none."""
    return max(verdicts, key=VERDICTS.index, default=SKIP)


def gain_of(first: Sequence[WordCounts], second: Sequence[WordCounts]) -> Interval:
    """Word error rate of ``first`` less that of ``second``, paired, at the confidence :data:`TOGETHER`."""
    return difference_interval(first, second, TOGETHER)


def judge_gain(gain: Interval) -> str:
    """Verdict on a word error rate that something else raises by ``gain``.

    Fail where its interval decides and lies above 0. Warn where it lies there and is one of few utterances or of no
    width, which decides nothing, and where the gain is :data:`NOTABLE`, which on few words may be chance.
    """
    if gain.low is not None and gain.low > ROUNDING:
        return WARN if gain.deciding is None else FAIL
    return WARN if gain.value >= NOTABLE else PASS


def judge_wins(wins: int, utterances: int) -> str:
    """Verdict on something else that wins in so many of the utterances.

    Of two that are equally strong each wins with a chance of at most one half, independently in each utterance. Fail
    where so many wins are then rarer than one of the audit's comparisons may be by chance, which ten of ten are and
    nine of nine are not; warn where there are no fewer utterances than wins.
    """
    chance = sum(math.comb(utterances, k) for k in range(wins, utterances + 1)) / 2**utterances
    if chance <= (1 - TOGETHER) / 2:
        return FAIL
    return WARN if wins == utterances else PASS


def of_part(verdict: str, taken: int, asked: int) -> str:
    """A verdict of an attack that took fewer iterations than the configuration asks for: a warning at most.

    That it has not converged, or that another makes up for what was left out, says nothing of the configuration.
    """
    return WARN if verdict == FAIL and taken < asked else verdict


def points(interval: Interval) -> dict[str, float | None]:
    """An interval as evidence, in percent."""
    return {
        name: None if value is None else round(100 * value, 2)
        for name, value in (("value", interval.value), ("low", interval.low), ("high", interval.high))
    }
