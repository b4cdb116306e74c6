"""The outcome of one evaluation, utterance by utterance, and its file format: strict JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from armory_mdnf.console import printable
from armory_mdnf.errors import ResultsError, quoted
from armory_mdnf.evaluation.names import recognizer_in
from armory_mdnf.files import strict_json
from armory_mdnf.files.atomic import write_text
from armory_mdnf.metrics.wer import WordCounts, check_case, count_words, pool, reached

RECORDS = "armory_mdnf_record/"
FORMAT = f"{RECORDS}3"
OLDER = f"{RECORDS}2"  # without what tells a part of a configuration from the whole

KEPT_BLOCKS = ("_description", "attack", "dataset", "defense", "model", "user_init")
"""Blocks of its configuration that a record has; others in a file, which could be anything, are not taken."""
LAST_TIME = 253_402_300_800
"""Seconds from 1970 to the year 10000, which no date has."""
LARGEST = 1e100  # number of a file: the mean of larger ones overflows
FURTHER = ("segmental_snr_db", "stoi")
"""Measures of an utterance that only this package's own results have, and a file has only where there are some."""
COMPARISONS = {
    "benign": ("reference", "benign"),
    "adversarial": ("reference", "adversarial"),
    "target": ("target", "adversarial"),
}
"""Word counts of an utterance: what is compared with, and what is."""


def compare(utterance: Outcome, comparison: str) -> WordCounts | None:
    """Word counts of an utterance; None where it lacks a transcript."""
    expected, found = (getattr(utterance, name) for name in COMPARISONS[comparison])
    return None if expected is None or found is None else count_words(expected, found)


def all_words(utterance: Outcome) -> dict[str, dict[str, int]]:
    """Every comparison that the utterance has transcripts for, for a file."""
    counts = {name: compare(utterance, name) for name in COMPARISONS}
    return {name: asdict(found) for name, found in counts.items() if found is not None}


@dataclass(frozen=True)
class Outcome:
    """What a run found out about one utterance, from the evaluation to the tables.

    A transcript is None where the run left it out, ``target`` where the attack has none; a size is None where it is not
    a finite number (nothing was changed) or was not measured. ``id`` is None where the results name no utterances, as
    Armory's do not. What only the native runner's lines keep: ``index``, the position in the split; ``seed``;
    ``seconds``, the utterance's share of its batch's time, by length, for "inference" and "attack"; ``measures``, what
    further metrics of the configuration say of the perturbation, by their names. Results of Armory's and of older
    versions have neither ``segmental_snr_db``, of the perturbation, nor ``stoi``, the intelligibility of the defended
    clean speech.
    """

    reference: str
    benign: str | None = None
    adversarial: str | None = None
    target: str | None = None
    snr_db: float | None = None
    l2: float | None = None
    linf: float | None = None
    id: str | None = None
    index: int | None = None
    seed: int | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    measures: Mapping[str, float | None] | None = None
    segmental_snr_db: float | None = None
    stoi: float | None = None


RECORDED = ("reference", "benign", "adversarial", "target", "snr_db", "l2", "linf", "id")
"""What a record keeps of an outcome, beside :data:`FURTHER`."""


@dataclass(frozen=True)
class LeftOut:
    """An utterance that could not be processed, its file, why, and its position in the split where that is known."""

    id: str
    file: str
    reason: str
    index: int | None = None

    @property
    def sentence(self) -> str:
        """What a user is told."""
        return printable(f"{self.id} ({self.file}): {self.reason}")

    def recorded(self) -> dict[str, str]:
        """What results keep of it."""
        return {"id": self.id, "file": self.file, "reason": self.reason}


