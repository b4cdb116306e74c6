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

    ``window_size`` and ``hop_size`` of the masker are in samples at the estimator's sample rate; ``options`` are ART's.
    """

    def __init__(
        self, estimator: Any, window_size: int = 2048, hop_size: int = 512, targeted: bool = True, **options: Any
    ) -> None:
        _check_targeted(targeted, type(self).__name__)
        masker = PsychoacousticMasker(window_size, hop_size, estimator.sample_rate)
        of_audio = {"eps": 2000 / 2**15, "learning_rate_1": 100 / 2**15, "learning_rate_2": 1 / 2**15}
        super().__init__(estimator, masker, **of_audio | options)


class ImperceptibleASRPyTorch(_AnyBatch, evasion.ImperceptibleASRPyTorch):
    """ART's attack of Qin et al. (2019) for PyTorch. ``global_max_length``: samples of the longest utterance."""

    def __init__(
        self,
        estimator: Any,
        global_max_length: int = 35 * 16000,
        batch_size: int = 1,
        targeted: bool = True,
        **options: Any,
    ) -> None:
        _check_targeted(targeted, type(self).__name__)
        super().__init__(estimator, global_max_length=global_max_length, batch_size=batch_size, **options)
