"""``armory-mdnf run``: from a configuration to results."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from armory_mdnf.atomic import write_text
from armory_mdnf.errors import ArmoryMdnfError, OptionError
from armory_mdnf.evaluation.armory_results import read_armory_results
from armory_mdnf.evaluation.summary import summarise
from armory_mdnf.runner import components, results
from armory_mdnf.runner.config import Config, check_config, component, read_config
from armory_mdnf.runner.evaluate import Evaluation
from armory_mdnf.runner.journal import Journal, check_same, identify, read_run
from armory_mdnf.runner.overrides import BATCH_SECONDS, Overrides, override, parse_index, run_seed
from armory_mdnf.runner.progress import follow

INTERRUPTED = 130  # what a shell gives for Ctrl-C
OUTPUTS = Path("outputs")


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks for. Returns the exit code: 0, or 130 after Ctrl-C.

    Raises :class:`armory_mdnf.errors.ArmoryMdnfError` for bad input.
    """
    given = _overrides(args)
    if args.resume is not None:
        stored = read_run(args.resume)
        config = stored["config"]
        if args.config is None:
            check_config(config)
        else:
            config = read_config(args.config)
        journal, evaluation, chosen, config = _go_on(override(config, given), stored, args.resume)
    elif args.config is None:
        raise OptionError("expected a configuration to run, or --resume FOLDER")
    else:
        config = override(read_config(args.config), given)
        journal, evaluation, chosen, config = _begin(config, args.config)
    try:
        finished = _evaluate(journal, evaluation, chosen, config)
    finally:
        journal.close()
    if not finished:
        return INTERRUPTED
    path = journal.folder / "results.json"
    lines = [journal.lines[index] for index, _ in chosen]
    content = results.armory_results(lines, config, journal.started, journal.folder.name, results.versions())
    write_text(path, json.dumps(content, indent=4, sort_keys=True, allow_nan=False) + "\n")
    print(summarise(read_armory_results(path), where=str(path)))
    return 0


_Prepared = tuple[Journal, Evaluation, components.Chosen, Config]


def _begin(config: Config, source: str) -> _Prepared:
    evaluation, chosen, identity = _prepare(config)
    name = config["sysconfig"].get("output_filename") or ("stdin" if source == "-" else Path(source).stem)
    if Path(name).name != name:
        raise OptionError(f"sysconfig.output_filename: expected a plain name, found {name!r}")
    parent = Path(config["sysconfig"].get("output_dir") or OUTPUTS)
    return Journal.create(parent, name, identity), evaluation, chosen, config


def _go_on(config: Config, stored: dict[str, Any], folder: Path) -> _Prepared:
    evaluation, chosen, identity = _prepare(config)
    check_same(stored, identity, folder)
    return Journal.reopen(folder), evaluation, chosen, config


def _prepare(config: Config) -> tuple[Evaluation, components.Chosen, dict[str, Any]]:
    device, notes = components.choose_device(config)
    for note in (*_ignored(config), *notes):
        print(f"note: {note}", file=sys.stderr)
    chosen = _first_batches(components.load_dataset(config["dataset"]), config)
    components.initialise(config.get("user_init"))
    estimator = components.make_estimator(config, device)
    attack, targeter, block = None, None, config["attack"]
    if block is not None:  # made even where it is skipped: a configuration is right or refused
        attack = components.make_attack(config, estimator, _batch_seconds(config))
        targeter = components.make_targeter(block.get("targeted_labels"))
    sysconfig = config["sysconfig"]
    skip = sysconfig.get("skip_attack")
    evaluation = Evaluation(
        estimator,
        attack=None if skip else attack,
        targeter=None if skip else targeter,
        use_label=bool(block and block.get("use_label")),
        benign=not sysconfig.get("skip_benign"),
        by_keys=components.is_native(config),
        seed=run_seed(config),
    )
    return evaluation, chosen, identify(config, device, results.versions(), components.fingerprints(config))


def _evaluate(journal: Journal, evaluation: Evaluation, chosen: components.Chosen, config: Config) -> bool:
    """Evaluate what is not done yet. Returns whether it came to the end; otherwise says how to go on."""
    strangers = journal.lines.keys() - {index for index, _ in chosen}
    if strangers:
        raise OptionError(f"{journal.folder} has utterances that the configuration does not choose: {min(strangers)}")
    left = [entry for entry in chosen if entry[0] not in journal.lines]
    try:
        for batch in follow(evaluation.batches(left, _batch_seconds(config)), len(journal.lines)):
            journal.append(evaluation(batch))
    except BaseException as error:
        again = shlex.join(["armory-mdnf", "run", "--resume", str(journal.folder)])
        print(
            f"\nstopped after {len(journal.lines)} of {len(chosen)} utterances; go on with\n  {again}", file=sys.stderr
        )
        if isinstance(error, KeyboardInterrupt):
            return False
        if isinstance(error, Exception) and not isinstance(error, ArmoryMdnfError) and not evaluation.by_keys:
            raise OptionError(f"defense {component(config['defense'])} cannot be used: {error}") from error
        raise
    return True


def _first_batches(chosen: components.Chosen, config: Config) -> components.Chosen:
    """The first batches of the dataset's own size, as many as asked for; one in a check."""
    size = config["dataset"]["batch_size"]
    number = 1 if config["sysconfig"].get("check") else config["sysconfig"].get("num_eval_batches") or None
    available = -(-len(chosen) // size)
    if number is not None and number > available:
        raise OptionError(
            f"num_eval_batches: expected at most the {available} batches of {size} there are, got {number}"
        )
    return chosen if number is None else chosen[: number * size]


def _ignored(config: Config) -> list[str]:
    sysconfig = config["sysconfig"]
    notes = []
    if sysconfig["docker_image"]:
        notes.append(f"sysconfig.docker_image {sysconfig['docker_image']!r} is ignored: the run is on this machine")
    if sysconfig.get("check") and sysconfig.get("num_eval_batches"):
        notes.append("num_eval_batches is ignored: a check takes one batch")
    if sysconfig["gpus"] not in ("", "all") and sysconfig["use_gpu"]:
        notes.append(f"sysconfig.gpus {sysconfig['gpus']!r} is ignored: CUDA_VISIBLE_DEVICES chooses the GPU")
    return notes


def _batch_seconds(config: Config) -> float:
    return float(config["sysconfig"].get("batch_seconds", BATCH_SECONDS))


def _overrides(args: argparse.Namespace) -> Overrides:
    options = {field.name: getattr(args, field.name) for field in fields(Overrides) if field.name in vars(args)}
    options["index"] = None if args.index is None else parse_index(args.index)
    options["filepath"] = args.config
    return Overrides(**options)
