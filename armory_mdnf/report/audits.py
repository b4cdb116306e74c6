"""Findings of ``armory-mdnf audit --output``, beside the runs that they are about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from armory_mdnf.audit.findings import VERDICTS
from armory_mdnf.audit.names import FORMAT
from armory_mdnf.audit.report import evidence
from armory_mdnf.errors import ResultsError, quoted
from armory_mdnf.evaluation.names import recognizer_in
from armory_mdnf.evaluation.paper import row_in, threat_in
from armory_mdnf.evaluation.records import json_files, read_json
from armory_mdnf.files import strict_json
from armory_mdnf.report.runs import Placed, data_name

BLOCKS = ("attack", "defense", "model")  # what a run and an audit of it have alike


@dataclass(frozen=True)
class Judged:
    """A check: what it found, the numbers behind it, and what to do."""

    check: str
    verdict: str
    statement: str
    evidence: tuple[tuple[str, str], ...]
    advice: str


@dataclass(frozen=True)
class Audit:
    """An audit of a configuration's attack. ``runs``: the paths of the runs of that configuration."""

    anchor: str
    name: str
    split: str
    defence: str
    recogniser: str
    threat: str
    verdict: str
    complete: bool
    scale: str
    judged: tuple[Judged, ...]
    runs: tuple[str, ...]


def is_audit(path: Path) -> bool:
    """Whether a file says that it has the findings of an audit."""
    try:
        return read_json(path).get("format") == FORMAT
    except ResultsError:
        return False


def split_paths(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """The files of audits among some files and folders, and the paths that are left, in their order.

    A folder with nothing but audits is not left.
    """
    audits: dict[Path, None] = {}
    others = []
    for path in paths:
        if path.is_dir():
            inside = json_files(path)
            found = [inner for inner in inside if is_audit(inner)]
            audits |= dict.fromkeys(found)
            if not found or len(found) < len(inside):
                others.append(path)
        elif is_audit(path):
            audits[path] = None
        else:
            others.append(path)
    return list(audits), others


def read_audits(files: Sequence[Path], placed: Sequence[Placed]) -> list[Audit]:
    """Audits for a page that has some runs. Raises :class:`ResultsError` naming a file that is damaged."""
    return [_read(path, f"audit-{i}", placed) for i, path in enumerate(files, 1)]


def _read(path: Path, anchor: str, placed: Sequence[Placed]) -> Audit:
    content = strict_json.read_json(path, ResultsError)
    try:
        config, settings = content["config"], content["settings"]
        judged = tuple(_judged(finding) for finding in content["findings"])
        if content["verdict"] not in VERDICTS:
            raise ValueError(f"verdict {quoted(content['verdict'])}")
        return Audit(
            anchor,
            str(content["configuration"]),
            data_name(str(config["dataset"].get("eval_split"))),
            row_in(config),
            recognizer_in(config),
            threat_in(config, str(path), targeted=False).label,
            content["verdict"],
            bool(content["complete"]),
            f"{len(settings['utterances'])} utterances, {settings['iterations']} of {settings['iterations_asked']} "
            "iterations",
            judged,
            tuple(p.path for p in placed if all(_same(p.run.config, config, block) for block in BLOCKS)),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ResultsError(f"{path}: not a complete audit: {error!r}") from error


def _judged(finding: Mapping[str, Any]) -> Judged:
    if finding["verdict"] not in VERDICTS:
        raise ValueError(f"verdict {quoted(finding['verdict'])}")
    check, verdict, statement, advice = (str(finding[key]) for key in ("check", "verdict", "statement", "advice"))
    return Judged(check, verdict, statement, tuple(evidence(finding["evidence"])), advice)


def _same(first: Mapping[str, Any], second: Mapping[str, Any], block: str) -> bool:
    return bool(first.get(block) == second.get(block))
