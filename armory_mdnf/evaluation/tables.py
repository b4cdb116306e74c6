"""Tables of the README, made from the committed result files and never typed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from armory_mdnf.console import printable
from armory_mdnf.errors import ResultsError
from armory_mdnf.evaluation.cells import cell_named, departures
from armory_mdnf.evaluation.paper import published, row_label, threat_of
from armory_mdnf.evaluation.rates import interval
from armory_mdnf.evaluation.records import COMPARISONS, RunRecord, read_record, results_files

BEGIN, END = "<!-- results -->", "<!-- /results -->"
ELSEWHERE = "librispeech"
"""Folders of results with tables of their own."""
ORDER = ("none", "rs", "mg", "mg_mdnf", "wg", "wg_mdnf")
PAPER = "WER in the paper %"
HEADER = (
    *("split", "configuration", "recogniser", "benign WER % [95 %]", "WER under attack % [95 %]", PAPER),
    *("WER to the target % [95 %]", "targets reached", "attack SNR dB", "utterances"),
)


def read_folder(folder: Path, *, whole: bool = False) -> list[RunRecord]:
    """Every record below a folder, in the order of the paper's tables; unless ``whole``, but for :data:`ELSEWHERE`."""
    if folder.is_file():
        raise ResultsError(f"{folder}: expected a folder of records, found a file")
    files = (path for path in results_files([folder]) if whole or path.relative_to(folder).parts[0] != ELSEWHERE)
    return sorted(map(read_record, files), key=_place)


def _place(run: RunRecord) -> tuple[str, int, str]:
    matches = [i for i, start in enumerate(ORDER) if run.name == start or run.name.startswith(f"{start}_")]
    return run.split, max(matches, default=len(ORDER)), run.name


def markdown(rows: Iterable[Sequence[str]], header: Sequence[str] = HEADER) -> str:
    """A Markdown table, whose cells may have words of a file in them."""
    escaped = ([printable(cell).replace("|", "\\|") for cell in row] for row in rows)
    lines = [header, ["---"] * len(header), *escaped]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def results_table(runs: Iterable[RunRecord]) -> str:
    """One row per run."""
    return markdown([_row(run) for run in runs])


def _row(run: RunRecord) -> list[str]:
    benign, attacked, target = (rate(run, name) for name in COMPARISONS)
    reached = "-" if run.rate("target") is None else str(run.reached)
    rates = [benign, attacked, paper_rate(run), target]
    return [run.split, _name(run), run.recognizer, *rates, reached, size(run), str(len(run.outcomes))]


def rate(run: RunRecord, comparison: str) -> str:
    """A word error rate in percent with its interval, or a dash."""
    found = interval(run, comparison)
    return "-" if found is None else found.percent()


def paper_rate(run: RunRecord) -> str:
    """The paper's word error rate in percent for the run's defence under its threat, or a dash."""
    found = published(run, row_label(run), threat_of(run).label)
    return "-" if found is None else f"{found:.1f}"


def size(run: RunRecord) -> str:
    """The attack's mean SNR in dB, or a dash."""
    snr = run.sizes(lambda o: o.snr_db)
    return f"{statistics.fmean(snr):.1f}" if snr else "-"


def _name(run: RunRecord) -> str:
    """The record's name, with what it lacks of the cell of that name, or of its own configuration."""
    found = departures(run, cell_named(run, run.name))
    return f"{run.name} (not whole: {'; '.join(found)})" if found else run.name


def replace_block(text: str, block: str) -> str:
    """Put ``block`` between the markers of ``text``. Raises :class:`ResultsError` if they are not there once each."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ResultsError(f"expected the markers {BEGIN} and {END} once each, in this order")
    start, rest = text.split(BEGIN)
    return f"{start}{BEGIN}\n\n{block}\n\n{END}{rest.split(END)[1]}"
