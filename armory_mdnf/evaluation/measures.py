"""Every number that follows from the per-utterance records of a run, or of several attacks on one recogniser."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from armory_mdnf import console
from armory_mdnf.errors import ResultsError
from armory_mdnf.evaluation.identity import identity_of, other_weights
from armory_mdnf.evaluation.records import COMPARISONS, FURTHER, RunRecord, compare, in_order_of, is_reached
from armory_mdnf.evaluation.tables import markdown
from armory_mdnf.metrics.cer import count_characters
from armory_mdnf.metrics.wer import mean_rate, pool, worst_case

SIZES = ("snr_db", "l2", "linf", *FURTHER)
FORMAT = "armory_mdnf_metrics/1"
COLUMNS = {
    "benign_wer": "benign WER %",
    "adversarial_wer": "WER under attack %",
    "adversarial_wrong_or_missing": "words wrong or missing %",
    "adversarial_wer_mean": "mean over utterances %",
    "adversarial_cer": "CER under attack %",
    "target_wer": "WER to the target %",
    "target_success": "targets reached %",
    "snr_db": "SNR dB",
    "segmental_snr_db": "segmental SNR dB",
    "stoi": "STOI",
    "utterances": "utterances",
}


def measures(run: RunRecord) -> dict[str, float | None]:
    """The metrics of a run by name; rates are fractions, None where the run has nothing that gives the number.

    ``benign``, ``adversarial`` and ``target`` (against the attacker's target): ``_wer`` and ``_cer`` pooled over the
    utterances, ``_wer_mean`` the mean of their own rates, ``_wrong_or_missing`` the share of the words said that are
    (the pooled word error rate without insertions). ``target_success``: share of the targets reached.
    ``snr_db``, ``l2``, ``linf``, ``segmental_snr_db``: means over the utterances that have a finite one, and so is
    ``stoi``, of defended speech that nobody attacks.
    """
    found: dict[str, float | None] = {"utterances": len(run.outcomes)}
    for name, (expected, heard) in COMPARISONS.items():
        words = [c for c in (compare(outcome, name) for outcome in run.outcomes) if c is not None]
        texts = [(getattr(outcome, expected), getattr(outcome, heard)) for outcome in run.outcomes]
        characters = pool(count_characters(a, b) for a, b in texts if a is not None and b is not None)
        found[f"{name}_wer"] = pool(words).rate
        found[f"{name}_wrong_or_missing"] = pool(words).without_insertions.rate
        found[f"{name}_wer_mean"] = mean_rate(words)
        found[f"{name}_cer"] = characters.rate
    found["target_success"] = _success([run])
    for size in SIZES:
        values = [v for v in (getattr(outcome, size) for outcome in run.outcomes) if v is not None]
        found[size] = statistics.fmean(values) if values else None
    return found


def worst_over(runs: Sequence[RunRecord]) -> dict[str, float | None]:
    """Metrics of the worst attack on each utterance, of runs that attack the same recogniser behind the same defence.

    The worst has the most errors, or the fewest to the target, where the runs have the same targets.

    Raises :class:`ResultsError` for runs of other recognisers, defences or utterances, or without an attack.
    """
    first = runs[0]
    runs = [in_order_of(first, run) for run in runs]
    for run in runs:
        if not _attack_the_same(first, run):
            raise ResultsError(f"{run.name} and {first.name}: expected attacks on the same recogniser and utterances")
    counts = [[c for c in (compare(o, "adversarial") for o in run.outcomes) if c is not None] for run in runs]
    if any(len(found) != len(first.outcomes) for found in counts):
        raise ResultsError(f"expected attacked transcripts of every utterance in {', '.join(run.name for run in runs)}")
    worst = worst_case(counts)
    targets = [[c for c in (compare(o, "target") for o in run.outcomes) if c is not None] for run in runs]
    whole = all(len(found) == len(worst) for found in targets)
    same = whole and all([o.target for o in run.outcomes] == [o.target for o in first.outcomes] for run in runs)
    return {
        "utterances": len(worst),
        "adversarial_wer": pool(worst).rate,
        "adversarial_wrong_or_missing": pool(worst).without_insertions.rate,
        "adversarial_wer_mean": mean_rate(worst),
        "target_wer": pool(worst_case(targets, fewest=True)).rate if same else None,
        "target_success": _success(runs),
    }


def _success(runs: Sequence[RunRecord]) -> float | None:
    """Share of the utterances whose target is reached in one of the runs, of those that have one in every run."""
    columns = zip(*(run.outcomes for run in runs), strict=True)
    reached = [any(map(is_reached, column)) for column in columns if all(o.target is not None for o in column)]
    return sum(reached) / len(reached) if reached else None


def _attack_the_same(first: RunRecord, second: RunRecord) -> bool:
    """Whether two runs' attacks can be compared on each utterance."""
    runs = (first, in_order_of(first, second))
    of_attacks = ("attack", "model.wrapper_kwargs.gradient")
    shared = [{k: v for k, v in identity_of(run).items() if not k.startswith(of_attacks)} for run in runs]
    utterances = [[(outcome.id, outcome.reference) for outcome in run.outcomes] for run in runs]
    if other_weights(first.weights, second.weights):
        return False
    return shared[0] == shared[1] and utterances[0] == utterances[1]


def add_metrics_command(commands: Any) -> None:
    """Add ``armory-mdnf metrics`` to an argument parser's sub-commands."""
    command = commands.add_parser(
        "metrics",
        help="every metric that follows from the utterances of results",
        **console.example("armory-mdnf metrics results/human/none_pgd_l2.json results/human/none_pgd_linf.json"),
    )
    command.add_argument("results", nargs="+", type=Path, metavar="RESULTS", help="results files, or folders of them")
    command.add_argument("--json", type=Path, metavar="FILE", help="write them all as JSON")
    command.set_defaults(run=_metrics)


def _metrics(args: argparse.Namespace) -> int:
    from armory_mdnf.evaluation.comparison import read_run
    from armory_mdnf.evaluation.paper import row_label
    from armory_mdnf.evaluation.records import results_files
    from armory_mdnf.files import strict_json
    from armory_mdnf.files.atomic import ensure_writable, write_text

    files = results_files(args.results)
    if args.json:
        ensure_writable(args.json, unlike=files)
    runs = {strict_json.readable(str(path)): read_run(path) for path in files}
    rows = {path: measures(run) for path, run in runs.items()}
    groups: list[dict[str, RunRecord]] = []
    for path, run in runs.items():
        if run.counts("adversarial") is not None:
            same = (group for group in groups if _attack_the_same(next(iter(group.values())), run))
            group = next(same, None)
            groups.append({path: run}) if group is None else group.update({path: run})
    for group in groups:
        if len(group) > 1:
            first = next(iter(group.values()))
            of = f"{first.recognizer}, {row_label(first)}"
            rows[f"worst of {', '.join(group)} ({first.split}; {of})"] = worst_over(list(group.values()))
    if args.json:
        write_text(args.json, strict_json.dumps({"format": FORMAT, "metrics": rows}, indent=1) + "\n")
    cells = [[name, *(_shown(key, values.get(key)) for key in COLUMNS)] for name, values in rows.items()]
    print(markdown(cells, ("results", *COLUMNS.values())))
    return 0


def _shown(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    if key == "utterances":
        return str(value)
    if key == "stoi":
        return f"{value:.2f}"
    return f"{value:.1f}" if key.endswith("snr_db") else f"{100 * value:.1f}"
