"""Randomised smoothing of speech recognition: white noise, several passes, averaged probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from armory_mdnf.audio import noise
from armory_mdnf.defenses.base import WaveformDefense
from armory_mdnf.options import DECIBELS, check_option, whole

PASSES = whole(1, 1000)


class RandomizedSmoothing(WaveformDefense):
    """White Gaussian noise at ``snr_db`` relative to each utterance's own power.

    The recogniser averages the per-frame character probabilities of ``passes`` draws and decodes the mean
    (:class:`armory_mdnf.asr.estimator.RecognizerEstimator`); a loss gradient takes one draw. Any other estimator
    gets one pass, and a warning. A silent utterance has no power and gets no noise.

    Raises :class:`OptionError` for an SNR that is not finite, and for fewer than one pass.
    """

    stochastic = True

    def __init__(
        self,
        snr_db: float = 15.0,
        passes: int = 5,
        seed: int = 0,
        apply_fit: bool = False,
        apply_predict: bool = True,
        device_type: str = "gpu",
    ) -> None:
        super().__init__(seed, apply_fit, apply_predict, device_type)
        check_option("snr_db", snr_db, DECIBELS)
        check_option("passes", passes, PASSES)
        self.snr_db = float(snr_db)
        self.num_passes = passes

    def defend(self, x: Tensor, lengths: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        # The norm, unlike the root of the mean square, has a finite gradient for silence.
        rms = torch.linalg.vector_norm(x, dim=-1, keepdim=True) / lengths[:, None].sqrt()
        deviation = rms * 10 ** (-self.snr_db / 20)
        return x + deviation * noise.normal(streams, lengths.tolist(), like=x, width=x.shape[-1])