@dataclass(frozen=True)
class RunRecord:
    """One run of one configuration.

    ``chosen``: the utterances that the run was to evaluate, of the ``split_size`` that the complete split has; None
    where the results do not say. ``changed``: what the command line changed in the configuration, by dotted key: the
    file's value and the one that was run. ``flags``: Armory's flags that make a run a part of its configuration.
    ``weights``: SHA-256 of what it was computed with, by name; ``device``: what it was computed on, but for the
    utterances in ``elsewhere``, by their ids. Armory's results and older records have none of them.
    """

    name: str
    outcomes: tuple[Outcome, ...]
    config: Mapping[str, Any]
    seconds: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    timestamp: int | None = None
    chosen: int | None = None
    split_size: int | None = None
    changed: Mapping[str, list[Any]] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    weights: Mapping[str, str] = field(default_factory=dict)
    device: str | None = None
    elsewhere: Mapping[str, str] = field(default_factory=dict)

    def counts(self, comparison: str) -> WordCounts | None:
        """Word counts pooled over the utterances, or None if the run left the comparison's transcripts out.

        Raises :class:`TranscriptError` for transcripts in another case than what they are compared with.
        """
        texts = [tuple(getattr(o, name) for name in COMPARISONS[comparison]) for o in self.outcomes]
        said = [pair for pair in texts if None not in pair]
        check_case([a for a, _ in said], [b for _, b in said])
        counts = [c for c in (compare(o, comparison) for o in self.outcomes) if c is not None]
        return pool(counts) if counts else None

    def rate(self, comparison: str) -> float | None:
        """Pooled word error rate, as a fraction; of "target", how far from the target the attack stayed."""
        counts = self.counts(comparison)
        return counts.rate if counts else None

    @property
    def reached(self) -> int:
        """Number of utterances that are understood exactly as their targets."""
        return sum(is_reached(o) for o in self.outcomes)

    def sizes(self, measure: Callable[[Outcome], float | None]) -> list[float]:
        """One size of every utterance that has it: ``run.sizes(lambda o: o.snr_db)``."""
        return [value for value in map(measure, self.outcomes) if value is not None]

    @property
    def split(self) -> str:
        """Name of the evaluated split."""
        return str(self._at("dataset", "eval_split"))

    @property
    def recognizer(self) -> str:
        """What the recogniser is called: name or path of its weights, with its options."""
        return recognizer_in(self.config)

    @property
    def defense(self) -> str:
        """Class name of the defence."""
        return str(self._at("defense", "name") or "none")

    @property
    def seed(self) -> int | None:
        """Seed of the run."""
        seed = self._at("user_init", "kwargs", "seed")
        return seed if isinstance(seed, int) else None

    def _at(self, *keys: str) -> Any:
        value: Any = self.config
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


def is_reached(outcome: Outcome) -> bool:
    """Whether an attacked utterance was understood as its target."""
    target, heard = outcome.target, outcome.adversarial
    return target is not None and heard is not None and reached(target, heard)


def common_outcomes(first: RunRecord, second: RunRecord) -> list[tuple[Outcome, Outcome]]:
    """The utterances that two runs share, paired: by id, else by reference where that tells them apart."""
    sides = (first.outcomes, second.outcomes)
    by_id = all(outcome.id is not None for side in sides for outcome in side)
    names = [[(o.id if by_id else None, o.reference) for o in side] for side in sides]
    begin_alike = names[0] == names[1] or (_from_the_start(first) and _from_the_start(second))
    if begin_alike and all(a == b for a, b in zip(*names, strict=False)):
        return list(zip(*sides, strict=False))
    if any(len(set(found)) < len(found) for found in names):
        return []
    where = dict(zip(names[1], second.outcomes, strict=True))
    return [(o, where[name]) for name, o in zip(names[0], first.outcomes, strict=True) if name in where]


def _from_the_start(run: RunRecord) -> bool:
    """Whether a run is of the first utterances of its split, as far as its configuration says."""
    index = run._at("dataset", "index")
    return index is None or str(index).startswith("[:") or index == [*range(len(run.outcomes))]


def in_order_of(first: RunRecord, second: RunRecord) -> RunRecord:
    """The second run, its utterances in the first one's order; as it is where they are not of the same utterances."""
    pairs = common_outcomes(first, second)
    whole = len(pairs) == len(first.outcomes) == len(second.outcomes)
    return replace(second, outcomes=tuple(b for _, b in pairs)) if whole else second


