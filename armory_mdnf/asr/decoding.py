"""From per-frame scores to text."""

from __future__ import annotations

import torch
from torch import Tensor

from armory_mdnf.asr.alphabet import Alphabet


def greedy_decode(scores: Tensor, frames: Tensor, alphabet: Alphabet) -> list[str]:
    """Best class of each frame, repeats merged, blanks removed (Graves et al. 2006, best path).

    Shape: scores (N, F, classes), as logits or probabilities; frames (N,).
    """
    best = scores.argmax(-1)
    return [
        alphabet.decode(torch.unique_consecutive(row[:n]).tolist())
        for row, n in zip(best.cpu(), frames.tolist(), strict=True)
    ]
