"""Whisper's encoder with a linear CTC head over characters."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from armory_mdnf.asr.alphabet import ENGLISH, Alphabet
from armory_mdnf.asr.bundled import BundledConfig, BundledRecognizer
from armory_mdnf.asr.whisper.encoder import Encoder, EncoderSizes
from armory_mdnf.asr.whisper.features import SAMPLE_RATE_HZ, WhisperLogMel
from armory_mdnf.errors import BundleError, OptionError
from armory_mdnf.files import bundles

MAX_SAMPLES = 30 * SAMPLE_RATE_HZ


@dataclass(frozen=True)
class WhisperCTCConfig(EncoderSizes, BundledConfig):
    """Sizes of a :class:`WhisperCTC`. Raises :class:`OptionError` for sizes that no encoder can have."""

    labels: str = ENGLISH

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_model % self.heads or self.d_model % 2 or self.d_model < 4:
            raise OptionError(
                f"expected d_model to be even, 4 or more and a multiple of heads, got {self.d_model}, {self.heads}"
            )


class WhisperCTCNetwork(nn.Module):
    """Shape: log mel (N, 1, n_mels, F), frames (N,) -> logits (N, F', classes), frames' (N,)."""

    def __init__(self, config: WhisperCTCConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.head = nn.Linear(config.d_model, len(config.labels))

    def forward(self, log_mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x, frames = self.encoder(log_mel[:, 0], frames)
        return self.head(x), frames


class WhisperCTC(BundledRecognizer):
    """Features and network: audio to character logits in one differentiable step, 50 frames a second.

    Shape: x (N, T) in [-1, 1] at 16 kHz, zero beyond lengths (N,) -> logits (N, F', classes), frames (N,).
    Raises :class:`AudioError` for an utterance beyond the 30 s that Whisper was trained on.
    """

    kind = "whisper_ctc"
    config_class = WhisperCTCConfig
    network_class = WhisperCTCNetwork
    config: WhisperCTCConfig
    features: WhisperLogMel
    network: WhisperCTCNetwork
    sample_rate_hz = SAMPLE_RATE_HZ
    max_samples = MAX_SAMPLES

    def __init__(self, config: WhisperCTCConfig) -> None:
        super().__init__()
        self.config = config
        self.alphabet = Alphabet(config.labels)
        self.features = WhisperLogMel(config.n_mels)
        self.min_samples = self.features.min_samples
        self.network = WhisperCTCNetwork(config)

    @property
    def head(self) -> nn.Module:
        """The layer onto the characters."""
        return self.network.head

    def layers_above(self, name: str) -> int:
        if name.startswith("encoder.conv"):
            return self.config.layers
        layer = re.match(r"encoder\.layers\.(\d+)\.", name)
        return self.config.layers - 1 - int(layer[1]) if layer else 0

    def out_frames(self, lengths: Tensor) -> Tensor:
        """Number of logit frames for utterances of the given lengths in samples."""
        return Encoder.out_frames(self.features.frames(lengths))


def start_from_whisper(config: WhisperCTCConfig, weights: dict[str, Tensor], origin: str) -> WhisperCTC:
    """A recogniser whose encoder has the weights of a Whisper in transformers' names, and whose head is random.

    Raises :class:`BundleError` for a weight that does not fit.
    """
    prefix = "model.encoder."
    encoder = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    encoder.pop("embed_positions.weight", None)
    if config.layers > len(encoder):
        raise BundleError(f"{origin}: expected a weight per layer at least, found {len(encoder)} for {config.layers}")
    with torch.device("meta"):  # shapes only: what the sizes claim is not allocated before the weights have it
        described = Encoder(config)
    bundles.check_fit(described, encoder, origin)
    recognizer = WhisperCTC(config)
    bundles.fill(recognizer.network.encoder, encoder, origin)
    torch.nn.init.normal_(recognizer.network.head.weight, std=0.02)
    torch.nn.init.zeros_(recognizer.network.head.bias)
    return recognizer
