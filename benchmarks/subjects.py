"""What the benchmarks attack: recordings of the dev split, and recognisers behind their defences."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from armory_mdnf.asr.contract import SpeechRecognizer
from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.asr.whisper.ctc import WhisperCTC, WhisperCTCConfig
from armory_mdnf.audio.files import read_audio
from armory_mdnf.data.bundled import load_split
from armory_mdnf.defenses import MDNF, MelResynth

RECOGNIZERS = {"none": "ds2_base", "MG": "ds2_mg", "MG-MDNF": "ds2_mg", "WG": "ds2_wg"}
WHISPER = "whisper_ctc"
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


def whisper_ctc() -> WhisperCTC:
    """A recogniser of the size of Whisper tiny, with random weights: its speed does not hang on them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return WhisperCTC(WhisperCTCConfig()).eval()


def estimator(name: str) -> RecognizerEstimator:
    """The recogniser that goes with a defence, behind it; or ``whisper_ctc``, undefended."""
    recognizer: str | SpeechRecognizer = whisper_ctc() if name == WHISPER else RECOGNIZERS[name]
    return RecognizerEstimator(recognizer, preprocessing_defences=defence(name) or None)
