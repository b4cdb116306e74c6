"""What the benchmarks attack: recordings of the dev split, and the bundled recognisers behind their defences."""

from __future__ import annotations

from typing import Any

import numpy as np

from armory_mdnf.asr.estimator import DeepSpeech2Estimator
from armory_mdnf.audio.files import read_audio
from armory_mdnf.data.bundled import load_split
from armory_mdnf.defenses import MDNF, MelResynth

RECOGNIZERS = {"none": "ds2_base", "MG": "ds2_mg", "MG-MDNF": "ds2_mg", "WG": "ds2_wg"}
EPS = 1.5


def speech(seconds: float) -> np.ndarray:
    """Recordings of the dev split one after another, float32 (T,)."""
    joined = np.concatenate([read_audio(u.path)[0] for u in load_split("human", "dev")])
    return joined[: int(seconds * 16000)]


def defence(name: str) -> list[Any]:
    """A defence by its name in the paper."""
    made = {"MG": (MelResynth, "melgan"), "MG-MDNF": (MDNF, "melgan"), "WG": (MelResynth, "pwg")}
    if name not in made:
        return []
    kind, vocoder = made[name]
    return [kind(vocoder)]


def estimator(name: str) -> DeepSpeech2Estimator:
    """The recogniser that goes with a defence, behind it."""
    return DeepSpeech2Estimator(RECOGNIZERS[name], preprocessing_defences=defence(name) or None)
