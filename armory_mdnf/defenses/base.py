"""What every waveform defence shares: noise streams, checked options, and the bridge to ART.

A defence is one differentiable torch function, :meth:`WaveformDefense.transform`, over a padded batch. Only this
module knows NumPy, ragged arrays and 1-D input.
"""

from __future__ import annotations

import inspect
import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from torch import Tensor

from armory_mdnf.audio import checks, ragged
from armory_mdnf.audio.noise import Key, NoiseSource
from armory_mdnf.errors import ArmoryMdnfWarning, AudioError, OptionError, quoted, refuse_unknown
from armory_mdnf.options import FLAG, check_option, one_of

DEVICE_TYPE = one_of(("cpu", "gpu"))


class _NamesOptions(ABCMeta):
    """Refuses a misspelt option with the nearest match: configurations hand their keys straight to the constructor."""

    def __call__(cls, *args: Any, **options: Any) -> Any:
        known: list[str] = []
        for kind in cls.__mro__:
            found = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
            known += [name for name in found if name != "self"]
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in found.values()):
                break  # it hands none on
        refuse_unknown(options, known, cls.__name__)
        with torch.inference_mode(False):  # what is made in the caller's would refuse gradients for ever
            made = super().__call__(*args, **options)
        if not hasattr(made, "noise"):
            raise OptionError(f"{cls.__name__}: expected its __init__ to call super().__init__, which it does not")
        return made


