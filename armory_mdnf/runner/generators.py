"""The global generators of Python, NumPy and torch, which components of others draw from."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(*key: object) -> Iterator[int]:
    """Within the block all three are seeded by the key, with the number that it gets; afterwards they are as before."""
    seed = zlib.crc32(repr(key).encode())
    before = random.getstate(), np.random.get_state()  # noqa: NPY002 -- what ART's preprocessors draw from
    with torch.random.fork_rng():
        try:
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            yield seed
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
