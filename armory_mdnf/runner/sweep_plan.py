"""What a sweep does: its cells, how their utterances are parted and in which order they come, and what it will cost."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from armory_mdnf.errors import OptionError, quoted
from armory_mdnf.files.run_folder import SWEEP
from armory_mdnf.files.strict_json import readable
from armory_mdnf.runner.command import Prepared, batch_seconds, changes, prepare
from armory_mdnf.runner.components import Chosen
from armory_mdnf.runner.config import Config, read_config
from armory_mdnf.runner.named import OURS, is_ours
from armory_mdnf.runner.overrides import ITERATIONS, Overrides, override
from armory_mdnf.runner.progress import audio_seconds
from armory_mdnf.runner.sweep_engine import Done, Engine, Task, text_of

MOST = 16
"""Utterances of a cell in a turn. The first turns have 1, 1, 2, 4 and 8, so that every cell has some soon."""
PROBES = (1, 3)
"""Iterations of the two timed utterances of a kind: two equations for what a step costs and what the rest does."""
STRENGTHS = (*ITERATIONS, "eps", "eps_step", "snr_db", "step_fraction", "learning_rate", "seed")
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


@dataclass(frozen=True)
class Cell:
    """A configuration of a sweep. ``turns``: its batches, several to a turn; they hang on nothing but the cell."""

    name: str
    config: Config
    changed: Mapping[str, Any]
    chosen: Chosen
    of: int
    identity: Mapping[str, Any]
    turns: list[list[Chosen]]
    threads: int

    @property
    def steps(self) -> int:
        """Iterations of its attack, 0 without one or where it names none."""
        attack = None if self.config["sysconfig"].get("skip_attack") else self.config["attack"]
        values = [attack["kwargs"].get(key) for key in ITERATIONS] if attack else []
        return next((v for v in values if isinstance(v, int) and v > 0), 0)  # others' may say it otherwise

    @property
    def kind(self) -> str:
        """What cells have in common that cost the same per step and second of audio."""
        attack = None if self.config["sysconfig"].get("skip_attack") else self.config["attack"]
        plain = attack and attack | {"kwargs": {k: v for k, v in attack["kwargs"].items() if k not in STRENGTHS}}
        return text_of({"model": self.config["model"], "defense": self.config["defense"], "attack": plain})

    @cached_property
    def _planned(self) -> str:
        return text_of({key: value for key, value in self.identity.items() if key != SWEEP})

    def tasks(self, turn: int, done: set[int], cell: int) -> Iterator[Task]:
        """The batches of a turn of which not all utterances are done, whole."""
        for batch in self.turns[turn] if turn < len(self.turns) else ():
            if not {index for index, _ in batch} <= done:
                indices = tuple(index for index, _ in batch)
                yield Task(cell, text_of(self.config), indices, self.threads, self._planned)


@dataclass(frozen=True)
class Plan:
    """What there is to evaluate of a configuration, of how many, what it is made of, and its turns of batches."""

    chosen: Chosen
    of: int
    identity: Mapping[str, Any]
    turns: list[list[Chosen]]


class Place(Protocol):
    """Where a sweep computes."""

    def plan(self, config: Config) -> Plan:
        """Make everything that a configuration names, once. Raises for what is not right in it."""

    def perform(self, task: Task) -> Done:
        """Perform a task that is timed, and wait for it."""

    def choose(self, tasks: Sequence[Task], on_gpu: bool, memory: int) -> tuple[int, float]:
        """How many processes to take, and how much faster than one they are.

        ``tasks``: one to find out with; ``memory``: bytes that a process held with such.
        """

    def start(self, processes: int) -> Engine:
        """Begin to compute with so many."""

    def close(self) -> None:
        """Leave the place as it was."""


def plan(config: Config) -> Plan:
    """The plan of a configuration, made in this process. Raises for what is not right in it."""
    prepared: Prepared = prepare(config)
    sound = [entry for entry in prepared.chosen if not entry[1].problem]
    parts = [prepared.evaluation.batches(turn, batch_seconds(config)) for turn in _turns(sound)]
    return Plan(prepared.chosen, prepared.of, prepared.identity, parts)


def make_cell(
    path: str,
    name: str,
    given: Overrides,
    threads: int,
    planned: Callable[[Config], Plan] = plan,
    before: Sequence[Cell] = (),
) -> Cell:
    """Read a configuration and make its plan, by ``planned``. Raises for what is not right in it.

    And for what cannot take turns in one process with the cells ``before``.
    """
    original = read_config(path)
    with_threads = copy.deepcopy(original)
    if with_threads.get("user_init") and "threads" in (with_threads["user_init"].get("kwargs") or {}):
        with_threads["user_init"]["kwargs"]["threads"] = threads
    config = override(with_threads, given)
    if before:
        _refuse_apart(before[0].config, config, before[0].name, path)
    found = planned(config)
    identity = {**found.identity, SWEEP: {"batch_seconds": batch_seconds(config), "threads": threads}}
    return Cell(name, config, changes(original, config), found.chosen, found.of, identity, found.turns, threads)


def _refuse_apart(first: Config, config: Config, name: str, path: str) -> None:
    """Raise :class:`OptionError` where a process that had both cells would compute one in the state of the other.

    A module is loaded once, and nobody knows how to undo a ``user_init`` that is not of this package.
    """
    keys = ["sysconfig.local_repo_path"]
    if not all(is_ours((each.get("user_init") or {}).get("module") or OURS) for each in (first, config)):
        keys.append("user_init")
    for key in keys:
        was, now = _at(first, key), _at(config, key)
        if was != now:
            raise OptionError(
                f"{path}: {key}: expected that of {name}, {quoted(was)}, found {quoted(now)}: cells of one sweep take "
                "turns in a process; sweep them apart"
            )


def _at(config: Config, key: str) -> Any:
    part, _, rest = key.partition(".")
    return config.get(part, {}).get(rest) if rest else config.get(part)


def _turns(chosen: Chosen) -> Iterator[Chosen]:
    first, size = 0, 1
    while first < len(chosen):
        yield chosen[first : first + size]
        first, size = first + size, min(MOST, max(1, first + size))


def names(paths: Sequence[str]) -> list[str]:
    """A name per configuration for its folder: that of the file, with its folder's before it where two are alike."""
    stems = [Path(path).stem for path in paths]
    pairs = zip(paths, stems, strict=True)
    found = [s if stems.count(s) == 1 else f"{Path(p).resolve().parent.name}_{s}" for p, s in pairs]
    for name in found:
        if name.startswith("."):
            raise OptionError(f"{quoted(name)}: a folder of that name is hidden, and what reads results passes it over")
        if found.count(name) > 1:
            raise OptionError(f"{quoted(name)} is there twice: a sweep has a folder per configuration")
    return [readable(name) for name in found]


