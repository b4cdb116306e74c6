"""The streams that a command writes to, which may be closed, full, gone, or without the letters that it needs."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TextIO

from armory_mdnf.errors import ArmoryMdnfWarning
from armory_mdnf.files.strict_json import readable

_JSON: ContextVar[TextIO | None] = ContextVar("json", default=None)
"""Where JSON goes, if not to standard output."""
_FORMAT = warnings.formatwarning


class Unfailing:
    """A text stream for notes and progress: what cannot be written is lost, and the work goes on.

    ``stream`` None is one that was closed before the start.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write ``text`` if that can be done."""
        with contextlib.suppress(OSError, ValueError):
            if self._stream is not None:
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush if that can be done."""
        with contextlib.suppress(OSError, ValueError):
            if self._stream is not None:
                self._stream.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        try:
            return self._stream is not None and bool(self._stream.isatty())
        except (OSError, ValueError):
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def unfailing(stream: Any) -> Unfailing:
    """The stream so wrapped, once."""
    return stream if isinstance(stream, Unfailing) else Unfailing(stream)


def prepare() -> None:
    """Make standard streams fit for a command, for the rest of the process.

    Standard error never fails. Letters that the locale lacks are escaped. Descriptors 0 to 2 that were closed lead
    nowhere: else the next file that is opened would get the number, and with it what libraries write to it. The
    library's warnings are notes.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stderr = unfailing(sys.stderr)
    warnings.formatwarning = _note


def _note(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    if issubclass(category, ArmoryMdnfWarning):
        return f"note: {printable(str(message))}\n"
    return _FORMAT(message, category, filename, lineno, line)


def abandon_stdout() -> None:
    """Send what is left for standard output nowhere: its reader is gone or its disk full, and exiting would fail."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def example(*lines: str) -> dict[str, Any]:
    """Keywords of a parser whose help ends in examples, one command line each."""
    text = "\n".join(["examples:", *(f"  {line}" for line in lines)])
    return {"epilog": text, "formatter_class": argparse.RawDescriptionHelpFormatter}


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object for machines")


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """``--quiet``."""
    parser.add_argument("--quiet", action="store_true", help="nothing on standard error, unless something goes wrong")


def quietly(run: Callable[[], int]) -> int:
    """Run with nothing on standard error, and tell what was to go there if the work was not done whole.

    0 and 1 are codes of work that was: the check that failed is on standard output.
    """
    held, code = io.StringIO(), None
    try:
        with contextlib.redirect_stderr(held):
            code = run()
        return code
    finally:
        if code not in (0, 1):
            sys.stderr.write(held.getvalue())


@contextlib.contextmanager
def json_alone() -> Iterator[None]:
    """Within the block standard output is :func:`print_json`'s: what else is printed goes to standard error.

    Components of somebody's print whatever they like.
    """
    token = _JSON.set(sys.stdout or io.StringIO())
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _JSON.reset(token)


def print_json(content: Any, flush: bool = False) -> None:
    """Print strict JSON; what a terminal would obey is escaped, and what no UTF-8 can hold."""
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
    escaped = "".join(c if c.isprintable() or c == "\n" else json.dumps(readable(c))[1:-1] for c in text)
    print(escaped, file=_JSON.get(), flush=flush)


def printable(text: str, keep: str = "") -> str:
    """Text of a file without what a terminal would obey: all white space is a space, other such characters are escaped.

    ``keep``: characters that stay as they are.
    """
    return "".join(c if c.isprintable() or c in keep else " " if c.isspace() else ascii(c)[1:-1] for c in text)


def say(text: str, file: TextIO | None = None) -> None:
    """Print lines that may have words of a file in them, made :func:`printable`; to standard output by default."""
    print(printable(text, "\n"), file=file, flush=True)