class WaveformDefense(PreprocessorPyTorch, metaclass=_NamesOptions):
    """A defence that maps audio to audio of the same length, dtype and device.

    An estimator that knows this class calls :meth:`transform` inside its own autograd graph and averages its
    predictions over :attr:`num_passes`. Any other ART estimator uses :meth:`forward`, ``__call__`` and
    :meth:`estimate_gradient`.
    """

    num_passes: int = 1
    """Forward passes whose probabilities a recogniser should average."""
    stochastic: bool = False
    """Whether two calls differ."""

    def __init__(
        self, seed: int = 0, apply_fit: bool = False, apply_predict: bool = True, device_type: str = "gpu"
    ) -> None:
        check_option("device_type", device_type, DEVICE_TYPE)
        check_option("apply_fit", apply_fit, FLAG)
        check_option("apply_predict", apply_predict, FLAG)
        super().__init__(device_type=device_type, is_fitted=True, apply_fit=apply_fit, apply_predict=apply_predict)
        self.noise = NoiseSource(seed)
        self._latest: tuple[int, list[int]] | None = None  # first stream and lengths of the latest call through ART
        self._warned = False

    @abstractmethod
    def defend(self, x: Tensor, lengths: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        """The defence itself, differentiable, on :attr:`device`. Shape: (N, T), (N,) -> (N, T)."""

    def draw(self, n: int, keys: Sequence[Key] | None = None, place: int = 0) -> list[torch.Generator]:
        """Noise streams for the next ``n`` utterances, or those that keys fix, to hand to :meth:`transform`.

        ``place`` tells apart defences of one seed that stand one behind another.
        """
        return self.noise.streams(n, keys, place)

    def reseed(self, seed: int) -> None:
        """Start anew with another seed."""
        self.noise = NoiseSource(seed)

    def rewind(self, count: int = 0) -> None:
        """Go back to the draw of utterance ``count``, to repeat an evaluation with the same noise."""
        self.noise.rewind(count)

    def transform(self, x: Tensor, lengths: Tensor, streams: Sequence[torch.Generator] | None = None) -> Tensor:
        """Defend a padded batch, each utterance as if it were alone.

        Shape: x (N, T), zero beyond lengths (N,) -> (N, T), likewise. Dtype and device are those of ``x``;
        inside, a defence with weights computes in their dtype.
        ``streams``, one per utterance, come from :meth:`draw`; by default the next N.
        Raises :class:`AudioError` for another shape or dtype, of what is defended or of what :meth:`defend` gives.
        """
        if x.dim() != 2 or lengths.shape != x.shape[:1] or not x.is_floating_point():
            raise AudioError(
                f"expected float audio (N, T) and lengths (N,), got {x.dtype} of shape {tuple(x.shape)} and "
                f"{tuple(lengths.shape)}"
            )
        if streams is None:
            streams = self.draw(x.shape[0])
        elif len(streams) != x.shape[0]:
            raise OptionError(f"expected {x.shape[0]} noise streams, one per utterance, got {len(streams)}")
        defended = self.defend(x.to(self.device, self.compute_dtype(x)), lengths.to(self.device), streams)
        checks.check_kind(defended, x.shape, f"{type(self).__name__}.defend")
        return ragged.zero_beyond(defended.to(x), lengths)

    def set_params(self, **params: Any) -> None:
        """Refuse: a defence's options are fixed when it is made. ART's would take any, and change nothing by them."""
        for name in params:
            raise OptionError(f"{type(self).__name__}: {quoted(name)} is fixed when a defence is made: make another")

    def file_checksums(self) -> dict[str, str]:
        """SHA-256 of the files that the defence computes with, by the names that its options give them: none here."""
        return {}

    def compute_dtype(self, x: Tensor) -> torch.dtype:
        """Dtype that the defence computes in: that of ``x``, but at least float32."""
        return torch.promote_types(x.dtype, torch.float32)

    # The bridge to ART.

    def forward(self, x: Tensor, y: Any = None) -> tuple[Tensor, Any]:
        """Defend a tensor of shape (T,) or (N, T). Returns it with ``y`` untouched; differentiable."""
        batch = x[None] if x.dim() == 1 else x
        lengths = torch.full(batch.shape[:1], batch.shape[-1], device=x.device)
        return self._single_pass(batch, lengths).reshape(x.shape), y

    def estimate_forward(self, x: Tensor, y: Any = None) -> Tensor:
        """Like :meth:`forward`, with the noise of the call before if it had the same lengths.

        ART evaluates a loss with one draw of a defence and back-propagates through another draw; so it gets the
        gradient at the point where it took the loss.
        """
        batch = x[None] if x.dim() == 1 else x
        with self._replayed([batch.shape[-1]] * len(batch)):
            return self.forward(x, y)[0]

    def __call__(self, x: Any, y: Any = None) -> tuple[Any, Any]:
        """Defend audio of any kind that :func:`armory_mdnf.audio.checks.as_waveforms` takes, and return that kind.

        Labels pass untouched. Raises :class:`AudioError` for audio that it refuses.
        """
        batch, lengths = ragged.pad([torch.tensor(u) for u in checks.as_waveforms(x)])
        with torch.no_grad():
            defended = self._single_pass(batch, lengths)
        return checks.restore([u.numpy() for u in ragged.unpad(defended, lengths)], x), y

    @torch.inference_mode(False)  # there is no gradient in the caller's
    def estimate_gradient(self, x: Any, grad: Any) -> Any:
        """Product of ``grad`` with the defence's Jacobian at ``x``, for the noise of the call before if it fits.

        ``x`` and ``grad`` are of the same kind and lengths; so is the result.
        """
        batch, lengths = ragged.pad([torch.tensor(u) for u in checks.as_waveforms(x)])
        outer, outer_lengths = ragged.pad(_gradients(grad))
        if outer_lengths.tolist() != lengths.tolist():
            raise AudioError(f"expected gradients of lengths {lengths.tolist()}, got {outer_lengths.tolist()}")
        batch.requires_grad_()
        with torch.enable_grad(), self._replayed(lengths.tolist()):
            (inner,) = torch.autograd.grad(self._single_pass(batch, lengths), batch, outer)
        return checks.restore([g.numpy() for g in ragged.unpad(inner, lengths)], x)

    def _single_pass(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.num_passes > 1 and not self._warned:
            self._warned = True
            warnings.warn(
                f"{type(self).__name__} asks for {self.num_passes} averaged passes, but is called without an estimator "
                "that knows this: it degrades to one pass",
                ArmoryMdnfWarning,
                stacklevel=3,
            )
        self._latest = (self.noise.count, lengths.tolist())
        return self.transform(x, lengths)

    @contextmanager
    def _replayed(self, lengths: list[int]) -> Iterator[None]:
        """Repeat the draws of the call before, then go on where the source was; new draws for other lengths."""
        count = self.noise.count
        fits = self._latest is not None and self._latest[1] == lengths
        if self._latest is not None and fits:
            self.noise.rewind(self._latest[0])
        try:
            yield
        finally:
            if fits:
                self.noise.rewind(count)


def _gradients(grad: Any) -> list[Tensor]:
    rows = grad[None] if getattr(grad, "ndim", None) == 1 and grad.dtype != object else grad
    return [torch.as_tensor(np.ascontiguousarray(row, dtype=np.float32)) for row in rows]