def parse_budget(text: str) -> float:
    """``--budget``, such as 2h, 1h30m or 45s, in seconds. Raises :class:`OptionError`."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not 0 < seconds < math.inf:
        raise OptionError(f"--budget: expected a time such as 2h, 1h30m or 45s, got {quoted(text)}")
    return seconds


@dataclass(frozen=True)
class Cost:
    """What a kind of cell costs: seconds per second of audio, apart from the attack's steps and for each of them."""

    plain: float
    step: float
    memory: int

    def seconds(self, audio_s: float, steps: int) -> float:
        """Time of so much audio under an attack of so many steps."""
        return audio_s * (self.plain + self.step * steps)


def probes(cell: Cell) -> list[tuple[Task, float, int]]:
    """Three runs of two utterances, the shortest: to get ready, and two to be timed; with audio and iterations."""
    sound = sorted((e for e in cell.chosen if not e[1].problem), key=lambda entry: entry[1].duration_s)[:2]
    if not sound:
        return []
    found = []
    for entry, steps in zip((sound[0], sound[0], sound[-1]), (PROBES[0], *PROBES), strict=True):
        config = json.loads(text_of(cell.config))
        kwargs = config["attack"]["kwargs"] if config["attack"] else {}
        kwargs |= {key: steps for key in ITERATIONS if kwargs.get(key)}
        task = Task(0, text_of(config), (entry[0],), cell.threads)
        found.append((task, audio_seconds([entry]), steps if cell.steps else 0))
    return found


def cost(timed: Sequence[tuple[float, float, int]], memory: int) -> Cost:
    """The cost that two timed utterances show: seconds, audio and iterations of each."""
    (t_a, audio_a, steps_a), (t_b, audio_b, steps_b) = timed
    rate_a, rate_b = t_a / audio_a, t_b / audio_b
    step = max(0.0, (rate_b - rate_a) / (steps_b - steps_a)) if steps_b != steps_a else 0.0
    plain = max(0.0, rate_a - step * steps_a) if steps_b != steps_a else (rate_a + rate_b) / 2
    return Cost(plain, step, memory)
