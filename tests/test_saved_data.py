"""Data sets of Hugging Face's on disk, as data of one's own."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import speechlike
from runner_folder import unsaid_length

from armory_mdnf import cli
from armory_mdnf.data import own, saved, selection
from armory_mdnf.errors import AudioError, BundleError, OptionError
from armory_mdnf.runner.components import load_dataset

datasets = pytest.importorskip("datasets", reason="datasets is not installed (the extra hf)")


def encoded(x: np.ndarray, rate_hz: int = 16000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, x, rate_hz, format="FLAC")
    return file.getvalue()


def save(folder: Path, columns: dict[str, Any], audio: bool = False) -> Path:
    datasets.disable_progress_bars()
    made = datasets.Dataset.from_dict(columns)
    if audio:
        made = made.cast_column("audio", datasets.Audio(sampling_rate=16000))
    made.save_to_disk(str(folder))
    saved.open_saved.cache_clear()
    return folder.resolve()


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A row of encoded bytes, one of a file of another rate and two channels, in a column of the type Audio."""
    soundfile.write(tmp_path / "b.wav", np.stack([speechlike(4000, 2)] * 2, 1), 8000)
    audio = [
        {"bytes": encoded(speechlike(8000)), "path": "a.flac"},
        {"bytes": None, "path": str(tmp_path / "b.wav")},
    ]
    columns = {"audio": audio, "text": ["Hello, there!", "two words"], "id": ["b", "a"], "speaker_id": [7, 8]}
    return save(tmp_path / "mixed", columns, audio=True)


def test_bytes_and_files_are_what_libsndfile_reads(mixed: Path, tmp_path: Path) -> None:
    first, second = own.load_own(mixed)
    assert [(u.id, u.transcript, u.voice, u.duration_s) for u in (first, second)] == [
        ("a", "TWO WORDS", "8", 0.5),
        ("b", "HELLO THERE", "7", 0.5),
    ]
    # The same recordings as plain files.
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "b.flac").write_bytes(encoded(speechlike(8000)))
    (plain / "a.wav").write_bytes((tmp_path / "b.wav").read_bytes())
    for name, text in (("a", "two words"), ("b", "hello there")):
        (plain / f"{name}.txt").write_text(text)
    for found, expected in zip((first, second), own.load_own(plain), strict=True):
        np.testing.assert_array_equal(selection.read_samples(found), selection.read_samples(expected))
    assert selection.fingerprint(first) != selection.fingerprint(second)
    assert "torchcodec" not in sys.modules


def test_arrays_with_their_rate(tmp_path: Path) -> None:
    x = np.rint(speechlike(8000) * 32768) / 32768
    audio = [{"array": x.tolist(), "sampling_rate": 16000}, {"array": x[::2].tolist(), "sampling_rate": 8000}]
    folder = save(tmp_path / "arrays", {"audio": audio, "sentence": ["one", "two"]})
    found = own.load_own(folder)
    assert [(u.id, u.transcript, u.duration_s) for u in found] == [("0", "ONE", 0.5), ("1", "TWO", 0.5)]
    np.testing.assert_array_equal(selection.read_samples(found[0]), x.astype(np.float32))
    assert len(selection.read_samples(found[1])) == 8000
    assert selection.split_size(str(folder)) == 2


def test_the_rate_of_an_array_is_a_part_of_the_recording(tmp_path: Path) -> None:
    audio = [{"array": speechlike(8000).tolist(), "sampling_rate": rate_hz} for rate_hz in (8000, 16000)]
    first, second = own.load_own(save(tmp_path / "arrays", {"audio": audio, "text": ["one", "one"]}))
    assert selection.fingerprint(first) != selection.fingerprint(second)


def test_paths_from_the_folder(tmp_path: Path) -> None:
    folder = save(tmp_path / "paths", {"file": ["x.wav", "gone.wav", "x.raw"], "text": ["one", "two", "three"]})
    soundfile.write(folder / "x.wav", speechlike(1600), 16000)
    (folder / "x.raw").write_bytes(bytes(800))
    first, second, third = own.load_own(folder, strict=False)
    assert "row 2: TypeError" in third.problem  # soundfile asks for its rate
    assert (first.problem, first.duration_s) == ("", 0.1)
    assert "row 1" in second.problem
    assert "gone.wav" in second.problem
    with pytest.raises(AudioError, match=r"no audio file at .*gone\.wav"):
        selection.read_samples(second)
    assert len(selection.fingerprint(second)) == 16  # of one that is not there too


def test_what_is_wrong_with_one_is_its_problem(tmp_path: Path) -> None:
    (tmp_path / "piped.flac").write_bytes(encoded(speechlike(800)))
    piped = unsaid_length(tmp_path / "piped.flac").read_bytes()
    audio = [{"bytes": content, "path": None} for content in (encoded(speechlike(800)), b"no audio", None, piped)]
    folder = save(tmp_path / "wrong", {"audio": audio, "text": ["...", "two", "three", "four"]})
    problems = [u.problem for u in own.load_own(folder, strict=False)]
    assert problems[0].endswith("row 0: expected a transcript with words")
    assert "row 1: LibsndfileError" in problems[1]
    assert "row 2: expected audio as a path, or as an object with bytes, path, or array" in problems[2]
    assert problems[3] == f"{folder}, row 3 does not say its length: write it to a file, not to a pipe"
    with pytest.raises(BundleError, match=r"\(and 3 more\)"):
        own.load_own(folder)


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"sound": ["x"], "text": ["y"]}, "expected a column audio, file, .*found 'sound, text'"),
        ({"file": ["x"], "label": [1]}, "expected a column text, transcript"),
        ({"file": ["x", "x"], "text": ["y", "y"], "id": ["z", "z"]}, "the name 'z' is there twice"),
    ],
)
def test_columns_that_are_none(columns: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=why):
        own.load_own(save(tmp_path / "set", columns), strict=False)


def test_integers_are_no_samples(tmp_path: Path) -> None:
    folder = save(tmp_path / "whole", {"audio": [{"array": [1, 2], "sampling_rate": 16000}], "text": ["x"]})
    (found,) = own.load_own(folder, strict=False)
    assert "expected an array of floats, of one channel, and its rate, found int64" in found.problem


def test_several_splits_and_damaged_ones(mixed: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    datasets.DatasetDict(test=datasets.load_from_disk(str(mixed))).save_to_disk(str(both))
    with pytest.raises(BundleError, match="has the splits test: name the folder of one of them"):
        own.load_own(both)
    assert len(own.load_own(both / "test")) == 2
    saved.open_saved.cache_clear()
    (data,) = mixed.glob("*.arrow")
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(BundleError, match="mixed is not a data set that can be read"):
        own.load_own(mixed)


def test_without_the_package_it_says_what_to_install(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    saved.open_saved.cache_clear()
    with pytest.raises(OptionError, match=r"needs the package datasets: pip install 'armory-mdnf\[hf\]'"):
        own.load_own(mixed)


def test_evaluate_takes_it(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.json"
    words = ["--data", str(mixed), "--attack", "none", "--only-write", "--config", str(config)]
    assert cli.main(["evaluate", *words]) == 0
    block = json.loads(config.read_text())["dataset"]
    assert (block["name"], block["eval_split"]) == ("recordings", str(mixed))
    assert [u.transcript for _, u in load_dataset(block)] == ["TWO WORDS", "HELLO THERE"]
    capsys.readouterr()
