"""What a gate reads of a results file: a record, or Armory's JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from armory_mdnf.errors import ResultsError, TranscriptError, quoted
from armory_mdnf.evaluation.armory_results import PREFIXES, TRANSCRIPTS, name_of, sizes_of
from armory_mdnf.evaluation.baselines import MOST, BaselineCell, Counts, cell_of, make_cell
from armory_mdnf.evaluation.cells import known_name
from armory_mdnf.evaluation.comparison import read_run
from armory_mdnf.evaluation.gate import Refusal
from armory_mdnf.evaluation.identity import identity
from armory_mdnf.evaluation.records import json_files, read_json, results_files
from armory_mdnf.files.run_folder import ABOUT, NATIVE, PARTIAL, RUNS, SWEEP, resuming
from armory_mdnf.files.strict_json import readable


def find_files(paths: Iterable[Path], parts: bool = False) -> tuple[list[Path], list[Refusal]]:
    """The results files that paths name, and what has none: paths, and runs in folders that were not finished.

    What a sweep has so far of such a run is the folder's result only where ``parts`` are asked for: it would be judged
    as the whole. Where that file is named itself, it is read.
    """
    files: list[Path] = []
    absent: list[Refusal] = []
    for path in paths:
        unfinished = _unfinished(path, parts)
        absent += unfinished
        try:
            files += [file for file in results_files([path]) if file == path or not _is_passed_over(file, parts)]
        except ResultsError as error:
            if not unfinished:  # which says more
                absent.append(_refusal(path, error))
    return list(dict.fromkeys(files)), list(dict.fromkeys(absent))


def _unfinished(path: Path, parts: bool) -> list[Refusal]:
    """The runs in a folder that were begun and have no results: killed ones, and those that still go on."""
    found = []
    there = (NATIVE, PARTIAL) if parts else (NATIVE,)
    for about in (file for file in json_files(path) if file.name == ABOUT):
        if not any((about.parent / name).exists() for name in there) and (again := _again(about)):
            why = f"expected {NATIVE} beside {ABOUT}, found none: the run is not finished; go on with `{again}`"
            found.append(Refusal(readable(str(about.parent)), readable(why)))
    return found


def _again(about: Path) -> str:
    """The command that goes on with a run; empty for a file of something else that is called so."""
    try:
        content = read_json(about)
    except ResultsError:  # is a refusal of its own
        return ""
    if not str(content.get("format")).startswith(RUNS):
        return ""
    return "armory-mdnf sweep ... --resume" if SWEEP in content else resuming(about.parent)


def _is_passed_over(path: Path, parts: bool) -> bool:
    """Whether a file is what a sweep has of a run so far; it may be left for a moment when the results are there."""
    so_far = path.name == PARTIAL and path.with_name(ABOUT).exists()
    return so_far and not (parts and not path.with_name(NATIVE).exists())


def read_cells(paths: Iterable[Path]) -> tuple[dict[str, BaselineCell], list[Refusal]]:
    """The cells of results files, by the files' names, and the files that could not be read."""
    cells: dict[str, BaselineCell] = {}
    unread: list[Refusal] = []
    for path in paths:
        try:
            cells[readable(str(path))] = read_cell(path)
        except (ResultsError, TranscriptError) as error:
            unread.append(_refusal(path, error))
    return cells, unread


def _refusal(path: Path, error: Exception) -> Refusal:
    return Refusal(readable(str(path)), readable(str(error).removeprefix(f"{path}: ")))


def read_cell(path: Path) -> BaselineCell:
    """What a results file says, as a cell that bears the name of its configuration.

    Armory's results without our transcripts have the numbers of errors and words that Armory records per utterance.
    Raises :class:`ResultsError` for a file that has neither.
    """
    content = read_json(path)
    results = content.get("results")
    if "format" not in content and isinstance(results, dict) and not any(TRANSCRIPTS in key for key in results):
        return _counted(content, results, path)
    run = read_run(path)
    return cell_of(run, f"{run.split}/{known_name(run) or run.name}")


def _counted(content: Mapping[str, Any], results: Mapping[str, Any], path: Path) -> BaselineCell:
    counts: dict[str, Counts] = {}
    for prefix, comparison in PREFIXES.items():
        batches = results.get(f"{prefix}_word_error_rate")
        if batches is None:
            continue
        try:
            counts[comparison] = tuple((_whole(pair[0]), _whole(pair[1])) for batch in batches for pair in batch)
        except (LookupError, TypeError, ValueError) as error:
            raise ResultsError(f"{path}: {prefix}_word_error_rate is damaged: {error!r}") from error
    config = content.get("config")
    if not counts or not isinstance(config, dict):
        raise ResultsError(
            f"{path} holds neither transcripts nor word errors: expected a configuration whose metric.task names "
            "word_error_rate and whose metric.record_metric_per_sample is true"
        )
    found, n = identity(config, "adversarial" in counts), len(next(iter(counts.values())))
    snr = sizes_of(results, "snr_db", n, path) if "perturbation_snr_db" in results else ()
    return make_cell(f"{found.get('dataset.eval_split')}/{name_of(path)}", found, counts, snr)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not 0 <= value <= MOST or value != int(value):
        raise ValueError(f"expected a whole number from 0 to {MOST}, found {quoted(value)}")
    return int(value)
