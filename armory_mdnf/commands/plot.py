"""``armory-mdnf plot``: error rates of recorded runs with their intervals, as a figure."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from armory_mdnf import console
from armory_mdnf.commands import options
from armory_mdnf.errors import OptionError, choices


def add_command(commands: Any) -> None:
    """Add the command to an argument parser's sub-commands."""
    parser = commands.add_parser(
        "plot",
        help="draw the error rates of recorded runs",
        description="Draws word error rates with their intervals per defence and threat, with the paper's beside them. "
        "Needs matplotlib, the extra `plot`.",
        **console.example(
            "armory-mdnf plot results -o wer.png",
            "armory-mdnf plot results --split human -o wer.svg",
            "armory-mdnf plot results --split human --curves -o curves.svg",
        ),
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="as for `report`")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help=".png, .svg or .pdf")
    parser.add_argument("--split", metavar="NAME", help="only the runs on this split")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--headline", action="store_true", help="the README's figure: what it says of results/")
    which.add_argument(
        "--curves",
        action="store_true",
        help="rates against eps, SNR, iterations and draws, where runs differ in one alone",
    )
    which.add_argument(
        "--sensitivity", action="store_true", help="no runs: how the bundled vocoders pass MDNF's noise on"
    )
    parser.add_argument("--title", default="", metavar="TEXT")
    console.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draw. Raises :class:`armory_mdnf.errors.ArmoryMdnfError` for bad input."""
    from armory_mdnf.evaluation.noise_sensitivity import read_sensitivities
    from armory_mdnf.evaluation.records import results_files
    from armory_mdnf.files.atomic import ensure_writable
    from armory_mdnf.report import charts, figure, runs

    if bool(args.runs) == args.sensitivity:
        raise OptionError("expected runs, or --sensitivity and no runs")
    figure.check_format(args.out)
    found = results_files(args.runs)
    ensure_writable(args.out, unlike=found)
    if args.sensitivity:
        drawn = read_sensitivities()
        figure.draw_sensitivities(args.out, drawn, args.title)
        _tell(args, "measurement", len(drawn))
        return 0
    with options.Progress(None, "runs") as progress:
        placed = runs.read_runs(found, progress.step_of)
    if args.split is not None:
        splits = {p.run.split for p in placed}
        if args.split not in splits:
            raise OptionError(choices(args.split, splits, "split of these runs"))
        placed = [p for p in placed if p.run.split == args.split]
    if args.curves:
        figure.draw_curves(args.out, charts.sweeps(placed), args.title)
    elif args.headline:
        figure.draw_headline(args.out, [p.run for p in placed], args.title)
    else:
        figure.draw(args.out, placed, args.title)
    _tell(args, "run", len(placed))
    return 0


def _tell(args: argparse.Namespace, of: str, count: int) -> None:
    if args.json:
        console.print_json({"out": str(args.out), f"{of}s": count})
    else:
        print(f"{args.out}: {count} {of}{'s' * (count != 1)}")
