"""The attack of the recipes that need one: curve and level."""

from __future__ import annotations

from typing import Any

from armory_mdnf.asr.estimator import DeepSpeech2Estimator


def l2_pgd(estimator: DeepSpeech2Estimator, eps: float, iterations: int) -> Any:
    """ART's untargeted l2 PGD, step eps / 5, one utterance at a time, label = own prediction."""
    from art.attacks.evasion import ProjectedGradientDescent

    return ProjectedGradientDescent(
        estimator, norm=2, eps=eps, eps_step=eps / 5, max_iter=iterations, batch_size=1, verbose=False
    )
