"""The stored state of a training: a checkpoint that knows what it was made of, a folder, or partial results."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from armory_mdnf.defenses.curves import curve_file
from armory_mdnf.errors import BundleError, quoted
from armory_mdnf.files.atomic import replacing, write_text
from armory_mdnf.files.json_lines import append, finished, objects
from armory_mdnf.files.locks import alone_in, lock
from armory_mdnf.files.provenance import check_same, sha256_of
from armory_mdnf.files.strict_json import dumps, loads, read_json
from armory_mdnf.options import Kind

MADE_OF = "made_of"
FLAT = "flat"
AGAIN = "delete it to begin again"
OTHERWISE = f"begin in a new folder, or {AGAIN}"
"""Advice for a checkpoint that is damaged, and for one of another training."""


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically. Raises ``OSError`` if it cannot be written."""
    with replacing(path) as partial:
        try:
            torch.save(dict(state), partial)
        except RuntimeError as error:  # what torch raises on a full disk says nothing of it
            raise OSError(f"{path} could not be written (is the disk full?)") from error


def load_state(
    path: Path,
    kinds: Mapping[str, type],
    made_of: Mapping[str, Any],
    device: str = "cpu",
    incidental: Callable[[str], bool] = lambda key: False,
) -> dict:
    """Read the checkpoint of the training that ``made_of`` describes; ``kinds`` are the types of its entries.

    ``incidental`` says which parts of ``made_of``, by dotted key, may differ.

    Raises :class:`BundleError` if it is damaged, of another training, or does not say of which it is.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # the readers of pickles raise what they like at damaged ones
        raise BundleError(f"{path} is not a readable checkpoint (truncated or corrupt?); {AGAIN}") from error
    if not isinstance(state, dict) or not isinstance(state.get(MADE_OF), str):
        raise BundleError(f"{path} does not say what it was made of, so that nothing can go on with it; {AGAIN}")
    for key, kind in kinds.items():
        if not isinstance(state.get(key), kind):
            found = quoted(state[key]) if key in state else "nothing"
            raise BundleError(f"{path}: expected {key!r} of type {kind.__name__}, found {found}; {AGAIN}")
    stored = loads(state[MADE_OF], f"{path}: {MADE_OF!r}")
    if not isinstance(stored, dict):
        raise BundleError(f"{path}: expected {MADE_OF!r} to be an object, found {quoted(stored)}; {AGAIN}")
    check_same(stored, made_of, path, OTHERWISE, incidental)
    return state


def fill_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], checkpoint: Path) -> None:
    """Give an optimizer its stored state. Raises :class:`BundleError` if it is of another one."""
    try:
        optimizer.load_state_dict(state)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{checkpoint}: its optimizer's state does not fit: {error}; {AGAIN}") from error


def cut_log(path: Path, step: int) -> None:
    """Leave in a log what was said up to a step: the training writes again what came after its checkpoint."""
    if path.exists():
        lines = finished(path.read_bytes()).decode("utf-8", "replace").splitlines(keepends=True)
        write_text(path, "".join(line for line in lines if _is_up_to(line, step)))


def _is_up_to(line: str, step: int) -> bool:
    try:
        return json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):  # no line of ours
        return False


def after_failure(checkpoint: Path) -> str:
    """What is safe when a training stops, and how to go on."""
    if not checkpoint.exists():
        return "no checkpoint was written yet; start the same command again"
    return f"{checkpoint} is safe; start the same command again to go on from there"


@contextmanager
def claimed(folder: Path, made_of: Mapping[str, Any], pattern: str, advice: str) -> Iterator[None]:
    """Keep a folder for what is made of ``made_of``, and other commands out of it for as long as the block takes.

    Raises :class:`BundleError` if another command has it, if its files were made of something else, or if some of
    ``pattern`` are there and nothing says of what.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder, BundleError):
        _claim(folder, made_of, pattern, advice)
        yield


