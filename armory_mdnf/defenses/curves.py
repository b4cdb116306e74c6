"""Noise curves: one non-negative factor per mel bin."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from armory_mdnf.errors import BundleError, cause, choices, shown
from armory_mdnf.files.arrays import MAX_BYTES, Numbers, read_numbers
from armory_mdnf.files.strict_json import read_json


def curve_names() -> list[str]:
    """Names of the curves that ship with the package."""
    return sorted(path.stem for path in _folder().glob("*.json"))


def load_curve(curve: str | os.PathLike[str] | None, n_mels: int) -> Tensor:
    """Read a curve by the name of a bundled one or the path of a ``.json`` or ``.npy`` file; None is the flat curve.

    A JSON file holds a list of numbers, or an object with that list as ``curve``. Values are used as they are, not
    rescaled. Returns float32 (n_mels,). Raises :class:`BundleError` naming the file if it is missing, damaged, of
    another length, negative, not finite, or zero throughout.
    """
    if curve is None:
        return torch.ones(n_mels)
    path = curve_file(curve)
    values = read_curve(path)
    if values.shape != (n_mels,):
        raise BundleError(
            f"{path}: expected {n_mels} values, one per mel bin of the vocoder, found shape {values.shape}"
        )
    with np.errstate(over="ignore", under="ignore"):
        narrow = values.astype(np.float32)
    if not (np.isfinite(narrow).all() and narrow.any()):
        raise BundleError(f"{path}: expected values that float32 holds, found {values.max():g} as the largest")
    return torch.from_numpy(narrow)


def read_curve(path: Path) -> Numbers:
    """The values of a curve's file, float64 (n_mels,). Raises as :func:`load_curve`."""
    if path.stat().st_size > MAX_BYTES:
        raise BundleError(f"{path}: expected a curve of numbers per mel bin, found {path.stat().st_size} bytes")
    values = read_numbers(path) if path.suffix == ".npy" else _read_json(path)
    if values.ndim != 1 or not len(values):
        raise BundleError(f"{path}: expected a value per mel bin of the vocoder, found shape {values.shape}")
    if not np.isfinite(values).all():
        raise BundleError(f"{path}: expected finite values, found {values[~np.isfinite(values)][0]}")
    if (values < 0).any():
        raise BundleError(f"{path}: expected values >= 0, found {values.min():g}")
    if not values.any():
        raise BundleError(f"{path}: expected a value > 0, found zeros only")
    return values


def _folder() -> Path:
    return Path(str(resources.files("armory_mdnf"))) / "defenses" / "curves"


def curve_file(curve: str | os.PathLike[str]) -> Path:
    """The file that :func:`load_curve` reads. Raises :class:`BundleError` if there is none."""
    if not isinstance(curve, (str, os.PathLike)):
        raise BundleError(f"expected a curve's name or path or None, got {type(curve).__name__}")
    text = os.fspath(curve)
    if not (os.sep in text or text.endswith((".json", ".npy"))):
        if text in curve_names():
            return _folder() / f"{text}.json"
        raise BundleError(f"{choices(text, curve_names(), 'noise curve')}; a path ends in .json or .npy")
    path = Path(text)
    if path.suffix not in (".json", ".npy"):
        raise BundleError(f"{shown(text)}: expected a curve file that ends in .json or .npy")
    try:
        if path.is_file():
            return path
    except OSError as error:  # a name that is too long, a folder that cannot be entered
        raise BundleError(f"no curve file at {shown(text)}: {cause(error)}") from error
    raise BundleError(f"no curve file at {shown(text)}")


def _read_json(path: Path) -> Numbers:
    content = read_json(path, max_bytes=MAX_BYTES)
    values = content.get("curve") if isinstance(content, dict) else content
    if not isinstance(values, list) or any(type(v) not in (int, float) for v in values):
        raise BundleError(f"{path}: expected a list of numbers, or an object with that list as 'curve'")
    return np.array(values, dtype=np.float64)
