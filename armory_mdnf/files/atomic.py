"""Files that are there whole or not at all, and targets that are tried before the work."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from armory_mdnf.errors import OptionError, StorageError, shown
from armory_mdnf.files import run_folder


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path to write to, and move it to ``path`` when the block ends well.

    A killed run leaves the old file or the new one; an error leaves the old one. Missing folders are made. Who may read
    it is as the user's umask says.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    try:
        partial.unlink(missing_ok=True)  # of a killed process of the same number
        partial.touch()
        mode = stat.S_IMODE(partial.stat().st_mode)
        yield partial
        partial.chmod(mode)  # some writers leave the file to its owner alone
        with partial.open("rb") as written:
            os.fsync(written)  # else a power cut may leave the new name without its content
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def ensure_apart(path: str | os.PathLike[str], others: Iterable[str | os.PathLike[str]]) -> None:
    """Raise :class:`OptionError` if a target is one of the files that are read, or another target."""
    for other in others:
        if os.path.realpath(path) == os.path.realpath(other):
            raise OptionError(f"{shown(os.fspath(path), 200)} would be written over: it is given twice")


def _refuse_of_a_run(path: Path) -> None:
    if path.name in run_folder.ALL and (path.parent / run_folder.LINES).exists():
        raise OSError("it is the name of a file of the run in its folder, expected another one")


def ensure_writable(path: str | os.PathLike[str], unlike: Iterable[str | os.PathLike[str]] = ()) -> None:
    """See before the work starts that :func:`replacing` can write ``path`` after it. Missing folders are made.

    ``unlike``: files that are read, and other targets, none of which it may be; nor may it be a file that a run keeps.
    Raises :class:`OptionError` naming the target and the reason.
    """
    ensure_apart(path, unlike)
    try:
        target = Path(path)
        if target.is_dir():
            raise OSError("it is a folder, expected the name of a file")
        if target.exists() and not target.is_file():
            raise OSError("it is there and not a plain file")
        _refuse_of_a_run(target)
        _make_folder(target.parent)
        _try_to_write(_partial(target))
    except (OSError, ValueError) as error:
        raise OptionError(f"cannot write {shown(os.fspath(path), 200)}: {_reason(error)}") from error


def ensure_all_writable(paths: Iterable[Path | None], unlike: Iterable[str | os.PathLike[str]] = ()) -> None:
    """:func:`ensure_writable` for targets of one command, each another file; None for one that is not asked for."""
    apart = list(unlike)
    for path in paths:
        if path is not None:
            ensure_writable(path, apart)
            apart.append(path)


def ensure_writable_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder, and see before the work starts that files can be written in it.

    Raises :class:`OptionError` naming the folder and the reason.
    """
    try:
        folder = Path(path)
        _make_folder(folder)
        _try_to_write(_partial(folder / "writable"))
    except (OSError, ValueError) as error:
        raise OptionError(f"cannot write to the folder {shown(os.fspath(path), 200)}: {_reason(error)}") from error


@contextmanager
def storing(safe: Callable[[], str]) -> Iterator[None]:
    """Turn an ``OSError`` of the block, such as a full disk, into one line that ends in what ``safe`` gives.

    That says what is on disk and how to go on. Raises :class:`StorageError`.
    """
    try:
        yield
    except BrokenPipeError:  # whoever read what is printed has gone: no fault of a disk
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise StorageError(f"{where}{_reason(error)}; {safe()}") from error


def _make_folder(folder: Path) -> None:
    there = next(f for f in (folder, *folder.parents, Path("/")) if f.exists())
    if not there.is_dir():
        raise OSError(f"{there} is a file, expected a folder")
    folder.mkdir(parents=True, exist_ok=True)


def _try_to_write(partial: Path) -> None:
    try:
        partial.write_bytes(bytes(4096))  # an empty file has room on a full disk too
    finally:
        partial.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