def _claim(folder: Path, made_of: Mapping[str, Any], pattern: str, advice: str) -> None:
    """Say in ``made_of.json`` what the files of a folder are made of, or see that it says the same already."""
    path = folder / f"{MADE_OF}.json"
    if not any(folder.glob(pattern)):  # nothing was made yet
        write_text(path, dumps(made_of, indent=1) + "\n")
    elif path.exists():
        stored = read_json(path)
        if not isinstance(stored, dict):
            raise BundleError(f"{path}: expected an object, found {quoted(stored)}; {advice}")
        check_same(stored, made_of, folder, advice)
    else:
        raise BundleError(
            f"{folder} has {pattern} and no {path.name}, which would say what they were made of; {advice}"
        )


def is_finished(out: Path, made_of: Mapping[str, Any]) -> bool:
    """Whether ``out`` is there and the result of just this. An empty file counts as none.

    Raises :class:`BundleError` if it is the result of something else.
    """
    if not out.exists() or out.stat().st_size == 0:
        return False
    advice = "delete it, or give another --out"
    content = read_json(out)
    if not isinstance(content, dict) or not isinstance(content.get(MADE_OF), dict):
        raise BundleError(f"{out} is there and does not say what it was made of; {advice}")
    check_same(content[MADE_OF], made_of, out, advice)
    return True


def curve_option(word: str) -> str | None:
    """A defence's curve from a command line's word for it, which for flat noise is ``flat``."""
    return None if word == FLAT else word


def curve_checksum(word: str) -> str:
    """SHA-256 of the noise curve's file that a command line names, or ``flat``."""
    curve = curve_option(word)
    return FLAT if curve is None else sha256_of(curve_file(curve))


class Progress:
    """Partial results in ``OUT.progress.jsonl`` beside the file that they will become, a line per result.

    Its first line says what they are made of, ``kinds`` what the values of the others are. One command at a time has
    it, until :meth:`close`. Raises :class:`BundleError` if another one does, or the file is of something else, or
    damaged.
    """

    def __init__(self, out: Path, made_of: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
        self.path = out.with_name(f"{out.name}.progress.jsonl")
        self.rows: list[dict[str, Any]] = []
        self._file = self.path.open("ab", buffering=0)
        try:
            if not (lock(self._file) and self._is_there()):
                raise BundleError(f"{self.path} is being written by another command")
            self._read(made_of, kinds)
        except BaseException:
            self.close()
            raise

    def _is_there(self) -> bool:
        """Whether the file is still the one of that name: the command that had the lock may have come to its end."""
        return self.path.exists() and os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())

    def _read(self, made_of: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
        content = self.path.read_bytes()
        whole = finished(content)
        lines = [line for _, line in objects(whole, self.path)]
        advice = f"delete {self.path} to begin again, or give another --out"
        if content and not (lines and isinstance(lines[0].get(MADE_OF), dict)):
            raise BundleError(f"{self.path} does not say what it was made of; {advice}")
        if len(lines) < 2:  # nothing was done yet
            os.truncate(self.path, 0)
            append(self._file, dumps({MADE_OF: made_of}))
            return
        check_same(lines[0][MADE_OF], made_of, self.path, advice)
        for number, row in enumerate(lines[1:], 2):
            fits = row.keys() == kinds.keys() and all(kinds[k].holds(row[k]) for k in kinds)
            if not fits:
                raise BundleError(
                    f"{self.path}, line {number}: expected {', '.join(kinds)}, found {quoted(row)}; {advice}"
                )
        self.rows = lines[1:]
        os.truncate(self.path, len(whole))

    def append(self, row: Mapping[str, Any]) -> None:
        """Keep a result: it is on disk when this returns."""
        append(self._file, dumps(row))
        self.rows.append(dict(row))

    def __str__(self) -> str:
        return f"{self.path} keeps what is done, {len(self.rows)} so far; start the same command again to go on"

    def finish(self) -> None:
        """The result is written: what was partial goes."""
        self.path.unlink()

    def close(self) -> None:
        """Let others write."""
        self._file.close()
