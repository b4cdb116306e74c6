"""A CTC recogniser that a bundle holds: features, a network, and the configuration of both."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from armory_mdnf.asr.alphabet import Alphabet
from armory_mdnf.asr.contract import CTCRecognizer


class BundledRecognizer(CTCRecognizer):
    """Features and network, one after the other.

    ``features``: audio (N, T), lengths (N,) -> spectrogram (N, 1, bins, F), frames (N,). ``network``: those -> logits
    (N, F', classes), frames' (N,).
    """

    alphabet: Alphabet
    config: Any
    features: nn.Module
    network: nn.Module

    @property
    def head(self) -> nn.Module:
        """The layer onto the characters."""
        raise NotImplementedError

    def layers_above(self, name: str) -> int:
        """How many layers of a stack are above the weight of that name in the network; 0 where there is no stack."""
        return 0

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        self.check_lengths(lengths)
        return self.network(*self.features(x, lengths))
