"""Armory's results files, read into records (``runner/results.py`` writes them). Armory itself is not needed for it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from armory_mdnf.errors import ResultsError
from armory_mdnf.evaluation.records import (
    FURTHER,
    Outcome,
    RunRecord,
    check_run,
    kept_blocks,
    read_json,
    with_extent,
    with_origin,
)
from armory_mdnf.files.run_folder import ABOUT, NATIVE, PARTIAL
from armory_mdnf.files.strict_json import readable

TRANSCRIPTS = "transcripts"
# Armory's prefixes of task metrics, and the comparison that each stands for.
PREFIXES = {"benign": "benign", "adversarial": "adversarial", "targeted": "target"}
FLAGS = ("check_run", "num_eval_batches", "skip_attack", "skip_benign")
"""Flags in Armory's results of a run that is not the whole of its configuration."""
TIMING = re.compile(r"Avg\. CPU time \(s\) for (\d+) executions of (\w+)")


def _is_native(path: str | os.PathLike[str]) -> bool:
    """Whether a file is called as the native runner calls results."""
    return Path(path).name in (NATIVE, PARTIAL)


def name_of(path: str | os.PathLike[str]) -> str:
    """What results are called: a native run, whose file is called as every other's, by its folder."""
    return readable(Path(path).resolve().parent.name if _is_native(path) else Path(path).stem)


def read_armory_results(path: str | os.PathLike[str]) -> RunRecord:
    """Read the JSON that ``armory run`` wrote, or ``armory-mdnf run``, with what is beside it.

    Raises :class:`ResultsError` if it is missing or damaged, if it lacks the transcripts (the configuration's
    ``metric.task`` must name ``armory_mdnf.plugin.metrics.transcripts``), or if its parts disagree.
    """
    content = read_json(path)
    try:
        run = _read(content, path)
        check_run(run)
    except ResultsError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ResultsError(f"{path}: what it says of the run is damaged: {error!r}") from error
    return run


def _read(content: dict[str, Any], path: str | os.PathLike[str]) -> RunRecord:
    config, results = content.get("config"), content.get("results")
    if not isinstance(config, dict) or not isinstance(results, dict):
        raise ResultsError(f"{path}: expected Armory's results, an object with 'config' and 'results'")
    transcripts = {name: _transcripts(results, name, path) for name in PREFIXES}
    found = [t for t in (transcripts["benign"], transcripts["adversarial"]) if t is not None]
    if not found:
        raise ResultsError(
            f"{path} holds no transcripts: the configuration's metric.task must name "
            "armory_mdnf.plugin.metrics.transcripts"
        )
    references = [u["reference"] for u in found[0]]
    if any([u["reference"] for u in other] != references for other in found[1:]):
        raise ResultsError(f"{path}: benign and adversarial transcripts are not of the same utterances")
    heard = {name: None if t is None else [u["hypothesis"] for u in t] for name, t in transcripts.items()}
    if heard["targeted"] not in (None, heard["adversarial"]):
        raise ResultsError(f"{path}: adversarial and targeted transcripts are not of the same utterances")
    targets, nothing = transcripts["targeted"], [None] * len(references)
    columns: dict[str, list[Any]] = {
        "reference": references,
        "benign": heard["benign"] or nothing,
        "adversarial": heard["adversarial"] or nothing,
        "target": [u["reference"] for u in targets] if targets else nothing,
    }
    for name in ("snr_db", "l2", "linf"):
        columns[name] = sizes_of(results, name, len(references), path)
    rows = zip(*columns.values(), strict=True)
    run = RunRecord(
        name=name_of(path),
        outcomes=tuple(Outcome(**dict(zip(columns, row, strict=True))) for row in rows),
        config=kept_blocks(config),
        seconds=_seconds(results.get("compute", {})),
        versions=_versions(content, results),
        timestamp=content.get("timestamp"),
    )
    _check_against_armory(run, results, path)
    return _with_what_made_it(_with_extent(run, content), Path(path))


def _with_what_made_it(run: RunRecord, path: Path) -> RunRecord:
    """The run with its weights and device, where its folder is that of a native run."""
    about = path.with_name(ABOUT)
    if not _is_native(path) or not about.is_file():
        return run
    try:
        return with_origin(run, read_json(about))
    except TypeError as error:
        raise ResultsError(f"{about}: {error}") from error


def _with_extent(run: RunRecord, content: Mapping[str, Any]) -> RunRecord:
    """How much of its configuration a run is: the flags that Armory keeps too, and what the native runner adds."""
    own, flags = content.get("run"), flags_of(content["config"])
    run = replace(run, flags=flags)
    if own is None:
        return run
    if len(own["ids"]) != len(run.outcomes):
        raise TypeError(f"{len(own['ids'])} ids for {len(run.outcomes)} utterances")
    outcomes = tuple(replace(outcome, id=str(name)) for outcome, name in zip(run.outcomes, own["ids"], strict=True))
    for name in FURTHER:
        if name in own:
            values = _numbers(own[name], name, len(outcomes))
            outcomes = tuple(replace(outcome, **{name: value}) for outcome, value in zip(outcomes, values, strict=True))
    return replace(with_extent(run, own | {"flags": flags}), outcomes=outcomes)


