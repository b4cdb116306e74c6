"""Where a sweep computes: on this machine, or on a cluster."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

from armory_mdnf.errors import OptionError
from armory_mdnf.runner.config import Config
from armory_mdnf.runner.machine import GIB, cores, free_memory
from armory_mdnf.runner.sweep_engine import Done, Engine, Task, engine, measured, perform, visible
from armory_mdnf.runner.sweep_plan import Place, Plan, plan


def place_of(args: argparse.Namespace) -> Place:
    """The place that a command line asks for. Raises :class:`OptionError`."""
    if args.engine != "ray":
        if args.address is not None:
            raise OptionError("--address is of a Ray cluster: it needs --engine ray")
        return Local(args.processes, _devices(args))
    if args.devices is not None:
        raise OptionError("--devices has no effect with --engine ray, which gives each worker a GPU of its own")
    from armory_mdnf.runner.sweep_ray import Cluster

    return Cluster(args.address, args.processes, args.threads)


def _devices(args: argparse.Namespace) -> list[str]:
    """The GPUs of ``--devices``, each there once and there at all."""
    if args.devices is None:
        return []
    if args.device == "cpu":
        raise OptionError("--devices are GPUs: expected no --device cpu")
    found = args.devices.split(",")
    for device in found:
        visible(device, None)
        if found.count(device) > 1:
            raise OptionError(f"--devices: {device} is there twice; --processes is their number on each")
        if int(device.removeprefix("cuda:")) >= torch.cuda.device_count():
            raise OptionError(f"--devices: torch finds no {device} here, but {torch.cuda.device_count()} CUDA devices")
    return found


class Local:
    """This machine: this process, or several, on each of ``devices`` if there are any."""

    def __init__(self, processes: int | None, devices: Sequence[str] = ()) -> None:
        self.processes, self.devices = processes, devices

    def plan(self, config: Config) -> Plan:
        return plan(config)

    def perform(self, task: Task) -> Done:
        return perform(task)

    def choose(self, tasks: Sequence[Task], on_gpu: bool, memory: int) -> tuple[int, float]:
        """Timed on a CPU; on GPUs as many times faster as there are: what processes on one share is not known."""
        if self.devices:
            total = (self.processes or 1) * len(self.devices)
            return total, float(len(self.devices))
        others = {self.processes} if self.processes else set() if on_gpu else _others(memory)
        tried = sorted({1, *others}) if tasks and others - {1} else []
        speeds = {number: measured(number, tasks) for number in tried}
        chosen = self.processes or max(speeds, key=lambda number: speeds[number], default=1)
        return chosen, speeds[chosen] / speeds[1] if speeds else 1.0

    def start(self, processes: int) -> Engine:
        return engine(processes // max(1, len(self.devices)), self.devices)

    def close(self) -> None:
        """There is nothing to leave."""


def _others(memory: int) -> set[int]:
    """Numbers of processes that may be faster than one: doubled up to one per core, as far as the memory goes."""
    most, room = cores(), free_memory()
    numbers = {*(1 << n for n in range(1, most.bit_length())), most} - {1}
    fitting = {number for number in numbers if number * memory <= room}
    if too_many := numbers - fitting:
        need, free = (f"{size / GIB:.1f} GiB" for size in (min(too_many) * memory, room))
        told = f"{min(too_many)} processes would hold {need} of memory, of which {free} are free"
        print(f"note: {told}: not tried", file=sys.stderr)
    return fitting
