"""The ``armory-mdnf`` command: thin, everything it does is a function elsewhere."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from armory_mdnf import __version__, console
from armory_mdnf.errors import ArmoryMdnfError, OptionError, ResultsError, StorageError

EXIT_CODES = """exit codes:
  0    done
  1    a check that failed: `report-table --check`, `claims --check`, `data check`, `doctor`, `gate`,
       `audit`
  2    bad input, or a target that cannot be written; nothing more is done; `gate`: results that cannot be compared
  3    `run`, `evaluate`, `sweep` or `transcribe` came to its end, but utterances are left out; `report`: some cannot be
       heard
  4    `sweep` stopped whole when its budget was over, before all was done
  70   a fault of this program, told whole
  130  stopped by Ctrl-C
  141  the reader of the output is gone"""
BAD_INPUT, FAULT, INTERRUPTED, READER_GONE = 2, 70, 130, 141
SHOW_PROGRESS = ("transcribe", "defend", "attack", "evaluate", "run", "sweep", "audit", "report", "plot")
RECIPES = ("books", "corpus", "curve", "level", "recognizer", "resynthesis", "sensitivity", "vocoder")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    from armory_mdnf.audit.arguments import add_audit_command
    from armory_mdnf.checkpoints.command import add_checkpoint_command
    from armory_mdnf.commands import add_commands
    from armory_mdnf.data.check import add_data_command
    from armory_mdnf.evaluation.claims_command import add_claims_command
    from armory_mdnf.evaluation.gate_command import add_gate_commands
    from armory_mdnf.evaluation.measures import add_metrics_command

    parser = argparse.ArgumentParser(
        prog="armory-mdnf",
        description="Mel-domain defences for speech recognition.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="run a configuration of Armory's without Armory, in batches",
        **console.example(
            "armory-mdnf run scenario_configs/none_pgd_l2.json --check",
            "armory-mdnf run scenario_configs/mg_mdnf_pgd_l2.json --index '[:2]' --seed 1 --output-dir runs",
        ),
    )
    add_run_options(run)
    console.add_json(run)
    run.set_defaults(run=_run)

    two = "scenario_configs/none_pgd_l2_ours.json scenario_configs/rs_pgd_l2_ours.json"
    many = commands.add_parser(
        "sweep",
        help="run many configurations, so that nothing that is done is lost",
        **console.example(
            f"armory-mdnf sweep {two} --output-dir runs --dry-run",
            f"armory-mdnf sweep {two} --output-dir runs --budget 2h",
        ),
    )
    add_sweep_options(many)
    console.add_json(many)
    many.set_defaults(run=_sweep)

    summary = commands.add_parser(
        "summary",
        help="print what a run found",
        **console.example("armory-mdnf summary results.json --examples 1"),
    )
    summary.add_argument(
        "file",
        nargs="?",
        type=Path,
        help="results JSON, a record, or the folder of a run, stopped or not; Armory's newest results if left out",
    )
    summary.add_argument("--newer-than", type=Path, metavar="FILE", help="refuse results older than this file")
    summary.add_argument("--examples", type=int, default=3, metavar="N", help="utterances to show (default 3)")
    console.add_json(summary)
    summary.set_defaults(run=_summary)

    record = commands.add_parser(
        "record",
        help="keep what an `armory run` found as a small strict JSON file",
        **console.example("armory-mdnf record my_results/human/none_pgd_l2.json results.json --partial"),
    )
    record.add_argument("out", type=Path, help="file to write, named after the configuration: results/SPLIT/NAME.json")
    record.add_argument(
        "file",
        nargs="?",
        type=Path,
        help="Armory's results JSON, or the folder of a run, of which a stopped one has what was done (--partial); the "
        "newest results if left out",
    )
    record.add_argument("--newer-than", type=Path, metavar="FILE", help="refuse results older than this file")
    record.add_argument(
        "--partial",
        action="store_true",
        help="keep a run that is not the whole configuration too; the record and the table say in what it differs",
    )
    record.add_argument(
        "--add",
        nargs="+",
        action="extend",
        type=Path,
        default=[],
        metavar="RUN",
        help="join results, records or folders of the same configuration, seed, weights and device, other utterances",
    )
    record.add_argument(
        "--any-device",
        action="store_true",
        help="join those of another device too; the record names the utterances that were computed elsewhere",
    )
    console.add_json(record)
    record.set_defaults(run=_record)

    table = commands.add_parser(
        "report-table",
        help="print the table of recorded results, or write it in a README",
        **console.example("armory-mdnf report-table --results results"),
    )
    table.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER", help="(default: results)")
    where = table.add_mutually_exclusive_group()
    where.add_argument("--write", type=Path, metavar="FILE", help="replace the block between the markers of this file")
    where.add_argument("--check", type=Path, metavar="FILE", help="fail if the block of this file is out of date")
    text = "tables with intervals and differences of these results, as in docs/findings.md"
    kinds = table.add_mutually_exclusive_group()
    kinds.add_argument("--findings", action="store_true", help=text)
    kinds.add_argument("--headline", action="store_true", help="the README's short table of these results")
    console.add_json(table)
    table.set_defaults(run=_report_table)

    compare = commands.add_parser(
        "compare",
        help="two runs of the same attack on the same utterances, side by side",
        **console.example("armory-mdnf compare results/human/none_pgd_l2.json results/human/mg_mdnf_pgd_l2.json"),
    )
    for name in ("first", "second"):
        compare.add_argument(name, type=Path, help="Armory's results JSON, results.json of `run`, or a record")
    console.add_json(compare)
    compare.set_defaults(run=_compare)

    add_commands(commands, lambda words, about: _run(parser.parse_args(["run", *words]), about))
    add_gate_commands(commands)
    add_claims_command(commands)
    add_metrics_command(commands)
    add_audit_command(commands)
    add_checkpoint_command(commands)
    add_data_command(commands)
    for name in SHOW_PROGRESS:
        console.add_quiet(commands.choices[name])

    train = commands.add_parser(
        "train",
        help="run a training recipe; `train RECIPE --help` tells its options",
        **console.example("armory-mdnf train recognizer --help"),
    )
    train.add_argument("recipe", choices=RECIPES)
    train.add_argument("options", nargs=argparse.REMAINDER, help="options of the recipe")
    train.set_defaults(run=_train)
    return parser


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Options of ``armory-mdnf run``; those that Armory has mean what they mean there."""
    from armory_mdnf.runner.overrides import BATCH_SECONDS

    add = parser.add_argument
    add("config", nargs="?", metavar="CONFIG.json", help="configuration; - reads standard input")
    add("--num-eval-batches", type=int, metavar="N", help="only the first N batches of the dataset")
    add("--index", metavar="I", help="only these utterances of the split: 0,5 or a slice such as [2:9]")
    add("--check", action="store_true", help="one batch and one iteration, to see whether everything runs")
    add("--seed", type=int, metavar="S", help="seed of the run, its defence and its attack")
    add("--device", choices=("cpu", "cuda"), help="(default: what sysconfig.use_gpu says)")
    add("--batch-seconds", type=float, metavar="X", help=f"seconds of audio at once (default {BATCH_SECONDS:g})")
    add("--output-dir", metavar="FOLDER", help="where the run's new folder goes (default: outputs)")
    add("--resume", type=Path, metavar="FOLDER", help="go on with the run of this folder")
    add("--skip-attack", action="store_true", help="benign utterances only")
    add("--skip-benign", action="store_true", help="attacked utterances only")
    add("--strict", action="store_true", help="stop at an utterance that cannot be processed; else it is left out")


def add_sweep_options(parser: argparse.ArgumentParser) -> None:
    """Options of ``armory-mdnf sweep``; those that ``run`` has mean what they mean there."""
    from armory_mdnf.runner.overrides import BATCH_SECONDS

    add = parser.add_argument
    add("configs", nargs="+", metavar="CONFIG.json", help="configurations, in the order of their importance")
    add("--output-dir", type=Path, required=True, metavar="RUNS", help="a folder per configuration goes here")
    add("--resume", action="store_true", help="go on with what is in RUNS; the end is the same to the bit")
    add("--set-aside", action="store_true", help="with --resume: move away a cell's folder that is of something else")
    add("--budget", metavar="TIME", help="such as 2h or 90m: stop whole when it is over; each cell has some then")
    add("--dry-run", action="store_true", help="time two utterances of each kind, say what all will take, and stop")
    add("--engine", choices=("local", "ray"), default="local", help="where: here (default), or on a Ray cluster")
    add("--address", metavar="A", help="of the Ray cluster; local starts Ray here (default: RAY_ADDRESS, else auto)")
    add("--devices", metavar="D", help="GPUs of this machine, such as cuda:0,cuda:1: --processes on each")
    add("--processes", type=int, metavar="N", help="(default: as many as prove fastest; 1 on a GPU; on Ray all)")
    add("--threads", type=int, default=1, metavar="N", help="of each process; the last bits depend on it (default 1)")
    add("--num-eval-batches", type=int, metavar="N", help="only the first N batches of each dataset")
    add("--index", metavar="I", help="only these utterances of each split: 0,5 or a slice such as [2:9]")
    add("--seed", type=int, metavar="S", help="seed of the runs, their defences and attacks")
    add("--device", choices=("cpu", "cuda"), help="(default: what sysconfig.use_gpu says)")
    add("--batch-seconds", type=float, metavar="X", help=f"seconds of audio at once (default {BATCH_SECONDS:g})")
    add("--strict", action="store_true", help="stop at an utterance that cannot be processed; else it is left out")


