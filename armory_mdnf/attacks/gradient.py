"""The gradient that an attack follows: of one draw of the defences' noise, or the mean over several (EOT)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from armory_mdnf.attacks.recognizer import AttackedRecognizer, Purpose
from armory_mdnf.audio.noise import Key
from armory_mdnf.errors import AttackError


@dataclass(frozen=True)
class LossGradient:
    """Mean gradient of the CTC loss over ``draws`` of every stochastic defence, evaluated as one batch.

    Expectation over transformation (Athalye et al. 2018). ``fresh`` draws anew at each step; otherwise all steps of an
    utterance share their draws (common random numbers). Where all that stands before the recogniser is known to draw
    no noise there is one draw whatever ``draws`` says: they would all be the same.

    ``published`` follows the published gradient in place of the exact one: each loss at one draw, its gradient pulled
    back through another.
    """

    draws: int = 1
    fresh: bool = True
    published: bool = False

    def __call__(
        self,
        recognizer: AttackedRecognizer,
        x: Tensor,
        lengths: Tensor,
        targets: Sequence[Sequence[int]],
        indices: Sequence[int],
        step: Key,
    ) -> Tensor:
        """Gradient of each utterance's mean loss, zero beyond its end. Shape: x (N, T), lengths (N,) -> (N, T).

        ``indices`` (N) and ``step`` fix the draws. Raises :class:`AttackError` for a gradient that is not finite.
        """
        k = self.draws if recognizer.stochastic else 1
        draws = [(index, *(step if self.fresh else (0,) * len(step)), draw) for index in indices for draw in range(k)]
        keys = [(index, Purpose.ATTACK, *rest) for index, *rest in draws]
        row_targets = [target for target in targets for _ in range(k)]
        rows, row_lengths = (x, lengths) if k == 1 else (x.repeat_interleave(k, 0), lengths.repeat_interleave(k))
        back = [[(index, Purpose.BACKWARD, *rest) for index, *rest in draws]] if self.published else []
        gradient = recognizer.gradients(rows, row_lengths, row_targets, keys, *back).unflatten(0, (-1, k)).mean(1)
        # One reduction for the whole batch; which utterance it was matters only when it happens.
        if not bool(gradient.isfinite().all()):
            wrong = [i for i, row in zip(indices, gradient, strict=True) if not bool(row.isfinite().all())]
            raise AttackError(f"the loss gradient of utterance {wrong[0]} is not finite at step {step[-1]}")
        return gradient
