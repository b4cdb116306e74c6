"""What a speech recogniser has to be, for the defences, the attacks and the evaluation to work on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from armory_mdnf.asr.ctc import check_targets, ctc_loss
from armory_mdnf.asr.decoding import Labels, greedy_decode
from armory_mdnf.audio import ragged
from armory_mdnf.errors import AudioError, TranscriptError, quoted

Target = Sequence[int]
"""A transcript as classes of the recogniser: characters, or the tokens of a decoder."""


class SpeechRecognizer(nn.Module, ABC):
    """Audio in, the losses of given transcripts and the best transcripts out, in one differentiable step.

    Batches are padded: x (N, T) in [-1, 1], zero beyond lengths (N,) in samples. An implementation sets
    ``sample_rate_hz`` and ``min_samples``, and ``max_samples`` where there is a longest utterance.
    ``exact_batches`` False says that an utterance's result depends on its neighbours in a padded batch: it is then
    given utterances one by one. ``draws_idly`` True says that an evaluation moves torch's or NumPy's global generator
    although nothing comes of it.
    """

    sample_rate_hz: int
    min_samples: int
    max_samples: int | None = None
    exact_batches: bool = True
    draws_idly: bool = False

    @abstractmethod
    def encode(self, transcript: str) -> Target:
        """Classes of a transcript. Raises :class:`TranscriptError` for one that cannot be written in them."""

    def check_targets(self, lengths: Sequence[int], targets: Sequence[Target]) -> None:
        """Raise :class:`TranscriptError` for a target that its utterance, of ``lengths`` samples, cannot hold."""

    def is_heard(self, transcript: str, target: Target) -> bool:
        """Whether a transcript of :meth:`transcripts` is what a target stands for, white space apart."""
        try:
            found = self.encode(" ".join(transcript.split()))
        except TranscriptError:  # of what it writes, a recogniser may be able to encode a part only
            return False
        return list(found) == list(target)

    @abstractmethod
    def losses(self, x: Tensor, lengths: Tensor, targets: Sequence[Target]) -> Tensor:
        """Negative log likelihood in nats of each utterance's target. Shape: (N, T), (N,) -> (N,)."""

    @abstractmethod
    def transcripts(self, x: Tensor, lengths: Tensor) -> list[str]:
        """The best transcript of each utterance. Shape: (N, T), (N,) -> N strings."""

    def losses_and_transcripts(self, x: Tensor, lengths: Tensor, targets: Sequence[Target]) -> tuple[Tensor, list[str]]:
        """Both of one evaluation."""
        losses = self.losses(x, lengths, targets)
        with torch.no_grad():
            return losses, self.transcripts(x, lengths)

    def check_lengths(self, lengths: Tensor) -> None:
        """Raise :class:`AudioError` for an utterance that is too short or too long."""
        rate = self.sample_rate_hz
        ragged.check_shortest(lengths, self.min_samples, rate, "the recogniser")
        if self.max_samples is not None and (longest := int(lengths.max())) > self.max_samples:
            raise AudioError(
                f"utterance {int(lengths.argmax())}: {longest / rate:.1f} s is too long for the recogniser: expected "
                f"at most {self.max_samples / rate:g} s; cut it into pieces"
            )


class Vocabulary(Labels, Protocol):
    """The classes of a CTC recogniser."""

    @property
    def blank(self) -> int:
        """The class of the CTC blank."""

    def __len__(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Classes of a transcript's characters. Raises :class:`TranscriptError`."""


class CTCRecognizer(SpeechRecognizer):
    """A recogniser with a score per frame and character. An implementation gives ``forward`` and ``out_frames``.

    ``forward``: x (N, T), lengths (N,) -> logits (N, F, classes), frames (N,).
    Transcripts are the best path, of several passes that of their mean probabilities. An implementation with
    ``transcripts`` of its own, a beam search for instance, is asked for each pass, and the passes vote.
    """

    alphabet: Vocabulary

    @property
    def takes_best_path(self) -> bool:
        """Whether :meth:`transcripts` is the one of this class."""
        return getattr(self.transcripts, "__func__", None) is CTCRecognizer.transcripts

    @abstractmethod
    def out_frames(self, lengths: Tensor) -> Tensor:
        """Number of logit frames for utterances of the given lengths in samples. Shape: (N,) -> (N,)."""

    def encode(self, transcript: str) -> Target:
        return self.alphabet.encode(transcript)

    def is_heard(self, transcript: str, target: Target) -> bool:
        if not self.takes_best_path:  # what it writes may be more than the alphabet's characters
            return super().is_heard(transcript, target)
        return transcript.split() == self.alphabet.decode(target).split()

    def check_targets(self, lengths: Sequence[int], targets: Sequence[Target]) -> None:
        check_targets(self.out_frames(torch.as_tensor(lengths)).tolist(), targets)

    def scores(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What :meth:`forward` gives: logits (N, F, classes) and frames (N,).

        Raises :class:`AudioError` for anything else, which the loss and the best path would take for something.
        """
        found, name = self(x, lengths), f"{type(self).__name__}.forward"
        if not isinstance(found, tuple) or len(found) != 2 or not all(isinstance(part, Tensor) for part in found):
            raise AudioError(f"{name}: expected two tensors, logits and frames, got {quoted(found)}")
        logits, frames = found
        n, classes = len(x), len(self.alphabet)
        rows = logits.shape[:1] if logits.dim() == 3 and logits.shape[2] >= classes else ()
        if not logits.is_floating_point() or tuple(rows) != (n,):
            raise AudioError(
                f"{name}: expected float logits of shape ({n}, frames, {classes}), got {logits.dtype} of shape "
                f"{tuple(logits.shape)}"
            )
        if frames.shape != (n,) or frames.is_floating_point() or int(frames.max()) > logits.shape[1]:
            raise AudioError(
                f"{name}: expected whole numbers of frames, ({n},), at most {logits.shape[1]}, got {quoted(frames)}"
            )
        return logits, frames

    def losses(self, x: Tensor, lengths: Tensor, targets: Sequence[Target]) -> Tensor:
        logits, frames = self.scores(x, lengths)
        return ctc_loss(logits, frames, targets, self.alphabet.blank)

    def transcripts(self, x: Tensor, lengths: Tensor) -> list[str]:
        logits, frames = self.scores(x, lengths)
        return greedy_decode(logits, frames, self.alphabet)

    def losses_and_transcripts(self, x: Tensor, lengths: Tensor, targets: Sequence[Target]) -> tuple[Tensor, list[str]]:
        if not self.takes_best_path:
            return super().losses_and_transcripts(x, lengths, targets)
        logits, frames = self.scores(x, lengths)
        decoded = greedy_decode(logits.detach(), frames, self.alphabet)
        return ctc_loss(logits, frames, targets, self.alphabet.blank), decoded

    def probabilities(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Character probabilities (N, F, classes), and frames (N,)."""
        logits, frames = self.scores(x, lengths)
        return logits.softmax(-1), frames
