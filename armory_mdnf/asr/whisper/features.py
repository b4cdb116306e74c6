"""Whisper's log mel spectrogram, differentiable, of utterances of their own lengths."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from armory_mdnf.audio import ragged
from armory_mdnf.audio.mel import MelRecipe, mel_filterbank

SAMPLE_RATE_HZ = 16000
N_FFT, HOP = 400, 160
POWER_FLOOR = 1e-10
DYNAMIC_RANGE = 8.0  # decades below the loudest value, where Whisper cuts


class WhisperLogMel(nn.Module):
    """log10 of the mel power, cut eight decades below the utterance's loudest value, then (x + 4) / 4.

    Frames are centred and the signal is reflected about its ends; the last frame is dropped (OpenAI's
    ``log_mel_spectrogram``). Unlike there, an utterance is not filled up to 30 s.

    Shape: x (N, T), lengths (N,) -> (N, 1, n_mels, F), frames (N,), zero beyond an utterance's frames.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, n_mels: int = 80) -> None:
        super().__init__()
        recipe = MelRecipe(SAMPLE_RATE_HZ, N_FFT, HOP, N_FFT, n_mels, 0.0, SAMPLE_RATE_HZ / 2)
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)
        self.register_buffer("filters", mel_filterbank(recipe), persistent=False)

    @property
    def min_samples(self) -> int:
        """Shortest utterance whose ends can be reflected."""
        return N_FFT // 2 + 1

    def frames(self, lengths: Tensor) -> Tensor:
        """Number of frames of utterances of the given lengths in samples."""
        return lengths // HOP

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        ragged.check_shortest(lengths, self.min_samples, SAMPLE_RATE_HZ, "the recogniser")
        padded = ragged.reflect_pad(x, lengths, N_FFT // 2, N_FFT // 2)
        framed = padded.unfold(-1, N_FFT, HOP)[:, : x.shape[-1] // HOP] * self.window
        power = torch.view_as_real(torch.fft.rfft(framed)).square().sum(-1)
        log_mel = (power @ self.filters).clamp(min=POWER_FLOOR).log10().transpose(1, 2)
        frames = self.frames(lengths)
        inside = ragged.mask(frames, log_mel.shape[-1])[:, None]
        peak = log_mel.masked_fill(~inside, float("-inf")).amax((1, 2), keepdim=True)
        scaled = (torch.maximum(log_mel, peak - DYNAMIC_RANGE) + 4) / 4
        return ragged.zero_beyond(scaled, frames)[:, None], frames
