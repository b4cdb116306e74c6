"""Carlini and Wagner's targeted attack on CTC recognisers (2018), with the shrinking l-infinity bound, batched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from armory_mdnf.attacks.geometry import Linf
from armory_mdnf.attacks.gradient import LossGradient
from armory_mdnf.attacks.pgd import Batch, advance, understood_as_target
from armory_mdnf.attacks.recognizer import AttackedRecognizer


@dataclass(frozen=True)
class ShrinkingBound:
    """Sign descent on the CTC loss of a target, whose bound shrinks whenever the target is reached.

    Every ``check_every`` iterations an utterance that is understood as its target is kept, and its bound becomes
    ``factor`` times the smaller of the bound and the perturbation's largest sample. An utterance that never gets there
    keeps its last iterate. ``watch`` hears how many iterations are done. The first stage of ART's ``ImperceptibleASR``,
    which is its ``CarliniWagnerASR``.
    """

    eps: float = 0.01
    step: float = 1e-4
    max_iter: int = 400
    factor: float = 0.8
    check_every: int = 10
    gradient: LossGradient = field(default_factory=LossGradient)
    watch: Callable[[int], None] | None = None

    def __call__(self, recognizer: AttackedRecognizer, batch: Batch) -> Tensor:
        """Adversarial audio (N, T) of a batch whose audio lies in [-1, 1]."""
        geometry = Linf(self.eps)
        radius = geometry.radius(batch.x)
        step = torch.full_like(radius, self.step)
        clip = recognizer.clip_values is not None
        x_adv, found = batch.x.clone(), batch.x.clone()
        reached_once = torch.zeros_like(radius, dtype=torch.bool)
        for i in range(1, self.max_iter + 1):
            gradient = self.gradient(recognizer, x_adv, batch.lengths, batch.targets, batch.indices, (0, i))
            x_adv = advance(batch.x, x_adv, -gradient, geometry, radius, step, clip)
            if i % self.check_every == 0:
                reached = torch.tensor(
                    understood_as_target(recognizer, replace(batch, x=x_adv), (0, i)), device=radius.device
                )
                largest = (x_adv - batch.x).abs().amax(1)
                radius = torch.where(reached, self.factor * torch.minimum(radius, largest), radius)
                found = torch.where(reached[:, None], x_adv, found)
                reached_once |= reached
            if self.watch is not None:
                self.watch(i)
        return torch.where(reached_once[:, None], found, x_adv)
