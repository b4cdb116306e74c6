"""The CTC loss, with the cases refused in which it would be silently zero."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from armory_mdnf.errors import TranscriptError


def frames_needed(target: Sequence[int] | str) -> int:
    """Fewest frames that can hold a target, classes or text: one a character, and a blank between equal neighbours."""
    return len(target) + sum(a == b for a, b in pairwise(target))


def check_targets(frames: Sequence[int], targets: Sequence[Sequence[int]]) -> None:
    """Raise :class:`TranscriptError` for a target that its utterance is too short for.

    Its loss would be infinite, and the common ``zero_infinity`` would turn that into no loss and no gradient.
    """
    if len(frames) != len(targets):
        raise TranscriptError(f"expected {len(frames)} transcripts, one per utterance, got {len(targets)}")
    for i, (available, target) in enumerate(zip(frames, targets, strict=True)):
        needed = frames_needed(target)
        if needed > available:
            raise TranscriptError(
                f"transcript {i} has {len(target)} characters and needs {needed} frames, but its utterance gives "
                f"only {available}: shorten the transcript or use a longer utterance"
            )


def ctc_loss(logits: Tensor, frames: Tensor, targets: Sequence[Sequence[int]], blank: int = 0) -> Tensor:
    """Negative log likelihood of each transcript, in nats, summed over the frames of its utterance.

    Shape: logits (N, F, classes), frames (N,) -> (N,). An empty target is the likelihood of silence.
    Source: Graves et al. 2006; no normalisation by length, as in deepspeech.pytorch.
    """
    check_targets(frames.tolist(), targets)
    flat = torch.tensor([c for target in targets for c in target], dtype=torch.long, device=logits.device)
    sizes = torch.tensor([len(target) for target in targets], dtype=torch.long, device=logits.device)
    log_probs = logits.log_softmax(-1).transpose(0, 1)
    return torch.nn.functional.ctc_loss(log_probs, flat, frames.long(), sizes, blank=blank, reduction="none")
