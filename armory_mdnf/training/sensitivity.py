"""How a vocoder passes MDNF's noise on: what two draws have in common, in the audio and in the gradients.

Cosines near 1: the noise comes out smoothly, and an attacker's gradient at one draw serves for another. Near 0: every
draw gives another waveform, and a gradient of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from armory_mdnf.asr.contract import SpeechRecognizer
from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.defenses import MDNF
from armory_mdnf.vocoders import Vocoder


def noise_sensitivity(
    vocoder: Vocoder,
    recognizer: SpeechRecognizer,
    utterances: Sequence[tuple[Tensor, str]],
    pairs: int = 3,
    noise_level: float = 20.0,
    curve: str | None = "bundled_l2",
) -> dict[str, float]:
    """Mean cosines over ``pairs`` of draws of each utterance, audio (T,) at the recogniser's rate and its words.

    ``waveform``: of the defended audio; ``gradient``: of the exact gradients of the loss; ``published``: of the
    published gradient (the loss at the second draw, pulled back through the first) with the exact one of the first.
    """
    device_type = "gpu" if next(vocoder.parameters()).device.type == "cuda" else "cpu"
    defence = MDNF(vocoder, noise_level, curve, device_type=device_type)
    estimator = RecognizerEstimator(recognizer, defence, device_type=device_type)
    sums = dict.fromkeys(("waveform", "gradient", "published"), 0.0)
    for audio, text in utterances:
        x, lengths = audio[None].to(defence.device), torch.tensor([len(audio)], device=defence.device)
        targets = estimator.encode([text], 1)
        for pair in range(pairs):
            first, second = [(2 * pair, 0)], [(2 * pair + 1, 0)]
            with torch.no_grad():
                heard = [defence.defend(x, lengths, defence.draw(1, keys))[0] for keys in (first, second)]
            exact = [estimator.gradients(x, lengths, targets, keys)[0] for keys in (first, second)]
            published = estimator.gradients(x, lengths, targets, second, first)[0]
            sums["waveform"] += _cosine(*heard)
            sums["gradient"] += _cosine(*exact)
            sums["published"] += _cosine(published, exact[0])
    return {name: total / (pairs * len(utterances)) for name, total in sums.items()}


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(functional.cosine_similarity(a.double(), b.double(), dim=0))
