"""From per-frame scores to text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from armory_mdnf.audio import ragged
from armory_mdnf.errors import AudioError


class Labels(Protocol):
    """Classes and the text that they write."""

    def decode(self, classes: Sequence[int]) -> str:
        """Text of classes without repeats, blanks left out."""


def greedy_decode(scores: Tensor, frames: Tensor, alphabet: Labels) -> list[str]:
    """Best class of each frame, repeats merged, blanks removed (Graves et al. 2006, best path).

    Shape: scores (N, F, classes), as logits or probabilities; frames (N,).
    Raises :class:`AudioError` for scores that are no numbers: any class could be the best of them.
    """
    unknown = scores.isnan().any(-1)
    if bool(unknown.any()):  # beyond an utterance's end it may be anything
        at = (unknown.cpu() & ragged.mask(frames.cpu(), unknown.shape[1])).any(0).nonzero().flatten().tolist()
        if at:
            raise AudioError(f"the recogniser: expected scores that are numbers, got nan at frame {at[0]}")
    best = scores.argmax(-1)
    return [
        alphabet.decode(torch.unique_consecutive(row[:n]).tolist())
        for row, n in zip(best.cpu(), frames.tolist(), strict=True)
    ]
