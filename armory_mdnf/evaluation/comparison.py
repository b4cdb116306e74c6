"""Two runs of the same attack on the same utterances, side by side, for a reader at a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from armory_mdnf import console
from armory_mdnf.console import printable
from armory_mdnf.errors import ResultsError, quoted
from armory_mdnf.evaluation.armory_results import read_armory_results
from armory_mdnf.evaluation.identity import differing, identity
from armory_mdnf.evaluation.names import defence_label
from armory_mdnf.evaluation.paper import gradient_of
from armory_mdnf.evaluation.rates import difference
from armory_mdnf.evaluation.records import COMPARISONS, RunRecord, in_order_of, read_json, read_record
from armory_mdnf.evaluation.summary import attack_line, numbers, percent
from armory_mdnf.metrics.wer import WordCounts

ROWS = {"benign": "benign", "adversarial": "under attack"}
LOST = "-"
COLOUR, PLAIN = "\x1b[1;31m", "\x1b[0m"


def read_run(path: str | os.PathLike[str]) -> RunRecord:
    """Armory's results, the native runner's or a record, told apart by what is in the file."""
    return read_record(path) if "format" in read_json(path) else read_armory_results(path)


def mark_words(reference: str, heard: str, colour: bool = False) -> str:
    """The words that were heard, those that differ from the reference in brackets; ``[-]`` where one was lost.

    There are as many brackets as word errors. ``colour`` also makes them red.
    """
    marks = [word if right else f"[{word}]" for word, right in _aligned(reference.split(), heard.split())]
    if colour:
        marks = [f"{COLOUR}{mark}{PLAIN}" if mark.startswith("[") else mark for mark in marks]
    return " ".join(marks)


def _aligned(reference: list[str], heard: list[str]) -> Iterator[tuple[str, bool]]:
    """Words of ``heard`` and whether each is right; :data:`LOST` and False for a word that is not there."""
    if not reference or not heard:  # jiwer refuses these
        yield from ((word, False) for word in heard or [LOST] * len(reference))
        return
    import jiwer

    for chunk in jiwer.process_words(" ".join(reference), " ".join(heard)).alignments[0]:
        if chunk.type == "delete":
            yield from [(LOST, False)] * (chunk.ref_end_idx - chunk.ref_start_idx)
        else:
            yield from ((word, chunk.type == "equal") for word in heard[chunk.hyp_start_idx : chunk.hyp_end_idx])


def side_by_side(first: RunRecord, second: RunRecord, colour: bool = False) -> str:
    """Text of two runs: error rates, what was understood of each utterance under attack, and what the numbers mean.

    Raises :class:`ResultsError` if the runs are not of the same attack on the same utterances.
    """
    second = _comparable(first, second)
    labels = _labels(first, second)
    width = 4 + max(len(label) for label in (*labels, "reference"))
    lines = [f"{'word error rate, %':22}" + "".join(f"{label:>24}" for label in labels)]
    for comparison, name in ROWS.items():
        pooled = [run.counts(comparison) for run in (first, second)]
        lines.append(f"{name:22}" + "".join(f"{_rate(counts):>24}" for counts in pooled))
    lines.append("")
    for label, run in zip(labels, (first, second), strict=True):
        heard = f"recogniser {printable(run.recognizer)}"
        lines.append(f"{label:{width}}{heard}, {attack_line(run).split(maxsplit=1)[1]}")
    lines += ["", "Understood under attack; [WORD] was not said, [-] stands for a word that was lost:"]
    for a, b in zip(first.outcomes, second.outcomes, strict=True):
        lines += ["", f"{'reference':{width}}{printable(a.reference)}"]
        for label, outcome in zip(labels, (a, b), strict=True):
            text = mark_words(printable(a.reference), printable(outcome.adversarial or ""), colour)
            lines.append(f"{label:{width}}{text}")
    return "\n".join([*lines, "", *meaning(first, second)]) + "\n"


def meaning(first: RunRecord, second: RunRecord) -> list[str]:
    """What the numbers of two comparable runs say, and how few words they rest on."""
    labels = _labels(first, second)
    before, after = (run.counts("adversarial") or WordCounts() for run in (first, second))
    words, utterances = before.reference_words, len(first.outcomes)
    lost = _fewer(before.without_insertions.errors, after.without_insertions.errors)
    lines = [
        f"Under attack, {labels[1]} has {_difference(before, after)} {labels[0]}; of {words} word{'s' * (words != 1)} "
        f"said, {lost} wrong or missing."
    ]
    clean = [run.counts("benign") for run in (first, second)]
    if clean[0] and clean[1]:
        found = _difference(clean[0], clean[1])
        lines.append(f"Benign, it has {found} {labels[0]}: that is its cost where nobody attacks.")
    lines.append(
        f"This rests on {words} words in {utterances} utterance{'s' * (utterances != 1)}, one word being "
        f"{100 / words:.1f} points: it shows what happens, and not how good a defence is."
    )
    interval = difference(first, second, "adversarial")
    if interval and interval.deciding:
        low, high = interval.deciding
        lines.append(
            f"Over more such utterances, {labels[0]} less {labels[1]} is expected from {100 * low:.0f} to "
            f"{100 * high:.0f} points (95 % interval)."
        )
    return lines


def _labels(first: RunRecord, second: RunRecord) -> list[str]:
    labels = [printable(defence_label(run.config)) for run in (first, second)]
    return labels if labels[0] != labels[1] else [f"{label} ({i})" for i, label in enumerate(labels, 1)]


def _difference(before: WordCounts, after: WordCounts) -> str:
    more = after.errors - before.errors
    if not more:
        return "as many errors as"
    return f"{abs(more)} error{'s' * (abs(more) != 1)} {'more' if more > 0 else 'fewer'} than"


def _fewer(before: int, after: int) -> str:
    more = after - before
    if not more:
        return "as many are"
    return f"{abs(more)} {'more' if more > 0 else 'fewer'} {'is' if abs(more) == 1 else 'are'}"


def _rate(counts: WordCounts | None) -> str:
    return "-" if counts is None else f"{percent(counts.rate)} ({counts.errors} of {counts.reference_words})"


def _comparable(first: RunRecord, second: RunRecord) -> RunRecord:
    """The second run in the first one's order. Raises :class:`ResultsError` where they cannot be compared."""
    second = in_order_of(first, second)
    for run in (first, second):
        if run.counts("adversarial") is None:
            raise ResultsError(f"{run.name}: expected a run with an attack, found no attacked transcripts")
        for name in ROWS:
            having = sum(getattr(outcome, name) is not None for outcome in run.outcomes)
            if 0 < having < len(run.outcomes):
                raise ResultsError(f"{run.name}: {having} of {len(run.outcomes)} utterances have {name} transcripts")
    said = [[outcome.reference for outcome in run.outcomes] for run in (first, second)]
    if said[0] != said[1]:
        at = next((i for i, (a, b) in enumerate(zip(*said, strict=False)) if a != b), min(map(len, said)))
        found = [quoted(texts[at]) if at < len(texts) else "nothing" for texts in said]
        raise ResultsError(
            f"expected two runs of the same utterances: number {at + 1} is {found[0]} in {first.name} and "
            f"{found[1]} in {second.name}"
        )
    if not any(text.split() for text in said[0]):
        raise ResultsError(f"{first.name}: expected references with at least one word")
    blocks = [_attack(run) for run in (first, second)]
    for key in differing(*blocks):
        values = [quoted(block[key]) if key in block else "not there" for block in blocks]
        where = " and ".join(f"{value} in {run.name}" for value, run in zip(values, (first, second), strict=True))
        raise ResultsError(f"expected two runs of the same attack: {key} is {where}")
    return second