def write_record(path: str | os.PathLike[str], run: RunRecord) -> None:
    """Write a record with its derived numbers beside what they are derived from, for readers of the file."""
    utterances = [_written(outcome) for outcome in run.outcomes]
    content = {
        "format": FORMAT,
        "name": run.name,
        "wer": {name: run.rate(name) for name in COMPARISONS},
        "seed": run.seed,
        "seconds": dict(run.seconds),
        "versions": dict(run.versions),
        "timestamp": run.timestamp,
        "config": dict(run.config),
        "utterances": utterances,
        "chosen": run.chosen,
        "split_size": run.split_size,
        "changed": dict(run.changed),
        "flags": dict(run.flags),
        "left_out": [left_out.recorded() for left_out in run.left_out],
        **({"weights": dict(run.weights)} if run.weights else {}),
        **({"device": run.device} if run.device is not None else {}),
        **({"elsewhere": dict(run.elsewhere)} if run.elsewhere else {}),
    }
    write_text(path, strict_json.dumps(content, indent=1, sort_keys=True, error=ResultsError, name=f"{path}") + "\n")


def _written(outcome: Outcome) -> dict[str, Any]:
    further = {name: getattr(outcome, name) for name in FURTHER if getattr(outcome, name) is not None}
    return {name: getattr(outcome, name) for name in RECORDED} | further | {"words": all_words(outcome)}


def read_record(path: str | os.PathLike[str]) -> RunRecord:
    """Read a record. Raises :class:`ResultsError` if the file is missing, damaged, or its numbers disagree."""
    content = strict_json.read_json(path, ResultsError)
    if not isinstance(content, dict):
        raise ResultsError(f"{path}: expected a JSON object, found {type(content).__name__}")
    if content.get("format") not in (FORMAT, OLDER):
        raise ResultsError(f"{path}: expected format {FORMAT!r}, found {quoted(content.get('format'))}")
    older = content["format"] == OLDER
    try:
        names = [k for k in RECORDED if not (older and k == "id")]
        rows = [{k: u[k] for k in names} | {k: u[k] for k in FURTHER if k in u} for u in content["utterances"]]
        outcomes = tuple(Outcome(**row) for row in rows)
        keys = ("name", "seconds", "versions", "timestamp")
        config = kept_blocks(content["config"])
        run = RunRecord(outcomes=outcomes, config=config, **{key: content[key] for key in keys})
        if not older:
            run = with_origin(with_extent(run, content), content)
        stated = content["wer"]
        check_run(run)
        found = {name: run.rate(name) for name in COMPARISONS}
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ResultsError(f"{path}: not a complete record: {error!r}") from error
    if stated != found:
        raise ResultsError(f"{path}: states word error rates {quoted(stated)}, but its transcripts give {found}")
    return run


