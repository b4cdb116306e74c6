"""Mel resynthesis: a vocoder rebuilds the audio from its log mel spectrogram alone."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from armory_mdnf.audio import checks, noise
from armory_mdnf.audio.resample import fit_length, fits, resample
from armory_mdnf.defenses.base import WaveformDefense
from armory_mdnf.errors import BundleError, OptionError, quoted
from armory_mdnf.files.provenance import sha256_of
from armory_mdnf.options import check_option, or_null, whole
from armory_mdnf.vocoders import Vocoder, load_vocoder, vocoder_file

RATE_HZ = whole(1000, 384_000, "hertz")


class MelResynth(WaveformDefense):
    """Audio -> log mel -> vocoder -> audio (MG with MelGAN, WG with Parallel WaveGAN).

    ``vocoder`` is a name that :func:`load_vocoder` knows, the path of a bundle, or a vocoder, which the defence takes
    over (device, evaluation mode, no gradients for its weights); it brings its own mel recipe. Audio at
    ``sample_rate_hz`` is resampled to the recipe's rate and back. ``resample_rate_hz`` overrides the rate in between
    without the recipe knowing it: the published experiments ran a 22050 Hz model at 22000 Hz.

    An utterance is zero-padded where its frames would not reach its end and up to the vocoder's minimum, and cropped
    back: the output has its exact length. A vocoder that needs a noise input draws it from the utterance's own stream,
    before anything else.

    Raises :class:`OptionError` for rates that are no whole numbers > 0 or have too small a common divisor,
    :class:`BundleError` for the vocoder; later :class:`AudioError` for a vocoder whose output is of another length or
    not finite.
    """

    def __init__(
        self,
        vocoder: str | os.PathLike[str] | Vocoder = "melgan",
        sample_rate_hz: int = 16000,
        resample_rate_hz: int | None = None,
        seed: int = 0,
        apply_fit: bool = False,
        apply_predict: bool = True,
        device_type: str = "gpu",
    ) -> None:
        super().__init__(seed, apply_fit, apply_predict, device_type)
        check_option("sample_rate_hz", sample_rate_hz, RATE_HZ)
        check_option("resample_rate_hz", resample_rate_hz, or_null(RATE_HZ))
        if not isinstance(vocoder, (str, os.PathLike, Vocoder)):
            raise OptionError(f"expected vocoder to be a name, a path or a vocoder, got {quoted(vocoder)}")
        if isinstance(vocoder, Vocoder):
            self.vocoder = vocoder.to(self.device).eval().requires_grad_(False)
        else:
            try:
                self.vocoder = shared_vocoder(vocoder, self.device)
            except BundleError as error:
                raise BundleError(f"vocoder: {error}") from error
        self.vocoder_name = None if isinstance(vocoder, Vocoder) else os.fspath(vocoder)
        self.sample_rate_hz = sample_rate_hz
        self.resample_rate_hz = resample_rate_hz or self.vocoder.recipe.sample_rate_hz
        if not fits(sample_rate_hz, self.resample_rate_hz):
            raise OptionError(
                f"expected sample_rate_hz and resample_rate_hz with a larger common divisor, got {sample_rate_hz} and "
                f"{self.resample_rate_hz}: the filters between them would not fit into memory"
            )

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Whether the vocoder draws noise."""
        return self.vocoder.needs_noise

    def file_checksums(self) -> dict[str, str]:
        """Of the vocoder, where it came by name or path."""
        return {} if self.vocoder_name is None else {self.vocoder_name: sha256_of(vocoder_file(self.vocoder_name))}

    def compute_dtype(self, x: Tensor) -> torch.dtype:
        """Dtype of the vocoder's weights."""
        return next((p.dtype for p in self.vocoder.parameters()), torch.float32)

    def defend(self, x: Tensor, lengths: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        y, y_lengths = resample(x, lengths, self.sample_rate_hz, self.resample_rate_hz)
        log_mel, frames = self.vocoder.mel(*self._covered(y, y_lengths))
        z = self._vocoder_noise(frames, streams, like=y)
        wave = self.vocoder.synthesize(self.perturb(log_mel, frames, streams), frames, z)
        samples = log_mel.shape[-1] * self.vocoder.recipe.hop
        checks.check_batch(wave, (len(log_mel), samples), f"vocoder {type(self.vocoder).__name__}")
        wave = fit_length(wave, y_lengths, y.shape[-1])
        back, _ = resample(wave, y_lengths, self.resample_rate_hz, self.sample_rate_hz)
        return fit_length(back, lengths, x.shape[-1])

    def perturb(self, log_mel: Tensor, frames: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        """What happens between the log mel and the vocoder: nothing here. Shape: (N, n_mels, F) -> same."""
        return log_mel

    def _covered(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Zero-pad the utterances whose frames would not reach their end, or that the vocoder finds too short."""
        recipe = self.vocoder.recipe
        whole = torch.div(lengths + recipe.hop - 1, recipe.hop, rounding_mode="floor") * recipe.hop
        padded = torch.where(recipe.frames(lengths) * recipe.hop < lengths, whole, lengths)
        padded = padded.clamp(min=self.vocoder.min_samples)
        return fit_length(x, lengths, int(padded.max())), padded

    def _vocoder_noise(self, frames: Tensor, streams: Sequence[torch.Generator], like: Tensor) -> Tensor | None:
        if not self.vocoder.needs_noise:
            return None
        return noise.normal(streams, (frames * self.vocoder.recipe.hop).tolist(), like=like, rows=1)


def shared_vocoder(name_or_path: str | os.PathLike[str], device: torch.device) -> Vocoder:
    """The vocoder of that name or path, loaded once per process: defences do not change it."""
    path = vocoder_file(name_or_path)
    status = path.stat()
    source = str(path.resolve()) if path.suffix == ".safetensors" else str(name_or_path)
    return _load(source, str(device), status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=4)
def _load(source: str, device: str, mtime_ns: int, size: int) -> Vocoder:
    return load_vocoder(source, device=device)
