"""DeepSpeech2 (Amodei et al. 2016), in the module layout of deepspeech.pytorch's state dicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from armory_mdnf.asr.alphabet import ENGLISH, Alphabet
from armory_mdnf.asr.bundled import BundledConfig, BundledRecognizer
from armory_mdnf.asr.deepspeech2.features import LogSpectrogram
from armory_mdnf.audio import ragged
from armory_mdnf.cpu.phases import phase_conv2d
from armory_mdnf.cpu.switch import fast
from armory_mdnf.errors import OptionError
from armory_mdnf.options import FLAG, count, number, one_of, option

RNNS = {"lstm": nn.LSTM, "gru": nn.GRU}


@dataclass(frozen=True)
class DeepSpeech2Config(BundledConfig):
    """Sizes of a DeepSpeech2. The defaults are those of the published LibriSpeech models, but for their width."""

    hidden_size: int = option(1024, count(1))
    hidden_layers: int = option(5, count(1))
    rnn_type: str = option("lstm", one_of(RNNS))
    bidirectional: bool = option(True, FLAG)
    lookahead_context: int = option(20, count(1))
    conv_channels: int = option(32, count(1))
    labels: str = ENGLISH
    sample_rate_hz: int = option(16000, count(1))
    window_s: float = option(0.02, number(0, 1, above=True))
    stride_s: float = option(0.01, number(0, 1, above=True))
    window: str = "hamming"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("window_s", 2), ("stride_s", 1)):
            if (samples := int(self.sample_rate_hz * getattr(self, name))) < least:
                raise OptionError(
                    f"expected {name} of {least} samples or more, got {samples} at {self.sample_rate_hz} Hz"
                )


class MaskedConvolutions(nn.Module):
    """The convolutions, each utterance's frames zero past its end, so that neighbours in a batch do not matter.

    Shape: (N, 1, bins, F) -> (N, C, bins', F').
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.seq_module = nn.Sequential(
            nn.Conv2d(1, channels, (41, 11), (2, 2), (20, 5)),
            nn.BatchNorm2d(channels),
            nn.Hardtanh(0, 20),
            nn.Conv2d(channels, channels, (21, 11), (2, 1), (10, 5)),
            nn.BatchNorm2d(channels),
            nn.Hardtanh(0, 20),
        )

    @staticmethod
    def out_frames(frames: Tensor) -> Tensor:
        """Frames that come out for ``frames`` that go in: the first convolution has stride 2."""
        return (frames - 1) // 2 + 1

    @staticmethod
    def out_bins(bins: int) -> int:
        """Frequency bins that come out: both convolutions have stride 2 in frequency."""
        return ((bins - 1) // 2 + 1 - 1) // 2 + 1

    def forward(self, x: Tensor, out_frames: Tensor) -> Tensor:
        layer: Any
        for i, layer in enumerate(self.seq_module):
            x = phase_conv2d(x, layer) if i == 0 and fast(x) else layer(x)
            # What follows a frame of its own needs no mask, unless batch norm takes statistics.
            if self.training or isinstance(layer, nn.Hardtanh):
                x = ragged.zero_beyond(x, out_frames)
        return x


class SequenceWise(nn.Module):
    """Apply a module to every frame of (F, N, C)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class BatchRNN(nn.Module):
    """Sequence-wise batch norm, then a recurrent layer, its two directions summed. Shape: (F, N, C) -> (F, N, H)."""

    def __init__(self, input_size: int, hidden_size: int, rnn_type: str, bidirectional: bool, batch_norm: bool) -> None:
        super().__init__()
        self.batch_norm = SequenceWise(nn.BatchNorm1d(input_size)) if batch_norm else None
        self.rnn = RNNS[rnn_type](input_size, hidden_size, bidirectional=bidirectional)

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        if self.batch_norm is not None:
            x = self.batch_norm(x)
        if not self.rnn.bidirectional:
            return self.rnn(x)[0]
        if ragged.is_uniform(frames, x.shape[0]):
            return self.rnn(x)[0].unflatten(2, (2, -1)).sum(2)
        # Packed sequences step through time in Python on a CPU; two plain passes over flipped input do not.
        backward = self._direction(ragged.flip(x, frames), reverse=True)
        return self._direction(x, reverse=False) + ragged.flip(backward, frames)

    def _direction(self, x: Tensor, reverse: bool) -> Tensor:
        weights = self.rnn._flat_weights[4:] if reverse else self.rnn._flat_weights[:4]
        state = x.new_zeros(1, x.shape[1], self.rnn.hidden_size)
        options = (True, 1, 0.0, self.rnn.training, False, False)  # biases, layers, dropout, train, bidi, batch first
        if isinstance(self.rnn, nn.LSTM):
            return torch.lstm(x, (state, state), weights, *options)[0]
        return torch.gru(x, state, weights, *options)[0]


class Lookahead(nn.Module):
    """Each frame sees ``context - 1`` frames ahead, for networks of one direction (Wang et al. 2016)."""

    def __init__(self, features: int, context: int) -> None:
        super().__init__()
        self.context = context
        self.conv = nn.Conv1d(features, features, context, groups=features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        ahead = nn.functional.pad(x.permute(1, 2, 0), (0, self.context - 1))
        return self.conv(ahead).permute(2, 0, 1)


class DeepSpeech2(nn.Module):
    """Convolutions, recurrent layers, one linear layer to the characters.

    Shape: spectrogram (N, 1, bins, F) and frames (N,) -> logits (N, F', classes), out frames (N,).
    """

    def __init__(self, config: DeepSpeech2Config) -> None:
        super().__init__()
        self.config = config
        size, hidden = config.conv_channels, config.hidden_size
        self.conv = MaskedConvolutions(size)
        bins = int(config.sample_rate_hz * config.window_s) // 2 + 1
        inputs = [size * MaskedConvolutions.out_bins(bins)] + [hidden] * (config.hidden_layers - 1)
        self.rnns = nn.ModuleList(
            BatchRNN(n, hidden, config.rnn_type, config.bidirectional, batch_norm=i > 0) for i, n in enumerate(inputs)
        )
        self.lookahead = (
            None
            if config.bidirectional
            else nn.Sequential(Lookahead(hidden, config.lookahead_context), nn.Hardtanh(0, 20))
        )
        head = nn.Sequential(nn.BatchNorm1d(hidden), nn.Linear(hidden, len(config.labels), bias=False))
        self.fc = nn.Sequential(SequenceWise(head))

    def forward(self, spectrogram: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        frames = MaskedConvolutions.out_frames(frames)
        x = self.conv(spectrogram, frames)
        x = x.flatten(1, 2).permute(2, 0, 1)
        for rnn in self.rnns:
            x = rnn(x, frames)
        if self.lookahead is not None:
            x = self.lookahead(ragged.zero_beyond(x.permute(1, 2, 0), frames).permute(2, 0, 1))
        return self.fc(x).transpose(0, 1), frames


class DeepSpeech2Recognizer(BundledRecognizer):
    """Features and network: audio to character logits in one differentiable step.

    Shape: x (N, T) in [-1, 1], zero beyond lengths (N,) -> logits (N, F', classes), frames (N,).
    """

    kind = "deepspeech2"
    config_class = DeepSpeech2Config
    network_class = DeepSpeech2
    config: DeepSpeech2Config
    features: LogSpectrogram
    network: DeepSpeech2

    def __init__(self, config: DeepSpeech2Config) -> None:
        super().__init__()
        self.config = config
        self.alphabet = Alphabet(config.labels)
        self.features = LogSpectrogram(config.sample_rate_hz, config.window_s, config.stride_s, config.window)
        self.network = DeepSpeech2(config)
        self.sample_rate_hz = config.sample_rate_hz
        self.min_samples = self.features.min_samples

    @property
    def head(self) -> nn.Module:
        """The layer onto the characters."""
        return self.network.fc

    def out_frames(self, lengths: Tensor) -> Tensor:
        """Number of logit frames for utterances of the given lengths in samples."""
        return MaskedConvolutions.out_frames(self.features.frames(lengths))
