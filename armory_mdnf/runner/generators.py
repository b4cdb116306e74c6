"""The global generators of Python, NumPy and torch, which components of others draw from."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def states() -> dict[str, object]:
    """What a draw from any of them changes, to be compared; that of a GPU's where one is in use."""
    _, words, *place = np.random.get_state()  # noqa: NPY002
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "Python's": random.getstate(),
        "NumPy's": (np.asarray(words).tobytes(), *place),
        "torch's": [state.numpy().tobytes() for state in (torch.random.get_rng_state(), *on_gpus)],
    }


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
