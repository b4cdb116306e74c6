"""Errors that say what was expected, what was found, and what was probably meant."""

from __future__ import annotations

import contextlib
import difflib
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

LIBRARIES = (Path(__file__).parent, *map(Path, map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib"))))
"""Folders of this package and of what is installed."""


class ArmoryMdnfError(ValueError):
    """Base of the errors that bad input raises; a ``ValueError`` for callers that know only those."""


class ArmoryMdnfWarning(UserWarning):
    """What the library warns of; the commands print it as a note, without a place in the code."""


class AudioError(ArmoryMdnfError):
    """A waveform that cannot be processed without giving a wrong number."""


class TranscriptError(ArmoryMdnfError):
    """A transcript outside the alphabet, or one that the frames cannot hold."""


class BundleError(ArmoryMdnfError):
    """A weight, curve or corpus file that is missing, damaged, or of another kind."""


class AttackError(ArmoryMdnfError):
    """An attack that cannot go on: its gradient is not finite."""


class OptionError(ArmoryMdnfError):
    """An option that does not exist or a value outside its range."""


def choices(found: object, known: Iterable[str], what: str) -> str:
    """Message for a name that is not known, with the nearest match where there is one."""
    names = sorted(known)
    wanted = found if isinstance(found, str) else ""
    near = difflib.get_close_matches(wanted[:80], names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {quoted(found)}, expected one of {', '.join(names)}{hint}"


def refuse_unknown(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise :class:`OptionError` for the first key of ``given`` that is not in ``known``."""
    known = list(known)
    for key in given:
        if key not in known:
            raise OptionError(choices(key, known, f"option of {where}"))


class StorageError(ArmoryMdnfError):
    """A disk that is full or cannot be written, in the middle of work; the message says what is safe."""


class ResultsError(ArmoryMdnfError):
    """A results file that is missing, damaged, or not of an evaluation that can be summarised."""


def quoted(value: object, limit: int = 80) -> str:
    """``ascii`` of an untrusted value, cut to about ``limit`` characters, for a message.

    No more of the value is looked at than is shown: a few bytes can hold one that takes gigabytes to print.
    """
    text = ""
    for piece in _pieces(value, limit):
        text += piece
        if len(text) > limit + 2:
            return f"{text[:limit]}..."
    return text


def _pieces(value: object, limit: int, depth: int = 0) -> Iterator[str]:
    """``ascii`` of a value, piece by piece; containers in the form of their plain base class."""
    if depth > 100:
        yield "..."
    elif isinstance(value, (str, bytes)):
        yield ascii(value[: limit + 1])
    elif isinstance(value, int) and value.bit_length() > min(4 * limit, 4000):
        yield f"a whole number of {value.bit_length()} bits"
    elif isinstance(value, (dict, list, tuple, set, frozenset)) and value:
        opening, closing = "[]" if isinstance(value, list) else "()" if isinstance(value, tuple) else "{}"
        for i, item in enumerate(value):
            yield ", " if i else opening
            yield from _pieces(item, limit, depth + 1)
            if isinstance(value, dict):
                yield ": "
                yield from _pieces(value[item], limit, depth + 1)
        yield f",{closing}" if isinstance(value, tuple) and len(value) == 1 else closing
    else:
        yield ascii(value)


def shown(text: object, limit: int = 120) -> str:
    """A name from a file as it is if it can be printed on one line, else as :func:`quoted`."""
    name = text if isinstance(text, str) else ""
    return name if name and name.isprintable() and len(name) <= limit else quoted(text, limit)


def cause(error: BaseException, limit: int = 200) -> str:
    """What another error says, on one line, escaped and cut; its class before it unless it is one of ours."""
    # libsndfile's holds a code and the file, and says why in its text alone.
    known = isinstance(error, (ArmoryMdnfError, OSError)) or type(error).__name__ == "LibsndfileError"
    known = known or all(isinstance(a, (str, bytes)) for a in error.args)
    text = (str(error) if known or isinstance(error, UnicodeError) else quoted(error.args, limit + 1))[: 3 * limit + 1]
    line = " ".join(text.split())
    line = line if line.isprintable() else ascii(line)[1:-1]
    if isinstance(error, ArmoryMdnfError):
        return line[: 3 * limit]
    return f"{type(error).__name__}: {line[:limit]}" + ("..." if len(line) > limit else "")


def traced(error: BaseException) -> str:
    """:func:`cause`, and the innermost line outside of :data:`LIBRARIES` that it comes from: of a user's own code."""
    frames = reversed(list(traceback.walk_tb(error.__traceback__)))
    lines = ((Path(frame.f_code.co_filename), line) for frame, line in frames)
    for path, line in lines:
        if path.is_absolute() and not any(path.is_relative_to(folder) for folder in LIBRARIES):
            with contextlib.suppress(OSError, ValueError):  # the working directory is gone, or the file is not in it
                path = path.relative_to(Path.cwd())
            return f"{cause(error)} ({shown(str(path), 200)}, line {line})"
    return cause(error)
