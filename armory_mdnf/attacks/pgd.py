"""Projected gradient descent (Madry et al. 2018) on ragged batches: one loop for every geometry, EOT and FGSM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from armory_mdnf.attacks.geometry import Geometry
from armory_mdnf.attacks.gradient import LossGradient
from armory_mdnf.attacks.recognizer import AttackedRecognizer, Purpose
from armory_mdnf.audio.noise import stream


@dataclass(frozen=True)
class Batch:
    """Utterances under attack: audio (N, T), zero beyond lengths (N,), target indices, and what fixes their draws."""

    x: Tensor
    lengths: Tensor
    targets: Sequence[Sequence[int]]
    indices: Sequence[int]

    def rows(self, chosen: Sequence[int]) -> Batch:
        """Some of the utterances, no wider than the longest of them."""
        if len(chosen) == len(self.targets):
            return self
        lengths = self.lengths[list(chosen)]
        return Batch(
            self.x[list(chosen), : int(lengths.max())],
            lengths,
            [self.targets[i] for i in chosen],
            [self.indices[i] for i in chosen],
        )


def advance(
    x: Tensor, x_adv: Tensor, gradient: Tensor, geometry: Geometry, radius: Tensor, step: Tensor, clip: bool
) -> Tensor:
    """One step up the gradient, into [-1, 1] if ``clip``, and back into the ball. Shapes (N, T); radius, step (N,).

    The ball holds ``x``, so the projection does not leave [-1, 1] again.
    """
    moved = x_adv + step[:, None] * geometry.direction(gradient)
    return x + geometry.project((moved.clamp(-1, 1) if clip else moved) - x, radius)


@dataclass(frozen=True)
class Descent:
    """Settings of the loop; calling it attacks a batch, each utterance as if it were alone.

    The step is ``step`` in full-scale samples, or else ``step_fraction`` of each utterance's radius. ``keep`` says
    which iterate counts: the "last", or the "best" by the mean loss over ``selection_draws`` draws of the defences that
    the attack did not follow. Restarts compete by that loss. ``stop_on_success``: a targeted utterance is left at the
    first iterate that is understood as its target. ``watch`` sees each iterate: the restart, the steps done, and the
    audio (N, T), which the next step changes in place.
    """

    geometry: Geometry
    gradient: LossGradient
    max_iter: int
    step: float | None = None
    step_fraction: float = 0.2
    targeted: bool = False
    random_start: bool = False
    restarts: int = 1
    keep: str = "last"
    selection_draws: int = 1
    stop_on_success: bool = False
    seed: int = 0
    watch: Callable[[int, int, Tensor], None] | None = None

    def __call__(self, recognizer: AttackedRecognizer, batch: Batch) -> Tensor:
        """Adversarial audio (N, T) of a batch whose audio lies in [-1, 1]."""
        radius = self.geometry.radius(batch.x)
        step = radius * self.step_fraction if self.step is None else torch.full_like(radius, self.step)
        best, best_score = self._ascend(recognizer, batch, radius, step, 0)
        for restart in range(1, self.restarts):
            left = (best_score < torch.inf).nonzero()[:, 0].tolist()  # nothing beats a target that is reached
            if not left:
                break
            x_adv, score = self._ascend(recognizer, batch.rows(left), radius[left], step[left], restart)
            for i, row in enumerate(left):
                if score[i] > best_score[row]:
                    best[row, : x_adv.shape[1]], best_score[row] = x_adv[i], score[i]
        return best

    def _ascend(
        self, recognizer: AttackedRecognizer, batch: Batch, radius: Tensor, step: Tensor, restart: int
    ) -> tuple[Tensor, Tensor]:
        """One descent from one start: the iterates that count (N, T), and their scores (N,)."""
        sign = -1 if self.targeted else 1
        clip = recognizer.clip_values is not None
        x_adv = self._start(batch, radius, restart, clip)
        best, score = x_adv.clone(), torch.full_like(radius, -torch.inf)
        running = list(range(len(batch.targets)))
        for i in range(self.max_iter):
            part = batch.rows(running)
            width = part.x.shape[1]
            now = x_adv[running, :width]
            gradient = self.gradient(recognizer, now, part.lengths, part.targets, part.indices, (restart, i))
            now = advance(part.x, now, sign * gradient, self.geometry, radius[running], step[running], clip)
            x_adv[running, :width] = now  # an utterance that has stopped keeps its last iterate
            if self.watch is not None:
                self.watch(restart, i + 1, x_adv)
            if self.keep == "best":
                gain = sign * mean_losses(recognizer, replace(part, x=now), self.selection_draws)
                better = [row for row, old, new in zip(running, score[running], gain, strict=True) if new > old]
                best[better] = x_adv[better]
                score[running] = torch.maximum(score[running], gain)
            if self.stop_on_success:
                reached = understood_as_target(recognizer, replace(part, x=now), (restart, i))
                stopped = [row for row, done in zip(running, reached, strict=True) if done]
                best[stopped], score[stopped] = x_adv[stopped], torch.inf
                running = [row for row, done in zip(running, reached, strict=True) if not done]
                if not running:
                    break
        if self.keep == "last":
            best = x_adv
            if self.restarts > 1:
                gain = sign * mean_losses(recognizer, replace(batch, x=x_adv), self.selection_draws)
                score = torch.maximum(score, gain)
        return best, score

    def _start(self, batch: Batch, radius: Tensor, restart: int, clip: bool) -> Tensor:
        if not self.random_start:
            return batch.x.clone()
        streams = [stream(self.seed, i, restart) for i in batch.indices]
        x_adv = batch.x + self.geometry.random_start(batch.lengths, radius, streams)
        return x_adv.clamp(-1, 1) if clip else x_adv


def mean_losses(recognizer: AttackedRecognizer, batch: Batch, draws: int, purpose: int = Purpose.SELECTION) -> Tensor:
    """Mean loss over draws for a purpose, by default those that no gradient has seen. Shape: (N,).

    The same at every call, unless a preprocessor of others draws from a global generator.
    """
    k = draws if recognizer.stochastic else 1
    keys = [(index, purpose, draw) for index in batch.indices for draw in range(k)]
    targets = [target for target in batch.targets for _ in range(k)]
    with torch.no_grad():
        losses = recognizer.losses(batch.x.repeat_interleave(k, 0), batch.lengths.repeat_interleave(k), targets, keys)
    return losses.unflatten(0, (-1, k)).mean(1)


def understood_as_target(recognizer: AttackedRecognizer, batch: Batch, step: tuple[int, ...]) -> list[bool]:
    """Which utterances are transcribed as their targets, white space apart, under draws that no gradient has seen."""
    keys = [(index, Purpose.SELECTION, *step) for index in batch.indices]
    texts = recognizer.transcribe(batch.x, batch.lengths, keys)
    return [recognizer.is_heard(text, target) for text, target in zip(texts, batch.targets, strict=True)]
