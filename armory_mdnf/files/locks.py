"""Files that one process at a time writes; a lock is the operating system's, and ends with its process."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from armory_mdnf.errors import ArmoryMdnfError

_TOLD: set[int] = set()
"""File systems of which it was said that they have no locks."""


def lock(file: IO[Any]) -> bool:
    """Keep others from a file that is open for writing, until it is closed here and in processes forked meanwhile.

    Returns False if another has it.

    Some file systems have no locks. The work goes on there, which is as safe as long as one command at a time writes;
    a note on standard error says so, once for each.
    """
    return _lock(file.fileno(), file.name)


def _lock(descriptor: int, name: object) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the second is how some network file systems say it
        return False
    except OSError as error:
        device = os.fstat(descriptor).st_dev
        if device not in _TOLD:
            _TOLD.add(device)
            why = error.strerror or error
            print(f"note: {name} cannot be locked ({why}): let no other command write there", file=sys.stderr)
    return True


@contextmanager
def held(path: Path, error: type[ArmoryMdnfError]) -> Iterator[None]:
    """Keep other processes out of the folder of a lock file, for as long as the block takes.

    A file that a killed process left behind locks nothing, and says of whom it was to nobody.
    Raises ``error`` naming who has the folder.
    """
    with path.open("a+") as file:
        if not lock(file):
            file.seek(0)
            owner = file.read(200).strip() or "another process"
            raise error(f"{path.parent} is being written by {owner}")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


@contextmanager
def alone_in(folder: Path, error: type[ArmoryMdnfError]) -> Iterator[None]:
    """Keep other commands out of a folder for as long as the block takes. Nothing is left in it.

    Raises ``error`` if another one has the folder.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not _lock(descriptor, folder):
            raise error(f"{folder} is being written by another command")
        yield
    finally:
        os.close(descriptor)
