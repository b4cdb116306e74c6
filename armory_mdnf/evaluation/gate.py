"""Results held against a baseline: what moved, and whether it moved for the worse.

Only runs of the same configuration, weights and utterances are compared. A difference counts where it is larger than a
given number of points, or where the paired difference, drawn again from the utterances, is not zero at a confidence of
95 % over all the comparisons together, by Holm's procedure (Scandinavian Journal of Statistics 6, 1979): of 40 in which
something moved, each is held to 99.9 %, so that a run with another seed passes. The interval is that of the bootstrap,
or Student's where that is wider: where few utterances moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from armory_mdnf.errors import ResultsError, TranscriptError, quoted
from armory_mdnf.evaluation.baselines import Baseline, BaselineCell
from armory_mdnf.evaluation.identity import defended, differing, other_weights
from armory_mdnf.metrics.intervals import CONFIDENCE, FEWEST, ROUNDING, difference_interval, mean_interval
from armory_mdnf.metrics.wer import WordCounts

SNR_TOLERANCE_DB = 0.5
TOO_FEW = f"are too few for the paired interval, which needs {FEWEST}: give --tolerance POINTS"
LABELS = {
    "benign": "benign WER %",
    "adversarial": "WER under attack %",
    "target": "WER to the target %",
    "snr_db": "attack SNR dB",
    "utterances": "utterances",
}


@dataclass(frozen=True)
class Options:
    """How a difference is judged.

    ``points``: the largest word error rate difference that passes, in points; None judges by the paired interval.
    ``snr_db``: the same of the attack's mean SNR, in dB, in either case. ``any_change``: what moves for the better
    fails too. ``common``: compare the utterances that both have.
    """

    points: float | None = None
    snr_db: float = SNR_TOLERANCE_DB
    any_change: bool = False
    common: bool = False


@dataclass(frozen=True)
class Finding:
    """One measure of one cell.

    ``low`` and ``high`` bound the difference where it was judged by its interval, which is of ``confidence``.
    """

    cell: str
    measure: str
    expected: float
    found: float | None
    utterances: int
    verdict: str
    low: float | None = None
    high: float | None = None
    why: str = ""
    confidence: float | None = None


@dataclass(frozen=True)
class Refusal:
    """Results that could not be compared, and why."""

    results: str
    why: str


@dataclass(frozen=True)
class Report:
    """What a gate found."""

    baseline: Baseline
    options: Options
    findings: Sequence[Finding]
    refusals: Sequence[Refusal]
    not_run: Sequence[str]
    notes: Sequence[str] = field(default=())

    def failed(self, finding: Finding) -> bool:
        """Whether a finding is a regression."""
        return finding.verdict == "worse" or (self.options.any_change and finding.verdict == "better")

    @property
    def code(self) -> int:
        """Exit code: 0 passed, 1 a regression, 2 something could not be compared."""
        return 2 if self.refusals else int(any(map(self.failed, self.findings)))


@dataclass(frozen=True)
class _Pair:
    results: str
    found: BaselineCell
    expected: BaselineCell
    lost: int = 0


def gate(
    results: Mapping[str, BaselineCell], baseline: Baseline, options: Options, unread: Iterable[Refusal] = ()
) -> Report:
    """Hold results, by the names of their files, against a baseline. ``unread``: files that have no results to hold."""
    pairs: list[_Pair] = []
    refusals = list(unread)
    notes: list[str] = []
    taken: dict[str, str] = {}
    for name, cell in results.items():
        try:
            pair = _pair(name, cell, baseline, options)
            if (other := taken.setdefault(pair.expected.name, name)) != name:
                raise ResultsError(f"it is of the same cell as {other}, {pair.expected.name}")
            _check_comparable(pair, options)
        except ResultsError as error:
            refusals.append(Refusal(name, str(error)))
            continue
        notes += [f"{pair.expected.name}: {words}" for words in _unchecked(pair)]
        pairs.append(pair)
    findings = _judged(pairs, options, refusals)
    not_run = sorted(baseline.cells.keys() - {pair.expected.name for pair in pairs} - taken.keys())
    return Report(baseline, options, findings, refusals, not_run, notes)


def _pair(name: str, found: BaselineCell, baseline: Baseline, options: Options) -> _Pair:
    """The cell of the baseline that results belong to. Raises :class:`ResultsError` saying in what they are others."""

    def distance(cell: BaselineCell) -> tuple[int, int]:
        return len(differing(cell.identity, found.identity)), abs(cell.utterances - found.utterances)

    near = min(baseline.cells.values(), key=distance, default=None)
    if near is None:
        raise ResultsError(f"the baseline {quoted(baseline.name)} has no cells")
    if keys := differing(near.identity, found.identity):
        key = keys[0]
        was, now = (quoted(source.get(key)) for source in (near.identity, found.identity))
        more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
        raise ResultsError(f"other configuration: the nearest cell, {near.name}, has {key} {was}, found {now}{more}")
    if key := other_weights(near.weights, found.weights):
        was, now = near.weights[key][:12], found.weights[key][:12]
        raise ResultsError(f"other weights: {key} had SHA-256 {was}..., found {now}...")
    pair = _same_utterances(_Pair(name, found, near), options)
    _check_texts(pair)
    return pair


def _same_utterances(pair: _Pair, options: Options) -> _Pair:
    found, expected = pair.found, pair.expected
    if not expected.counts:
        if found.utterances != expected.utterances:
            raise ResultsError(
                f"other utterances: the published number is of {expected.utterances}, found {found.utterances}"
            )
        return pair
    names = _names(found, expected)
    if names is None:
        return pair
    here, there = names
    if here == there:
        return pair
    places = _places(here, there)
    kept = [j for j in places if j is not None]
    lost = len(there) - len(kept)
    if len(kept) == len(here) and found.chosen == len(there) and len(found.left_out) == lost:  # it was of them all
        return _Pair(pair.results, found, _selected(expected, kept), lost=lost)
    if options.common:
        if not kept:
            raise ResultsError("other utterances: none is in the baseline too")
        own = found.select([i for i, j in enumerate(places) if j is not None])
        return _Pair(pair.results, own, _selected(expected, kept), lost=_lost(found, expected) if lost else 0)
    at = _first_other(here, there)
    raise ResultsError(
        f"other utterances: expected the {len(there)} of {expected.name}, found {len(here)}, of which number {at + 1} "
        "is the first that differs; --common compares those that both have"
    )


def _selected(expected: BaselineCell, places: Sequence[int]) -> BaselineCell:
    """Some utterances of a cell. Raises :class:`ResultsError` where they leave nothing to compare of a measure."""
    chosen = expected.select(places)
    if gone := [name for name in expected.counts if name in expected.values and name not in chosen.values]:
        raise ResultsError(
            f"other utterances: of the {len(places)} that {expected.name} has too no reference has a word, so that "
            f"there is no {LABELS[gone[0]]} to compare"
        )
    return chosen


def _lost(found: BaselineCell, expected: BaselineCell) -> int:
    """How many utterances of the baseline a run was to evaluate and could not. Raises :class:`ResultsError`."""
    left_out = set(found.left_out) - set(found.ids)
    if left_out and not expected.ids:
        raise ResultsError(
            f"other utterances: whether the baseline has the {len(left_out)} that the run left out cannot be told: it "
            "has no ids"
        )
    return len(left_out & set(expected.ids))


def _names(found: BaselineCell, expected: BaselineCell) -> tuple[Sequence[str], Sequence[str]] | None:
    """What tells the utterances of both apart: their ids with their references, or these alone."""
    if not found.references or not expected.references:
        return None
    if found.ids and expected.ids:
        return [f"{i} {r}" for i, r in zip(found.ids, found.references, strict=True)], [
            f"{i} {r}" for i, r in zip(expected.ids, expected.references, strict=True)
        ]
    return found.references, expected.references


def _first_other(here: Sequence[Any], there: Sequence[Any]) -> int:
    pairs = enumerate(zip(here, there, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(here), len(there)))


def _check_texts(pair: _Pair) -> None:
    """Raise :class:`ResultsError` where errors were counted against other texts, of which a difference says nothing.

    Where a side has no checksums of them, texts are the same if they have the same numbers of words.
    """
    found, expected = pair.found, pair.expected
    numbers = {
        name: [[words for _, words in cell.counts[name]] for cell in (found, expected)]
        for name in sorted(found.counts.keys() & expected.counts.keys())
    }
    checks = [("utterances", *sides) for name, sides in numbers.items() if name != "target"]
    if found.targets and expected.targets:
        checks.append(("targets", list(found.targets), list(expected.targets)))
    checks += [("targets", *sides) for name, sides in numbers.items() if name == "target"]
    for what, here, there in checks:
        if here != there:
            at = _first_other(here, there)
            which = f" ({found.ids[at]})" if at < len(found.ids) else ""
            raise ResultsError(
                f"other {what}: expected those of {expected.name}, of which number {at + 1}{which} is the first that "
                "differs"
            )


def _places(here: Sequence[str], there: Sequence[str]) -> list[int | None]:
    """Where the utterances of ``here`` are in ``there``. Raises :class:`ResultsError` where that cannot be told."""
    if here == there[: len(here)]:
        return list(range(len(here)))
    for names in (here, there):
        if len(set(names)) < len(names):
            raise ResultsError(
                "other utterances, and which of them are the same cannot be told: two have the same reference and no id"
            )
    where = {name: place for place, name in enumerate(there)}
    return [where.get(name) for name in here]


def _check_comparable(pair: _Pair, options: Options) -> None:
    missing = [name for name in pair.expected.values if name != "snr_db" and name not in pair.found.values]
    if missing:
        raise ResultsError(f"the results have no {LABELS[missing[0]]}, which the baseline has")
    if options.points is None and not pair.expected.counts:
        raise ResultsError("a published number has no utterances to pair: give --tolerance POINTS")
    if options.points is None and pair.found.utterances < FEWEST:
        raise ResultsError(f"{pair.found.utterances} utterances {TOO_FEW}")


def _unchecked(pair: _Pair) -> Iterator[str]:
    """What is not compared by its checksum, because one side has none."""
    sides = (pair.found, pair.expected)
    for (cell, other), lacks in zip((sides, sides[::-1]), ("the results have", "the baseline has"), strict=True):
        if other.weights.keys() - cell.weights.keys():
            some = "the checksums of some" if cell.weights else "no checksums of"
            yield f"{lacks} {some} weights; they are compared by name"
        if "target" in cell.counts and "target" in other.counts and not cell.targets:
            yield f"{lacks} no checksums of targets; they are compared by their numbers of words"


def _judged(pairs: Iterable[_Pair], options: Options, refusals: list[Refusal]) -> list[Finding]:
    """What was found of every pair; where nothing can be found, a refusal more."""
    asked: list[tuple[_Pair, str]] = []
    alone: list[Finding] = []
    for pair in pairs:
        measures = [*(["utterances"] if pair.lost else []), *pair.expected.values]
        try:
            alone += [_finding(pair, measure, options, CONFIDENCE) for measure in measures]
        except TranscriptError as error:  # of one cell: the others are judged
            refusals.append(Refusal(pair.results, str(error)))
            continue
        asked += [(pair, measure) for measure in measures]
    found = _stepped_down(alone, lambda i, confidence: _finding(*asked[i], options, confidence))
    return [_unless_dead(pair, finding, options) for (pair, _), finding in zip(asked, found, strict=True)]


def _stepped_down(alone: Sequence[Finding], judge: Callable[[int, float], Finding]) -> list[Finding]:
    """Findings, judged alone so far, by Holm's procedure: those of which nothing is shown share the error.

    What is shown at an equal share of it leaves a larger one to the others, until no more is. A comparison in which no
    utterance moved has none: the same bits are what the same program makes of the same seed, and nothing was drawn that
    could have shown something by chance.
    """
    found = list(alone)
    open_ = [i for i, f in enumerate(found) if f.low is not None and (f.low, f.high) != (0, 0)]
    while open_:
        confidence = 1 - (1 - CONFIDENCE) / len(open_)
        for i in open_:
            found[i] = judge(i, confidence)
        left = [i for i in open_ if found[i].verdict == "same"]
        if left == open_:
            break
        open_ = left
    return found


def _finding(pair: _Pair, measure: str, options: Options, confidence: float) -> Finding:
    name, n = pair.expected.name, pair.found.utterances
    if measure == "utterances":
        return Finding(name, measure, n + pair.lost, n, n, "worse", why=f"{pair.lost} left out")
    if measure == "snr_db":
        return _snr(pair, options, confidence)
    found, expected = pair.found.values[measure], pair.expected.values[measure]
    low, high, moved = None, None, 0
    if options.points is None:
        interval = difference_interval(_words(pair.found, measure), _words(pair.expected, measure), confidence)
        if interval.utterances < FEWEST:
            raise TranscriptError(f"{interval.utterances} utterances with words {TOO_FEW}")
        low, high = interval.low, interval.high
        assert low is not None
        assert high is not None
        moved = 1 if low > ROUNDING else -1 if high < -ROUNDING else 0
    elif abs(found - expected) > options.points / 100 + ROUNDING:
        moved = 1 if found > expected else -1
    verdict, why = _judge(measure, moved, defended(pair.expected.identity))
    return Finding(name, measure, expected, found, n, verdict, low, high, why, None if low is None else confidence)


def _words(cell: BaselineCell, measure: str) -> list[WordCounts]:
    return [WordCounts.of(*pair) for pair in cell.counts[measure]]


def _judge(measure: str, moved: int, is_defended: bool) -> tuple[str, str]:
    """Whether a rate that moved up (1), down (-1) or not (0) did so for the worse.

    For a defender more errors are worse, and so is a smaller distance to the attacker's target. Where nothing defends,
    the attack alone can have moved the numbers under attack: an attack that got weaker is then what went wrong.
    """
    if not moved:
        return "same", ""
    up_is_worse = measure != "target"
    if measure != "benign" and not is_defended:
        worse = (moved > 0) != up_is_worse
        return ("worse", "the attack got weaker") if worse else ("better", "the attack got stronger")
    return ("worse" if (moved > 0) == up_is_worse else "better"), ""


def _unless_dead(pair: _Pair, finding: Finding, options: Options) -> Finding:
    """The finding; for the worse where an untargeted attack on a defence raised the error rate and does not any more.

    A better defence has fewer errors under attack. So has a broken attack, and then no more than without one, whether
    or not the fall can be told from chance.
    """
    before = pair.expected
    known = finding.measure == "adversarial" and "benign" in before.values and "target" not in before.values
    if not known or not defended(before.identity):
        return finding
    errors, benign = (sum(e for e, _ in pair.found.counts[measure]) for measure in ("adversarial", "benign"))
    if errors > benign or not _raised(before, options):
        return finding
    why = (
        f"{errors} errors, {benign} benign: the attack does nothing any more; look at it before the defence is praised"
    )
    return replace(finding, verdict="worse", why=why)


def _raised(cell: BaselineCell, options: Options) -> bool:
    """Whether an attack raised the error rate by more than the tolerance, of this one comparison. Noise does not."""
    if options.points is not None:
        return cell.values["adversarial"] - cell.values["benign"] > options.points / 100 + ROUNDING
    rise = difference_interval(_words(cell, "adversarial"), _words(cell, "benign"), CONFIDENCE)
    return rise.low is not None and rise.low > ROUNDING


def _snr(pair: _Pair, options: Options, confidence: float) -> Finding:
    """The attack's size is to stay as it is, in both directions, and where there was one there is to be one.

    An utterance that an attack leaves unchanged has no SNR, and would leave the mean of the others where it was.
    """
    name, n, expected = pair.expected.name, pair.found.utterances, pair.expected.values["snr_db"]
    found = pair.found.values.get("snr_db")
    if found is None:
        return Finding(name, "snr_db", expected, None, n, "worse", why="no SNR, or none that is finite")
    low, high, level, moved = None, None, None, abs(found - expected) > options.snr_db + ROUNDING
    both = zip(pair.found.snr_db, pair.expected.snr_db, strict=bool(pair.expected.snr_db))
    had = [(a, b) for a, b in both if b is not None]
    differences = [a - b for a, b in had if a is not None]
    gone = len(had) - len(differences)
    why = f"{gone} of {len(had)} utterances have no finite SNR any more" if gone else ""
    if options.points is None and len(differences) > 1:
        interval = mean_interval(differences, confidence)
        low, high, level = interval.low, interval.high, confidence
        moved = moved and low is not None and high is not None and not low <= 0 <= high
    return Finding(name, "snr_db", expected, found, n, "worse" if moved or gone else "same", low, high, why, level)
