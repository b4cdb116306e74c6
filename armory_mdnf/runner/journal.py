"""The folder of a run: what is run, the utterances that are done, and the results when all are.

``run.json`` says what is run, ``utterances.jsonl`` grows by a line per utterance, ``results.json`` comes last. A killed
run leaves the first two, from which it can go on.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from armory_mdnf.errors import ArmoryMdnfError, OptionError, ResultsError, quoted
from armory_mdnf.evaluation.records import LeftOut, Outcome
from armory_mdnf.files import provenance, strict_json
from armory_mdnf.files.atomic import write_text
from armory_mdnf.files.json_lines import append, finished, objects
from armory_mdnf.files.locks import lock
from armory_mdnf.files.provenance import made_of
from armory_mdnf.files.run_folder import ABOUT, LINES, RUNS
from armory_mdnf.runner.config import Config
from armory_mdnf.runner.lines import parse_line, to_line

FORMAT = f"{RUNS}3"
OLDER = {
    f"{RUNS}1": "what recordings the run is of",
    f"{RUNS}2": "which code of this package the run is by",
}
"""What earlier forms do not keep, without which nobody knows whether a run may go on."""
HALF = ".run.*.partial.json"  # what is left of a `run.json` whose writer was killed
# Where and how a run is written down, not what it finds. Which device it is on counts by itself.
INCIDENTAL = ("batch_seconds", "debug", "device", "filepath", "log_level", "no_docker", "output_dir", "output_filename")


class Journal:
    """The lines of one run on disk, in the order in which they were finished; one process at a time writes them."""

    def __init__(self, folder: Path, started: int) -> None:
        self.folder = folder
        self.started = started
        """Seconds since the epoch."""
        self.lines: dict[int, Outcome] = {}
        """What is done and on disk, by the utterance's position in its split."""
        self.failed: dict[int, LeftOut] = {}
        """What could not be done, likewise."""
        self._file: IO[bytes] | None = None

    @classmethod
    def create(cls, parent: Path, name: str, identity: Mapping[str, Any]) -> Journal:
        """Make the folder ``parent/name_TIME``, which never is one that exists. Raises :class:`OptionError`."""
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H%M%S", time.localtime(now))
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder = _fresh(parent, f"{name}_{stamp}")
            return cls._begin(folder, int(now), identity)
        except OSError as error:
            raise OptionError(f"cannot write results to {parent}: {error.strerror or error}") from error

    @classmethod
    def create_in(cls, folder: Path, identity: Mapping[str, Any]) -> Journal:
        """Make this very folder. Raises :class:`OptionError` if a run is begun there, or it cannot be written."""
        try:
            if begun(folder):
                raise OptionError(f"{folder} is there: what is in it is not overwritten")
            folder.mkdir(parents=True, exist_ok=True)
            for half in folder.glob(HALF):
                half.unlink()
            return cls._begin(folder, int(time.time()), identity)
        except OSError as error:
            raise OptionError(f"cannot write results to {folder}: {error.strerror or error}") from error

    @classmethod
    def _begin(cls, folder: Path, started: int, identity: Mapping[str, Any]) -> Journal:
        try:
            journal = cls(folder, started)
            content = {"format": FORMAT, "started": started, **identity}
            text = strict_json.dumps(content, indent=1, sort_keys=True, error=OptionError)
            write_text(folder / ABOUT, text + "\n")
            journal._open()
        except (ArmoryMdnfError, OSError):
            with contextlib.suppress(OSError):
                folder.rmdir()
            raise
        return journal

    @classmethod
    def reopen(cls, folder: Path) -> Journal:
        """Go on with a run: its finished lines are read, a half-written last one is dropped.

        Raises :class:`ResultsError` if the folder is not of a run, or its lines are damaged.
        """
        journal = cls(folder, int(read_run(folder)["started"]))
        try:
            journal._open()
            os.truncate(journal.path, journal._read())
        except OSError as error:
            journal.close()
            raise OptionError(f"cannot go on with {folder}: {journal.path.name}: {error.strerror or error}") from error
        except ResultsError:
            journal.close()
            raise
        return journal

    @classmethod
    def look_at(cls, folder: Path) -> Journal:
        """What there is of a run, of which nothing is changed. Raises :class:`ResultsError` as :meth:`reopen`."""
        journal = cls(folder, int(read_run(folder)["started"]))
        if journal.path.exists():  # a kill may have come before it
            journal._read()
        return journal

    @property
    def path(self) -> Path:
        """The file of the lines."""
        return self.folder / LINES

    @property
    def indices(self) -> set[int]:
        """Positions of the utterances that are done with."""
        return {*self.lines, *self.failed}

    def append(self, lines: Iterable[Outcome | LeftOut]) -> None:
        """Keep finished utterances, on disk when this returns.

        After an :class:`OSError`, such as that of a full disk, those are kept that are there whole.
        """
        assert self._file is not None
        for line in lines:
            append(self._file, to_line(line))
            self._keep(line)

    def close(self) -> None:
        """Let others write."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self) -> int:
        """Take the finished lines of the file. Returns how many bytes they have."""
        content = finished(self.path.read_bytes())
        for where, found in objects(content, self.path, ResultsError):
            line = parse_line(found, where)
            if line.index in self.indices:
                raise ResultsError(f"{where}: utterance {line.id} is there twice")
            self._keep(line)
        return len(content)

    def _keep(self, line: Outcome | LeftOut) -> None:
        assert line.index is not None  # every line has it
        if isinstance(line, LeftOut):
            self.failed[line.index] = line
        else:
            self.lines[line.index] = line

    def _open(self) -> None:
        self._file = self.path.open("ab", buffering=0)
        if not lock(self._file):
            self.close()
            raise ResultsError(f"{self.path} is being written by another run")


def begun(folder: Path) -> bool:
    """Whether there is anything that a run must not write over; a kill right at its beginning leaves nothing such."""
    return any(not path.match(HALF) for path in folder.iterdir()) if folder.is_dir() else folder.exists()


def read_run(folder: Path) -> dict[str, Any]:
    """What a run's folder says is run. Raises :class:`ResultsError` if it is not one."""
    path = folder / ABOUT
    try:
        content = strict_json.read_json(path, ResultsError)
    except ResultsError as error:
        raise ResultsError(f"{folder} is not the folder of a run: {error}") from error
    written = content.get("format") if isinstance(content, dict) else None
    for older, lacks in OLDER.items():
        if written == older:
            raise ResultsError(f"{path} is of an older version, which did not keep {lacks}: start a new run")
    if not isinstance(content, dict) or written != FORMAT:
        raise ResultsError(f"{path}: expected format {FORMAT!r}, found {quoted(content)}")
    for key, kind in (("armory_mdnf", str), ("config", dict), ("started", int), ("changed", dict), ("versions", dict)):
        if not isinstance(content.get(key), kind):
            raise ResultsError(f"{path}: expected {key} as {kind.__name__}, found {quoted(content.get(key))}")
    return content


def identify(
    config: Config,
    device: str,
    versions: Mapping[str, str],
    code: Mapping[str, str],
    weights: Mapping[str, str],
    recordings: Mapping[str, str],
) -> dict[str, Any]:
    """All that decides what a run finds: checksums of code and weights, and of recordings by their ids, among it."""
    return made_of(
        config=config,
        device=device,
        versions=dict(versions),
        code=dict(code),
        weights=dict(weights),
        recordings=dict(recordings),
    )


def check_same(stored: Mapping[str, Any], identity: Mapping[str, Any], folder: Path) -> None:
    """Raise :class:`ResultsError` naming the first difference between a stored run and the one that goes on with it."""
    before = {key: stored[key] for key in identity.keys() & stored.keys()}
    provenance.check_same(before, identity, folder, "start a new run", _incidental, ResultsError)


def _incidental(key: str) -> bool:
    # Metrics of tasks are computed from what is done.
    return key.startswith("config.metric.task") or key in {f"config.sysconfig.{name}" for name in INCIDENTAL}


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