def _sweep(args: argparse.Namespace) -> int:
    from armory_mdnf.runner.sweep import sweep

    return sweep(args)


def _run(args: argparse.Namespace, about: Mapping[str, Any] | None = None) -> int:
    from armory_mdnf.runner.command import run

    return run(args, about)


def _results_file(args: argparse.Namespace) -> Path:
    from armory_mdnf.evaluation.armory_results import newest_results, refuse_older

    since = args.newer_than.stat().st_mtime if args.newer_than else None
    if args.file is None:
        return newest_results(since)
    refuse_older(args.file, since)
    return args.file


def _summary(args: argparse.Namespace) -> int:
    from armory_mdnf.evaluation.summary import numbers, summarise

    if args.examples < 0:
        raise OptionError(f"--examples: expected a whole number >= 0, got {args.examples}")
    path = _results_file(args)
    run = _recorded(path)
    if args.json:
        console.print_json(numbers(run, str(path)))
    else:
        print(summarise(run, args.examples, str(path)))
    return 0


def _record(args: argparse.Namespace) -> int:
    from armory_mdnf.evaluation.cells import as_recorded
    from armory_mdnf.evaluation.joining import joined
    from armory_mdnf.evaluation.records import write_record
    from armory_mdnf.files.atomic import ensure_writable
    from armory_mdnf.files.run_folder import NATIVE

    results = _results_file(args)
    runs = {str(path): _recorded(path) for path in (results, *args.add)}
    run = joined(runs, args.any_device) if args.add else runs[str(results)]
    run = as_recorded(run, args.out.stem, args.partial)
    ensure_writable(args.out, unlike=[file for path in (results, *args.add) for file in (path, path / NATIVE)])
    write_record(args.out, run)
    if args.json:
        console.print_json({"results": str(results), "out": str(args.out), "utterances": len(run.outcomes)})
    return 0


