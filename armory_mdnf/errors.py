"""Errors that say what was expected, what was found, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ArmoryMdnfError(ValueError):
    """Base of the errors that bad input raises; a ``ValueError`` for callers that know only those."""


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
    near = difflib.get_close_matches(str(found), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {found!r}, expected one of {', '.join(names)}{hint}"


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
    """``repr`` of an untrusted value, escaped and cut to about ``limit`` characters, for a message."""
    text = ascii(value[: limit + 1] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= limit + 2 else f"{text[:limit]}..."
