"""Files with one JSON value per line: lists of utterances, and journals that grow by a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from armory_mdnf.errors import ArmoryMdnfError, BundleError, quoted
from armory_mdnf.files.atomic import write_text
from armory_mdnf.files.strict_json import loads


def objects(
    content: bytes, name: str | os.PathLike[str], error: type[ArmoryMdnfError] = BundleError
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The object of every line that is not empty, after the words for its place: ``NAME, line 3``.

    Raises ``error`` with those words for a line that is no object of strict JSON.
    """
    for number, text in enumerate(content.split(b"\n"), 1):
        if text.strip():
            where = f"{name}, line {number}"
            found = loads(text, where, error)
            if not isinstance(found, dict):
                raise error(f"{where}: expected an object, found {quoted(found)}")
            yield where, found


def finished(content: bytes) -> bytes:
    """A journal without the half line that a killed process may have left at its end."""
    return content[: content.rfind(b"\n") + 1]


def append(file: IO[bytes], line: str) -> None:
    """Add a line to a journal that is open unbuffered; it is on disk when this returns.

    After an ``OSError``, such as that of a full disk, nothing of it is there. The error names the file.
    """
    end, rest = os.fstat(file.fileno()).st_size, line.encode() + b"\n"
    try:
        while rest:  # a disk that is nearly full takes a part
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    except OSError as error:
        os.ftruncate(file.fileno(), end)
        raise OSError(error.errno, error.strerror, str(file.name)) from error


def write_lines(path: str | os.PathLike[str], lines: Iterable[Mapping[str, Any]]) -> None:
    """Write an object per line, the file whole or not at all."""
    write_text(path, "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines))
