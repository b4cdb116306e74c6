"""Mel domain noise flooding (Mehlman et al.): white noise on the log mel, then resynthesis."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from armory_mdnf.audio import noise, ragged
from armory_mdnf.defenses.curves import curve_file, load_curve
from armory_mdnf.defenses.mel_resynth import MelResynth
from armory_mdnf.errors import OptionError, quoted
from armory_mdnf.files.provenance import sha256_of
from armory_mdnf.options import NOT_NEGATIVE, check_option, one_of
from armory_mdnf.vocoders import Vocoder

NORMALIZATION = one_of(("utterance", "frame", "none"))
CURVE_SCALES = one_of(("std", "variance"))
# The levels that go with the authors' two normalisations.
PUBLISHED_LEVELS = {"utterance": 20.0, "frame": 0.05}


class MDNF(MelResynth):
    """:class:`MelResynth` with noise added to the log mel that the vocoder takes.

    White Gaussian noise ``n[bin, frame]``, times the curve over the bins, is normalised, times ``noise_level``:

    ``normalize="utterance"``: ``n / ||n||`` over the utterance's whole matrix (Frobenius);
    ``normalize="frame"``: ``n * ||log mel of the frame|| / ||n of the frame||`` (a silent frame, of large negative
    logs, gets more);
    ``normalize="none"``: ``n``, of standard deviation curve * noise_level whatever the duration.

    Norms run over an utterance's own frames. Where a vocoder normalises its log mel (parallel-wavegan's), noise and
    frame norms refer to the normalised one. ``curve`` is the name of a bundled curve, a ``.json`` or ``.npy`` file, or
    None for flat noise; it multiplies the standard deviation, or the variance with ``curve_scales="variance"``.
    ``noise_level`` defaults to the published one, 20 for "utterance" and 0.05 for "frame"; "none" has none.

    Other options: :class:`MelResynth`. Raises :class:`OptionError` for a value outside its range,
    :class:`BundleError` for the vocoder or the curve.
    """

    stochastic = True

    def __init__(
        self,
        vocoder: str | os.PathLike[str] | Vocoder = "melgan",
        noise_level: float | None = None,
        curve: str | os.PathLike[str] | None = "bundled_l2",
        normalize: str = "utterance",
        curve_scales: str = "std",
        sample_rate_hz: int = 16000,
        resample_rate_hz: int | None = None,
        seed: int = 0,
        apply_fit: bool = False,
        apply_predict: bool = True,
        device_type: str = "gpu",
    ) -> None:
        super().__init__(vocoder, sample_rate_hz, resample_rate_hz, seed, apply_fit, apply_predict, device_type)
        check_option("normalize", normalize, NORMALIZATION)
        check_option("curve_scales", curve_scales, CURVE_SCALES)
        if noise_level is None and normalize not in PUBLISHED_LEVELS:
            raise OptionError(f"expected a noise_level: normalize={quoted(normalize)} has no published one")
        level = PUBLISHED_LEVELS[normalize] if noise_level is None else noise_level
        check_option("noise_level", level, NOT_NEGATIVE)
        self.noise_level = float(level)
        self.normalize = normalize
        self.curve_scales = curve_scales
        self.curve = load_curve(curve, self.vocoder.recipe.n_mels).to(self.device)
        self.curve_name = None if curve is None else os.fspath(curve)

    def file_checksums(self) -> dict[str, str]:
        """Of the vocoder and of the curve."""
        curve = {} if self.curve_name is None else {self.curve_name: sha256_of(curve_file(self.curve_name))}
        return super().file_checksums() | curve

    def perturb(self, log_mel: Tensor, frames: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        return log_mel + self.mel_noise(log_mel, frames, streams)

    def mel_noise(self, log_mel: Tensor, frames: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        """The noise that goes on a log mel. Shape: (N, n_mels, F), frames (N,) -> (N, n_mels, F), zero beyond them."""
        deviation = self.curve if self.curve_scales == "std" else self.curve.sqrt()
        if self.normalize != "none":
            deviation = deviation / deviation.max()  # the norm of a tiny curve would be zero in float32
        n = noise.normal(streams, frames.tolist(), like=log_mel, rows=log_mel.shape[1])
        n = n * deviation.to(log_mel)[:, None]
        if self.normalize == "utterance":
            n = n / n.norm(dim=(1, 2), keepdim=True)
        elif self.normalize == "frame":
            # Frames beyond an utterance's end have no noise to normalise.
            norm = n.norm(dim=1, keepdim=True).clamp(min=torch.finfo(n.dtype).tiny)
            n = n * torch.linalg.vector_norm(ragged.zero_beyond(log_mel, frames), dim=1, keepdim=True) / norm
        return self.noise_level * n
