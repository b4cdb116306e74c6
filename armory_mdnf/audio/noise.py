"""Noise that a seed fixes and a batch does not change.

Every utterance draws from a generator of its own, keyed by the seed and a running count of the utterances
seen. Three utterances in one batch therefore get the draws that they would get one after another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from armory_mdnf.errors import OptionError, quoted

Key = tuple[int, ...]
"""What tells one draw from all others: numbers >= 0, such as an utterance's index, a purpose, a step."""

BEHIND = 1 << 31
"""No index, purpose or step reaches it, so that no key ends as one of another place does."""


class NoiseSource:
    """Streams of white Gaussian noise.

    Draws are made on the CPU and then moved, so that a run gives the same noise on every device.
    """

    def __init__(self, seed: int = 0) -> None:
        if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or seed < 0:
            raise OptionError(f"expected a seed that is a whole number >= 0, got {quoted(seed)}")
        self.seed = int(seed)
        self.count = 0

    def rewind(self, count: int = 0) -> None:
        """Go back to an earlier draw, so that an evaluation can be repeated with the same noise."""
        self.count = count

    def streams(self, n: int, keys: Sequence[Key] | None = None, place: int = 0) -> list[torch.Generator]:
        """One generator for each of the next ``n`` utterances.

        With ``keys``, one per utterance and of at least two numbers, a generator depends on the seed and its key alone;
        the count stays as it is. Sources of one seed give other draws at another ``place``.
        """
        behind = (BEHIND + place,) if place else ()
        if keys is not None:
            if len(keys) != n or any(len(key) < 2 for key in keys):
                found = quoted(keys)
                raise OptionError(f"expected {n} keys of at least two whole numbers, one per utterance, got {found}")
            return [stream(self.seed, *key, *behind) for key in keys]
        counts = range(self.count, self.count + n)
        self.count += n
        return [stream(self.seed, count, *behind) for count in counts]


def stream(seed: int, *key: int) -> torch.Generator:
    """A generator that depends on the seed and the key alone."""
    state = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))


def normal(
    streams: Sequence[torch.Generator],
    sizes: Sequence[int],
    like: Tensor,
    rows: int | None = None,
    width: int | None = None,
) -> Tensor:
    """White noise of standard deviation 1, zero beyond each utterance's size.

    Returns (N, width), by default of the largest size, or (N, rows, width) if ``rows`` is given, with the dtype and
    device of ``like``.
    """
    width = max(sizes) if width is None else width
    shape = (len(streams), width) if rows is None else (len(streams), rows, width)
    noise = torch.zeros(shape, dtype=torch.float32, device="cpu")  # whatever torch's defaults are
    for row, generator, size in zip(noise, streams, sizes, strict=True):
        row[..., :size] = torch.randn(*shape[1:-1], size, generator=generator, dtype=torch.float32, device="cpu")
    return noise.to(like)
