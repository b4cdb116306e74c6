"""Text files of others, and what is wrong with one said by its name."""

from __future__ import annotations

from pathlib import Path

from armory_mdnf.errors import ArmoryMdnfError, BundleError, cause

MAX_BYTES = 1 << 28


def read_text(
    path: Path,
    what: str,
    error: type[ArmoryMdnfError] = BundleError,
    encoding: str = "utf-8",
    most: int = MAX_BYTES,
) -> str:
    """The text of a file of at most ``most`` bytes.

    Raises ``error`` naming it and ``what`` was expected there: it is missing, larger, or no text.
    """
    try:
        if (size := path.stat().st_size) > most:
            raise error(f"{path}: expected at most {most} bytes, found {size}")
        return path.read_text(encoding=encoding)
    except (OSError, UnicodeError) as found:
        raise error(f"{path} is not a readable {what}: {cause(found)}") from found
