"""DeepSpeech2's spectrogram."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from armory_mdnf.audio import ragged
from armory_mdnf.errors import OptionError, choices

WINDOWS = {
    "hamming": torch.hamming_window,
    "hann": torch.hann_window,
    "blackman": torch.blackman_window,
    "bartlett": torch.bartlett_window,
}


class LogSpectrogram(nn.Module):
    """log(1 + magnitude) of the short-time Fourier transform, with each utterance's mean and deviation removed.

    Frames are centred, the signal reflected about its ends (deepspeech.pytorch; ART's ``PyTorchDeepSpeech``).

    Shape: x (N, T) and lengths (N,) -> spectrogram (N, 1, bins, F), frames (N,) with F = 1 + T // hop.
    """

    window: Tensor

    def __init__(
        self, sample_rate_hz: int = 16000, window_s: float = 0.02, stride_s: float = 0.01, window: str = "hamming"
    ) -> None:
        super().__init__()
        if window not in WINDOWS:
            raise OptionError(choices(window, WINDOWS, "window"))
        self.sample_rate_hz = sample_rate_hz
        self.n_fft = int(sample_rate_hz * window_s)
        self.hop = int(sample_rate_hz * stride_s)
        self.register_buffer("window", WINDOWS[window](self.n_fft), persistent=False)

    @property
    def bins(self) -> int:
        """Number of frequency bins."""
        return self.n_fft // 2 + 1

    @property
    def min_samples(self) -> int:
        """Shortest utterance whose ends can be reflected."""
        return self.n_fft // 2 + 1

    def frames(self, lengths: Tensor) -> Tensor:
        """Number of frames of utterances of the given lengths in samples."""
        return 1 + (lengths - self.n_fft % 2) // self.hop  # reflected by half a window, rounded down

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        ragged.check_shortest(lengths, self.min_samples, self.sample_rate_hz, "the recogniser")
        half = self.n_fft // 2
        padded = ragged.reflect_pad(x, lengths, half, half)
        stft = torch.stft(padded, self.n_fft, self.hop, window=self.window, center=False, return_complex=True)
        spectrogram = stft.abs().log1p()
        frames = self.frames(lengths)
        return self._normalise(spectrogram, frames)[:, None], frames

    def _normalise(self, spectrogram: Tensor, frames: Tensor) -> Tensor:
        spectrogram = ragged.zero_beyond(spectrogram, frames)
        count = (frames * self.bins).to(spectrogram)[:, None, None]
        mean = spectrogram.sum((1, 2), keepdim=True) / count
        centred = ragged.zero_beyond(spectrogram - mean, frames)
        variance = centred.square().sum((1, 2), keepdim=True) / (count - 1)
        # Silence has no deviation: the floor leaves it at zero and keeps the gradient finite.
        return centred / variance.clamp(min=1e-10).sqrt()
