"""ART's attacks on speech recognition as Armory's configurations can name them. Armory itself is not imported.

Armory reads whether an attack is targeted from ``attack.kwargs.targeted``, and passes it on; ART's attacks on speech
recognition are always targeted and refuse the keyword. These take it, and have defaults for audio in [-1, 1], where
ART's are for 16-bit integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from art.attacks import evasion
from art.attacks.evasion.imperceptible_asr.imperceptible_asr import PsychoacousticMasker

from armory_mdnf.audio import checks
from armory_mdnf.errors import OptionError, TranscriptError


def _check_targeted(targeted: bool, name: str) -> None:
    if targeted is not True:
        raise OptionError(f"expected targeted true, got {targeted!r}: {name} has no untargeted form")


class _AnyBatch:
    """Ragged batches for ART's attacks, which NumPy refuses since 1.24: one utterance after another."""

    def generate(self, x: Any, y: Any = None, **kwargs: Any) -> Any:
        """Adversarial utterances of the kind, shape and dtype of ``x``, towards the transcripts ``y``."""
        attack: Any = super()
        if isinstance(x, np.ndarray) and x.ndim == 2 and x.dtype != object:
            return attack.generate(x, y, **kwargs)
        waveforms = checks.as_waveforms(x)
        if y is None or len(y) != len(waveforms):
            raise TranscriptError(
                f"expected {len(waveforms)} target transcripts, got {'none' if y is None else len(y)}"
            )
        pairs = zip(waveforms, y, strict=True)
        return checks.restore([attack.generate(u[None], np.array([text]), **kwargs)[0] for u, text in pairs], x)


class CarliniWagnerASR(_AnyBatch, evasion.CarliniWagnerASR):
    """ART's attack of Carlini and Wagner (2018). It does not clip to [-1, 1]."""

    def __init__(
        self,
        estimator: Any,
        eps: float = 0.01,
        learning_rate: float = 1e-4,
        max_iter: int = 400,
        decrease_factor_eps: float = 0.8,
        num_iter_decrease_eps: int = 10,
        batch_size: int = 1,
        targeted: bool = True,
    ) -> None:
        _check_targeted(targeted, type(self).__name__)
        super().__init__(
            estimator, eps, learning_rate, max_iter, decrease_factor_eps, num_iter_decrease_eps, batch_size
        )


class ImperceptibleASR(_AnyBatch, evasion.ImperceptibleASR):
    """ART's attack of Qin et al. (2019), any framework, with the psychoacoustic masker that JSON cannot give it.

    ``window_size`` and ``hop_size`` of the masker are in samples at the estimator's sample rate.
    """

    def __init__(
        self,
        estimator: Any,
        eps: float = 2000 / 2**15,
        learning_rate_1: float = 100 / 2**15,
        max_iter_1: int = 1000,
        alpha: float = 0.05,
        learning_rate_2: float = 1 / 2**15,
        max_iter_2: int = 4000,
        loss_theta_min: float = 0.05,
        decrease_factor_eps: float = 0.8,
        num_iter_decrease_eps: int = 10,
        increase_factor_alpha: float = 1.2,
        num_iter_increase_alpha: int = 20,
        decrease_factor_alpha: float = 0.8,
        num_iter_decrease_alpha: int = 50,
        window_size: int = 2048,
        hop_size: int = 512,
        batch_size: int = 1,
        targeted: bool = True,
    ) -> None:
        _check_targeted(targeted, type(self).__name__)
        super().__init__(
            estimator,
            PsychoacousticMasker(window_size, hop_size, estimator.sample_rate),
            eps,
            learning_rate_1,
            max_iter_1,
            alpha,
            learning_rate_2,
            max_iter_2,
            loss_theta_min,
            decrease_factor_eps,
            num_iter_decrease_eps,
            increase_factor_alpha,
            num_iter_increase_alpha,
            decrease_factor_alpha,
            num_iter_decrease_alpha,
            batch_size,
        )


class ImperceptibleASRPyTorch(_AnyBatch, evasion.ImperceptibleASRPyTorch):
    """ART's attack of Qin et al. (2019) for PyTorch. ``global_max_length``: samples of the longest utterance."""

    def __init__(
        self,
        estimator: Any,
        eps: float = 0.05,
        max_iter_1: int = 10,
        max_iter_2: int = 4000,
        learning_rate_1: float = 0.001,
        learning_rate_2: float = 5e-4,
        global_max_length: int = 35 * 16000,
        initial_rescale: float = 1.0,
        decrease_factor_eps: float = 0.8,
        num_iter_decrease_eps: int = 1,
        alpha: float = 1.2,
        increase_factor_alpha: float = 1.2,
        num_iter_increase_alpha: int = 20,
        decrease_factor_alpha: float = 0.8,
        num_iter_decrease_alpha: int = 20,
        win_length: int = 2048,
        hop_length: int = 512,
        n_fft: int = 2048,
        batch_size: int = 1,
        targeted: bool = True,
    ) -> None:
        _check_targeted(targeted, type(self).__name__)
        super().__init__(
            estimator,
            eps,
            max_iter_1,
            max_iter_2,
            learning_rate_1,
            learning_rate_2,
            global_max_length=global_max_length,
            initial_rescale=initial_rescale,
            decrease_factor_eps=decrease_factor_eps,
            num_iter_decrease_eps=num_iter_decrease_eps,
            alpha=alpha,
            increase_factor_alpha=increase_factor_alpha,
            num_iter_increase_alpha=num_iter_increase_alpha,
            decrease_factor_alpha=decrease_factor_alpha,
            num_iter_decrease_alpha=num_iter_decrease_alpha,
            win_length=win_length,
            hop_length=hop_length,
            n_fft=n_fft,
            batch_size=batch_size,
        )
