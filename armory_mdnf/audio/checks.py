"""What may come in as audio, and the way back to the caller's kind.

Accepted: one utterance (T,), a batch (N, T) of equal lengths, or a ragged batch as a 1-D object array or a list.
Stereo of shape (2, T) cannot be told from a batch of two utterances and is taken as one; (T, 2) is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from armory_mdnf.errors import ArmoryMdnfError, AudioError, quoted

Waveform = npt.NDArray[np.float32]

# Attacks that do not clip leave [-1, 1] by their eps. Audio of another scale exceeds it by far.
MAX_ABSOLUTE = 2.0
MAX_CHANNELS = 8


def as_waveforms(
    x: Any, sample_rate_hz: int | None = None, *, expected_rate_hz: int = 16000, min_samples: int = 2
) -> list[Waveform]:
    """Utterances of ``x`` as float32 arrays of shape (T,).

    Shape: float array or tensor (T,) or (N, T), 1-D object array or sequence of N arrays (T_i,) -> N arrays (T_i,).

    Silence and saturated samples pass as they are. Samples may exceed [-1, 1] a little, as an attack's do, but not
    :data:`MAX_ABSOLUTE`. Raises :class:`AudioError` naming the utterance for integer, empty, too short, not finite or
    badly scaled audio, for more than one channel, and for a ``sample_rate_hz`` that is not ``expected_rate_hz``.
    """
    check_sample_rate(sample_rate_hz, expected_rate_hz)
    utterances = _rows(x)
    if not utterances:
        raise AudioError("expected at least one utterance, got none")
    return [_check(i, np.asarray(_numpy(u)), min_samples) for i, u in enumerate(utterances)]


def check_sample_rate(found_hz: int | None, expected_hz: int) -> None:
    """Raise :class:`AudioError` if a rate is given and is another one: arrays carry no rate to find out later."""
    if found_hz is not None and found_hz != expected_hz:
        raise AudioError(f"expected audio at {expected_hz} Hz, got {found_hz} Hz: resample it first")


def restore(values: Sequence[npt.NDArray[Any]], like: Any, clean: Sequence[Waveform] | None = None) -> Any:
    """Give per-utterance arrays the kind of ``like``: its container, its shape, its dtype and its device.

    A sequence that is no array comes back as a list. ``values`` are in the order, and of the lengths, that
    :func:`as_waveforms` found in ``like``. With ``clean``, what it found there: no sample is rounded away from it, as
    one of half precision would be past the bound that it was kept in.
    """
    if clean is not None:
        values = [_rounded(value, c, u) for value, c, u in zip(values, clean, _rows(like), strict=True)]
    if _is_tensor(like):
        stacked = like.new_tensor(np.stack(values))
        return stacked if like.dim() == 2 else stacked[0]
    if not isinstance(like, np.ndarray):
        return [
            u.new_tensor(value) if _is_tensor(u) else _typed(value, _numpy(u))
            for value, u in zip(values, like, strict=True)
        ]
    if like.ndim == 2:
        return np.stack(values).astype(like.dtype)
    if like.dtype != object:
        return values[0].astype(like.dtype)
    result = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        result[i] = _typed(value, like[i])
    return result


def check_made(found: Any, samples: int, origin: str, error: type[ArmoryMdnfError] = AudioError) -> npt.NDArray[Any]:
    """What somebody else's component, called ``origin``, made of an utterance of so many samples.

    Returns it as a float array (samples,). Raises ``error`` naming the component for another length, another dtype and
    samples that are not finite: each of them would be heard as something else, or as nothing.
    """
    u = np.asarray(_numpy(found))
    if u.dtype == object:  # ART leaves numbers in object arrays
        try:
            u = u.astype(np.float64)
        except (TypeError, ValueError):
            raise error(f"{origin}: expected float samples, got {quoted(found)}") from None
    if not np.issubdtype(u.dtype, np.floating):
        raise error(f"{origin}: expected float samples, got {u.dtype}")
    if u.size != samples or u.ndim > 2 or u.size != max(u.shape, default=0):
        raise error(f"{origin}: expected {samples} samples for as many, got shape {u.shape}")
    u = np.ascontiguousarray(u.reshape(-1))
    finite = np.isfinite(u)
    if not finite.all():
        at = int(np.argmin(finite))
        raise error(f"{origin}: expected finite samples, got {u[at]} at sample {at}")
    return u


def check_batch(found: Any, shape: Sequence[int], origin: str, error: type[ArmoryMdnfError] = AudioError) -> None:
    """The same for the tensor that a component made of a padded batch, whose shape should be ``shape``."""
    check_kind(found, shape, origin, error)
    finite = found.detach().isfinite()
    if not bool(finite.all()):
        row, at = divmod(int(finite.int().argmin()), found.shape[1])
        raise error(f"{origin}: expected finite samples, got {found[row, at].item()} at sample {at}")


def check_kind(found: Any, shape: Sequence[int], origin: str, error: type[ArmoryMdnfError] = AudioError) -> None:
    """The same, but for its samples: another shape would be broadcast, other numbers be heard as something else."""
    if not _is_tensor(found) or not found.is_floating_point():
        kind = f"{found.dtype}" if _is_tensor(found) else type(found).__name__
        raise error(f"{origin}: expected a tensor of float samples, got {kind}")
    if found.shape != tuple(shape):
        raise error(f"{origin}: expected shape {tuple(shape)}, got {tuple(found.shape)}")


def _rows(x: Any) -> list[Any]:
    if isinstance(x, (list, tuple)):
        return list(x)
    if not isinstance(x, np.ndarray) and not _is_tensor(x):
        raise AudioError(f"expected audio as an array, a tensor or a list of arrays, got {type(x).__name__}")
    if isinstance(x, np.ndarray) and x.dtype == object and x.ndim == 1:
        return list(x)
    if x.ndim == 1:
        return [x]
    if x.ndim != 2:
        raise AudioError(f"expected audio of shape (T,) or (N, T), got {tuple(x.shape)}; average the channels first")
    if 0 < x.shape[1] <= MAX_CHANNELS < x.shape[0]:
        raise AudioError(
            f"expected audio of shape (N, T), got {tuple(x.shape)}: did you pass (samples, channels)? "
            "average the channels first"
        )
    return list(x)


def _check(i: int, u: npt.NDArray[Any], min_samples: int) -> Waveform:
    if u.ndim != 1:
        raise AudioError(
            f"utterance {i}: expected shape (T,), got {u.shape}; did you pass channels? average them first"
        )
    if u.dtype == object:  # ART's attacks leave numbers in object arrays
        try:
            u = u.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise AudioError(f"utterance {i}: expected numbers, got {error}") from error
    if np.issubdtype(u.dtype, np.integer):
        raise AudioError(f"utterance {i}: expected float samples in [-1, 1], got {u.dtype}; divide int16 by 32768")
    if not np.issubdtype(u.dtype, np.floating):
        raise AudioError(f"utterance {i}: expected float samples, got {u.dtype}")
    if u.size < min_samples:
        raise AudioError(f"utterance {i}: expected at least {min_samples} samples, got {u.size}")
    finite = np.isfinite(u)
    if not finite.all():
        at = int(np.argmin(finite))
        raise AudioError(f"utterance {i}: expected finite samples, got {u[at]} at sample {at}")
    peak = float(np.abs(u).max())
    if peak > MAX_ABSOLUTE:
        raise AudioError(
            f"utterance {i}: expected samples in [-1, 1], got a peak of {peak:g}; did you pass int16 values as float? "
            "divide by 32768"
        )
    return np.ascontiguousarray(u, dtype=np.float32)  # torch has no negative strides


def _typed(value: npt.NDArray[Any], like: Any) -> npt.NDArray[Any]:
    dtype = like.dtype if isinstance(like, np.ndarray) and like.dtype != object else value.dtype
    return value.astype(dtype, copy=False)


def _rounded(value: npt.NDArray[Any], clean: Waveform, like: Any) -> npt.NDArray[Any]:
    """The value's neighbours in the half precision of ``like`` that are no farther from the clean samples."""
    import torch

    dtype = getattr(like, "dtype", None)
    dtype = torch.float16 if dtype == np.float16 else dtype
    if dtype not in (torch.float16, torch.bfloat16):
        return value
    exact, goal = torch.from_numpy(value), torch.from_numpy(clean)
    near = exact.to(dtype)
    past = (near.double() - goal).abs() > (exact.double() - goal).abs()
    return torch.where(past, torch.nextafter(near, goal.to(dtype)), near).float().numpy()


def _is_tensor(x: Any) -> bool:
    import torch

    return isinstance(x, torch.Tensor)


def _numpy(u: Any) -> Any:
    if not _is_tensor(u):
        return u
    import torch

    u = u.detach().cpu()
    return (u.float() if u.dtype == torch.bfloat16 else u).numpy()  # NumPy has no such numbers
