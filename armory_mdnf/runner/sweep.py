"""``armory-mdnf sweep``: many configurations, a folder each, of which nothing that is done is ever lost."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from armory_mdnf import console
from armory_mdnf.errors import OptionError, ResultsError, StorageError
from armory_mdnf.evaluation.records import LeftOut, read_json
from armory_mdnf.evaluation.summary import numbers
from armory_mdnf.files.atomic import ensure_writable_folder, storing, write_text
from armory_mdnf.files.locks import held
from armory_mdnf.files.run_folder import NATIVE, PARTIAL
from armory_mdnf.files.strict_json import dumps
from armory_mdnf.runner.command import INCOMPLETE, INTERRUPTED, keep, nothing, record_of, results_of, tell
from armory_mdnf.runner.journal import Journal, begun, check_same, read_run
from armory_mdnf.runner.lines import failed
from armory_mdnf.runner.machine import GIB
from armory_mdnf.runner.overrides import Overrides, parse_index
from armory_mdnf.runner.progress import clock
from armory_mdnf.runner.sweep_engine import Done, Task
from armory_mdnf.runner.sweep_places import place_of
from armory_mdnf.runner.sweep_plan import Cell, Cost, Place, cost, make_cell, names, parse_budget, probes

LOCAL = "local"
NOTHING, OUT_OF_TIME = 2, 4  # the first as of a `run` of which nothing could be processed
LOCK = "sweep.lock"
ASIDE = ".set_aside"  # hidden, so that `results_files` does not find what is in it


def sweep(args: argparse.Namespace) -> int:
    """Do what the command line asks for.

    Returns the exit code: 0, 2 where all of a cell's utterances failed, 3 if utterances are left out of the results, 4
    where the budget ended before the work, or 130 after Ctrl-C.
    Raises :class:`armory_mdnf.errors.ArmoryMdnfError` for bad input, and for a disk that is full.
    """
    start = time.monotonic()
    budget = None if args.budget is None else parse_budget(args.budget)
    for name, value in (("--processes", args.processes), ("--threads", args.threads)):
        if value is not None and value < 1:
            raise OptionError(f"{name}: expected a whole number >= 1, got {value}")
    folders = [args.output_dir / name for name in names(args.configs)]
    _refuse_existing(folders, args)
    place = place_of(args)
    try:
        return _sweep(args, place, folders, budget, start)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise OptionError(
            "not enough memory: fewer --processes take less, and so does a smaller --batch-seconds X, on which "
            "the last bits hang: it needs another --output-dir, or --resume --set-aside"
        ) from error
    finally:
        place.close()


def _sweep(args: argparse.Namespace, place: Place, folders: Sequence[Path], budget: float | None, start: float) -> int:
    cells: list[Cell] = []
    for path, folder in zip(args.configs, folders, strict=True):
        cells.append(_cell(path, folder.name, args, place, cells))
    if args.dry_run:
        estimate = _estimate(cells, _journals(cells, folders, args), place)
        if args.json:
            console.print_json(estimate.as_json())
        return 0
    ensure_writable_folder(args.output_dir)
    with held(args.output_dir / LOCK, ResultsError):
        journals = _journals(cells, folders, args)
        try:
            run = _Sweep(cells, journals, budget, start, args.strict, _again(args), place)
            code = run(_estimate(cells, journals, place))
            if args.json and code != INTERRUPTED:
                console.print_json({"cells": [_found(*pair) for pair in zip(cells, journals, strict=True)]})
            return code
        finally:
            for journal in journals:
                journal.close()


def _cell(path: str, name: str, args: argparse.Namespace, place: Place, before: Sequence[Cell]) -> Cell:
    index = None if args.index is None else parse_index(args.index)
    given = Overrides(
        num_eval_batches=args.num_eval_batches,
        index=index,
        seed=args.seed,
        device="cuda" if args.devices else args.device,
        batch_seconds=args.batch_seconds,
        filepath=path,
    )
    print(f"reading {path}", file=sys.stderr)
    return make_cell(path, name, given, args.threads, place.plan, before)


def _refuse_existing(folders: Sequence[Path], args: argparse.Namespace) -> None:
    there = [folder for folder in folders if begun(folder)]
    if there and not args.resume:
        raise OptionError(f"{there[0]} is there: --resume goes on with it; what is done is never overwritten")


def _journals(cells: Sequence[Cell], folders: Sequence[Path], args: argparse.Namespace) -> list[Journal]:
    """The journal of every cell, begun or gone on with; of a dry run, what it would be, and nothing is written.

    Raises :class:`ResultsError` for one of something else.
    """
    opened: list[Journal] = []
    try:
        for cell, folder in zip(cells, folders, strict=True):
            there = begun(folder)
            fits = there and _fits(cell, folder, args.set_aside)
            if args.dry_run:
                opened.append(Journal.look_at(folder) if fits else Journal(folder, 0))
            elif fits:
                opened.append(Journal.reopen(folder))
            else:
                if there:
                    _set_aside(folder)
                opened.append(Journal.create_in(folder, {**cell.identity, "changed": dict(cell.changed)}))
    except BaseException:
        for journal in opened:
            journal.close()
        raise
    return opened


def _set_aside(folder: Path) -> None:
    """Move a cell's folder to where whatever reads the results of its sweep passes it over."""
    place = folder.parent / ASIDE / f"{folder.name}.{time.strftime('%Y-%m-%dT%H%M%S')}"
    place.parent.mkdir(exist_ok=True)
    os.replace(folder, place)
    print(f"{folder.name}: what was there is now {place}", file=sys.stderr)


