"""ART's attacks on speech recognition as Armory's configurations can name them. Armory itself is not imported.

Armory reads whether an attack is targeted from ``attack.kwargs.targeted``, and passes it on; ART's attacks on speech
recognition are always targeted and refuse the keyword. These take it, and have defaults for audio in [-1, 1], where
ART's are for 16-bit integers. What comes back is finite and of the length that went in, or an error says so.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from art.attacks import evasion
from art.attacks.evasion.imperceptible_asr.imperceptible_asr import PsychoacousticMasker
from numpy.typing import NDArray
from torch import Tensor

from armory_mdnf.audio import checks
from armory_mdnf.errors import AttackError, AudioError, OptionError, TranscriptError, quoted, refuse_unknown
from armory_mdnf.options import all_or_none, check_option, count


class _Adapter:
    """What the adapters add to an attack of ART's: options checked, batches of any kind, the result checked."""

    estimator: Any
    window = 0
    """Samples of one analysis window, the fewest that the attack takes."""

    def _adapt(self, art: Any, estimator: Any, targeted: object, options: Mapping[str, Any], **fixed: Any) -> None:
        """Construct ART's attack. Raises :class:`OptionError` for options that it does not take."""
        if targeted is not True:
            name = type(self).__name__
            raise OptionError(f"expected targeted true, got {quoted(targeted)}: {name} has no untargeted form")
        known = [key for key in inspect.signature(art.__init__).parameters if key not in ("self", "estimator", *fixed)]
        with self._checked(options, known):
            art.__init__(self, estimator, **fixed, **options)

    def set_params(self, **params: Any) -> None:
        """Change options by name: all, or none and :class:`OptionError` where one is unknown or refused."""
        attack: Any = super()
        with self._checked(params, attack.attack_params), all_or_none(self):
            attack.set_params(**params)

    @contextmanager
    def _checked(self, options: Mapping[str, Any], known: Iterable[str]) -> Iterator[None]:
        """Raise :class:`OptionError` for options that are unknown or not finite, or that ART refuses in the block."""
        name = type(self).__name__
        refuse_unknown(options, known, name)
        for key, value in options.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise OptionError(f"{name}: expected {key} to be finite, got {value}")
        try:
            yield
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            given = quoted(dict(options), 200)
            raise OptionError(f"{name} does not take {given}: {quoted(str(error), 200)}") from error

    def generate(self, x: Any, y: Any = None, **kwargs: Any) -> Any:
        """Adversarial utterances of the kind, shape and dtype of ``x``, towards the transcripts ``y``.

        A ragged batch goes one utterance after another: the way ART makes one of it is refused by NumPy since 1.24.
        Raises :class:`AudioError` and :class:`TranscriptError` for what cannot be attacked, :class:`AttackError` for a
        result that is no audio of the same length.
        """
        waveforms = checks.as_waveforms(x, min_samples=max(self.window, self.estimator.min_samples))
        if y is None or len(y) != len(waveforms):
            raise TranscriptError(
                f"expected {len(waveforms)} target transcripts, got {'none' if y is None else len(y)}"
            )
        self._check_audio(waveforms)
        if isinstance(x, np.ndarray) and x.ndim == 2 and x.dtype != object:
            return np.stack(self._attacked(x, y, kwargs)).astype(x.dtype, copy=False)
        pairs = zip(waveforms, y, strict=True)
        return checks.restore([self._attacked(u[None], np.array([text]), kwargs)[0] for u, text in pairs], x)

    def _check_audio(self, waveforms: Sequence[checks.Waveform]) -> None:
        """Raise :class:`AudioError` for an utterance on which the attack is not defined."""

    def _attacked(self, x: NDArray[Any], y: Any, kwargs: Mapping[str, Any]) -> list[NDArray[Any]]:
        """What ART's attack makes of utterances of one length. Shape: (N, T) -> N arrays (T,)."""
        name = type(self).__name__
        attack: Any = super()
        try:
            found = attack.generate(x, y, **kwargs)
        except AudioError as error:  # the audio that came in is right: this is what the attack made of it
            raise AttackError(f"{name} left the range of audio: {error}") from error
        if len(found) != len(x):
            raise AttackError(f"{name}: expected {len(x)} utterances, got {len(found)}")
        return [checks.check_made(row, x.shape[1], name, AttackError) for row in found]


