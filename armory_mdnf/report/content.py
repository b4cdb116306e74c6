"""Everything that the page shows, as plain values: what is computed is computed here, the template only lays out."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from armory_mdnf import __version__
from armory_mdnf.errors import ArmoryMdnfError, cause
from armory_mdnf.evaluation.cells import cell_described, heading
from armory_mdnf.evaluation.paper import BENIGN, paper, published
from armory_mdnf.evaluation.records import Outcome, RunRecord, compare, is_reached
from armory_mdnf.files.strict_json import readable
from armory_mdnf.metrics.intervals import Interval
from armory_mdnf.report import alignment, charts
from armory_mdnf.report.audits import Audit
from armory_mdnf.report.balances import Balance, balances
from armory_mdnf.report.charts import Chart
from armory_mdnf.report.noise import noise_curves
from armory_mdnf.report.runs import Placed, cell, columns_of, data_name, names_of, rows_of
from armory_mdnf.report.sounds import Heard, data_address
from armory_mdnf.report.worst import Worst, worst_cases
from armory_mdnf.runner.completion import complete_config

STEPS = (20, 40, 60, 80, 100)  # WER in percent at which a cell's shade changes


@dataclass(frozen=True)
class Entry:
    """A run in a cell of the table, for the page. Rates in percent; ``audits``: verdicts with their anchors."""

    anchor: str
    rate: float
    interval: str
    shade: int
    utterances: int
    paper: float | None
    to_target: str
    lacks: str
    audits: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Table:
    """Defences (rows) under threats (columns) on one split."""

    split: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[tuple[Entry, ...], ...]], ...]


@dataclass(frozen=True)
class Said:
    """An utterance of a run: its transcripts word under word, its errors and the size of its attack."""

    run: str
    defence: str
    threat: str
    name: str
    reference: str
    labels: tuple[str, ...]
    columns: tuple[alignment.Column, ...]
    spoken: tuple[tuple[str, str], ...]
    benign_errors: int | None
    attacked_errors: int | None
    words: int
    snr_db: float | None
    target: str | None
    reached: bool
    heard: Heard | None = None
    again: str = ""


@dataclass(frozen=True)
class Described:
    """What a run was, and how to run it again. ``here``: the checksums are of this machine's files, not the run's."""

    anchor: str
    name: str
    heading: str
    facts: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    checksums: tuple[tuple[str, str], ...]
    here: bool
    config: str
    address: str
    file: str
    command: str


@dataclass(frozen=True)
class Page:
    """All of it."""

    title: str
    made_by: str
    made_on: str
    source: str
    tables: tuple[Table, ...]
    worst: tuple[Worst, ...]
    audits: tuple[Audit, ...]
    balances: tuple[Balance, ...]
    charts: tuple[Chart, ...]
    noise: tuple[Chart, ...]
    said: tuple[Said, ...]
    runs: tuple[Described, ...]
    steps: tuple[int, ...] = field(default=STEPS)


def build(
    placed: Sequence[Placed],
    heard: Mapping[str, Mapping[int, Heard]],
    title: str = "",
    audits: Sequence[Audit] = (),
) -> Page:
    """The page of some runs. ``heard``: by path of a run, the signals of some of its utterances."""
    anchors = {p.path: f"run-{i}" for i, p in enumerate(placed, 1)}
    splits = list(dict.fromkeys(p.run.split for p in placed))
    # Runs of one system have the same files, and reading them takes longest.
    systems = {_components(p.run.config): p.run.config for p in placed if not p.run.weights}
    checksums = {key: tuple(_checksums(config)) for key, config in systems.items()}
    return Page(
        title or (placed[0].run.name if len(placed) == 1 else "Defences of speech recognition under attack"),
        f"armory-mdnf {__version__}",
        datetime.now(timezone.utc).strftime("%d %B %Y"),
        str(paper()["source"]),
        tuple(_table(split, [p for p in placed if p.run.split == split], anchors, audits) for split in splits),
        tuple(worst_cases(placed, rows_of(placed))),
        tuple(audits),
        tuple(balances(placed)),
        tuple(charts.sweeps(placed)),
        tuple(noise_curves(placed)),
        tuple(said for p in placed for said in _said(p, anchors[p.path], heard.get(p.path, {}))),
        tuple(_described(p, anchors[p.path], checksums.get(_components(p.run.config), ())) for p in placed),
    )


def shade(rate: float) -> int:
    """Step of a rate in percent, from 0, the lightest."""
    return sum(rate >= step for step in STEPS)


def _table(split: str, placed: Sequence[Placed], anchors: Mapping[str, str], audits: Sequence[Audit]) -> Table:
    verdicts = {p.path: tuple((a.verdict, a.anchor) for a in audits if p.path in a.runs) for p in placed}
    columns = columns_of(placed)
    rows = []
    for row in rows_of(placed):
        cells = [
            tuple(_entry(p, rate, column, anchors[p.path], verdicts[p.path]) for p, rate in cell(placed, row, column))
            for column in columns
        ]
        rows.append((*row, tuple(cells)))
    return Table(data_name(split), tuple(columns), tuple(rows))


def _entry(p: Placed, rate: Interval, column: str, anchor: str, audits: tuple[tuple[str, str], ...]) -> Entry:
    value = 100 * rate.value
    bounds = "" if rate.low is None or rate.high is None else f"{100 * rate.low:.1f}–{100 * rate.high:.1f}"
    borrowed = column == BENIGN and p.threat.label != BENIGN
    target = "" if borrowed or p.to_target is None else f"{100 * p.to_target.value:.1f}"
    number = published(p.run, p.defence, BENIGN) if borrowed else p.paper
    lacks, judged = "; ".join(p.lacks), () if borrowed else audits
    return Entry(anchor, value, bounds, shade(value), rate.utterances, number, target, lacks, judged)


def _said(p: Placed, anchor: str, heard: Mapping[int, Heard]) -> list[Said]:
    found = []
    for i, (name, outcome) in enumerate(zip(names_of(p.run), p.run.outcomes, strict=True)):
        heads = [("benign", outcome.benign), ("under attack", outcome.adversarial)]
        texts = [(label, text) for label, text in heads if text is not None]
        benign, attacked = (compare(outcome, comparison) for comparison in ("benign", "adversarial"))
        found.append(
            Said(
                anchor,
                f"{p.defence} ({p.run.recognizer})",
                p.threat.label,
                name,
                outcome.reference,
                tuple(label for label, _ in texts),
                tuple(alignment.align(outcome.reference, [text for _, text in texts])),
                tuple((f"{label}: {text}", alignment.spoken(outcome.reference, text)) for label, text in texts),
                benign.errors if benign else None,
                attacked.errors if attacked else None,
                len(outcome.reference.split()),
                outcome.snr_db,
                outcome.target,
                is_reached(outcome),
                heard.get(i),
                _again(heard.get(i), outcome),
            )
        )
    return found


def _again(heard: Heard | None, outcome: Outcome) -> str:
    """What was understood of the signals of the page, where it is not what the run has."""
    if heard is None or heard.transcripts[1] == outcome.adversarial:
        return ""
    return f"Computed again, it is understood as: {heard.transcripts[1]}. Rounding can change what an attack finds."


def _devices(run: RunRecord) -> str:
    others = sorted(Counter(run.elsewhere.values()).items())
    return ", ".join([str(run.device), *(f"{count} of {len(run.outcomes)} on {device}" for device, count in others)])


def _components(config: Mapping[str, Any]) -> str:
    return json.dumps([config.get("model"), config.get("defense")], sort_keys=True, default=str)


def _described(p: Placed, anchor: str, here: tuple[tuple[str, str], ...]) -> Described:
    run = p.run
    whole = complete_config(run.config, p.attacked is None, run.device)
    config = json.dumps(whole, indent=2, sort_keys=True, default=str)
    facts = [("data", f"{data_name(run.split)}, {len(run.outcomes)} utterances"), ("recogniser", run.recognizer)]
    facts += [("defence", p.defence), ("threat", p.threat.label)]
    facts += [("seed", str(run.seed))] if run.seed is not None else []
    facts += [("device", _devices(run))] if run.device else []
    facts += [(f"seconds of {name}", f"{value:.1f}") for name, value in sorted(run.seconds.items())]
    facts += (
        [("run on", datetime.fromtimestamp(run.timestamp, timezone.utc).strftime("%d %B %Y"))] if run.timestamp else []
    )
    facts += [("file", relative(p.path))] + (
        [("differs from its configuration", "; ".join(p.lacks))] if p.lacks else []
    )
    facts += [("left out", f"{left.id}: {left.reason}") for left in run.left_out]
    known = cell_described(run)
    file = f"{run.name}.json"
    shipped = known is not None and not p.lacks and _is_bundled(run.config) and not whole["sysconfig"]["use_gpu"]
    # A name is whatever the results say: one that begins with a dash would be an option.
    saved = f"./{file}" if file.startswith("-") else file
    to_run = f"scenario_configs/{known.name}.json" if shipped and known else saved
    return Described(
        anchor,
        run.name,
        heading(run),
        tuple(facts),
        tuple(sorted(run.versions.items())),
        tuple(sorted(run.weights.items())) or here,
        not run.weights,
        config,
        data_address("application/json", config.encode()),
        file,
        f"armory-mdnf run {shlex.quote(to_run)}",
    )


def _is_bundled(config: Mapping[str, Any]) -> bool:
    """Whether the file in ``scenario_configs/`` names these data: those of other splits are made from it."""
    data = config.get("dataset") or {}
    return data.get("name") == "bundled" and data.get("eval_split") == "human" and data.get("index") == "[:10]"


def _checksums(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """SHA-256 of the weights and curves of a configuration as they are here; why not, where they are not."""
    from armory_mdnf.runner.components import make_estimator
    from armory_mdnf.runner.named import files_of
    from armory_mdnf.runner.strangers import refuse_others_code

    try:
        whole = complete_config(config)
        refuse_others_code(whole)
        estimator = make_estimator(whole, "cpu")
        return sorted(files_of([estimator, *(estimator.preprocessing_defences or [])]).items())
    except (ArmoryMdnfError, OSError, KeyError, TypeError, AttributeError) as error:
        return [("not on this machine", cause(error))]


def relative(path: str) -> str:
    """A path as it is shown: from here, where it lies below."""
    try:
        return readable(str(Path(path).resolve().relative_to(Path.cwd())))
    except ValueError:
        return readable(path)
