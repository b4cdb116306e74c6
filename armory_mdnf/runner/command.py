"""``armory-mdnf run``: from a configuration to results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch

from armory_mdnf import console
from armory_mdnf.data.selection import fingerprint
from armory_mdnf.errors import OptionError, ResultsError, StorageError, quoted
from armory_mdnf.evaluation.records import LeftOut, Outcome, RunRecord
from armory_mdnf.evaluation.summary import numbers, summarise
from armory_mdnf.files.atomic import ensure_writable_folder, storing, write_text
from armory_mdnf.files.provenance import leaves
from armory_mdnf.files.run_folder import ABOUT, NATIVE, SWEEP, resuming
from armory_mdnf.files.strict_json import dumps, readable
from armory_mdnf.metrics import intelligibility
from armory_mdnf.runner import components, results
from armory_mdnf.runner.config import Config, check_config, read_config, within
from armory_mdnf.runner.evaluate import Evaluation, case_of
from armory_mdnf.runner.journal import Journal, check_same, identify, read_run
from armory_mdnf.runner.lines import failed
from armory_mdnf.runner.metrics import perturbation_metrics, task_metrics
from armory_mdnf.runner.named import blocks_of, code_of, files_of, theirs
from armory_mdnf.runner.overrides import BATCH_SECONDS, Overrides, override, parse_index, run_seed
from armory_mdnf.runner.progress import follow

INTERRUPTED = 130  # what a shell gives for Ctrl-C
INCOMPLETE = 3
OUTPUTS = Path("outputs")


@dataclass(frozen=True)
class Prepared:
    """What is evaluated, on what, and how much of the configuration's data that is."""

    config: Config
    evaluation: Evaluation
    chosen: components.Chosen
    of: int  # utterances that the configuration chooses
    identity: Mapping[str, Any]


class Whole(Protocol):
    """How much of a configuration's data a run is."""

    @property
    def config(self) -> Config:
        """The configuration that is run."""

    @property
    def chosen(self) -> components.Chosen:
        """What is evaluated."""

    @property
    def of(self) -> int:
        """Utterances that the configuration chooses."""


