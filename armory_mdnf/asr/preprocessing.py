"""An estimator's preprocessors as one differentiable function of a padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from art.defences.preprocessor.preprocessor import Preprocessor, PreprocessorPyTorch
from torch import Tensor

from armory_mdnf.audio import checks, ragged
from armory_mdnf.audio.noise import Key
from armory_mdnf.errors import AudioError
from armory_mdnf.options import check_option, count


@runtime_checkable
class Defense(Protocol):
    """What a recogniser expects of a defence that runs inside its autograd graph."""

    num_passes: int
    stochastic: bool
    apply_predict: bool

    def draw(self, n: int, keys: Sequence[Key] | None = None, place: int = 0) -> list[torch.Generator]:
        """Noise streams for the next ``n`` utterances, or those that their keys fix, others at another ``place``."""

    def transform(self, x: Tensor, lengths: Tensor, streams: Sequence[torch.Generator] | None = None) -> Tensor:
        """Shape: (N, T), (N,) -> (N, T), zero beyond lengths."""


Draws = list[list[torch.Generator] | None]
"""Noise streams, one list per preprocessor (None for those of others) with one stream per utterance."""


class Chain:
    """Preprocessors in their order, those that apply to predictions.

    - A :class:`Defense` runs on the whole batch, in the graph.
    - Any other ART ``PreprocessorPyTorch`` runs utterance by utterance, (1, T), in the graph; its ``estimate_forward``
      supplies the gradient where it has one of its own.
    - Any other ART ``Preprocessor`` runs through NumPy, as a node of the graph whose backward pass is its
      ``estimate_gradient``: the identity for most (BPDA).
    """

    def __init__(self, operations: Sequence[Preprocessor]) -> None:
        self.operations: list[Any] = [operation for operation in operations if operation.apply_predict]

    @property
    def num_passes(self) -> int:
        """Passes to average: the most that one of the defences asks for. Raises :class:`OptionError` for none."""
        asking = [op for op in self.operations if isinstance(op, Defense)]
        for op in asking:
            check_option(f"{type(op).__name__}.num_passes", op.num_passes, count(1))
        return max([op.num_passes for op in asking], default=1)

    @property
    def stochastic(self) -> bool:
        """Whether two draws of :meth:`draw` differ. Other preprocessors' noise is their own."""
        return any(op.stochastic for op in self.operations if isinstance(op, Defense))

    @property
    def independent(self) -> bool:
        """Whether parts of a batch may run by themselves: of other preprocessors that is not known."""
        return all(isinstance(op, Defense) for op in self.operations)

    @property
    def thread_safe(self) -> bool:
        """Whether parts of a batch may run at the same time."""
        return all(map(thread_safe, self.operations))

    def draw(self, n: int, keys: Sequence[Key] | None = None) -> Draws:
        """Noise for the next ``n`` utterances of every defence, or that which their keys fix.

        Defences of one seed draw independently of each other: each has a place among those that draw noise.
        """
        draws: Draws = []
        place = 0
        for op in self.operations:
            if isinstance(op, Defense):
                draws.append(op.draw(n, keys, place))
                place += op.stochastic
            else:
                draws.append(None)
        return draws

    def __call__(self, x: Tensor, lengths: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Shape: x (N, T), zero beyond lengths (N,) -> (N, T), lengths (N,). Differentiable.

        Raises :class:`AudioError` naming the preprocessor whose output is of another length, of another dtype or not
        finite: a recogniser would hear something else in it, or nothing, without a word.
        """
        for operation, streams in zip(self.operations, draws, strict=True):
            if isinstance(operation, Defense):
                heard = operation.transform(x, lengths, streams)
                checks.check_batch(heard, x.shape, type(operation).__name__)
                x = heard
            else:
                x, lengths = ragged.pad([_foreign(operation, u) for u in ragged.unpad(x, lengths)])
        return x, lengths


def thread_safe(component: Any) -> bool:
    """Whether a defence or a recogniser may be called in several threads at once.

    Those of this package may; another one may keep what it has computed on itself, unless it says ``thread_safe``.
    """
    return type(component).__module__.startswith("armory_mdnf.") or bool(getattr(component, "thread_safe", False))


def select(draws: Draws, rows: Sequence[int]) -> Draws:
    """The draws of some of the utterances."""
    return [None if streams is None else [streams[i] for i in rows] for streams in draws]


def _foreign(operation: Any, u: Tensor) -> Tensor:
    if not isinstance(operation, PreprocessorPyTorch):
        return _ThroughNumpy.apply(u, operation)
    name = type(operation).__name__
    x = u[None].to(operation.device)
    value = _tensor(_first(operation.forward(x), name), len(u), name)
    if x.requires_grad and type(operation).estimate_forward is not PreprocessorPyTorch.estimate_forward:
        estimate = _tensor(operation.estimate_forward(x), len(u), f"{name}.estimate_forward")
        value = estimate + (value - estimate).detach()
    return value[0].to(u)


def _tensor(found: Any, samples: int, name: str) -> Tensor:
    """Shape: (T,) or (1, T) -> (1, T)."""
    found = found[None] if isinstance(found, Tensor) and found.dim() == 1 else found
    checks.check_batch(found, (1, samples), name)
    return found


class _ThroughNumpy(torch.autograd.Function):
    """One utterance through a preprocessor that knows only NumPy, its gradient through ``estimate_gradient``.

    It gets a batch of one, (1, T), as Armory gives it.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, operation: Preprocessor) -> Tensor:
        ctx.operation, ctx.x = operation, _batch_of_one(u)
        name = type(operation).__name__
        values = _first(operation(ctx.x.copy()), name)
        return torch.as_tensor(checks.check_made(_first(values, name, 1), len(u), name)).to(u)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        name = f"{type(ctx.operation).__name__}.estimate_gradient"
        estimate = _first(ctx.operation.estimate_gradient(ctx.x, _batch_of_one(grad[0])), name, 1)
        return torch.as_tensor(checks.check_made(estimate, len(grad[0]), name)).to(grad[0]), None


def _first(found: Any, name: str, size: int = 2) -> Any:
    """The first of so many that a preprocessor returns: its audio and labels, or a batch of one."""
    try:
        number = len(found)
    except TypeError:
        number = 0
    if number != size:
        what = "audio and labels" if size == 2 else "one utterance for one"
        raise AudioError(f"{name}: expected {what}, got {type(found).__name__} of length {number}")
    return found[0]


def _batch_of_one(u: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    return u.detach().cpu().numpy()[None]
