"""What evaluates the batches of a sweep: this process, or several, of which one that dies is replaced."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import multiprocessing
import multiprocessing.queues
import os
import platform
import re
import resource
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from armory_mdnf.errors import OptionError, ResultsError, quoted
from armory_mdnf.evaluation.records import LeftOut, Outcome
from armory_mdnf.files.processes import end_with_parent
from armory_mdnf.files.provenance import check_same
from armory_mdnf.runner.command import prepare
from armory_mdnf.runner.evaluate import Evaluation
from armory_mdnf.runner.machine import KIB

KEPT = 8  # evaluations, with their networks, that a process keeps for the cells that come round again
RETRIES = 2  # for a batch whose process was killed
VISIBLE = "CUDA_VISIBLE_DEVICES"
SAME = "every node needs the same files and versions, from the plan to the end"


@dataclass(frozen=True)
class Task:
    """A batch of a cell: its configuration as text, positions of utterances in its split, and torch's threads.

    ``identity``, as text, is what the plan made of the configuration; None where it is only timed.
    """

    cell: int
    config: str
    indices: tuple[int, ...]
    threads: int
    identity: str | None = None


@dataclass(frozen=True)
class Done:
    """What became of a task, the seconds that it took, and the most bytes that its process ever held."""

    task: Task
    lines: list[Outcome | LeftOut]
    seconds: float
    memory: int


def text_of(config: Mapping[str, Any]) -> str:
    """A configuration, or an identity, as a task has it."""
    return json.dumps(config, sort_keys=True)


def perform(task: Task) -> Done:
    """Evaluate a batch in this process.

    Raises :class:`ResultsError` where it makes something else of the configuration than the plan did.
    """
    evaluation, chosen = _evaluation(task.config, task.identity)
    torch.set_num_threads(task.threads)  # whatever was made since set them to something else
    start = time.perf_counter()
    lines = evaluation([(index, chosen[index]) for index in task.indices])
    seconds = time.perf_counter() - start
    return Done(task, lines, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB)


@functools.lru_cache(maxsize=KEPT)
def _evaluation(config: str, identity: str | None) -> tuple[Evaluation, dict[int, Any]]:
    with contextlib.redirect_stderr(io.StringIO()):  # the plan has told the notes
        made = prepare(json.loads(config))
    if identity is not None:
        where = f"the plan, compared on node {platform.node()},"
        check_same(json.loads(identity), made.identity, where, SAME, error=ResultsError)
    return made.evaluation, dict(made.chosen)


class Engine(Protocol):
    """What performs tasks. One that it is lost with is performed again, to the same bits."""

    def results(self, tasks: Iterator[Task]) -> Iterator[Done]:
        """What becomes of the tasks, in any order, each taken when there is room for it."""

    def close(self) -> None:
        """End what performs, in the middle of what it does."""


class Here:
    """An engine that performs in this process."""

    def results(self, tasks: Iterator[Task]) -> Iterator[Done]:
        """What becomes of the tasks, each taken when there is room for it."""
        for task in tasks:
            yield perform(task)

    def close(self) -> None:
        """Nothing is left."""


class Processes:
    """An engine of several processes, so many on each of ``devices``, such as ``cuda:1``, where they are named."""

    def __init__(self, processes: int, devices: Sequence[str] = ()) -> None:
        self.processes = processes * max(1, len(devices))
        self._each = [visible(device, os.environ.get(VISIBLE)) for device in devices for _ in range(processes)]
        self._pool = self._new()
        self._pending: dict[Future[Done], Task] = {}

    def _new(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # a fork of a process whose torch has threads can hang
        seen = context.SimpleQueue()  # of which each process takes one
        for device in self._each:
            seen.put(device)
        given = (seen if self._each else None,)
        return ProcessPoolExecutor(self.processes, context, initializer=_begin, initargs=given)

    def results(self, tasks: Iterator[Task]) -> Iterator[Done]:
        """As :meth:`Here.results`. Raises :class:`ResultsError` for a task whose processes die again and again."""
        pending = self._pending = {}
        tries: dict[Task, int] = {}
        again: list[Task] = []
        while True:
            while len(pending) < self.processes:
                task = again.pop() if again else next(tasks, None)
                if task is None:
                    break
                try:
                    pending[self._pool.submit(perform, task)] = task
                except BrokenProcessPool:  # one died while none was waited for
                    again.append(task)
                    again += self._replace(pending, tries)
            if not pending:
                return
            finished, _ = wait(pending, return_when=FIRST_COMPLETED)
            broken = False
            for future in finished:
                if isinstance(future.exception(), BrokenProcessPool):
                    broken = True
                    continue
                del pending[future]
                yield future.result()
            if broken:
                again += self._replace(pending, tries)

    def _replace(self, pending: dict[Future[Done], Task], tries: dict[Task, int]) -> list[Task]:
        """Begin with new processes. Returns the tasks that the old ones had, of which one was its end."""
        lost = list(pending.values())
        pending.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._new()
        for task in lost:
            tries[task] = tries.get(task, 0) + 1
            if tries[task] > RETRIES:
                raise ResultsError(
                    f"a process died {tries[task]} times with utterances {list(task.indices)} of cell {task.cell + 1}: "
                    "too little memory? --processes takes fewer"
                )
        return lost

    def close(self) -> None:
        """End the processes, in the middle of what they do; with nothing to do they end by themselves, and tidy up."""
        busy = not all(future.done() for future in self._pending)
        for process in list((self._pool._processes or {}).values()) if busy else ():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        self._pool.shutdown(wait=True, cancel_futures=True)


def engine(processes: int, devices: Sequence[str] = ()) -> Here | Processes:
    """The engine of so many processes, on each of ``devices`` if there are any."""
    return Here() if processes == 1 and not devices else Processes(processes, devices)


def visible(device: str, inherited: str | None) -> str:
    """What ``CUDA_VISIBLE_DEVICES`` is for a process that is to see one device, ``cuda:N``, of those seen here.

    Raises :class:`OptionError` for what is no such device.
    """
    found = re.fullmatch(r"cuda:(\d{1,4})", device, re.ASCII)
    if not found:
        raise OptionError(f"--devices: expected devices such as cuda:0,cuda:1, got {quoted(device)}")
    seen = [name.strip() for name in inherited.split(",")] if inherited else None
    number = int(found[1])
    if seen is not None and number >= len(seen):
        raise OptionError(f"--devices: {device} is none of the {len(seen)} that {VISIBLE} leaves")
    return str(number) if seen is None else seen[number]


def _begin(seen: multiprocessing.queues.SimpleQueue[str] | None) -> None:
    """In a new process: Ctrl-C is the parent's, notes have been told, and nothing goes on without the parent.

    What components print is lost: standard output is for what the parent tells.
    ``seen``: what each process sees of the GPUs, which torch looks at when it first needs one.
    """
    if seen is not None:
        os.environ[VISIBLE] = seen.get()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 -- for as long as the process lives
    end_with_parent()


def measured(processes: int, tasks: Sequence[Task]) -> float:
    """Tasks a second that so many processes perform at once, each having performed one to get ready."""
    if processes == 1:
        return 1 / perform(tasks[0]).seconds
    running = Processes(processes)
    try:
        list(running.results(iter([tasks[0]] * processes)))
        return sum(1 / done.seconds for done in running.results(iter([tasks[0]] * processes)))
    finally:
        running.close()