def flags_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The flags in a configuration of results that make the run a part of it."""
    given = (config.get("scenario") or {}).get("kwargs") or {}
    flags = {name: given[name] for name in FLAGS if given.get(name)}
    if (config.get("adhoc") or {}).get("skip_adversarial") or not config.get("attack"):
        flags.pop("skip_attack", None)
    return flags


def _numbers(values: Any, name: str, n: int) -> list[Any]:
    if not isinstance(values, list) or len(values) != n:
        raise TypeError(f"expected {n} values of {name}")
    for value in values:
        if value is not None and (type(value) not in (int, float) or not math.isfinite(value)):
            raise TypeError(f"{name} has {value!r}")
    return values


def refuse_older(path: Path, since: float | None) -> None:
    """Raise :class:`ResultsError` for a file that is older than ``since``, in seconds since the epoch."""
    if since is not None and path.exists() and path.stat().st_mtime < since:
        raise ResultsError(f"{path} is not new: was the run interrupted?")


def output_folder() -> Path:
    """Where Armory writes results: the folder of its configuration, else its default."""
    config = Path.home() / ".armory" / "config.json"
    if config.is_file():
        folder = read_json(config).get("output_dir")
        if isinstance(folder, str):
            return Path(folder)
    return config.parent / "outputs"


def newest_results(since: float | None = None) -> Path:
    """The newest results file of Armory's output folder, by modification time.

    ``since``: a time in seconds since the epoch that the file must not be older than; it tells a run that was
    interrupted, for which ``armory run`` also exits 0, from one that wrote results.
    """
    folder = output_folder()
    files = sorted(folder.glob("*/*.json"), key=lambda p: p.stat().st_mtime)
    if not files:
        raise ResultsError(f"no results in {folder}: has `armory run` finished?")
    if since is not None and files[-1].stat().st_mtime < since:
        raise ResultsError(f"no new results in {folder}, the newest is {files[-1]}: was `armory run` interrupted?")
    return files[-1]


def _transcripts(results: Mapping[str, Any], name: str, path: object) -> list[dict[str, str]] | None:
    batches = results.get(f"{name}_{TRANSCRIPTS}")
    if batches is None:
        return None
    try:
        utterances = [dict(u) for u in batches[0]["utterances"]]
        complete = all(isinstance(u[k], str) for u in utterances for k in ("reference", "hypothesis"))
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ResultsError(f"{path}: its {name} transcripts are damaged: {error!r}") from error
    if not complete or not utterances:
        raise ResultsError(f"{path}: expected {name} transcripts as strings, at least one utterance")
    return utterances


def sizes_of(results: Mapping[str, Any], name: str, n: int, path: object) -> list[float | None]:
    """A perturbation metric of ``n`` utterances, None where it is not finite. Raises :class:`ResultsError`."""
    batches = results.get(f"perturbation_{name}")
    if batches is None:
        return [None] * n
    try:
        # Armory writes Infinity, the native runner null.
        values = [math.nan if v is None else float(v) for batch in batches for v in batch]
    except (TypeError, ValueError) as error:
        raise ResultsError(f"{path}: perturbation_{name} is damaged: {error}") from error
    if len(values) != n:
        raise ResultsError(f"{path}: expected {n} values of perturbation_{name}, found {len(values)}")
    return [v if math.isfinite(v) else None for v in values]


def _seconds(compute: Mapping[str, Any]) -> dict[str, float]:
    matches = ((TIMING.fullmatch(key), value) for key, value in compute.items())
    return {m[2].lower(): round(int(m[1]) * float(value), 3) for m, value in matches if m}


def _versions(content: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, str]:
    for name in ("benign", "adversarial"):
        batches = results.get(f"{name}_{TRANSCRIPTS}")
        if batches:
            return {"armory": str(content.get("armory_version"))} | batches[0].get("versions", {})
    return {}


def _check_against_armory(run: RunRecord, results: Mapping[str, Any], path: object) -> None:
    for name, comparison in PREFIXES.items():
        total, counts = results.get(f"{name}_total_wer"), run.counts(comparison)
        if total is None or counts is None:
            continue
        expected = [int(v) for v in total[0][1]]
        if expected != [counts.errors, counts.reference_words]:
            raise ResultsError(
                f"{path}: Armory counts {expected[0]} errors in {expected[1]} {name} words, "
                f"the transcripts have {counts.errors} in {counts.reference_words}"
            )
