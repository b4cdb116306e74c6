"""``armory-mdnf audit``: from a configuration to the findings."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from armory_mdnf import console
from armory_mdnf.audit import report
from armory_mdnf.audit.checks import CHECKS, Options, audit
from armory_mdnf.audit.findings import FAIL, TOGETHER, Finding, worst
from armory_mdnf.audit.names import FORMAT, NAMES
from armory_mdnf.audit.trials import EVALUATION, Plan, Trials
from armory_mdnf.data.selection import read_samples
from armory_mdnf.errors import ArmoryMdnfError, OptionError, choices, quoted, traced
from armory_mdnf.files.atomic import ensure_writable, storing, write_text
from armory_mdnf.files.strict_json import dumps, readable
from armory_mdnf.metrics.intervals import FEWEST
from armory_mdnf.options import check_option, count
from armory_mdnf.runner import components, results
from armory_mdnf.runner.command import batch_seconds
from armory_mdnf.runner.config import Config, read_config, within
from armory_mdnf.runner.evaluate import Evaluation, case_of, check_in_case, check_reference
from armory_mdnf.runner.named import files_of, theirs
from armory_mdnf.runner.neighbours import mixed
from armory_mdnf.runner.overrides import Overrides, override, run_seed

LEAST_UTTERANCES = 2  # an interval has to have something to draw from


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks for. Returns 0, or 1 if a check failed.

    Raises :class:`armory_mdnf.errors.ArmoryMdnfError` for bad input, :class:`OptionError` for a configuration without
    an untargeted PGD and for batches that the memory does not hold.
    """
    start = time.monotonic()
    for name, least in (("utterances", LEAST_UTTERANCES), ("iterations", 1), ("evaluation_draws", 1)):
        with within(f"--{name.replace('_', '-')}"):
            check_option(name, getattr(args, name), count(least))
    given, only = None if args.draws is None else parse_draws(args.draws), parse_checks(args.only)
    config = override(
        read_config(args.config), Overrides(seed=args.seed, device=args.device, batch_seconds=args.batch_seconds)
    )
    if args.output is not None:
        ensure_writable(args.output, unlike=[] if args.config == "-" else [args.config])
    device, notes = components.choose_device(config)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if config["attack"] is None:
        raise OptionError("attack: expected an attack to audit, found null")
    components.find_own_code(config)
    components.initialise(config.get("user_init"))
    chosen = components.load_dataset(config["dataset"])
    if len(chosen) < args.utterances:
        raise OptionError(
            f"--utterances: expected at most the {len(chosen)} of the configuration, got {args.utterances}"
        )
    case, chosen = case_of(utterance.transcript for _, utterance in chosen), chosen[: args.utterances]
    estimator = components.make_estimator(config, device)
    bound = batch_seconds(config)
    attack = components.make_attack(config, estimator, bound)
    with within("attack"):
        plan = Plan.of(attack, args.iterations)
    draws = default_draws(plan.draws) if given is None else given
    audio = [read_samples(utterance) for _, utterance in chosen]
    for _, utterance in chosen:
        with within(utterance.id):
            check_reference(estimator, utterance.transcript)
    findings: list[Finding] = []
    with _explained(bound, theirs(config), findings, len(only)):
        by_keys = components.draws_by_keys(estimator)
        Evaluation(estimator, None, by_keys=by_keys).refuse_global_draws((*chosen[0], audio[0]))
        if problem := mixed(estimator, audio, [utterance.transcript for _, utterance in chosen]):
            raise OptionError(problem)
        trials = Trials.of(
            estimator,
            audio,
            [utterance.transcript for _, utterance in chosen],
            [index for index, _ in chosen],
            plan,
            use_label=bool(config["attack"].get("use_label")),
            evaluation_draws=args.evaluation_draws,
            batch_seconds=bound,
            seed=run_seed(config) or 0,
        )
        texts = trials.transcribe(trials.batch.x, trials.keys(EVALUATION, 0))
    check_in_case(case, "transcript", texts)

    def tell(name: str) -> None:
        place = f"check {only.index(name) + 1} of {len(only)}"
        print(f"{time.monotonic() - start:.0f} s: {place}, {name}", file=sys.stderr, flush=True)

    name = "standard input" if args.config == "-" else readable(Path(args.config).name)
    about = {
        "format": FORMAT,
        "configuration": name,
        "config": _computed(config),
        "settings": {
            "utterances": [utterance.id for _, utterance in chosen],
            "iterations": plan.iterations,
            "iterations_asked": attack.max_iter,
            "draws": list(draws),
            "evaluation_draws": args.evaluation_draws,
            "confidence": TOGETHER,
            "checks": only,
            "device": device,
        },
        "versions": results.versions(),
        "fingerprints": files_of([estimator, *(estimator.preprocessing_defences or [])]),
    }
    few = f"\nWith fewer than {FEWEST} utterances (--utterances) a difference is a warning at most."
    print(
        f"Audit of {name}: {len(chosen)} utterances, {plan.iterations} of {attack.max_iter} iterations, "
        f"transcripts per utterance and attempt: {trials.evaluations}{few if len(chosen) < FEWEST else ''}\n",
        flush=True,
    )
    with _explained(bound, theirs(config), findings, len(only)):
        for finding in audit(trials, Options(draws, attack.max_iter), only, tell):
            findings.append(finding)
            print(report.block(NAMES.index(finding.check) + 1, finding) + "\n", flush=True)
            content = as_json(about, findings, time.monotonic() - start)
            if args.output is not None:  # after each check: an audit that is stopped has found what it has found
                with storing(lambda: f"{len(findings)} findings are printed"):
                    write_text(args.output, dumps(content, indent=1, sort_keys=True) + "\n")
    print(report.verdict(findings))
    if args.json:
        console.print_json(content)
    return int(any(finding.verdict == FAIL for finding in findings))