def _attack(run: RunRecord) -> dict[str, Any]:
    """What decides an attack, by dotted keys, but for its seed; others' attacks follow the estimator's gradient."""
    found = identity({"attack": run.config.get("attack")}, attacked=True)
    found.pop("attack.kwargs.gradient", None)
    return found | {"the gradient": gradient_of(run.config)}


def paired(first: RunRecord, second: RunRecord) -> dict[str, Any]:
    """What :func:`side_by_side` says of two runs, for machines: both, and ``first`` less ``second``, as fractions.

    Raises :class:`ResultsError` if the runs are not of the same attack on the same utterances.
    """
    second = _comparable(first, second)
    targets = [[outcome.target for outcome in run.outcomes] for run in (first, second)]
    alike = [name for name in COMPARISONS if name != "target" or targets[0] == targets[1]]
    found = {name: difference(first, second, name) if name in alike else None for name in COMPARISONS}
    found["adversarial_wrong_or_missing"] = difference(first, second, "adversarial", insertions=False)
    differences = {name: None if one is None else asdict(one) for name, one in found.items()}
    return {"first": numbers(first), "second": numbers(second), "difference": differences}


def print_comparison(first: Path, second: Path, as_json: bool = False) -> None:
    """Print :func:`side_by_side` of two files, in colour on a terminal unless NO_COLOR is set; or :func:`paired`."""
    runs = read_run(first), read_run(second)
    if as_json:
        content = paired(*runs)
        for name, path in (("first", first), ("second", second)):
            content[name]["results"] = str(path)
        console.print_json(content)
        return
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(side_by_side(*runs, colour))
