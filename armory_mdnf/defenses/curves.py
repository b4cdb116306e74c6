"""Noise curves: one non-negative factor a mel bin."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from armory_mdnf.errors import BundleError, choices

MAX_BYTES = 1 << 20  # a curve has some hundred numbers


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
    if path.stat().st_size > MAX_BYTES:
        raise BundleError(f"{path}: expected a curve of {n_mels} numbers, found {path.stat().st_size} bytes")
    values = _read_npy(path) if path.suffix == ".npy" else _read_json(path)
    if values.shape != (n_mels,):
        raise BundleError(f"{path}: expected {n_mels} values, one a mel bin of the vocoder, found shape {values.shape}")
    if not np.isfinite(values).all():
        raise BundleError(f"{path}: expected finite values, found {values[~np.isfinite(values)][0]}")
    if (values < 0).any():
        raise BundleError(f"{path}: expected values >= 0, found {values.min():g}")
    if not values.any():
        raise BundleError(f"{path}: expected a value > 0, found zeros only")
    return torch.from_numpy(values.astype(np.float32))


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
        raise BundleError(f"{path}: expected a curve file that ends in .json or .npy")
    if not path.is_file():
        raise BundleError(f"no curve file at {path}")
    return path


def _read_npy(path: Path) -> np.ndarray[Any, np.dtype[Any]]:
    try:
        # Mapped, so that a header that promises terabytes allocates nothing; never unpickled.
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise BundleError(f"{path} is not a readable .npy file of numbers: {error}") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise BundleError(f"{path}: expected one array of real numbers, found {getattr(values, 'dtype', 'an archive')}")
    return np.array(values, dtype=np.float64) if values.ndim == 1 else values


def _read_json(path: Path) -> np.ndarray[Any, np.dtype[Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise BundleError(f"{path} is not readable JSON: {error}") from error
    values = content.get("curve") if isinstance(content, dict) else content
    if not isinstance(values, list) or any(type(v) not in (int, float) for v in values):
        raise BundleError(f"{path}: expected a list of numbers, or an object with that list as 'curve'")
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError as error:
        raise BundleError(f"{path}: expected numbers of ordinary size: {error}") from error