@contextmanager
def _explained(bound: float, whose: str, findings: Sequence[Finding], checks: int) -> Iterator[None]:
    """Say what to do where batches of ``bound`` seconds are too much, and which line fails of components of others."""
    try:
        yield
    except Exception as error:
        done = f"stopped after {len(findings)} of {checks} checks, whose findings are printed; " if findings else ""
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            raise OptionError(f"not enough memory; {done}try --batch-seconds X, less than {bound:g}") from error
        if whose and not isinstance(error, (ArmoryMdnfError, OSError)):
            raise OptionError(f"{done}{whose} cannot be used: {traced(error)}") from error
        raise


def as_json(about: dict[str, Any], findings: Sequence[Finding], seconds: float) -> dict[str, Any]:
    """What an audit's file holds after so many findings; ``about`` is what they are of."""
    return about | {
        "complete": len(findings) == len(about["settings"]["checks"]),
        "findings": [vars(finding) for finding in findings],
        "seconds": round(seconds),
        "verdict": worst([finding.verdict for finding in findings]),
    }


def default_draws(own: int) -> tuple[int, int]:
    """One, and as many as tell whether more than the configuration's ``own`` would gain: twice those, at least 5."""
    return 1, max(5, 2 * own)


def parse_draws(given: str) -> tuple[int, ...]:
    """``1,5,20`` as numbers, in order, each once. Raises :class:`OptionError` for anything else."""
    if not re.fullmatch(r"[1-9]\d{0,3}(,[1-9]\d{0,3})*", given, re.ASCII):
        raise OptionError(f"--draws: expected whole numbers from 1 to 9999 such as 1,5,20, got {quoted(given)}")
    return tuple(sorted({int(number) for number in given.split(",")}))


def parse_checks(given: str | None) -> list[str]:
    """Names of checks; all by default. Raises :class:`OptionError` for another one."""
    names = list(CHECKS) if given is None else given.split(",")
    for name in names:
        if name not in CHECKS:
            raise OptionError(f"--only: {choices(name, CHECKS, 'check')}")
    return [name for name in CHECKS if name in names]


def _computed(config: Config) -> Config:
    """What of a configuration decides the findings."""
    return {block: config[block] for block in ("attack", "dataset", "defense", "model", "user_init") if block in config}
