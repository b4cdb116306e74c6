"""``armory-mdnf report``: recorded runs as one page of HTML."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armory_mdnf import console
from armory_mdnf.commands import options
from armory_mdnf.errors import ArmoryMdnfError, OptionError, cause, quoted
from armory_mdnf.files.strict_json import readable

if TYPE_CHECKING:
    from armory_mdnf.report.runs import Placed

WORST = "worst"


def add_command(commands: Any) -> None:
    """Add the command to an argument parser's sub-commands."""
    parser = commands.add_parser(
        "report",
        help="make one page of HTML of recorded runs",
        description="Makes one page, which needs no network and nothing beside it, of any number of runs: records, "
        "Armory's results, those of `armory-mdnf run`, or folders that have them; and of what `armory-mdnf audit "
        "--output` found of their configurations.",
        **console.example(
            "armory-mdnf report results -o report.html",
            "armory-mdnf report results/human/mg_mdnf_pgd_l2.json -o report.html --audio 2 --utterances worst",
        ),
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE.html")
    parser.add_argument("--title", default="", metavar="TEXT", help="(default: the run's name, or a general one)")
    parser.add_argument(
        "--audio",
        type=int,
        default=0,
        metavar="N",
        help="players and spectrograms of the first N utterances of every attacked run, whose attacks are computed "
        "again (default 0)",
    )
    parser.add_argument(
        "--utterances",
        metavar="ID[,ID...]",
        help=f"which to hear, as the page names them; `{WORST}`: the N of --audio with the most errors under attack",
    )
    console.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make the page. Returns 3 if a run could not be computed again, which is told."""
    from armory_mdnf.evaluation.records import results_files
    from armory_mdnf.files.atomic import ensure_writable, write_text
    from armory_mdnf.report import audits, page, runs

    if args.audio < 0:
        raise OptionError(f"--audio: expected a whole number >= 0, got {args.audio}")
    if args.utterances == WORST and not args.audio:
        raise OptionError(f"--utterances {WORST}: expected --audio N, how many")
    if args.utterances not in (None, WORST) and args.audio:
        raise OptionError("--audio has no effect with --utterances ID: all that are named are heard")
    files, others = audits.split_paths(args.runs)
    found = results_files(others)
    ensure_writable(args.out, unlike=[*files, *found])
    if not others:
        raise OptionError(f"{args.runs[0]} has the findings of an audit: expected the runs that it is about too")
    with options.Progress(None, "runs") as progress:
        placed = runs.read_runs(found, progress.step_of)
    audited = audits.read_audits(files, placed)
    chosen = _chosen(placed, args.audio, args.utterances)
    heard, silent = _listen(placed, chosen) if any(chosen.values()) else ({}, [])
    write_text(args.out, page.render(placed, heard, readable(args.title), audited))
    size = args.out.stat().st_size
    if args.json:
        content = {"out": str(args.out), "runs": len(placed), "audits": len(audited), "bytes": size}
        console.print_json(content | {"without_sound": silent})
    else:
        print(f"{args.out}: {len(placed)} run{'s' * (len(placed) != 1)}, {size / 1e6:.1f} MB")
    return 3 if silent else 0


def _chosen(placed: Sequence[Placed], count: int, which: str | None) -> dict[str, list[int]]:
    """Places of the utterances to hear, by the path of their run. Raises :class:`OptionError` for unknown ids."""
    from armory_mdnf.report.runs import names_of
    from armory_mdnf.report.worst import worst_places

    attacked = {p.path: p.run for p in placed if p.attacked is not None}
    if which is None:
        return {path: list(range(len(run.outcomes)))[:count] for path, run in attacked.items()}
    if which == WORST:
        return {path: worst_places(run)[:count] for path, run in attacked.items()}
    wanted, named = which.split(","), {path: names_of(run) for path, run in attacked.items()}
    if unknown := [name for name in wanted if not any(name in names for names in named.values())]:
        raise OptionError(f"--utterances: no attacked run has {', '.join(map(quoted, unknown))}")
    return {path: [i for i, name in enumerate(names) if name in wanted] for path, names in named.items()}


def _listen(placed: Sequence[Placed], chosen: Mapping[str, list[int]]) -> tuple[dict[str, Any], list[str]]:
    """Signals by the path of a run, and the paths of those that could not be computed."""
    from armory_mdnf.report.listening import chosen_sounds, listen

    heard: dict[str, Any] = {}
    silent = []
    with options.Progress(sum(map(len, chosen.values())), "utterances") as progress:
        for p in placed:
            if places := chosen.get(p.path):
                try:
                    found = listen(p.run, places, progress.step)
                    heard[p.path] = chosen_sounds(found)
                    for file in (one.file for one in found if one.file):  # a list may name any file of this machine
                        console.say(f"on the page: {file}", sys.stderr)
                except (ArmoryMdnfError, OSError) as error:
                    console.say(f"without sound: {p.path}: {cause(error)}", sys.stderr)
                    silent.append(p.path)
    return heard, silent
