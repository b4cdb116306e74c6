"""The folder of a run: what is run, the utterances that are done, and the results when all are.

``run.json`` says what is run, ``utterances.jsonl`` grows by a line an utterance, ``results.json`` comes last. A killed
run leaves the first two, from which it can go on.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from armory_mdnf.atomic import write_text
from armory_mdnf.errors import OptionError, ResultsError
from armory_mdnf.runner.config import Config
from armory_mdnf.runner.lines import Line, parse_line

FORMAT = "armory_mdnf_run/1"
# Where and how a run is written down, not what it finds. Which device it is on counts by itself.
INCIDENTAL = ("batch_seconds", "debug", "device", "filepath", "log_level", "no_docker", "output_dir", "output_filename")


class Journal:
    """The lines of one run on disk, in the order in which they were finished; one process at a time writes them."""

    def __init__(self, folder: Path, started: int) -> None:
        self.folder = folder
        self.started = started
        """Seconds since the epoch."""
        self.lines: dict[int, Line] = {}
        """What is done, by the utterance's position in its split."""
        self._file: IO[str] | None = None

    @classmethod
    def create(cls, parent: Path, name: str, identity: Mapping[str, Any]) -> Journal:
        """Make the folder ``parent/name_TIME``, which never is one that exists. Raises :class:`OptionError`."""
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H%M%S", time.localtime(now))
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder = _fresh(parent, f"{name}_{stamp}")
            journal = cls(folder, int(now))
            content = {"format": FORMAT, "started": journal.started, **identity}
            write_text(folder / "run.json", json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
            journal._open()
        except OSError as error:
            raise OptionError(f"cannot write results to {parent}: {error}") from error
        return journal

    @classmethod
    def reopen(cls, folder: Path) -> Journal:
        """Go on with a run: its finished lines are read, a half-written last one is dropped.

        Raises :class:`ResultsError` if the folder is not of a run, or its lines are damaged.
        """
        journal = cls(folder, int(read_run(folder)["started"]))
        journal._open()
        path = folder / "utterances.jsonl"
        content = path.read_bytes()
        size = content.rfind(b"\n") + 1
        for number, text in enumerate(content[:size].splitlines(), 1):
            line = parse_line(text.decode("utf-8", errors="replace"), f"{path}, line {number}")
            if line.index in journal.lines:
                raise ResultsError(f"{path}, line {number}: utterance {line.index} is there twice")
            journal.lines[line.index] = line
        os.truncate(path, size)
        return journal

    def append(self, lines: Iterable[Line]) -> None:
        """Keep finished utterances, on disk when this returns."""
        assert self._file is not None
        for line in lines:
            self.lines[line.index] = line
            self._file.write(line.to_json() + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let others write."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        path = self.folder / "utterances.jsonl"
        self._file = path.open("a", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise ResultsError(f"{path} is being written by another run") from None


def read_run(folder: Path) -> dict[str, Any]:
    """What a run's folder says is run. Raises :class:`ResultsError` if it is not one."""
    path = folder / "run.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultsError(f"{folder} is not the folder of a run: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ResultsError(f"{path}: expected format {FORMAT!r}, found {str(content)[:60]}")
    if not isinstance(content.get("config"), dict) or not isinstance(content.get("started"), int):
        raise ResultsError(f"{path}: expected a configuration and the time of the start, found {', '.join(content)}")
    return content


def identify(config: Config, device: str, versions: Mapping[str, str], weights: Mapping[str, str]) -> dict[str, Any]:
    """All that decides what a run finds."""
    return {"config": config, "device": device, "versions": dict(versions), "weights": dict(weights)}


def check_same(stored: Mapping[str, Any], identity: Mapping[str, Any], folder: Path) -> None:
    """Raise :class:`ResultsError` naming the first difference between a stored run and the one that goes on with it."""
    parts = ("config", "device", "versions", "weights")
    before, now = (dict(_leaves({k: source.get(k) for k in parts})) for source in (stored, identity))
    for key in sorted(before.keys() | now.keys()):
        if key.startswith(tuple(f"config.sysconfig.{name}" for name in INCIDENTAL)):
            continue
        if before.get(key) != now.get(key):
            raise ResultsError(
                f"{folder} is of another run: {key} was {before.get(key)!r} there, is {now.get(key)!r} now; "
                "start a new one"
            )


def _leaves(value: Any, at: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{at}.{key}" if at else str(key))
    else:
        yield at, value


def _fresh(parent: Path, name: str) -> Path:
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}_{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder
