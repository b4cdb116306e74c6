"""Tables of the README, made from the committed result files and never typed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from armory_mdnf.errors import ResultsError
from armory_mdnf.evaluation.cells import cell_named, departures
from armory_mdnf.evaluation.records import COMPARISONS, RunRecord, read_record, results_files
from armory_mdnf.evaluation.summary import percent

BEGIN, END = "<!-- results -->", "<!-- /results -->"
ELSEWHERE = "librispeech"
"""Folders of results with tables of their own."""
ORDER = ("none", "rs", "mg", "mg_mdnf", "wg", "wg_mdnf")
HEADER = (
    *("split", "configuration", "recogniser", "benign WER %", "WER under attack %", "WER to the target %"),
    *("targets reached", "attack SNR dB", "utterances"),
)


def read_folder(folder: Path) -> list[RunRecord]:
    """Every record below a folder, in the order of the paper's tables, but for its folder :data:`ELSEWHERE`."""
    files = (path for path in results_files([folder]) if path.relative_to(folder).parts[0] != ELSEWHERE)
    return sorted(map(read_record, files), key=_place)


def _place(run: RunRecord) -> tuple[str, int, str]:
    matches = [i for i, start in enumerate(ORDER) if run.name == start or run.name.startswith(f"{start}_")]
    return run.split, max(matches, default=len(ORDER)), run.name


def markdown(rows: Iterable[Sequence[str]], header: Sequence[str] = HEADER) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def results_table(runs: Iterable[RunRecord]) -> str:
    """One row per run."""
    return markdown([_row(run) for run in runs])


def _row(run: RunRecord) -> list[str]:
    snr = run.sizes(lambda o: o.snr_db)
    size = f"{statistics.fmean(snr):.1f}" if snr else "-"
    rates = [percent(run.rate(name)) for name in COMPARISONS]
    reached = "-" if run.rate("target") is None else str(run.reached)
    return [run.split, _name(run), run.recognizer, *rates, reached, size, str(len(run.outcomes))]


def _name(run: RunRecord) -> str:
    """The record's name, with what it lacks of the cell of that name, or of its own configuration."""
    found = departures(run, cell_named(run, run.name))
    marked = f"{run.name} (not whole: {'; '.join(found)})" if found else run.name
    return marked.replace("|", "\\|")


def replace_block(text: str, block: str) -> str:
    """Put ``block`` between the markers of ``text``. Raises :class:`ResultsError` if they are not there once each."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ResultsError(f"expected the markers {BEGIN} and {END} once each, in this order")
    start, rest = text.split(BEGIN)
    return f"{start}{BEGIN}\n\n{block}\n\n{END}{rest.split(END)[1]}"
