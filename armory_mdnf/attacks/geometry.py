"""Where a perturbation may lie, and which way is steepest there: balls of the l2 and the l-infinity norm.

A geometry gives each utterance its radius and plugs three hooks into the one descent loop: a random start, the unit
step along a gradient, and the projection. An SNR bound is an l2 ball whose radius comes from the utterance's own power.

Shapes: x, delta and gradient (N, T), zero beyond lengths (N,); radius (N,), in full-scale samples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import MISSING, dataclass

import torch
from torch import Tensor

from armory_mdnf.audio import ragged
from armory_mdnf.options import DECIBELS, NOT_NEGATIVE, check_options, option


class Geometry(ABC):
    """A family of balls around the clean utterance."""

    @abstractmethod
    def radius(self, x: Tensor) -> Tensor:
        """Radius of each utterance's ball. Shape: (N, T) -> (N,)."""

    @abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """The step of norm 1 that a linear loss gains most from; zero where the gradient is. Shape: (N, T) -> same."""

    @abstractmethod
    def project(self, delta: Tensor, radius: Tensor) -> Tensor:
        """Nearest perturbation inside the ball. Shape: (N, T), (N,) -> (N, T)."""

    @abstractmethod
    def random_start(self, lengths: Tensor, radius: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        """A perturbation drawn uniformly from the ball, by each utterance's own stream. Shape: (N,), (N,) -> (N, T)."""


class _EuclideanBall(Geometry):
    def direction(self, gradient: Tensor) -> Tensor:
        # Brought near 1 by a power of two, which changes no digit: in single precision the square of 1e-24 is 0, of
        # 1e20 infinite, and an attack would stand still without a word. Its own powers end at 127 either way.
        exponent = torch.frexp(gradient.abs().amax(dim=1, keepdim=True)).exponent
        gradient = torch.ldexp(gradient, -exponent.clamp(-126, 126))
        norm = gradient.norm(dim=1, keepdim=True)
        return gradient / torch.where(norm > 0, norm, torch.inf)

    def project(self, delta: Tensor, radius: Tensor) -> Tensor:
        norm = delta.norm(dim=1, keepdim=True)
        return delta * (radius[:, None] / norm.clamp(min=torch.finfo(norm.dtype).tiny)).clamp(max=1)

    def random_start(self, lengths: Tensor, radius: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        rows = []
        for stream, n in zip(streams, lengths.tolist(), strict=True):
            row = torch.randn(n, generator=stream, dtype=torch.float32)  # whatever torch's default is
            rows.append(row / row.norm() * torch.rand((), generator=stream, dtype=torch.float32) ** (1 / n))
        return ragged.pad(rows)[0].to(radius) * radius[:, None]


@dataclass(frozen=True)
class L2(_EuclideanBall):
    """Euclidean norm at most ``eps``, in full-scale samples, whatever the duration."""

    eps: float = option(MISSING, NOT_NEGATIVE)

    def __post_init__(self) -> None:
        check_options(self)

    def radius(self, x: Tensor) -> Tensor:
        return x.new_full(x.shape[:1], self.eps)


@dataclass(frozen=True)
class SNR(_EuclideanBall):
    """Signal-to-perturbation power ratio of at least ``snr_db`` decibels, of each utterance's own power.

    The radius is ``||x|| 10^(-snr_db / 20)``; silence has radius 0 and stays as it is.
    """

    snr_db: float = option(MISSING, DECIBELS)

    def __post_init__(self) -> None:
        check_options(self)

    def radius(self, x: Tensor) -> Tensor:
        return x.norm(dim=1) * 10 ** (-self.snr_db / 20)


@dataclass(frozen=True)
class Linf(Geometry):
    """No sample changes by more than ``eps``, in full scale."""

    eps: float = option(MISSING, NOT_NEGATIVE)

    def __post_init__(self) -> None:
        check_options(self)

    def radius(self, x: Tensor) -> Tensor:
        return x.new_full(x.shape[:1], self.eps)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def project(self, delta: Tensor, radius: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(delta, -radius[:, None]), radius[:, None])

    def random_start(self, lengths: Tensor, radius: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        sizes = zip(streams, lengths.tolist(), strict=True)
        rows = [2 * torch.rand(n, generator=s, dtype=torch.float32) - 1 for s, n in sizes]
        return ragged.pad(rows)[0].to(radius) * radius[:, None]
