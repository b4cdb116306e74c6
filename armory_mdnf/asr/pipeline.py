"""A recogniser behind its defences, as functions of a padded batch of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from armory_mdnf.asr.contract import CTCRecognizer, SpeechRecognizer, Target
from armory_mdnf.asr.decoding import greedy_decode
from armory_mdnf.asr.preprocessing import Chain, Draws, select, thread_safe
from armory_mdnf.asr.voting import vote
from armory_mdnf.audio import ragged
from armory_mdnf.cpu.switch import fast
from armory_mdnf.cpu.threads import rounds, side_by_side
from armory_mdnf.errors import AttackError, AudioError, OptionError, quoted

# Audio that a CPU's thread takes at once: less, and recurrent layers batch too little; more, and caches do not hold it.
PART_SECONDS = 8.0


class Pipeline:
    """Defences, recogniser and loss in one autograd graph, with one draw of the defences' noise per evaluation.

    Batches are x (N, T), zero beyond lengths (N,). A loss takes one pass; a transcript comes of as many as a defence
    asks for: of the mean of their character probabilities where the recogniser takes the best path of such, else of a
    vote. ``draws`` are those of :meth:`Chain.draw`, one per utterance, or per pass of each where there are several.
    """

    def __init__(self, recognizer: SpeechRecognizer, chain: Chain) -> None:
        self.recognizer = recognizer
        self.chain = chain

    def losses(self, x: Tensor, lengths: Tensor, targets: Sequence[Target], draws: Draws) -> Tensor:
        """Loss of each utterance in nats, differentiable in the audio. Shape: (N, T), (N,) -> (N,)."""
        with evaluation_mode(self.recognizer):
            found = [
                self._losses(*self.chain(*part), [targets[i] for i in rows])
                for rows, part in self._parts(x, lengths, draws)
            ]
        return self._numbers(torch.cat(found))

    def losses_and_transcripts(
        self, x: Tensor, lengths: Tensor, targets: Sequence[Target], draws: Draws
    ) -> tuple[Tensor, list[str]]:
        """Losses (N,), differentiable, and the transcripts of the same evaluation."""
        found, decoded = [], []
        with evaluation_mode(self.recognizer):
            for rows, part in self._parts(x, lengths, draws):
                chosen = [targets[i] for i in rows]
                losses, texts = self.recognizer.losses_and_transcripts(*self.chain(*part), chosen)
                found.append(self._one_each(losses, len(rows)))
                decoded += self._texts(texts, len(rows))
        return self._numbers(torch.cat(found)), decoded

    def _losses(self, x: Tensor, lengths: Tensor, targets: Sequence[Target]) -> Tensor:
        return self._one_each(self.recognizer.losses(x, lengths, targets), len(x))

    def _one_each(self, losses: Tensor, n: int) -> Tensor:
        """The same. Raises :class:`AudioError` for a mean of the batch, for instance, which mixes its utterances."""
        if not isinstance(losses, Tensor) or losses.shape != (n,):
            name = type(self.recognizer).__name__
            found = tuple(losses.shape) if isinstance(losses, Tensor) else quoted(losses)
            raise AudioError(f"{name}.losses: expected a loss for each utterance, shape ({n},), got {found}")
        return losses

    def _texts(self, texts: Sequence[str], n: int) -> list[str]:
        """The same. Raises :class:`AudioError` for another number, or for what is no text."""
        if isinstance(texts, str) or len(texts) != n or not all(isinstance(text, str) for text in texts):
            name = type(self.recognizer).__name__
            raise AudioError(f"{name}.transcripts: expected {n} texts, one per utterance, got {quoted(texts)}")
        return list(texts)

    def _numbers(self, losses: Tensor) -> Tensor:
        """The same. Raises :class:`AudioError` for one that is no number, which nothing would be compared with."""
        if bool((unknown := losses.detach().isnan()).any()):
            name, row = type(self.recognizer).__name__, int(unknown.int().argmax())
            raise AudioError(f"{name}: expected a loss that is a number, got nan for utterance {row} of its batch")
        return losses

    @torch.inference_mode(False)
    def gradients(
        self, x: Tensor, lengths: Tensor, targets: Sequence[Target], draws: Draws, back: Draws | None = None
    ) -> Tensor:
        """Gradient of each utterance's loss in its own audio, zero beyond its end. Shape: (N, T), (N,) -> (N, T).

        With ``back``, the published gradient: the loss's gradient at the audio that ``draws`` give, pulled back through
        the defences with the draws ``back`` (as ART's ``PyTorchDeepSpeech`` does, which evaluates them twice).
        On a CPU, parts of the batch run side by side, where all that they go through is :func:`thread_safe`.
        """
        recognizer, chain = self.recognizer, self.chain
        result = torch.zeros_like(x)

        def gradient(rows: list[int]) -> None:
            width = int(lengths[rows].max())
            leaf = x[rows, :width].detach().requires_grad_()
            chosen = [targets[i] for i in rows]
            with torch.enable_grad():
                # The published gradient does not go back through the draws that the loss is taken at.
                with torch.set_grad_enabled(back is None):
                    heard, heard_lengths = chain(leaf, lengths[rows], select(draws, rows))
                if back is None:
                    outer = leaf
                else:
                    heard = outer = heard.detach().requires_grad_()
                found = _pulled_back(self._losses(heard, heard_lengths, chosen).sum(), outer)
                if back is not None:
                    again, _ = chain(leaf, lengths[rows], select(back, rows))
                    found = _pulled_back(again, leaf, found)
                # Whisper fills up with silence, in which it has a gradient too: not the utterance's.
                result[rows, :width] = ragged.zero_beyond(found, lengths[rows])

        turns = [[list(range(len(x)))]]
        if not recognizer.exact_batches:
            turns = [[[i]] for i in range(len(x))]
        elif fast(x) and chain.independent:
            recognizer.check_targets(lengths.tolist(), targets)  # named by position in the whole batch
            turns = rounds(lengths.tolist(), torch.get_num_threads(), PART_SECONDS * recognizer.sample_rate_hz)
            if not (chain.thread_safe and thread_safe(recognizer)):
                turns = [[part] for parts in turns for part in parts]
        with torch.enable_grad(), evaluation_mode(recognizer):
            for parts in turns:
                side_by_side(gradient, parts)
        return result

    def probabilities(self, x: Tensor, lengths: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Mean over the passes of the character probabilities (N, F, classes), and the frames (N,).

        Raises :class:`OptionError` for a recogniser that has none.
        """
        if not isinstance(self.recognizer, CTCRecognizer):
            raise OptionError(f"{type(self.recognizer).__name__} has no probabilities per frame, only transcripts")
        passes = self.chain.num_passes
        with evaluation_mode(self.recognizer):
            found, frames = self.recognizer.probabilities(*self._passes(x, lengths, draws))
        return found.unflatten(0, (-1, passes)).mean(1), frames[::passes]

    def transcripts(self, x: Tensor, lengths: Tensor, draws: Draws) -> list[str]:
        """Transcript of each utterance. Shape: (N, T), (N,) -> N strings."""
        parts = self._parts(x, lengths, draws, self.chain.num_passes)
        return [text for _, part in parts for text in self._transcripts(*part)]

    def _transcripts(self, x: Tensor, lengths: Tensor, draws: Draws) -> list[str]:
        if isinstance(self.recognizer, CTCRecognizer) and self.recognizer.takes_best_path:
            return greedy_decode(*self.probabilities(x, lengths, draws), self.recognizer.alphabet)
        with evaluation_mode(self.recognizer):
            found = self.recognizer.transcripts(*self._passes(x, lengths, draws))
        passes = self.chain.num_passes
        found = self._texts(found, len(x) * passes)
        return [vote(found[k : k + passes]) for k in range(0, len(found), passes)]

    def _parts(
        self, x: Tensor, lengths: Tensor, draws: Draws, passes: int = 1
    ) -> Iterator[tuple[list[int], tuple[Tensor, Tensor, Draws]]]:
        """The batch whole, or one utterance after another where the recogniser's batches are not exact.

        Each with the rows that it has of the batch; ``draws`` has ``passes`` per utterance.
        """
        if self.recognizer.exact_batches:
            yield list(range(len(x))), (x, lengths, draws)
            return
        for i, n in enumerate(lengths.tolist()):
            own = select(draws, range(i * passes, (i + 1) * passes))
            yield [i], (x[i : i + 1, :n], lengths[i : i + 1], own)

    def _passes(self, x: Tensor, lengths: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """What the recogniser hears in every pass of every utterance: (N passes, T), (N passes,)."""
        passes = self.chain.num_passes
        return self.chain(x.repeat_interleave(passes, 0), lengths.repeat_interleave(passes), draws)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, without dropout anywhere; the caller's modes come back.

    The caller's ``torch.inference_mode`` is left: no gradient ever goes through what is made in it.
    """
    gradients = torch.is_grad_enabled()
    modes = [(inner, inner.training) for inner in module.modules()]
    recurrent = [(inner, inner.dropout) for inner, _ in modes if isinstance(inner, nn.RNNBase)]
    try:
        for inner, _ in modes:
            inner.training = False
        for layers, _ in recurrent:
            # cuDNN's run backward in training mode only, in which their own dropout would draw noise.
            layers.training, layers.dropout = gradients, 0.0
        with torch.inference_mode(False), torch.set_grad_enabled(gradients):
            yield
    finally:
        for inner, training in modes:
            inner.training = training
        for layers, dropout in recurrent:
            layers.dropout = dropout


def _pulled_back(output: Tensor, leaf: Tensor, gradient: Tensor | None = None) -> Tensor:
    """Gradient in ``leaf``. Raises :class:`AttackError` where nothing connects it with the output."""
    found = torch.autograd.grad(output, leaf, gradient, allow_unused=True)[0] if output.requires_grad else None
    if found is None:
        raise AttackError("no gradient reaches the audio: the defence or the recogniser detaches what it makes of it")
    return found
