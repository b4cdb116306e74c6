"""What stored state was made of, so that nothing goes on with, or stands for, what something else made.

A run, a checkpoint, a folder of shards keeps its provenance: plain values that name everything it depends on (recipe,
seed, code version, weights, recordings). Whoever finds it later compares it with what would be made now.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armory_mdnf import __version__
from armory_mdnf.errors import ArmoryMdnfError, BundleError, quoted

if TYPE_CHECKING:
    import numpy.typing as npt

Provenance = Mapping[str, Any]
COMPUTES = ("armory-mdnf", "torch", "torchaudio", "numpy", "adversarial-robustness-toolbox", "parallel-wavegan")
"""Packages whose versions a result is told with."""


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python packages; ``unknown`` where none is recorded, as of a copy that was put on the path."""
    return {name: _version(name) for name in packages}


def computing_versions() -> dict[str, str]:
    """Versions of what computes a result, Python's among them."""
    return versions_of(COMPUTES) | {"python": platform.python_version()}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return __version__ if package == "armory-mdnf" else "unknown"


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def of_array(x: npt.NDArray[Any]) -> str:
    """Hexadecimal SHA-256 of an array's values."""
    return hashlib.sha256(x.tobytes()).hexdigest()


def of_files(paths: Iterable[str | os.PathLike[str]]) -> str:
    """One SHA-256 of the content of files, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(bytes.fromhex(sha256_of(path)))
    return digest.hexdigest()


def of_values(values: Iterable[object]) -> str:
    """One SHA-256 of plain values, in their order."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def of_sources(folder: str | os.PathLike[str], besides: Collection[str] = ()) -> str:
    """One SHA-256 of the Python files below a folder, wherever it is and whatever ends their lines.

    ``besides``: names of modules and packages in it that do not count.
    """
    files = ((path.relative_to(folder), path) for path in Path(folder).rglob("*.py"))
    counting = [(name, path) for name, path in files if name.with_suffix("").parts[0] not in besides]
    return of_values(sorted((name.as_posix(), path.read_text(encoding="utf-8")) for name, path in counting))


def made_of(**parts: Any) -> dict[str, Any]:
    """Provenance of what this version of the package makes of ``parts``, as plain JSON values."""
    return json.loads(json.dumps({"armory_mdnf": __version__, **parts}, sort_keys=True))


def check_same(
    before: Provenance,
    now: Provenance,
    where: str | os.PathLike[str],
    advice: str = "begin in a new folder",
    incidental: Callable[[str], bool] = lambda key: False,
    error: type[ArmoryMdnfError] = BundleError,
) -> None:
    """Raise ``error`` naming the first part in which stored state differs from what goes on with it.

    ``incidental`` says which parts, by dotted key, may differ.
    """
    stored, current = dict(leaves(before)), dict(leaves(now))
    for key in sorted(stored.keys() | current.keys()):
        if incidental(key) or (key in stored and key in current and stored[key] == current[key]):
            continue
        was, is_now = (quoted(source[key]) if key in source else "absent" for source in (stored, current))
        raise error(f"{Path(where)} was made of something else: {key} was {was} there, is {is_now} now; {advice}")


def leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested mappings."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{at}.{key}" if at else str(key))
    else:
        yield at, value