class CarliniWagnerASR(_Adapter, evasion.CarliniWagnerASR):
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
        options = {
            "eps": eps,
            "learning_rate": learning_rate,
            "max_iter": max_iter,
            "decrease_factor_eps": decrease_factor_eps,
            "num_iter_decrease_eps": num_iter_decrease_eps,
            "batch_size": batch_size,
        }
        self._adapt(evasion.CarliniWagnerASR, estimator, targeted, options)


class _Imperceptible(_Adapter):
    """What both forms of Qin et al.'s attack need beside: audio that can mask something."""

    hop = 1
    """Samples from one analysis window to the next."""

    def _check_audio(self, waveforms: Sequence[checks.Waveform]) -> None:
        for i, u in enumerate(waveforms):
            # The thresholds are relative to the loudest window; what no whole window covers is in none.
            covered = self.window + (len(u) - self.window) // self.hop * self.hop
            if not u[:covered].any():
                raise AudioError(f"utterance {i} is silent throughout: nothing in it can mask a perturbation")


class ImperceptibleASR(_Imperceptible, evasion.ImperceptibleASR):
    """ART's attack of Qin et al. (2019), any framework, with the psychoacoustic masker that JSON cannot give it.

    ``window_size`` and ``hop_size`` of the masker are in samples at the estimator's sample rate; ``options`` are ART's.
    """

    def __init__(
        self, estimator: Any, window_size: int = 2048, hop_size: int = 512, targeted: bool = True, **options: Any
    ) -> None:
        check_option("window_size", window_size, count(2))
        check_option("hop_size", hop_size, count(1))
        self.window, self.hop = window_size, hop_size
        masker = PsychoacousticMasker(window_size, hop_size, estimator.sample_rate)
        of_audio = {"eps": 2000 / 2**15, "learning_rate_1": 100 / 2**15, "learning_rate_2": 1 / 2**15}
        self._adapt(evasion.ImperceptibleASR, estimator, targeted, of_audio | options, masker=masker)

    def _approximate_power_spectral_density_torch(self, perturbation: Tensor, psd_maximum_stabilized: Tensor) -> Tensor:
        """ART's, with a gradient that is not NaN where a window of the perturbation is zero throughout."""
        gain = np.sqrt(8.0 / 3.0)
        psd = _magnitude(gain * _stft(perturbation, self.window, self.hop, self.window) / self.window).square()
        return pow(10.0, 9.6) / psd_maximum_stabilized.reshape(-1, 1, 1) * psd


class ImperceptibleASRPyTorch(_Imperceptible, evasion.ImperceptibleASRPyTorch):
    """ART's attack of Qin et al. (2019) for PyTorch. ``global_max_length``: samples of the longest utterance."""

    def __init__(
        self,
        estimator: Any,
        global_max_length: int = 35 * 16000,
        batch_size: int = 1,
        targeted: bool = True,
        **options: Any,
    ) -> None:
        options = {"global_max_length": global_max_length, "batch_size": batch_size, **options}
        self._adapt(evasion.ImperceptibleASRPyTorch, estimator, targeted, options)

    def _check_params(self) -> None:
        super()._check_params()
        self.window, self.hop = self.n_fft, self.hop_length

    def _psd_transform(self, delta: Tensor, original_max_psd: NDArray[Any]) -> Tensor:
        """ART's, with a gradient that is not NaN where a window of the perturbation is zero throughout."""
        amplitude = (8.0 / 3.0) * _magnitude(_stft(delta, self.n_fft, self.hop_length, self.win_length))
        psd = (amplitude / self.win_length) ** 2
        loudest = torch.as_tensor(original_max_psd, device=delta.device).reshape(-1, 1, 1)
        ten, exponent = torch.tensor([10.0, 9.6], dtype=torch.float64, device=delta.device)
        return torch.pow(ten, exponent) / loudest * psd.double()


def _stft(x: Tensor, n_fft: int, hop: int, win: int) -> Tensor:
    """Short-time Fourier transform, real and imaginary part. Shape: (..., T) -> (..., bins, frames, 2)."""
    window = torch.hann_window(win, device=x.device)
    return torch.view_as_real(torch.stft(x, n_fft, hop, win, window, center=False, return_complex=True))


def _magnitude(stft: Tensor) -> Tensor:
    """Absolute value, whose gradient is 0 at 0. Shape: (..., 2) -> (...).

    That of ART's ``sqrt(sum(square))`` is infinity times zero there, and a recogniser with a floor under its magnitudes
    gives no gradient, and so no perturbation, to a pause of digital zeros: the NaN spread from there.
    """
    power = stft.square().sum(-1)
    sounding = power > 0
    return torch.where(sounding, power, 1).sqrt() * sounding
