"""``armory-mdnf gate`` and ``armory-mdnf baseline``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from armory_mdnf import console
from armory_mdnf.errors import OptionError, ResultsError

STATISTICAL = "statistical"


def add_gate_commands(commands: Any) -> None:
    """Add the two commands to an argument parser's sub-commands."""
    gate = commands.add_parser(
        "gate",
        help="hold results against a baseline: exit 0 passed, 1 worse, 2 not comparable",
        **console.example("armory-mdnf gate results/human --baseline baselines/bundled.json --junit gate.xml"),
    )
    _add_results(gate)
    gate.add_argument("--baseline", type=Path, required=True, metavar="FILE", help="what `armory-mdnf baseline` wrote")
    gate.add_argument(
        "--tolerance",
        default=STATISTICAL,
        metavar="T",
        help="points of word error rate that pass, or `statistical` (default): what the paired difference, drawn again "
        "from the utterances, cannot tell from none",
    )
    gate.add_argument("--snr-tolerance", type=float, metavar="DB", help="of the attack's mean SNR (default 0.5)")
    gate.add_argument("--any-change", action="store_true", help="what moved for the better fails too")
    gate.add_argument("--common", action="store_true", help="compare the utterances that both have, where they differ")
    gate.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML for a CI server")
    gate.add_argument("--json", type=Path, metavar="FILE", help="write what was found as JSON")
    gate.set_defaults(run=_gate)

    baseline = commands.add_parser(
        "baseline",
        help="write a baseline of results: the only way in which one changes",
        **console.example("armory-mdnf baseline mine.json results/human --source 'our model, today'"),
    )
    baseline.add_argument("file", type=Path, help="file to write")
    _add_results(baseline)
    baseline.add_argument("--source", metavar="TEXT", help="where the numbers come from (default: the paths given)")
    baseline.add_argument("--keep", action="store_true", help="keep the file's other cells")
    baseline.set_defaults(run=_baseline)


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results",
        nargs="+",
        type=Path,
        metavar="RESULTS",
        help="Armory's results JSON, results.json of `run`, a record, or a folder of such files",
    )


def _gate(args: argparse.Namespace) -> int:
    from armory_mdnf.evaluation.baselines import read_baseline
    from armory_mdnf.evaluation.gate import SNR_TOLERANCE_DB, Options, gate
    from armory_mdnf.evaluation.gate_files import find_files, read_cells
    from armory_mdnf.evaluation.gate_reports import as_json, junit, text
    from armory_mdnf.files import strict_json
    from armory_mdnf.files.atomic import ensure_all_writable, write_text

    points = None if args.tolerance == STATISTICAL else _size(args.tolerance, "--tolerance", " or `statistical`")
    snr_db = SNR_TOLERANCE_DB if args.snr_tolerance is None else _size(args.snr_tolerance, "--snr-tolerance")
    files, absent = find_files(args.results, parts=args.common)
    ensure_all_writable([args.junit, args.json], unlike=[*files, args.baseline])
    baseline = read_baseline(args.baseline)
    cells, unread = read_cells(files)
    report = gate(cells, baseline, Options(points, snr_db, args.any_change, args.common), [*absent, *unread])
    if args.junit:
        write_text(args.junit, junit(report))
    if args.json:
        write_text(args.json, strict_json.dumps(as_json(report), indent=1) + "\n")
    print(text(report), end="")
    return report.code


def _baseline(args: argparse.Namespace) -> int:
    from armory_mdnf.evaluation.records import results_files
    from armory_mdnf.files.atomic import ensure_writable
    from armory_mdnf.files.locks import alone_in

    given = results_files(args.results)
    ensure_writable(args.file, unlike=given)
    folder = args.file.resolve().parent
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder, ResultsError):  # two that --keep would each lose the other's cells
        return _write(args, given)


def _write(args: argparse.Namespace, given: Sequence[Path]) -> int:
    from armory_mdnf.evaluation.baselines import Baseline, changes, read_baseline, write_baseline
    from armory_mdnf.evaluation.gate_files import read_cell
    from armory_mdnf.files.strict_json import readable

    before = read_baseline(args.file) if args.file.exists() else None
    cells = dict(before.cells) if before and args.keep else {}
    files: dict[str, Path] = {}
    for path in given:
        cell = read_cell(path)
        if not cell.values:
            raise ResultsError(f"{path}: no reference has a word")
        same = [n for n, other in cells.items() if other.identity == cell.identity]
        for name in {cell.name, *same} & files.keys():
            raise ResultsError(f"{path} and {files[name]} are of the same configuration: expected one of them")
        for name in same:
            del cells[name]
        if cell.name in cells:
            other = "the baseline has" if cell.name not in files else f"{files[cell.name]} is"
            raise ResultsError(f"{path}: {other} another configuration as {cell.name}: expected a name of its own")
        cells[cell.name], files[cell.name] = cell, path
    source = args.source or " ".join(str(path) for path in args.results)
    after = Baseline(readable(args.file.stem), readable(source), cells)
    write_baseline(args.file, after)
    for line in changes(before, read_baseline(args.file)):
        console.say(line)
    print(f"{args.file}: {len(cells)} cells")
    return 0


def _size(value: Any, name: str, other: str = "") -> float:
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise OptionError(f"{name}: expected a number >= 0{other}, got {value!r}")
    return found
