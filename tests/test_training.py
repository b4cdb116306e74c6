"""The recipes: sources, augmentation, and a run that stops and goes on."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import speechlike, tiny_recognizer

from armory_mdnf.asr.checkpoints import load_recognizer
from armory_mdnf.audio.files import write_flac
from armory_mdnf.errors import BundleError, OptionError
from armory_mdnf.training import recognizer as recipe_module
from armory_mdnf.training.augmentation import Augmentation, warped, with_noise
from armory_mdnf.training.corpora.sentences import HeldOut
from armory_mdnf.training.optimizer import learning_rate
from armory_mdnf.training.recipe import Recipe, build_sources
from armory_mdnf.training.recognizer import disagreement, loss_of, train
from armory_mdnf.training.sources import Joined, Shards, Spliced, read_recordings

TEXTS = ["PRESS ONE TO HOLD", "PRESS TWO TO CALL BACK", "TO HOLD THE LINE PRESS STAR"]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "human"
    folder.mkdir()
    lines = []
    for i, text in enumerate(TEXTS):
        words = text.split()
        audio = speechlike(8000 * len(words), i)
        write_flac(folder / f"{i}.flac", audio, 16000)
        times = [[w, 0.5 * k + 0.05, 0.5 * k + 0.45] for k, w in enumerate(words)]
        lines.append({"id": str(i), "file": f"{i}.flac", "transcript": text, "words": times})
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_every_two_neighbours_of_a_splice_were_spoken_after_each_other(data_dir: Path) -> None:
    spliced = Spliced(read_recordings(data_dir / "human" / "train.jsonl"), HeldOut([]).is_in, swap=0.0)
    rng = np.random.default_rng(0)
    follows = {(a, b) for t in TEXTS for a, b in pairwise(t.split())}
    starts = {w for t in TEXTS for w in t.split()}
    ends = {t.split()[-1] for t in TEXTS}
    seen = set()
    for _ in range(300):
        path = spliced.walk(rng)
        words = [spliced.recordings[i].words[j][0] for i, j in path]
        for a, b in pairwise(words):
            assert (a, b) in follows or (a in ends and b in starts)
        seen.add(" ".join(words))
    assert len(seen - set(TEXTS)) > 20


def test_a_splice_is_as_long_as_its_words_and_stays_in_range(data_dir: Path) -> None:
    spliced = Spliced(read_recordings(data_dir / "human" / "train.jsonl"), HeldOut([]).is_in)
    rng = np.random.default_rng(1)
    for _ in range(50):
        audio, text = spliced.sample(rng)
        words = len(text.split())
        assert 0.4 * words - 0.02 * words <= len(audio) / 16000 <= 0.66 * words
        assert np.abs(audio).max() <= 1


def test_held_out_sentences_are_never_spliced(data_dir: Path) -> None:
    spliced = Spliced(read_recordings(data_dir / "human" / "train.jsonl"), HeldOut(["PRESS TWO", "TO HOLD"]).is_in)
    rng = np.random.default_rng(2)
    for _ in range(200):
        _, text = spliced.sample(rng)
        assert " PRESS TWO " not in f" {text} "
        assert " TO HOLD " not in f" {text} "


def test_joined_recordings_keep_their_transcripts_in_order(data_dir: Path) -> None:
    joined = Joined(read_recordings(data_dir / "human" / "train.jsonl"), HeldOut([]).is_in)
    audio, text = joined.sample(np.random.default_rng(0))
    assert len(audio) <= 7 * 16000
    assert any(text.startswith(t) for t in TEXTS)


def test_held_out_sentences_do_not_arise_where_recordings_are_joined(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of one and the beginning of the next; the recipe's source has the bundled ones."""
    monkeypatch.setattr("armory_mdnf.training.recipe.held_out_sentences", lambda: ["HOLD PRESS TWO", "BACK PRESS ONE"])
    joined = build_sources(["joined"], data_dir)["joined"]
    rng = np.random.default_rng(0)
    texts = [joined.sample(rng)[1] for _ in range(200)]
    assert len(set(texts)) > 3
    assert not any("HOLD PRESS TWO" in text or "BACK PRESS ONE" in text for text in texts)


def test_shards_give_back_what_was_written(tmp_path: Path) -> None:
    audio = (speechlike(4000) * 32767).astype(np.int16)
    np.save(tmp_path / "a.npy", audio)
    line = {"shard": "a.npy", "offset": 1000, "length": 2000, "transcript": "HOLD"}
    (tmp_path / "a.jsonl").write_text(json.dumps(line) + "\n")
    found, text = Shards(tmp_path).sample(np.random.default_rng(0))
    assert text == "HOLD"
    np.testing.assert_array_equal(found * 32768, audio[1000:3000])


