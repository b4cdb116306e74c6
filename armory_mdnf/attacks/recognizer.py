"""What an attack sees of a recogniser with its defences: losses, transcripts, and whether they repeat."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from armory_mdnf.audio.noise import Key


class Purpose(IntEnum):
    """What an attack draws noise for; draws for different purposes are independent, and so are an evaluation's."""

    LABEL = 2
    ATTACK = 3
    SELECTION = 4
    BACKWARD = 5
    CONTROL = 6


@runtime_checkable
class AttackedRecognizer(Protocol):
    """A recogniser behind its defences, as a differentiable function of a padded batch of audio.

    A noise draw is fixed by the seed of the defence and by the key that comes with each utterance.
    """

    stochastic: bool
    clip_values: Any
    device: torch.device
    sample_rate: int
    min_samples: int

    def encode(self, transcripts: Any, n: int) -> list[list[int]]:
        """Character indices of ``n`` transcripts."""

    def check(self, sizes: Sequence[int], targets: Sequence[Sequence[int]] | None = None) -> None:
        """Raise for utterances of so many samples that cannot be attacked, or cannot hold their targets."""

    def is_heard(self, transcript: str, target: Sequence[int]) -> bool:
        """Whether a transcript is what a target stands for, white space apart."""

    def losses(self, x: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]], keys: Sequence[Key]) -> Tensor:
        """Shape: x (N, T), zero beyond lengths (N,), N targets, N keys -> (N,), differentiable in x."""

    def gradients(
        self,
        x: Tensor,
        lengths: Tensor,
        targets: Sequence[Sequence[int]],
        keys: Sequence[Key],
        back_keys: Sequence[Key] | None = None,
    ) -> Tensor:
        """Gradient of each utterance's own loss, zero beyond its end. Shape: as :meth:`losses` -> (N, T).

        With ``back_keys``, the published gradient: the loss at the draws of ``keys``, pulled back through those.
        """

    def transcribe(self, x: Tensor, lengths: Tensor, keys: Sequence[Key]) -> list[str]:
        """Shape: x (N, T), lengths (N,), N keys -> N transcripts, averaged over the passes that a defence asks for."""