def kept_blocks(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a record keeps of a configuration."""
    return {key: block for key, block in config.items() if key in KEPT_BLOCKS}


def check_run(run: RunRecord) -> None:
    """Raise TypeError for what a file says of a run in other kinds of values than everything here reads."""
    kinds: list[tuple[str, object, tuple[type, ...]]] = [
        ("name", run.name, (str,)), ("config", run.config, (dict,)), ("seconds", run.seconds, (dict,)),
        ("versions", run.versions, (dict,)), ("timestamp", run.timestamp, (int, float, type(None))),
    ]  # fmt: skip
    for key in ("attack", "dataset", "defense", "model", "user_init"):
        block = run.config.get(key) if isinstance(run.config, dict) else None
        kinds.append((f"config.{key}", block, (dict, type(None))))
        for inner in ("kwargs", "model_kwargs", "wrapper_kwargs"):
            value = block.get(inner) if isinstance(block, dict) else None
            kinds.append((f"config.{key}.{inner}", value, (dict, type(None))))
    for where, found, kind in (("seconds", run.seconds, (int, float)), ("versions", run.versions, (str,))):
        kinds += [(f"{where}.{key}", value, kind) for key, value in found.items()] if isinstance(found, dict) else []
    for outcome in run.outcomes:
        kinds.append(("reference", outcome.reference, (str,)))
        texts = ("id", "benign", "adversarial", "target")
        kinds += [(name, getattr(outcome, name), (str, type(None))) for name in texts]
        sizes = ("snr_db", "l2", "linf", *FURTHER)
        kinds += [(name, getattr(outcome, name), (int, float, type(None))) for name in sizes]
    for name, value, expected in kinds:
        fits = isinstance(value, expected) and not isinstance(value, bool)
        if not fits or (isinstance(value, (int, float)) and as_number(value) is None):
            raise TypeError(f"{name} is {quoted(value)}")
    if run.timestamp is not None and not 0 <= run.timestamp < LAST_TIME:
        raise TypeError(f"timestamp is {quoted(run.timestamp)}")
    if any(not isinstance(pair, list) or len(pair) != 2 for pair in run.changed.values()):
        raise TypeError(f"changed is {quoted(run.changed)}")


def as_number(value: object) -> float | None:
    """A number that a file has, as a float; None for anything else, and for one above :data:`LARGEST`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if abs(found) <= LARGEST else None


def with_extent(run: RunRecord, content: Mapping[str, Any]) -> RunRecord:
    """The run with what its file says of how much of its configuration it is. Raises KeyError or TypeError."""
    for key, kind in (("changed", dict), ("flags", dict), ("left_out", list)):
        if not isinstance(content[key], kind):
            raise TypeError(f"{key} is {quoted(content[key])}")
    for key in ("chosen", "split_size"):
        if content[key] is not None and type(content[key]) is not int:
            raise TypeError(f"{key} is {quoted(content[key])}")
    return replace(
        run,
        left_out=tuple(
            LeftOut(str(entry["id"]), str(entry["file"]), str(entry["reason"])) for entry in content["left_out"]
        ),
        **{key: content[key] for key in ("chosen", "split_size", "changed", "flags")},
    )


def with_origin(run: RunRecord, content: Mapping[str, Any]) -> RunRecord:
    """The run with what its file says of the weights and the devices, if anything. Raises TypeError."""
    weights, device, elsewhere = content.get("weights", {}), content.get("device"), content.get("elsewhere", {})
    if not are_words(weights):
        raise TypeError(f"expected weights with their checksums, found {quoted(weights)}")
    if not isinstance(device, (str, type(None))):
        raise TypeError(f"device is {quoted(device)}")
    if not are_words(elsewhere):
        raise TypeError(f"elsewhere: expected utterances with their devices, found {quoted(elsewhere)}")
    if unknown := sorted(elsewhere.keys() - {outcome.id for outcome in run.outcomes}):
        raise TypeError(f"elsewhere: {quoted(unknown[0])} is none of the utterances")
    return replace(run, weights=weights, device=device, elsewhere=elsewhere)


def are_words(value: Any) -> bool:
    """Whether a value of a file is an object whose values are all strings."""
    return isinstance(value, dict) and all(isinstance(word, str) for word in value.values())


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON object, ``Infinity`` and ``NaN`` included. Raises :class:`ResultsError` naming the file."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultsError(f"no results file at {path}") from None
    except IsADirectoryError:
        raise ResultsError(f"{path} is a folder: expected a file in it, of results or a record") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ResultsError(f"{path} is not readable JSON (a run cut short?): {error}") from error
    strict_json.check_bounds(content, f"{path}", ResultsError)
    if not isinstance(content, dict):
        raise ResultsError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def results_files(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files that paths name: themselves, and every JSON of results below a folder, sorted.

    Raises :class:`ResultsError` for a path that is not there or holds none.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        inner = [path] if path.is_file() else [p for p in json_files(path) if not is_of_else(p)]
        if not inner:
            raise ResultsError(f"{path}: expected a results file or a folder that holds some, found none")
        found += inner
    return list(dict.fromkeys(found))


def json_files(folder: Path) -> list[Path]:
    """Every JSON file below a folder, sorted, but for what is hidden there: cells set aside, and half-written files."""
    inner = ((path, path.relative_to(folder).parts) for path in folder.rglob("*.json"))
    return sorted(path for path, parts in inner if not any(part.startswith(".") for part in parts))


def is_of_else(path: str | os.PathLike[str]) -> bool:
    """Whether a file is sound JSON of something else than a run: an audit, speeds, a configuration.

    One that is damaged may be a run that was cut short: it is not passed over.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(content, dict):
        return True
    return not str(content.get("format", "")).startswith(RECORDS) and not {"config", "results"} <= content.keys()
