"""What a training is watched by, and what is held out: read as evaluations read it, from where training reads it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import speechlike, tiny_recognizer
from librispeech_folder import TEXTS, make_librispeech

from armory_mdnf import cli
from armory_mdnf.asr.checkpoints import save_recognizer
from armory_mdnf.data.librispeech import VARIABLE
from armory_mdnf.data.selection import read_samples
from armory_mdnf.errors import AudioError, OptionError
from armory_mdnf.training import books, level
from armory_mdnf.training import recognizer as training
from armory_mdnf.training.recipe import Recipe
from armory_mdnf.training.recognizer import evaluate, train, watched

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*positions are other than in the whole split"),
    pytest.mark.usefixtures("closes_files"),
]
RECIPE = Recipe(
    name="t",
    init="start.safetensors",
    sources={"train-clean-100": (1, 1)},
    dev=["dev-clean"],
    steps=1,
    seed=1,
    batch_seconds=2.0,
)


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A LibriSpeech to learn from and to watch, another where the environment says, and weights to start from."""
    save_recognizer(tmp_path / "start.safetensors", tiny_recognizer(hidden_size=16, hidden_layers=1), {})
    for split in ("train-clean-100", "dev-clean"):
        make_librispeech(tmp_path / "LibriSpeech", split)
    monkeypatch.setenv(VARIABLE, str(make_librispeech(tmp_path / "elsewhere", "dev-clean")))
    return tmp_path


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Recordings of one's own: of two channels and another rate, and of the rate of the recognisers."""
    folder = tmp_path / "mine_dev"
    folder.mkdir()
    soundfile.write(folder / "a.wav", np.stack([speechlike(11025, 1)] * 2, 1), 22050)
    soundfile.write(folder / "b.wav", speechlike(9000, 2), 16000)
    for name, words in (("a", "hold on"), ("b", "press one")):
        (folder / f"{name}.txt").write_text(words)
    return folder


def test_own_recordings_are_heard_at_the_recognisers_rate(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer = tiny_recognizer()
    heard: dict[int, torch.Tensor] = {}

    def forward(x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        heard.update({int(n): row[:n] for row, n in zip(x, lengths, strict=True)})
        return type(recognizer).forward(recognizer, x, lengths)

    monkeypatch.setattr(recognizer, "forward", forward)
    chosen = watched([str(own)])
    assert set(evaluate(recognizer, chosen)) == {str(own)}
    assert sorted(heard) == [8000, 9000]
    for utterance in chosen[str(own)]:
        samples = read_samples(utterance)
        np.testing.assert_array_equal(heard[len(samples)].numpy(), samples)


@pytest.mark.parametrize(
    ("samples", "message"),
    [(np.full(9000, np.nan, np.float32), "found NaN or infinity"), (speechlike(100), "at least 161 samples")],
)
def test_what_cannot_be_heard_is_refused_before_the_first_step(
    data_dir: Path, own: Path, monkeypatch: pytest.MonkeyPatch, samples: np.ndarray, message: str
) -> None:
    monkeypatch.setattr(training, "loss_of", lambda *args: pytest.fail("a step was taken"))
    soundfile.write(own / "b.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match=rf"b\.wav.*{message}"):
        train(replace(RECIPE, dev=[str(own)]), data_dir, data_dir / "a.safetensors")
    assert not list((data_dir / "runs" / "t").iterdir())


def test_training_and_watching_are_of_one_librispeech(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def look(recognizer: object, chosen: dict[str, Any]) -> dict[str, float]:
        seen.update(chosen)
        return {}

    monkeypatch.setattr(training, "evaluate", look)
    train(replace(RECIPE, held_out_speakers=["84"]), data_dir, data_dir / "a.safetensors")
    assert {u.id for u in seen["dev-clean"]} == {name for name in TEXTS if name.startswith("84-")}
    assert {u.path.relative_to(data_dir).parts[0] for u in seen["dev-clean"]} == {"LibriSpeech"}
    monkeypatch.delenv(VARIABLE)
    train(replace(RECIPE, name="u"), data_dir, data_dir / "b.safetensors")


def test_speakers_are_looked_for_where_training_reads(data_dir: Path) -> None:
    there = data_dir / "LibriSpeech"
    make_librispeech(data_dir / "elsewhere", "train-clean-100")
    (data_dir / "elsewhere" / "dev-clean" / "1272").mkdir()
    with pytest.raises(OptionError, match=r"no split in .*LibriSpeech has a speaker '1272'"):
        watched(["dev-clean"], None, ["1272"], there)
    assert len(watched(["dev-clean"], 1, ["84"], there)["dev-clean"]) == 1


def test_books_leave_out_the_test_sets_of_the_data_directory(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in books.TEST_SPLITS:
        make_librispeech(data_dir / "LibriSpeech", split)
    held_out: list[list[str]] = []

    def write(folder: Path, text: str, left_out: list[str], *rest: object) -> float:
        held_out.append(left_out)
        return 1.0

    monkeypatch.setattr(books, "write_books", write)
    monkeypatch.setattr(books, "novels", lambda folder: "text")
    monkeypatch.setattr(books, "versions", lambda packages: {})
    assert cli.main(["train", "books", "--novels", "novels", "--data-dir", str(data_dir)]) == 0
    assert held_out == [sorted(TEXTS.values())]


def test_a_level_is_chosen_on_own_recordings_at_the_recognisers_rate(
    data_dir: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[np.ndarray] = []

    def measure(name: str, noises: object, utterances: list[tuple[np.ndarray, str]], *rest: object) -> list[Any]:
        heard.extend(audio for audio, _ in utterances)
        return [{"curve": "flat", "noise_level": 0, "benign_wer": 1, "adversarial_wer": 2}]

    monkeypatch.setattr(level, "measure", measure)
    out = data_dir / "level.json"
    command = ["train", "level", "--recognizer", str(data_dir / "start.safetensors"), "--curve", "flat", "--levels"]
    assert cli.main([*command, "0", "--corpus", str(own).removesuffix("_dev"), "--out", str(out)]) == 0
    assert [len(audio) for audio in heard] == [8000, 9000]
    assert json.loads(out.read_text())["chosen"]["noise_level"] == 0