def test_missing_and_broken_lists_are_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="build the corpus first"):
        Shards(tmp_path)
    lines = {
        '{"fi': r"train\.jsonl, line 2 is not JSON",
        "[1]": r"line 2: expected an object, found \[1\]",
        '{"file": 1}': "line 2: file: expected a text that is not empty, found 1",
        '{"file": "a", "transcript": "A", "words": [["A", 1]]}': "line 2: words: expected a list of words with their",
        '{"file": "a", "file": "b"}': "line 2 is not JSON as it is meant: the key 'file' is there twice",
        '{"file": "a", "transcript": NaN}': "line 2 is not JSON as it is meant: transcript: NaN",
        "[" * 100_000: "line 2 is not JSON",
    }
    for line, message in lines.items():
        (tmp_path / "train.jsonl").write_text(f"\n{line}\n")
        with pytest.raises(BundleError, match=message):
            read_recordings(tmp_path / "train.jsonl")


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    line = {"shard": "a.npy", "offset": 1000, "length": 2000, "transcript": "HOLD"}
    (tmp_path / "a.jsonl").write_text(json.dumps(line) + "\n")
    shards = {
        "not a readable shard": b"",
        "16 bits in one row": np.zeros(5000, np.float32),
        "expected 3000 samples, found 2999": np.zeros(2999, np.int16),
    }
    for message, content in shards.items():
        if isinstance(content, bytes):
            (tmp_path / "a.npy").write_bytes(content)
        else:
            np.save(tmp_path / "a.npy", content)
        with pytest.raises(BundleError, match=message):
            Shards(tmp_path).sample(np.random.default_rng(0))
    for change in ({"shard": "../a.npy"}, {"offset": -1}, {"length": 0}, {"length": 1e29}, {"transcript": None}):
        (tmp_path / "a.jsonl").write_text(json.dumps(line | change) + "\n")
        with pytest.raises(BundleError, match=f"line 1: {next(iter(change))}: expected "):
            Shards(tmp_path)


def test_noise_is_added_at_its_ratio() -> None:
    rng = np.random.default_rng(0)
    x = speechlike(16000)
    y = with_noise(x, rng.standard_normal(16000).astype(np.float32), 20.0)
    assert 10 * np.log10(np.mean(x**2) / np.mean((y - x) ** 2)) == pytest.approx(20, abs=1e-3)
    silent = with_noise(np.zeros(100, np.float32), rng.standard_normal(100).astype(np.float32), 20.0)
    assert not silent.any()


def test_augmented_audio_stays_in_range_and_masks_stay_within_bounds() -> None:
    rng = np.random.default_rng(0)
    augmentation = Augmentation(gain_db=(20, 20))
    x = augmentation.waveform(speechlike(8000), rng)
    assert np.abs(x).max() <= 1
    assert 8000 / 1.13 < len(x) < 8000 / 0.89
    spectrogram = torch.from_numpy(rng.standard_normal((2, 1, 161, 80)))
    masked = augmentation.mask(spectrogram.clone(), torch.tensor([80, 40]), rng)
    hidden = masked != spectrogram
    assert 0 < hidden.double().mean() < 0.6
    means = torch.stack([spectrogram[0].mean(), spectrogram[1, :, :, :40].mean()])[:, None, None, None]
    torch.testing.assert_close(masked[hidden], means.expand_as(masked)[hidden])


def test_a_warp_stretches_the_bins_of_each_utterance() -> None:
    bins = torch.arange(8.0, dtype=torch.float64)[None, None, :, None]
    spectrogram = torch.cat([bins, 10 * bins, bins]).expand(3, 1, 8, 5).clone()
    found = warped(spectrogram, np.array([1.0, 2.0, 0.5]))
    torch.testing.assert_close(found[0], spectrogram[0])
    torch.testing.assert_close(found[1], spectrogram[1] / 2)
    torch.testing.assert_close(found[2], (2 * spectrogram[2]).clamp(max=7))
    none = Augmentation(time_masks=0, frequency_masks=0)
    assert none.mask(spectrogram, torch.tensor([5, 5, 5]), np.random.default_rng(0)) is spectrogram
    wide = Augmentation(time_masks=0, frequency_masks=0, warp=(2.0, 2.0))
    y = wide.mask(spectrogram, torch.tensor([5, 5, 5]), np.random.default_rng(0))
    torch.testing.assert_close(y, spectrogram / 2)


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_a_speed_of_the_list_resamples_without_aliases(speed: float) -> None:
    tone = np.sin(2 * np.pi * 6500 * np.arange(16000) / 16000).astype(np.float32)
    y = Augmentation(speeds=(speed,), gain_db=(0, 0), tilt=(0, 0), noise_probability=0).waveform(
        tone, np.random.default_rng(0)
    )
    assert len(y) == math.ceil(16000 / speed)
    spectrum = np.abs(np.fft.rfft(y * np.hanning(len(y)))) / len(y)
    frequency = np.arange(len(spectrum)) * 16000 / len(y)
    away = spectrum[np.abs(frequency - 6500 * speed) > 100]
    assert away.max() < 0.003  # linear interpolation leaves 0.06