def run(args: argparse.Namespace, about: Mapping[str, Any] | None = None) -> int:
    """Do what the command line asks for. ``about``: what ``--json`` tells besides.

    Returns the exit code: 0, 3 if utterances are left out of the results, or 130 after Ctrl-C.
    Raises :class:`armory_mdnf.errors.ArmoryMdnfError` for bad input, and for a disk that cannot be written.
    """
    given = _overrides(args)
    if args.resume is not None:
        journal, prepared, changed = _go_on(args, given)
    elif args.config is None:
        raise OptionError("expected a configuration to run, or --resume FOLDER")
    else:
        journal, prepared, changed = _begin(args, given)
    try:
        if not _evaluate(journal, prepared, args.strict):
            return INTERRUPTED
    finally:
        journal.close()
    if not journal.lines:
        raise ResultsError(nothing(journal))
    path = journal.folder / NATIVE
    found = record_of(journal, prepared, changed)
    content = dumps(results.armory_json(found, prepared.config), indent=4, sort_keys=True, error=ResultsError)
    with storing(lambda: f"all utterances are safe; make room and go on with {_again(journal)}"):
        write_text(path, content + "\n")
    try:
        if args.json:
            console.print_json(numbers(found, str(path)) | dict(about or {}), flush=True)
        else:
            print(summarise(found, where=str(path)), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StorageError(f"standard output: {error.strerror or error}; the results are in {path}") from error
    if not journal.failed:
        return 0
    number, total = len(journal.failed), len(prepared.chosen)
    print(f"{number} of {total} utterances are left out; {_first(journal)}", file=sys.stderr)
    return INCOMPLETE


def _begin(args: argparse.Namespace, given: Overrides) -> tuple[Journal, Prepared, dict[str, Any]]:
    original = read_config(args.config)
    config = override(original, given)
    stem = "stdin" if args.config == "-" else readable(Path(args.config).stem)
    name = config["sysconfig"].get("output_filename") or stem
    if Path(name).name != name:
        raise OptionError(f"sysconfig.output_filename: expected a plain name, found {name!r}")
    parent = Path(given.output_dir or config["sysconfig"].get("output_dir") or OUTPUTS)
    prepared, changed = prepare(config), changes(original, config)
    ensure_writable_folder(parent)  # a configuration that is refused leaves no folder
    return Journal.create(parent, name, {**_with_threads(prepared), "changed": changed}), prepared, changed


def _go_on(args: argparse.Namespace, given: Overrides) -> tuple[Journal, Prepared, dict[str, Any]]:
    if args.output_dir is not None:
        raise OptionError("--output-dir has no effect with --resume: the run stays in its folder")
    folder = args.resume
    stored = read_run(folder)
    if SWEEP in stored:
        raise OptionError(f"{folder} is of a sweep: go on with `armory-mdnf sweep ... --resume`")
    if args.config is None:
        config = stored["config"]
        with within(str(folder / ABOUT)):
            check_config(config)
    else:
        config = read_config(args.config)
    ensure_writable_folder(folder)
    prepared = prepare(override(config, given))
    check_same(stored, _with_threads(prepared), folder)
    return Journal.reopen(folder), prepared, stored["changed"]


def _with_threads(prepared: Prepared) -> dict[str, Any]:
    """What a run is known by: the last bits depend on torch's threads, of which a hundred steps can make words."""
    return {**prepared.identity, "threads": torch.get_num_threads()}


def prepare(config: Config) -> Prepared:
    """Make what a configuration names, and what it is known by. Raises for what is not right in it."""
    device, notes = components.choose_device(config)
    for note in (*_ignored(config), *notes):
        print(f"note: {note}", file=sys.stderr)
    components.find_own_code(config)
    components.initialise(config.get("user_init"))  # before the data, which may be drawn
    task_metrics(config["metric"])  # a name that is none is refused before the work
    available = components.load_dataset(config["dataset"], strict=False)
    chosen = first_batches(available, config)
    evaluation = make_evaluation(config, device, chosen)
    if _hears_defended(config, evaluation.estimator) and evaluation.intelligibility is None:
        print(f"note: {intelligibility.NEEDS}; it is left out", file=sys.stderr)
    recordings = {utterance.id: fingerprint(utterance) for _, utterance in chosen}
    estimator = evaluation.estimator
    parts = [estimator, *(getattr(estimator, "preprocessing_defences", None) or []), evaluation.attack]
    files = files_of([*parts, evaluation.targeter])
    code = code_of(blocks_of(config))
    identity = identify(config, device, results.versions(), code, files, recordings)
    return Prepared(config, evaluation, chosen, len(available), identity)


def make_evaluation(config: Config, device: str, chosen: components.Chosen) -> Evaluation:
    """The evaluation of a configuration on "cpu" or "cuda"."""
    estimator = components.make_estimator(config, device)
    attack, targeter, block, skip = None, None, config["attack"], bool(config["sysconfig"].get("skip_attack"))
    if block is not None:  # made even where it is skipped: a configuration is right or refused
        attack = components.make_attack(config, estimator, batch_seconds(config))
        targeter = components.make_targeter(block.get("targeted_labels"), [] if skip else chosen)
    return Evaluation(
        estimator,
        attack=None if skip else attack,
        targeter=None if skip else targeter,
        use_label=bool(block and block.get("use_label")),
        benign=not config["sysconfig"].get("skip_benign"),
        by_keys=components.draws_by_keys(estimator),
        in_batches=skip or attack is None or components.takes_batches(attack),
        seed=run_seed(config),
        theirs=theirs(config, skip),
        measures=perturbation_metrics(config["metric"]),
        intelligibility=intelligibility.stoi
        if _hears_defended(config, estimator) and intelligibility.available()
        else None,
        case=case_of(utterance.transcript for _, utterance in chosen),
    )


def _hears_defended(config: Config, estimator: Any) -> bool:
    """Whether there is a defence in the configuration, and the recogniser tells what it hears behind it."""
    return config["defense"] is not None and callable(getattr(estimator, "defended", None))


def _evaluate(journal: Journal, prepared: Prepared, strict: bool) -> bool:
    """Evaluate what is not done yet. Returns whether it came to the end; otherwise says how to go on."""
    chosen, evaluation = prepared.chosen, prepared.evaluation
    strangers = journal.indices - {index for index, _ in chosen}
    if strangers:
        raise OptionError(f"{journal.folder} has utterances that the configuration does not choose: {min(strangers)}")
    for failure in journal.failed.values():
        tell(failure, strict)
    damaged = [entry for entry in chosen if entry[1].problem and entry[0] not in journal.indices]
    sound = [entry for entry in chosen if not entry[1].problem]

    def stopped() -> str:
        return f"stopped after {len(journal.indices)} of {len(chosen)} utterances"

    try:
        with storing(lambda: f"{stopped()}, which are safe; make room and go on with {_again(journal)}"):
            keep(journal, [failed(*entry, entry[1].problem) for entry in damaged], strict)
            # Batches are those of an unbroken run, whose bits can hang on a batch; one kept in part is made whole.
            batches = evaluation.batches(sound, batch_seconds(prepared.config))
            left = [batch for batch in batches if any(index not in journal.indices for index, _ in batch)]
            for batch in follow(left, len(chosen) - sum(map(len, left)), evaluation.attack):
                keep(journal, [line for line in evaluation(batch) if line.index not in journal.indices], strict)
    except StorageError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise OptionError(
            f"not enough memory; {stopped()}, which are safe; go on with {_again(journal)} --batch-seconds X, "
            f"less than {batch_seconds(prepared.config):g}"
        ) from error
    except BaseException as error:
        print(f"\n{stopped()}; go on with\n  {_again(journal)}", file=sys.stderr)
        if isinstance(error, KeyboardInterrupt):
            return False
        raise
    return True


def keep(journal: Journal, lines: Sequence[Outcome | LeftOut], strict: bool) -> None:
    """Keep what was found out about utterances. ``strict``: up to the first that could not be processed."""
    failures = [line for line in lines if isinstance(line, LeftOut)]
    journal.append([line for line in lines if isinstance(line, Outcome)])
    for failure in failures:
        tell(failure, strict)
    journal.append(failures)


def tell(failure: LeftOut, strict: bool) -> None:
    """Say that an utterance is left out. Raises :class:`ResultsError` if ``strict``."""
    if strict:
        raise ResultsError(f"--strict: {failure.sentence}")
    print(f"left out: {failure.sentence}", file=sys.stderr)


def nothing(journal: Journal) -> str:
    """What is to be said of a run all of whose utterances failed."""
    return f"none of the {len(journal.failed)} utterances could be processed; {_first(journal)}"


def _first(journal: Journal) -> str:
    return min(journal.failed.items())[1].sentence


def _again(journal: Journal) -> str:
    return resuming(journal.folder)


def record_of(journal: Journal, prepared: Whole, changed: Mapping[str, Any]) -> RunRecord:
    """What a run has found of the utterances that are done."""
    config, places = prepared.config, [i for i, _ in prepared.chosen]
    return results.record(
        [journal.lines[i] for i in places if i in journal.lines],
        [journal.failed[i] for i in places if i in journal.failed],
        config,
        journal.folder.name,
        timestamp=journal.started,
        chosen=prepared.of,
        split_size=components.split_size(config["dataset"]),
        changed=changed,
    )


def results_of(journal: Journal, prepared: Whole, changed: Mapping[str, Any]) -> dict[str, Any]:
    """What ``results.json`` holds of the utterances that are done."""
    return results.armory_json(record_of(journal, prepared, changed), prepared.config)


def changes(original: Config, config: Config) -> dict[str, Any]:
    """What the command line changed of what is computed, by dotted key: before and after."""
    before, after = (
        dict(leaves({key: value for key, value in source.items() if key not in ("adhoc", "sysconfig")}))
        for source in (original, config)
    )
    keys = sorted(before.keys() | after.keys())
    return {key: [before.get(key), after.get(key)] for key in keys if before.get(key) != after.get(key)}


def first_batches(chosen: components.Chosen, config: Config) -> components.Chosen:
    """The first batches of the dataset's own size, as many as asked for; one in a check."""
    size = config["dataset"]["batch_size"]
    number = 1 if config["sysconfig"].get("check") else config["sysconfig"].get("num_eval_batches") or None
    available = -(-len(chosen) // size)
    if number is not None and number > available:
        raise OptionError(
            f"sysconfig.num_eval_batches: expected at most the {available} batches of {quoted(size)} there are, got "
            f"{quoted(number)}"
        )
    return chosen if number is None else chosen[: number * size]


def _ignored(config: Config) -> list[str]:
    sysconfig = config["sysconfig"]
    notes = []
    if sysconfig["docker_image"]:
        notes.append(f"sysconfig.docker_image {sysconfig['docker_image']!r} is ignored: the run is on this machine")
    if sysconfig["gpus"] not in ("", "all") and sysconfig["use_gpu"]:
        notes.append(f"sysconfig.gpus {sysconfig['gpus']!r} is ignored: CUDA_VISIBLE_DEVICES chooses the GPU")
    return notes


def batch_seconds(config: Config) -> float:
    """Seconds of audio that are held at once."""
    return float(config["sysconfig"].get("batch_seconds", BATCH_SECONDS))


def _overrides(args: argparse.Namespace) -> Overrides:
    options = {field.name: getattr(args, field.name) for field in fields(Overrides) if field.name in vars(args)}
    if args.check and args.num_eval_batches is not None:
        raise OptionError("--num-eval-batches has no effect with --check, which takes one batch")
    options["index"] = None if args.index is None else parse_index(args.index)
    options["filepath"] = args.config
    return Overrides(**options)
