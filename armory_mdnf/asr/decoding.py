"""From per-frame scores to text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Labels(Protocol):
    """Classes and the text that they write."""

    def decode(self, classes: Sequence[int]) -> str:
        """Text of classes without repeats, blanks left out."""


def greedy_decode(scores: Tensor, frames: Tensor, alphabet: Labels) -> list[str]:
    """Best class of each frame, repeats merged, blanks removed (Graves et al. 2006, best path).

    Shape: scores (N, F, classes), as logits or probabilities; frames (N,).
    """
    best = scores.argmax(-1)
    return [
        alphabet.decode(torch.unique_consecutive(row[:n]).tolist())
        for row, n in zip(best.cpu(), frames.tolist(), strict=True)
    ]
