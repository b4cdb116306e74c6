"""A recogniser behind a defence, for whole recordings: they are cut into pieces, and put together again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from armory_mdnf.asr.checkpoints import load_recognizer
from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.audio import ragged
from armory_mdnf.audio.recordings import SEARCH_S, Samples, pieces
from armory_mdnf.commands.blocks import Block
from armory_mdnf.errors import AudioError, OptionError
from armory_mdnf.runner.components import device_type, find_own_code, make_defense

PIECE_S = 20.0
BATCH_S = 40.0
# What a piece's noise is for, beside its position: none of an attack's purposes, so that it has not seen these draws.
HEARING = 0x5EEA


@dataclass(frozen=True)
class Piece:
    """A stretch of a recording in seconds, and what was understood."""

    start_s: float
    end_s: float
    transcript: str


class CountingEstimator(RecognizerEstimator):
    """An estimator that tells how many gradients it has given."""

    tell: Callable[[int], None] | None = None

    def gradients(self, x: Tensor, lengths: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As in the base class."""
        found = super().gradients(x, lengths, *args, **kwargs)
        if self.tell is not None:
            self.tell(1)
        return found


def choose_device(asked: str | None) -> str:
    """``cpu`` or ``cuda``: the one that is asked for, else a GPU where there is one. Raises :class:`OptionError`."""
    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise OptionError("--device cuda: torch finds no CUDA device here")
    return asked or ("cuda" if available else "cpu")


def load(model: str, defense: Block | None, device: str | None) -> CountingEstimator:
    """The recogniser of that name behind the defence of that block.

    Raises :class:`OptionError` or :class:`BundleError` for what does not exist or does not fit.
    """
    chosen = choose_device(device)
    find_own_code()
    recognizer = load_recognizer(model)
    made = [] if defense is None else [make_defense(defense, chosen)]
    return CountingEstimator(recognizer, preprocessing_defences=made or None, device_type=device_type(chosen))


def cut(estimator: RecognizerEstimator, audio: Samples, longest_s: float = PIECE_S) -> list[Samples]:
    """A recording in the pieces that the recogniser can take.

    Raises :class:`AudioError` for one that is too short for it, :class:`OptionError` for a length of no pieces.
    """
    rate = estimator.sample_rate
    if len(audio) < estimator.min_samples:
        raise AudioError(
            f"recording of {len(audio)} samples is too short for the recogniser: expected at least "
            f"{estimator.min_samples} at {rate} Hz"
        )
    most = estimator.model.max_samples
    longest_s = longest_s if most is None else min(longest_s, most / rate)
    return [audio[a:b] for a, b in pieces(audio, rate, longest_s)]


def transcribe(
    estimator: RecognizerEstimator, parts: Sequence[Samples], tell: Callable[[int], None] = lambda count: None
) -> list[Piece]:
    """What is understood of each piece. ``tell`` is called with how many are done."""
    rate = estimator.sample_rate
    texts = [""] * len(parts)
    for batch in ragged.by_length([len(part) for part in parts], BATCH_S * rate):
        keys = [(i, HEARING) for i in batch]
        found = estimator.predict([parts[i] for i in batch], batch_size=len(batch), keys=keys)
        for i, text in zip(batch, found, strict=True):
            texts[i] = str(text)
        tell(len(batch))
    ends = np.cumsum([len(part) for part in parts]) / rate
    starts = [0.0, *ends[:-1]]
    return [Piece(round(float(a), 3), round(float(b), 3), t) for a, b, t in zip(starts, ends, texts, strict=True)]


def joined(found: Sequence[Piece]) -> str:
    """The transcript of the whole recording."""
    return " ".join(piece.transcript for piece in found if piece.transcript)


def check_piece_seconds(seconds: float) -> float:
    """Raise :class:`OptionError` for a length that no cut can be chosen in."""
    if not 3 * SEARCH_S <= seconds <= 3600:
        raise OptionError(f"--piece-seconds: expected {3 * SEARCH_S:g} to 3600, got {seconds:g}")
    return seconds
