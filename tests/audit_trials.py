"""What the tests of the audit share: three utterances, a tiny recogniser, and trials of both."""

from __future__ import annotations

from typing import Any

from conftest import speechlike, tiny_recognizer

from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.audit.trials import Plan, Trials
from armory_mdnf.defenses import RandomizedSmoothing

AUDIO = [speechlike(n, seed=n) for n in (5200, 3333, 4000)]
INDICES = [7, 2, 5]
REFERENCES = ["AB C", "D", "E F"]
PLAN = Plan(norm="l2", eps=0.4, snr_db=None, step=0.1, step_fraction=0.2, iterations=3)


def estimator(*defences: Any) -> RecognizerEstimator:
    return RecognizerEstimator(tiny_recognizer(), preprocessing_defences=list(defences) or None, device_type="cpu")


def trials(*defences: Any, plan: Plan = PLAN, **options: Any) -> Trials:
    return Trials.of(estimator(*defences), AUDIO, REFERENCES, INDICES, plan, **options)


def smoothing() -> RandomizedSmoothing:
    return RandomizedSmoothing(10.0, 2, seed=3, device_type="cpu")
