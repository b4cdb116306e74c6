"""Seeds and threads, set before anything else: the configuration's ``user_init``."""

from __future__ import annotations

import os
import random
import sys

import numpy as np
import torch

from armory_mdnf.errors import OptionError, quoted

MAX_THREADS = 1024


def seed_everything(seed: int | None = None, threads: int | None = None) -> None:
    """Seed Python's, NumPy's, torch's and (if it is loaded) TensorFlow's generators.

    ``threads``: CPU threads of torch, for runs that must repeat on machines with other numbers of cores; a sum in
    another order differs in its last bits, which a hundred attack steps can amplify. Default: torch's choice.

    Every defence draws from a generator of its own, seeded in its block; nothing here depends on it.
    Raises :class:`OptionError` without a seed, and for numbers out of range.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise OptionError(f"expected a seed that is a whole number from 0 to 2**32 - 1, got {quoted(seed)}")
    number = isinstance(threads, int) and not isinstance(threads, bool)
    if threads is not None and not (number and 1 <= threads <= MAX_THREADS):
        raise OptionError(f"expected threads to be a whole number from 1 to {MAX_THREADS}, got {quoted(threads)}")
    os.environ["PYTHONHASHSEED"] = str(seed)  # for processes started from here
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None:
        tensorflow.random.set_seed(seed)
    if threads is not None:
        torch.set_num_threads(threads)
