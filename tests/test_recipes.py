"""Resynthesis, the noise curve and the noise level, with small random modules."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import speechlike, tiny_recognizer

from armory_mdnf.asr.estimator import DeepSpeech2Estimator
from armory_mdnf.training import level
from armory_mdnf.training.curve import estimate, mel_difference, plot
from armory_mdnf.training.resynthesis import Resynthesis, draw, write_shards
from armory_mdnf.training.sources import Recording, Recordings, Shards
from armory_mdnf.vocoders import Vocoder

TEXTS = ["HOLD", "PRESS ONE"]


def recordings() -> Recordings:
    return Recordings([Recording(speechlike(6000 + 3000 * i, i), text, ()) for i, text in enumerate(TEXTS)])


def test_shards_of_resynthesised_speech_keep_lengths_and_transcripts(tmp_path: Path, melgan: Vocoder) -> None:
    drawn = draw(recordings(), 0.0, np.random.default_rng(0))
    write_shards(tmp_path / "out", Resynthesis(melgan), drawn, seed=0)
    shards = Shards(tmp_path / "out")
    assert [(line["length"], line["transcript"]) for line in shards.lines] == [(6000, "HOLD"), (9000, "PRESS ONE")]
    expected = Resynthesis(melgan)(drawn[1][0], 0, 1)
    np.testing.assert_allclose(shards.read(shards.lines[1]), expected.clip(-1, 1), atol=2 / 32767)


def test_a_shard_that_is_there_is_kept(tmp_path: Path, melgan: Vocoder) -> None:
    drawn = draw(recordings(), 0.0, np.random.default_rng(0))
    write_shards(tmp_path, Resynthesis(melgan), drawn, seed=0)
    before = (tmp_path / "0000.npy").stat().st_mtime_ns
    write_shards(tmp_path, Resynthesis(melgan), drawn, seed=1)
    assert (tmp_path / "0000.npy").stat().st_mtime_ns == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0000.jsonl", "0000.npy"]


def test_difference_is_nothing_for_equal_audio_and_local_for_a_tone(melgan: Vocoder) -> None:
    x = speechlike(8000)
    nothing = mel_difference(melgan, x, x)
    assert not nothing[:-1].any()
    assert nothing[-1] == melgan.recipe.frames(torch.tensor(8000))
    tone = 0.05 * np.sin(2 * np.pi * 6000 * np.arange(8000) / 16000).astype(np.float32)
    assert mel_difference(melgan, x, x + tone)[:-1].argmax() >= 15  # 6 kHz lies in the upper of 20 bins


def test_curve_has_largest_value_one_and_its_plot_is_drawn(tmp_path: Path, melgan: Vocoder) -> None:
    pytest.importorskip("matplotlib")
    estimator = DeepSpeech2Estimator(tiny_recognizer(), device_type="cpu")
    curve, mean = estimate(estimator, melgan, [speechlike(4000)], eps=0.5, iterations=2)
    assert len(curve) == melgan.recipe.n_mels
    assert max(curve) == 1
    assert curve == pytest.approx([m / max(mean) for m in mean])
    plot(curve, tmp_path / "curve.png", "two steps")
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_level_without_noise_is_the_resynthesis_alone(melgan: Vocoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(level, "load_recognizer", lambda name: tiny_recognizer())
    options = {"vocoder": melgan, "curve": None, "seed": 0}
    rows = level.measure("tiny", [0.0, 1.0], [(speechlike(4000), "HOLD ON")], options, eps=0.5, iterations=1)
    assert [row["noise_level"] for row in rows] == [0.0, 1.0]
    assert all(row["benign_wer"] >= 0 for row in rows)
    json.dumps(rows)