def _recorded(path: Path) -> Any:
    """A file of results, a record, or the folder of a run: its results, else what it had done when it was stopped."""
    from armory_mdnf.evaluation.comparison import read_run
    from armory_mdnf.files.run_folder import NATIVE

    if not path.is_dir():
        return read_run(path)
    if (path / NATIVE).is_file():
        return read_run(path / NATIVE)
    from armory_mdnf.runner.stopped import read_stopped  # torch and ART, which nothing else here needs

    return read_stopped(path)


def _report_table(args: argparse.Namespace) -> int:
    from armory_mdnf.evaluation.tables import read_folder, replace_block, results_table
    from armory_mdnf.files.atomic import ensure_writable, write_text
    from armory_mdnf.files.texts import read_text

    if args.write:
        ensure_writable(args.write)
    if args.findings or args.headline:
        table = _findings(args.results, args.headline)
    else:
        table = results_table(read_folder(args.results))
    content: dict[str, Any] = {"results": str(args.results), "table": table}
    stale = False
    if args.check:
        text = read_text(args.check, "page with a table", ResultsError)
        stale = replace_block(text, table) != text
        content |= {"file": str(args.check), "up_to_date": not stale}
        if stale:
            print(f"the table in {args.check} is not that of {args.results}: run `make tables`", file=sys.stderr)
    elif args.write:
        text = read_text(args.write, "page with a table", ResultsError)
        write_text(args.write, replace_block(text, table))
        content |= {"out": str(args.write)}
    if args.json:
        console.print_json(content)
    elif not (args.check or args.write):
        print(table)
    return int(stale)


def _findings(folder: Path, short: bool) -> str:
    from armory_mdnf.evaluation.devices import read_devices
    from armory_mdnf.evaluation.findings import findings, headline, headline_rows
    from armory_mdnf.evaluation.noise_sensitivity import read_sensitivities
    from armory_mdnf.evaluation.tables import read_folder

    runs = read_folder(folder, whole=True)
    return headline(headline_rows(runs)) if short else findings(runs, read_sensitivities(), read_devices(folder))


def _compare(args: argparse.Namespace) -> int:
    from armory_mdnf.evaluation.comparison import print_comparison

    print_comparison(args.first, args.second, args.json)
    return 0


def _train(args: argparse.Namespace) -> int:
    return int(importlib.import_module(f"armory_mdnf.training.{args.recipe}").main(args.options) or 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit code, one of :data:`EXIT_CODES`."""
    try:
        console.prepare()
        return _command(argv)
    except KeyboardInterrupt:
        print("armory-mdnf: stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return READER_GONE
    except Exception as error:
        if not isinstance(error, (ArmoryMdnfError, OSError, UnicodeError)) and not _is_of_memory(error):
            traceback.print_exc()  # with Python's own 1 it would pass for a regression that `gate` found
            return FAULT
        console.say(f"armory-mdnf: error: {_sentence(error)}", sys.stderr)
        return BAD_INPUT


def _command(argv: Sequence[str] | None) -> int:
    try:
        args = build_parser().parse_args(argv)
        quiet = vars(args).get("quiet", False)
        code = console.quietly(lambda: _do(args)) if quiet else _do(args)
    except BaseException:
        with contextlib.suppress(OSError, StorageError):  # it is told what went wrong first
            _flush()
        raise
    _flush()
    return code


def _do(args: argparse.Namespace) -> int:
    # `--json FILE` of some commands is another option.
    with console.json_alone() if vars(args).get("json") is True else contextlib.nullcontext():
        return int(args.run(args))


def _flush() -> None:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        console.abandon_stdout()
        if isinstance(error, BrokenPipeError):
            raise
        raise StorageError(f"standard output: {error.strerror or error}") from error


def _is_of_memory(error: Exception) -> bool:
    """Whether memory ran out, a GPU's among it: torch, whose error that is, may not be imported."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _sentence(error: Exception) -> str:
    if _is_of_memory(error):
        return "not enough memory"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
