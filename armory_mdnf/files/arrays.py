"""Files of numbers (``.npy``), read within bounds whatever is in them, and never unpickled."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from armory_mdnf.errors import BundleError, cause

MAX_BYTES = 1 << 20  # curves and statistics have some hundred numbers
Numbers = np.ndarray[Any, np.dtype[Any]]


def read_numbers(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> Numbers:
    """The real numbers of a ``.npy`` file, as float64. Raises :class:`BundleError` naming it if it holds others."""
    try:
        if (size := Path(path).stat().st_size) > max_bytes:
            raise BundleError(f"{path}: expected some hundred numbers, found {size} bytes")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's remarks on headers of Python 2
            # Mapped, so that a header that promises terabytes allocates nothing.
            values = np.load(path, mmap_mode="r", allow_pickle=False)
    except BundleError:
        raise
    except Exception as error:  # whatever a damaged header raises, the user needs the file's name
        raise BundleError(f"{path} is not a readable .npy file of numbers: {cause(error)}") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        found = getattr(values, "dtype", "an archive")
        raise BundleError(f"{path}: expected one array of real numbers, found {str(found)[:80]}")
    if values.size > max_bytes:  # only numbers without a size of their own
        raise BundleError(f"{path}: expected some hundred numbers, found {values.size}")
    return np.array(values, dtype=np.float64)