def _fits(cell: Cell, folder: Path, set_aside: bool) -> bool:
    """Whether a folder is of this very cell; otherwise it is to be set aside, or is refused."""
    try:
        check_same(read_run(folder), cell.identity, folder)
    except ResultsError as error:
        if not set_aside:
            advice = "begin in another --output-dir, or --set-aside moves the folder away and begins this cell anew"
            raise ResultsError(f"{error}; {advice}") from error
        return False
    return True


def _again(args: argparse.Namespace) -> str:
    """The command that goes on with this sweep: what changes it, but for `--set-aside`, which has been done."""
    words = ["armory-mdnf", "sweep", *args.configs, "--output-dir", str(args.output_dir), "--resume"]
    words += ["--engine", args.engine] if args.engine != LOCAL else []
    words += ["--strict"] if args.strict else []
    where = ("address", "devices", "device", "processes")
    for name in (*where, "index", "num_eval_batches", "seed", "batch_seconds", "budget"):
        if getattr(args, name) is not None:
            words += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    return shlex.join([*words, "--threads", str(args.threads)])


@dataclass(frozen=True)
class _Estimate:
    """What two timed utterances of each kind of cell tell: what all will take, with how many processes.

    ``speed`` is how much faster than one process they are; ``rows``: the utterances that are left of each cell, of how
    many, its iterations, and the seconds for it; ``memory`` in bytes.
    """

    costs: Mapping[str, Cost]
    processes: int
    speed: float
    memory: int
    rows: Sequence[Mapping[str, Any]]

    @property
    def seconds(self) -> float:
        """Of all cells."""
        return sum(row["seconds"] for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        how = {"processes": self.processes, "memory_gib": self.memory / GIB}
        return {"cells": list(self.rows), "seconds": self.seconds, **how}


def _found(cell: Cell, journal: Journal) -> dict[str, Any]:
    """What there is of a cell, for machines."""
    path = journal.folder / (NATIVE if _done(cell, journal) else PARTIAL)
    about = {"name": cell.name, "done": len(journal.indices), "of": len(cell.chosen)}
    return about | numbers(record_of(journal, cell, cell.changed), str(path) if path.exists() else None)


def _left(cell: Cell, journal: Journal) -> list[Task]:
    return [task for turn in range(len(cell.turns)) for task in cell.tasks(turn, journal.indices, 0)]


def _done(cell: Cell, journal: Journal) -> bool:
    return len(journal.indices) == len(cell.chosen)


def _estimate(cells: Sequence[Cell], journals: Sequence[Journal], place: Place) -> _Estimate:
    """Time two utterances of each kind of cell that is not done, and say what all will take."""
    costs: dict[str, Cost] = {}
    first: list[Task] = []
    for cell, journal in zip(cells, journals, strict=True):
        if cell.kind not in costs and _left(cell, journal) and (tries := probes(cell)):
            ready, *timed = [(place.perform(task), audio, steps) for task, audio, steps in tries]
            lines = [line for done, *_ in (ready, *timed) for line in done.lines]
            reasons = [line.reason for line in lines if isinstance(line, LeftOut)]
            if lines and len(reasons) == len(lines):
                tried = f"{cell.name}: none of the utterances that were tried can be used"
                print(f"note: {tried}: {reasons[0]}", file=sys.stderr)
            memory = max(done.memory for done, *_ in (ready, *timed))
            costs[cell.kind] = cost([(done.seconds, audio, steps) for done, audio, steps in timed], memory)
            first = first or [tries[0][0]]
    on_gpu = any(cell.identity["device"] == "cuda" for cell in cells)
    most = max((found.memory for found in costs.values()), default=0)
    chosen, speed = place.choose(first, on_gpu, most)
    rows: list[dict[str, Any]] = []
    for cell, journal in zip(cells, journals, strict=True):
        tasks = _left(cell, journal)
        audio = sum(_audio(cell, task) for task in tasks)
        seconds = costs[cell.kind].seconds(audio, cell.steps) / speed if tasks else 0.0
        left = sum(len(task.indices) for task in tasks)
        steps = f", {cell.steps} iterations" if cell.steps else ""
        print(f"{cell.name}: {left} of {len(cell.chosen)} utterances left{steps}, {clock(seconds)}", file=sys.stderr)
        about = {"name": cell.name, "left": left, "of": len(cell.chosen)}
        rows.append(about | {"iterations": cell.steps, "seconds": seconds})
    memory = most * (chosen + (chosen > 1))
    how = f"{chosen} process{'es' if chosen > 1 else ''}, about {memory / GIB:.1f} GiB of memory"
    estimate = _Estimate(costs, chosen, speed, memory, rows)
    print(f"all: {clock(estimate.seconds)} with {how}", file=sys.stderr)
    return estimate


def _audio(cell: Cell, task: Task) -> float:
    """Seconds of audio of a batch, padding included."""
    durations = {index: utterance.duration_s for index, utterance in cell.chosen}
    return len(task.indices) * max(durations[i] for i in task.indices)


class _Sweep:
    """The work itself: batches in turn, results kept as they come, until all is done or the time is over."""

    def __init__(
        self,
        cells: Sequence[Cell],
        journals: Sequence[Journal],
        budget: float | None,
        start: float,
        strict: bool,
        again: str,
        place: Place,
    ) -> None:
        self.cells, self.journals = cells, journals
        self.budget, self.start = budget, start
        self.strict, self.again, self.place = strict, again, place
        self.out_of_time = False
        self._spent = self._expected = 0.0  # of the batches so far, which corrects the estimates

    def __call__(self, estimate: _Estimate) -> int:
        self.costs, self.slower = estimate.costs, estimate.processes / estimate.speed
        self.processes, self._rest = estimate.processes, estimate.seconds * estimate.speed
        total = sum(len(cell.chosen) for cell in self.cells)
        running = self.place.start(estimate.processes)

        def safe() -> str:
            done = sum(len(journal.indices) for journal in self.journals)
            return f"stopped after {done} of {total} utterances, which are safe; go on with\n  {self.again}"

        try:
            with storing(safe):
                self._leave_out()
                self._store_complete(zip(self.cells, self.journals, strict=True))
                for done in running.results(self._tasks()):
                    self._keep(done)
        except KeyboardInterrupt:
            print(f"\n{safe()}", file=sys.stderr)
            with storing(safe):
                self._store_partial()
            return INTERRUPTED
        except StorageError:  # says it itself
            raise
        except BaseException:
            print(f"\n{safe()}", file=sys.stderr)
            raise
        finally:
            running.close()
        with storing(safe):
            self._store_partial()
        empty = [pair for pair in zip(self.cells, self.journals, strict=True) if _done(*pair) and not pair[1].lines]
        for cell, journal in empty:
            print(f"{cell.name}: {nothing(journal)}", file=sys.stderr)
        if self.out_of_time:
            print(f"the time is over: {safe()}", file=sys.stderr)
            return OUT_OF_TIME
        if empty:
            return NOTHING
        return INCOMPLETE if any(journal.failed for journal in self.journals) else 0

    def _tasks(self) -> Iterator[Task]:
        """The batches that are left: a turn of each cell, then the next; none that would not end within the budget."""
        for turn in range(max((len(cell.turns) for cell in self.cells), default=0)):
            for number, (cell, journal) in enumerate(zip(self.cells, self.journals, strict=True)):
                for task in cell.tasks(turn, journal.indices, number):
                    if self.budget is not None and time.monotonic() - self.start + self._time(task) > self.budget:
                        self.out_of_time = True
                        return
                    yield task

    def _time(self, task: Task) -> float:
        """Seconds that a batch will take: as estimated, times how wrong the estimates were so far."""
        return self._cost(task) * self._wrong

    @property
    def _wrong(self) -> float:
        """Seconds that a process took for each that was estimated."""
        return self._spent / self._expected if self._expected else self.slower

    def _time_left(self) -> float:
        """Seconds until all is done, or the budget is over."""
        work = max(0.0, self._rest) * self._wrong / self.processes
        return work if self.budget is None else min(work, max(0.0, self.budget - (time.monotonic() - self.start)))

    def _cost(self, task: Task) -> float:
        cell = self.cells[task.cell]
        return self.costs[cell.kind].seconds(_audio(cell, task), cell.steps)

    def _leave_out(self) -> None:
        """Keep what was wrong with utterances before anything was computed, and say again what was before this."""
        for cell, journal in zip(self.cells, self.journals, strict=True):
            for failure in journal.failed.values():
                tell(failure, self.strict)
            bad = [entry for entry in cell.chosen if entry[1].problem and entry[0] not in journal.indices]
            keep(journal, [failed(*entry, entry[1].problem) for entry in bad], self.strict)

    def _keep(self, done: Done) -> None:
        cell, journal = self.cells[done.task.cell], self.journals[done.task.cell]
        cost = self._cost(done.task)
        self._spent += done.seconds
        self._expected += cost
        self._rest -= cost
        # A batch of which a part was kept before it was computed whole: to the same bits.
        keep(journal, [line for line in done.lines if line.index not in journal.indices], self.strict)
        told = f"{cell.name}: {len(journal.indices)} of {len(cell.chosen)} utterances"
        times = f"{clock(time.monotonic() - self.start)} elapsed, {clock(self._time_left())} left in all"
        print(f"{told}, {times}", file=sys.stderr)
        if _done(cell, journal):
            self._store_complete([(cell, journal)])

    def _store_complete(self, pairs: Iterable[tuple[Cell, Journal]]) -> None:
        for cell, journal in pairs:
            if _done(cell, journal) and journal.lines:
                path = journal.folder / NATIVE
                if not _is_whole(path):
                    _store(path, cell, journal)
                (journal.folder / PARTIAL).unlink(missing_ok=True)

    def _store_partial(self) -> None:
        """What there is of the cells that are not done: results of the same form, that say so."""
        for cell, journal in zip(self.cells, self.journals, strict=True):
            if journal.lines and not _done(cell, journal):
                _store(journal.folder / PARTIAL, cell, journal)


def _is_whole(path: Path) -> bool:
    """Whether a file is there and has results; they are made of the journal, and can be made again."""
    try:
        return "results" in read_json(path)
    except ResultsError:
        return False


def _store(path: Path, cell: Cell, journal: Journal) -> None:
    content = results_of(journal, cell, cell.changed)
    write_text(path, dumps(content, indent=4, sort_keys=True) + "\n")
