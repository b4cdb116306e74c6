"""A run, for a reader at a terminal and for machines."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import Any

from armory_mdnf.console import printable
from armory_mdnf.evaluation.cells import cell_described, departures, describe, heading
from armory_mdnf.evaluation.rates import interval
from armory_mdnf.evaluation.records import COMPARISONS, Outcome, RunRecord

CONDITIONS = ("benign", "adversarial")


def percent(rate: float | None) -> str:
    """A rate as a percentage with one decimal, or a dash."""
    return "-" if rate is None else f"{100 * rate:.1f}"


def numbers(run: RunRecord, where: str | None = None) -> dict[str, Any]:
    """What :func:`summarise` says of a run, for machines. Rates are fractions; what was not found is None."""
    rates = {name: interval(run, name) for name in COMPARISONS}
    pooled = {name: run.counts(name) for name in COMPARISONS}
    snr = run.sizes(lambda o: o.snr_db)
    return {
        "results": where,
        "split": run.split,
        "recognizer": run.recognizer,
        "defense": run.defense,
        "seed": run.seed,
        "utterances": len(run.outcomes),
        "wer": {name: None if rate is None else asdict(rate) for name, rate in rates.items()},
        "counts": {name: None if c is None else [c.errors, c.reference_words] for name, c in pooled.items()},
        "snr_db": statistics.fmean(snr) if snr else None,
        "reached": run.reached if pooled["target"] is not None else None,
        "seconds": run.seconds,
        "departures": departures(run, cell_described(run)),
        "left_out": [asdict(left) for left in run.left_out],
    }


def summarise(run: RunRecord, examples: int = 3, where: str | None = None) -> str:
    """Text of a run: word error rates, size of the attack, some transcripts, and where the file is."""
    about = [f"split {run.split}", f"recogniser {run.recognizer}", f"defence {run.defense}"]
    about += [_utterances(run)] + ([] if run.seed is None else [f"seed {run.seed}"])
    lines = ["", heading(run), ", ".join(about)]
    found = departures(run, cell_described(run))
    if found:
        lines += [f"not the whole configuration: {'; '.join(found)}"]
    elif cell_described(run) is None:  # the words of a file that nothing here knows: its values beside them
        lines += [describe(run)]
    lines += [""]
    lines += [f"{'':24}{'benign':>12}{'adversarial':>14}"]
    rates = [percent(run.rate(c)) for c in CONDITIONS]
    lines += [f"{'word error rate, %':24}{rates[0]:>12}{rates[1]:>14}"]
    pooled = [run.counts(c) for c in CONDITIONS]
    cells = ["-" if c is None else f"{c.errors} / {c.reference_words}" for c in pooled]
    lines += [f"{'errors / words':24}{cells[0]:>12}{cells[1]:>14}", ""]
    if run.counts("adversarial") is not None:
        lines += [attack_line(run)]
    if run.counts("target") is not None:
        far = percent(run.rate("target"))
        lines += [f"target       reached by {run.reached} of {len(run.outcomes)}, word error rate to it {far} %"]
    if run.seconds:
        lines += ["seconds      " + ", ".join(f"{name} {value:.1f}" for name, value in sorted(run.seconds.items()))]
    for left_out in run.left_out:
        lines += [f"left out     {left_out.id} ({left_out.file}): {left_out.reason}"]
    for outcome in run.outcomes[:examples]:
        lines += ["", *([f"utterance    {outcome.id}"] if outcome.id else [])]
        lines += [f"reference    {outcome.reference}"]
        lines += [f"{name:12} {text or '(nothing)'}" for name, text in _texts(outcome)]
    if where:
        lines += ["", f"results      {where}"]
    return "\n".join(map(printable, lines)) + "\n"


def _utterances(run: RunRecord) -> str:
    """How many utterances are in the results, and of how many."""
    if run.split_size is None:
        return f"{len(run.outcomes)} utterances"
    left = f", {len(run.left_out)} left out" if run.left_out else ""
    return f"{len(run.outcomes)} of the split's {run.split_size} utterances{left}"


def attack_line(run: RunRecord) -> str:
    """Mean size of the perturbation, its SNR in dB with the range over the utterances."""
    snr = run.sizes(lambda o: o.snr_db)
    l2 = run.sizes(lambda o: o.l2)
    if l2 and not any(l2):
        return (
            "attack       changed no sample of any utterance (l2 0), as one of no steps does, or one whose gradient is "
            "zero: see armory-mdnf audit"
        )
    if not snr:
        return "attack       no utterance has an SNR that is known and finite"
    parts = [f"SNR {statistics.fmean(snr):.1f} dB (mean; {min(snr):.1f} to {max(snr):.1f})"]
    for name, values in (("l2", l2), ("linf", run.sizes(lambda o: o.linf))):
        if values:
            parts.append(f"{name} {statistics.fmean(values):.3g}")
    return "attack       " + ", ".join(parts)


def _texts(outcome: Outcome) -> list[tuple[str, str]]:
    pairs = ((name, getattr(outcome, name)) for name in ("benign", "target", "adversarial"))
    return [(name, text) for name, text in pairs if text is not None]
