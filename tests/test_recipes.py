"""Resynthesis, the noise curve and the noise level, with small random modules."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import speechlike, tiny_recognizer

from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.errors import AttackError, AudioError, BundleError, StorageError
from armory_mdnf.training import curve as curve_module
from armory_mdnf.training import level, resynthesis
from armory_mdnf.training.corpora.files import write_shard
from armory_mdnf.training.curve import estimate, mel_difference, plot
from armory_mdnf.training.resynthesis import Resynthesis, draw, write_shards
from armory_mdnf.training.sources import Recording, Recordings, Shards
from armory_mdnf.vocoders import Vocoder

TEXTS = ["HOLD", "PRESS ONE"]


def recordings() -> Recordings:
    return Recordings([Recording(speechlike(6000 + 3000 * i, i), text, ()) for i, text in enumerate(TEXTS)])


def test_shards_of_resynthesised_speech_keep_lengths_and_transcripts(tmp_path: Path, melgan: Vocoder) -> None:
    drawn = draw(recordings(), 0.0, np.random.default_rng(0))
    write_shards(tmp_path / "out", Resynthesis(melgan), drawn, 0, {})
    shards = Shards(tmp_path / "out")
    assert [(line["length"], line["transcript"]) for line in shards.lines] == [(6000, "HOLD"), (9000, "PRESS ONE")]
    expected = Resynthesis(melgan)(drawn[1][0], 0, 1)
    np.testing.assert_allclose(shards.read(shards.lines[1]), expected.clip(-1, 1), atol=2 / 32767)


def test_a_shard_that_is_there_is_kept_where_it_is_of_the_same(tmp_path: Path, melgan: Vocoder) -> None:
    drawn = draw(recordings(), 0.0, np.random.default_rng(0))
    write_shards(tmp_path, Resynthesis(melgan), drawn, 0, {"seed": 0})
    before = (tmp_path / "0000.npy").stat().st_mtime_ns
    write_shards(tmp_path, Resynthesis(melgan), drawn, 0, {"seed": 0})
    with pytest.raises(BundleError, match="made of something else: seed was 0 there, is 1 now"):
        write_shards(tmp_path, Resynthesis(melgan), drawn, 1, {"seed": 1})
    assert (tmp_path / "0000.npy").stat().st_mtime_ns == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0000.jsonl", "0000.npy", "made_of.json"]
    (tmp_path / "made_of.json").unlink()
    with pytest.raises(BundleError, match=r"has \*\.jsonl and no made_of\.json.*delete that folder"):
        write_shards(tmp_path, Resynthesis(melgan), drawn, 0, {"seed": 0})


def test_a_stopped_resynthesis_goes_on(tmp_path: Path, melgan: Vocoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resynthesis, "SHARD_HOURS", 6000 / 16000 / 3600)
    drawn = draw(recordings(), 0.0, np.random.default_rng(0)) * 2
    write_shards(tmp_path / "whole", Resynthesis(melgan), drawn, 3, {})
    with monkeypatch.context() as patch:
        patch.setattr(resynthesis, "write_shard", full_after(1, resynthesis.write_shard))
        message = (
            f"x.npy: No space left on device; the shards in {tmp_path / 'broken'} are safe; start the same command"
        )
        with pytest.raises(StorageError, match=message):
            write_shards(tmp_path / "broken", Resynthesis(melgan), drawn, 3, {})
    assert len(list((tmp_path / "broken").glob("*.npy"))) == 1
    write_shards(tmp_path / "broken", Resynthesis(melgan), drawn, 3, {})
    shards = sorted((tmp_path / "whole").glob("*.npy"))
    assert len(shards) > 2
    for path in shards:
        np.testing.assert_array_equal(np.load(path), np.load(tmp_path / "broken" / path.name))


def full_after(count: int, write: Callable[..., Any]) -> Callable[..., Any]:
    """A disk that is full after ``count`` files."""
    written: list[None] = []

    def limited(*arguments: Any) -> Any:
        if len(written) == count:
            raise OSError(errno.ENOSPC, "No space left on device", "x.npy")
        written.append(None)
        return write(*arguments)

    return limited


def test_an_utterance_that_the_vocoder_fails_on_is_left_out_and_named(
    tmp_path: Path, melgan: Vocoder, capsys: pytest.CaptureFixture[str]
) -> None:
    good = Resynthesis(melgan)

    class Failing(Resynthesis):
        def __call__(self, audio: np.ndarray, seed: int, index: int) -> np.ndarray:
            return good(audio, seed, index) * (np.nan if index == 0 else 1)

    drawn = draw(recordings(), 0.0, np.random.default_rng(0))
    write_shards(tmp_path, Failing(melgan), drawn, 0, {})
    assert [line["transcript"] for line in Shards(tmp_path).lines] == ["PRESS ONE"]
    assert "utterance 0 (HOLD) is left out: the vocoder gave values that are not finite" in capsys.readouterr().err
    with pytest.raises(AudioError, match="no utterance is left"):
        write_shards(tmp_path / "none", Failing(melgan), drawn[:1], 0, {})


def test_difference_is_nothing_for_equal_audio_and_local_for_a_tone(melgan: Vocoder) -> None:
    x = speechlike(8000)
    nothing = mel_difference(melgan, x, x)
    assert not nothing[:-1].any()
    assert nothing[-1] == melgan.recipe.frames(torch.tensor(8000))
    tone = 0.05 * np.sin(2 * np.pi * 6000 * np.arange(8000) / 16000).astype(np.float32)
    assert mel_difference(melgan, x, x + tone)[:-1].argmax() >= 15  # 6 kHz lies in the upper of 20 bins


def test_curve_has_largest_value_one_and_its_plot_is_drawn(tmp_path: Path, melgan: Vocoder) -> None:
    pytest.importorskip("matplotlib")
    estimator = RecognizerEstimator(tiny_recognizer(), device_type="cpu")
    curve, mean = estimate(estimator, melgan, [speechlike(4000)], eps=0.5, iterations=2)
    assert len(curve) == melgan.recipe.n_mels
    assert max(curve) == 1
    assert curve == pytest.approx([m / max(mean) for m in mean])
    plot(curve, tmp_path / "curve.png", "two steps")
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_pairs_that_are_done_are_not_attacked_again(melgan: Vocoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_module, "ATTACKED_AT_ONCE", 2)
    estimator = RecognizerEstimator(tiny_recognizer(), device_type="cpu")
    recordings = [speechlike(3000 + 500 * i, i) for i in range(5)]
    kept: list[list[list[float]]] = []
    whole = estimate(estimator, melgan, recordings, 0.5, 1, keep=kept.append)
    assert [len(pairs) for pairs in kept] == [2, 2, 1]
    new: list[list[list[float]]] = []
    assert estimate(estimator, melgan, recordings, 0.5, 1, json.loads(json.dumps(kept[0])), new.append) == whole
    assert new == kept[1:]
    with pytest.raises(AttackError, match="changed nothing"):
        estimate(estimator, melgan, recordings[:1], 0.5, 1, [[0.0] * 20 + [5.0]])


def test_level_without_noise_is_the_resynthesis_alone(melgan: Vocoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(level, "load_recognizer", lambda name: tiny_recognizer())
    defence, attack = {"vocoder": melgan, "seed": 0}, {"eps": 0.5, "max_iter": 1}
    noises = level.grid(["flat"], [0.0, 1.0])
    rows = level.measure("tiny", noises, [(speechlike(4000), "HOLD ON")], defence, attack)
    assert [(row["curve"], row["noise_level"]) for row in rows] == [("flat", 0.0), ("flat", 1.0)]
    assert all(row["benign_wer"] >= 0 for row in rows)
    json.dumps(rows)


def test_a_shard_on_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(path: Path, array: np.ndarray, allow_pickle: bool) -> None:
        raise OSError("172426 requested and 8128 written")

    monkeypatch.setattr(np, "save", save)
    with pytest.raises(OSError, match=r"0000\.npy could not be written \(172426 requested.*is the disk full\?\)"):
        write_shard(tmp_path, "0000", [(speechlike(100), {"transcript": "A"})])
    assert list(tmp_path.iterdir()) == []
