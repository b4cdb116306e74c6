"""What a vocoder is trained on: spectral distances, then a discriminator's opinion.

The multi-resolution STFT loss is that of Yamamoto et al. 2020 (Parallel WaveGAN); written out here because
``parallel_wavegan.losses`` imports ``distutils``, which Python 3.12 dropped. The adversarial losses are the least
squares and feature matching of Kumar et al. 2019 (MelGAN).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# (n_fft, hop, win) in samples at 16 kHz: windows of 32, 64 and 16 ms, and a short one for onsets.
RESOLUTIONS = ((1024, 128, 512), (2048, 256, 1024), (512, 64, 256), (256, 64, 128))
# Parallel-wavegan's floor of the power under logarithm and root.
POWER_FLOOR = 1e-7


class MultiResolutionSTFTLoss(nn.Module):
    """Mean over resolutions of spectral convergence and of the L1 distance of log magnitudes."""

    def __init__(self, resolutions: tuple[tuple[int, int, int], ...] = RESOLUTIONS) -> None:
        super().__init__()
        self.resolutions = resolutions
        for i, (_, _, win) in enumerate(resolutions):
            self.register_buffer(f"window{i}", torch.hann_window(win), persistent=False)

    def forward(self, estimate: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Shape: (N, T), (N, T) -> (), (): spectral convergence and log magnitude distance."""
        convergence, distance = estimate.new_zeros(()), estimate.new_zeros(())
        for i, (n_fft, hop, win) in enumerate(self.resolutions):
            both = torch.cat([estimate, target])
            spectrum = torch.stft(both, n_fft, hop, win, getattr(self, f"window{i}"), return_complex=True)
            power = torch.view_as_real(spectrum).square().sum(-1).clamp(min=POWER_FLOOR)
            mine, theirs = power.sqrt().chunk(2)
            my_log, their_log = power.log().chunk(2)
            convergence = convergence + torch.linalg.norm(theirs - mine) / torch.linalg.norm(theirs)
            distance = distance + 0.5 * (my_log - their_log).abs().mean()
        return convergence / len(self.resolutions), distance / len(self.resolutions)


def discriminator_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Tensor:
    """Least squares: real towards 1, fake towards 0; the last map of each scale is its verdict."""
    terms = [(r[-1] - 1).square().mean() + f[-1].square().mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(terms).mean()


def adversarial_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """What the generator pays: distance of its verdicts from 1, and of its feature maps from the real ones."""
    verdict = torch.stack([(f[-1] - 1).square().mean() for f in fake]).mean()
    pairs = [(a, b) for r, f in zip(real, fake, strict=True) for a, b in zip(r[:-1], f[:-1], strict=True)]
    matching = torch.stack([(a.detach() - b).abs().mean() for a, b in pairs]).mean()
    return verdict, matching