def test_learning_rate_rises_then_falls() -> None:
    sources = {"human": (1.0, 1.0)}
    recipe = Recipe("t", sources, steps=100, seed=0, learning_rate=1.0, final_learning_rate=0.1, warmup_steps=10)
    rates = [learning_rate(recipe, step) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (k + 1) for k in range(10)])
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert rates[100] == pytest.approx(0.1)


def test_two_draws_disagree_by_the_divergence_of_their_characters_within_each_utterance() -> None:
    logits = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    frames = torch.tensor([6, 3, 6, 3])
    found = disagreement(logits, frames)
    p = logits.detach().softmax(-1)
    for n in range(4):
        other = p[(n + 2) % 4, : frames[n]]
        mine = p[n, : frames[n]]
        torch.testing.assert_close(found[n].detach(), (other * (other / mine).log()).sum())
    found.sum().backward()  # the other draw is held fixed: of KL(q, softmax(z)), the gradient in z is softmax(z) - q
    inside = (torch.arange(6) < frames[:, None])[..., None]
    torch.testing.assert_close(logits.grad, (p - p.roll(2, 0)) * inside)


def test_two_draws_of_no_masks_agree_and_cost_what_one_does() -> None:
    recognizer = tiny_recognizer()
    batch = [(speechlike(n, n), [3, 1, 2]) for n in (16000, 12000)]
    draws: list[int] = []

    def none(spectrogram: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        draws.append(len(spectrogram))
        return spectrogram

    once = loss_of(recognizer.eval(), batch, none, torch.float32)
    twice = loss_of(recognizer.eval(), batch, none, torch.float32, consistency=0.5)
    torch.testing.assert_close(twice, once)
    assert draws == [2, 4]
    costs = [
        loss_of(recognizer, batch, recipe_module._masks(Augmentation(), np.random.default_rng(0)), torch.float32, c)
        for c in (1.0, 2.0, 3.0)
    ]
    assert costs[1] > costs[0]
    torch.testing.assert_close(costs[2] - costs[1], costs[1] - costs[0], rtol=1e-3, atol=1e-5)


def test_a_misspelt_recipe_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text('{"name": "t", "sources": {}, "steps": 1, "seed": 1, "learning_rte": 1}')
    with pytest.raises(OptionError, match="did you mean 'learning_rate'"):
        Recipe.read(path)


def test_a_stopped_run_ends_where_an_unbroken_one_does(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_module, "evaluate", lambda recognizer, chosen: {})
    sources = {"human": (0.5, 0.2), "spliced": (0.5, 0.8)}
    model = {"hidden_size": 16, "hidden_layers": 1, "conv_channels": 2}
    options = {"steps": 10, "seed": 3, "model": model, "batch_seconds": 4.0, "warmup_steps": 2}
    train(Recipe("whole", sources, **options), data_dir, data_dir / "whole.safetensors", every=5)
    real = recipe_module.save_state

    def stop_after_first(path: Path, state: dict) -> None:
        real(path, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe_module, "save_state", stop_after_first)
    with pytest.raises(KeyboardInterrupt):
        train(Recipe("broken", sources, **options), data_dir, data_dir / "broken.safetensors", every=5)
    assert not (data_dir / "broken.safetensors").exists()
    monkeypatch.setattr(recipe_module, "save_state", real)
    train(Recipe("broken", sources, **options), data_dir, data_dir / "broken.safetensors", every=5)
    whole = load_recognizer(data_dir / "whole.safetensors").network.state_dict()
    resumed = load_recognizer(data_dir / "broken.safetensors").network.state_dict()
    for key, value in whole.items():
        torch.testing.assert_close(value, resumed[key], msg=key)
    assert len((data_dir / "runs" / "whole" / "log.jsonl").read_text().splitlines()) == 3
