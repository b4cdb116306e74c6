"""Ragged batches: utterances of different lengths side by side, each treated as if it were alone.

A batch is ``x`` of shape (N, T), zero beyond each utterance's end, and ``lengths`` of shape (N,) in samples
(or frames). Every operation here gives an utterance what it would get in a batch of its own.

``lengths`` may be on the CPU beside an ``x`` on a GPU. What is asked of them then waits for nothing that the GPU has
still to do, which pays where one batch is masked many times over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from armory_mdnf.errors import AudioError


def pad(utterances: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack 1-D utterances. Returns x (N, T) and lengths (N,), int64, on the utterances' device."""
    lengths = torch.tensor([u.shape[-1] for u in utterances], device=utterances[0].device)
    return torch.nn.utils.rnn.pad_sequence(list(utterances), batch_first=True), lengths


def unpad(x: Tensor, lengths: Tensor) -> list[Tensor]:
    """Cut (N, T, ...) back into N tensors of their own lengths."""
    return [row[:n] for row, n in zip(x, lengths.tolist(), strict=True)]


def is_uniform(lengths: Tensor, size: int) -> bool:
    """True if no utterance is shorter than the batch, so that nothing needs masking."""
    return bool((lengths == size).all())


def mask(lengths: Tensor, size: int) -> Tensor:
    """(N, size) boolean, true inside each utterance."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def beside(lengths: Tensor, x: Tensor) -> Tensor:
    """Lengths on the device of x, which is not waited for: a copy that blocks waits for all that was asked of a GPU."""
    return lengths.to(x.device, non_blocking=True)


def beyond(x: Tensor, lengths: Tensor) -> Tensor | None:
    """True past each utterance's end, of a shape that masks (N, ..., T); None if no utterance is shorter than T."""
    if is_uniform(lengths, x.shape[-1]):
        return None
    past = ~mask(beside(lengths, x), x.shape[-1])
    return past.reshape(past.shape[0], *[1] * (x.dim() - 2), past.shape[1])


def zero(x: Tensor, past: Tensor | None) -> Tensor:
    """Zero where :func:`beyond` says so: what lies behind many layers of one length needs to be found once."""
    # masked_fill copies first and fills then, forward and backward.
    return x if past is None else torch.where(past, 0, x)


def zero_beyond(x: Tensor, lengths: Tensor) -> Tensor:
    """Zero everything past each utterance's end along the last axis of (N, ..., T)."""
    return zero(x, beyond(x, lengths))


def check_shortest(lengths: Tensor, least: int, sample_rate_hz: int, what: str) -> None:
    """Raise :class:`AudioError` naming the minimum if an utterance has fewer than ``least`` samples for ``what``."""
    if (shortest := int(lengths.min())) < least:
        raise AudioError(
            f"utterance of {shortest} samples is too short for {what}: expected at least {least} samples at "
            f"{sample_rate_hz} Hz"
        )


def reflect_pad(x: Tensor, lengths: Tensor, left: int, right: int) -> Tensor:
    """Reflect each utterance about its own two ends.

    Shape: (N, ..., T) -> (N, ..., left + T + right); zero beyond ``left + length + right``.
    Raises :class:`AudioError` if an utterance is not longer than the padding, as torch's own padding would.
    """
    shortest = int(lengths.min())
    if shortest <= max(left, right):
        raise AudioError(
            f"utterance of {shortest} samples is too short: reflection by {max(left, right)} needs at least "
            f"{max(left, right) + 1}"
        )
    size = x.shape[-1]
    if is_uniform(lengths, size):
        if x.dim() == 4:
            return torch.nn.functional.pad(x, (left, right, 0, 0), mode="reflect")
        flat = x.reshape(-1, 1, size)
        return torch.nn.functional.pad(flat, (left, right), mode="reflect").reshape(*x.shape[:-1], -1)
    position = torch.arange(-left, size + right, device=x.device).abs()
    last = (beside(lengths, x) - 1)[:, None]
    index = last - (last - position).abs()  # position beyond the end folds back
    inside = (position <= last + right) & (index >= 0)
    index = index.clamp(min=0).reshape(x.shape[0], *[1] * (x.dim() - 2), -1)
    inside = inside.reshape(index.shape)
    return x.gather(-1, index.expand(*x.shape[:-1], -1)).masked_fill(~inside, 0)


def flip(x: Tensor, lengths: Tensor) -> Tensor:
    """Reverse each utterance in time, keeping the padding at the end. Shape: (T, N, C) -> same."""
    if is_uniform(lengths, x.shape[0]):
        return x.flip(0)
    size, n = x.shape[:2]
    time = torch.arange(size, device=x.device)[:, None]
    rows = torch.where(time < lengths, lengths - 1 - time, time) * n + torch.arange(n, device=x.device)
    return x.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, (size, n))  # whole rows: faster than gather


def by_length(sizes: Sequence[int], samples: float = math.inf, rows: float = math.inf) -> Iterator[list[int]]:
    """Positions of utterances of similar lengths, shortest first, in batches.

    A batch has at most ``rows`` utterances and, padding included, at most ``samples``; but at least one utterance.
    """
    batch: list[int] = []
    for i in sorted(range(len(sizes)), key=sizes.__getitem__):
        if batch and (len(batch) >= rows or (len(batch) + 1) * sizes[i] > samples):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
