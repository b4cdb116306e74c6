"""A Ray cluster as the place of a sweep: batches of utterances go to its workers, everything is kept by this process.

What a worker needs is on its node: this package in the same version, weights and recordings at the same paths. What it
made of a configuration is compared with the plan before it computes, by checksums, so that another file is an error.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from armory_mdnf.errors import OptionError, ResultsError, cause
from armory_mdnf.files import provenance
from armory_mdnf.runner import machine
from armory_mdnf.runner.components import choose_device
from armory_mdnf.runner.config import Config
from armory_mdnf.runner.named import OURS, own_code
from armory_mdnf.runner.sweep_engine import RETRIES, SAME, Done, Task, perform
from armory_mdnf.runner.sweep_plan import Plan, plan

LOCAL = "local"  # as an address: Ray is started here, for this sweep alone
ADDRESS = "RAY_ADDRESS"
NEEDS = "--engine ray needs Ray: pip install 'armory-mdnf[ray]', on every node of the cluster"
BLAS_THREADS = "OPENBLAS_NUM_THREADS"
PATIENCE_S = 30.0  # between looks at whether there still are nodes for what waits


class Cluster:
    """A Ray cluster, which it joins.

    ``address``: :data:`LOCAL` starts one here; None is that of ``RAY_ADDRESS``, else the cluster of this machine.
    ``processes``: workers at once, None for as many as there is room for.
    Raises :class:`OptionError` where Ray is not installed, or no cluster answers.
    """

    def __init__(self, address: str | None, processes: int | None, threads: int) -> None:
        try:
            self._ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise OptionError(NEEDS) from error
        self.processes, self.threads = processes, threads
        self._kinds: set[str] = set()
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        # Ray leaves a worker's NumPy as many threads as it has cores, which the last bits of a norm hang on.
        options["runtime_env"] = {"env_vars": {BLAS_THREADS: _blas_threads()}}
        if address == LOCAL:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            cores = None if processes is None else processes * threads
            options |= {"address": LOCAL, "num_cpus": cores, "include_dashboard": False}
        else:
            options["address"] = address or os.environ.get(ADDRESS) or "auto"
        try:
            self._ray.init(**options)
        except Exception as error:  # Ray's own: ConnectionError, ValueError, RuntimeError and others
            raise OptionError(
                f"--engine ray: cannot join the cluster at {options['address']}: {cause(error)}; `ray start --head` "
                f"starts one, --address {LOCAL} starts Ray here for this sweep"
            ) from error

    def plan(self, config: Config) -> Plan:
        """As a worker makes it, on the device that it is to be computed on. Notes are printed here.

        Raises :class:`ResultsError` where the worker has other code than this process.
        """
        found, notes = self._wait(self._submit(planned, config, config, os.getcwd()))
        print(notes, end="", file=sys.stderr)
        own, made = ({"code": {OURS: code}} for code in (own_code(), found.identity["code"][OURS]))
        provenance.check_same(own, made, "the command, compared with a worker's plan,", SAME, error=ResultsError)
        return found

    def perform(self, task: Task) -> Done:
        return next(self.results(iter([task])))

    def choose(self, tasks: Sequence[Task], on_gpu: bool, memory: int) -> tuple[int, float]:
        """As many as there is room for; each has cores, or a GPU, of its own, and is as fast as one alone."""
        number = self.processes or self._room(on_gpu)
        return number, float(number)

    def start(self, processes: int) -> Cluster:
        """Itself; nodes that come later are taken too, where the number is not given."""
        return self

    def results(self, tasks: Iterator[Task]) -> Iterator[Done]:
        """As :meth:`armory_mdnf.runner.sweep_engine.Engine.results`.

        Raises :class:`ResultsError` for a task whose workers are lost again and again, or a cluster without nodes.
        """
        pending: dict[Any, Task] = {}
        tries: dict[Task, int] = {}
        again: list[Task] = []
        gpu = False  # whether the tasks so far need one, which tells how many there is room for
        while True:
            while len(pending) < (self.processes or max(1, self._room(gpu))):
                task = again.pop() if again else next(tasks, None)
                if task is None:
                    break
                config = json.loads(task.config)
                gpu = gpu or self._device(config) == "cuda"
                pending[self._submit(performed, config, task, os.getcwd())] = task
            if not pending:
                return
            finished, _ = self._ray.wait(list(pending), timeout=PATIENCE_S)
            if not finished and not self._room(gpu):
                raise ResultsError("the cluster has lost every node that a worker fits on")
            for reference in finished:
                task = pending.pop(reference)
                try:
                    done, kind = self._wait(reference)
                except self._ray.exceptions.RayError as error:  # the worker, its node, or what it had found
                    again.append(self._lost(task, tries, error))
                    continue
                self._tell_kind(kind)
                yield done

    def close(self) -> None:
        """Leave the cluster: what it still computes for this sweep ends. One that was started here is stopped."""
        self._ray.shutdown()

    def _submit(self, function: Any, config: Config, *args: Any) -> Any:
        on_gpu = self._device(config) == "cuda"
        if not self._room(on_gpu):
            raise OptionError(f"--engine ray: no node of the cluster has {self._need(on_gpu)}")
        # Retries are counted here: Ray would repeat for ever what dies of too little memory.
        options = {"num_cpus": self.threads, "num_gpus": int(on_gpu), "max_retries": 0}
        return self._ray.remote(function).options(**options).remote(*args)

    def _wait(self, reference: Any) -> Any:
        """What a worker returns; what it raises is raised here as it was there."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Exception):
                raise error.cause from error
            raise ResultsError(f"a worker of the cluster failed: {cause(error)}") from error

    def _lost(self, task: Task, tries: dict[Task, int], error: Exception) -> Task:
        tries[task] = tries.get(task, 0) + 1
        what = f"utterances {list(task.indices)} of cell {task.cell + 1}"
        if tries[task] > RETRIES:
            raise ResultsError(
                f"a worker was lost {tries[task]} times with {what}: {cause(error)}; too little memory?"
            ) from error
        print(f"a worker was lost with {what}, which are computed again: {type(error).__name__}", file=sys.stderr)
        return task

    def _room(self, on_gpu: bool) -> int:
        """How many workers fit on the nodes that are there."""
        total = 0
        for node in self._ray.nodes():
            if node["Alive"]:
                has = node["Resources"]
                fit = int(has.get("CPU", 0)) // self.threads
                total += min(fit, int(has.get("GPU", 0))) if on_gpu else fit
        return total

    def _device(self, config: Config) -> str:
        any_gpu = any(node["Alive"] and node["Resources"].get("GPU", 0) >= 1 for node in self._ray.nodes())
        return choose_device(config, any_gpu)[0]

    def _need(self, on_gpu: bool) -> str:
        return f"{self.threads} core{'s' if self.threads > 1 else ''}{' and a GPU' if on_gpu else ''}"

    def _tell_kind(self, kind: str) -> None:
        if self._kinds and kind not in self._kinds:
            kinds = " and ".join(sorted({*self._kinds, kind}))
            print(f"note: workers compute with {kinds}: last bits depend on which of them has a batch", file=sys.stderr)
        self._kinds.add(kind)


def _blas_threads() -> str:
    """How many threads NumPy has in this process, for a worker to have as many."""
    given = os.environ.get(BLAS_THREADS) or os.environ.get("OMP_NUM_THREADS")
    return given or str(machine.cores())


def planned(config: Config, folder: str) -> tuple[Plan, str]:
    """In a worker: the plan of a configuration, and the notes for the user."""
    _go_to(folder)
    with contextlib.redirect_stderr(io.StringIO()) as notes:
        return plan(config), notes.getvalue()


def performed(task: Task, folder: str) -> tuple[Done, str]:
    """In a worker: what becomes of a task, as :func:`perform` says, and by what kind of processor."""
    _go_to(folder)
    return perform(task), _kind(json.loads(task.config))


def _kind(config: Config) -> str:
    """What the last bits of a result hang on, beside the threads."""
    if choose_device(config)[0] == "cuda":
        return str(torch.cuda.get_device_name())
    return str(torch.backends.cpu.get_cpu_capability())


def _go_to(folder: str) -> None:
    """Relative paths of a configuration start where the sweep does; a node without that folder has none of them."""
    if os.path.isdir(folder):
        os.chdir(folder)
