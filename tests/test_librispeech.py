"""A local LibriSpeech: its layout, its order, and every way in which it can be incomplete or damaged."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from librispeech_folder import REAL, TEXTS, make_librispeech, needs_real

from armory_mdnf import locations
from armory_mdnf.audio.files import read_audio
from armory_mdnf.data import librispeech, selection
from armory_mdnf.data.librispeech import find_root, flac_header, load_split, read_transcripts, split_name
from armory_mdnf.errors import ArmoryMdnfWarning, AudioError, BundleError, OptionError
from armory_mdnf.files.bundles import resolve
from armory_mdnf.plugin.targets import MatchedLengthTargeter
from armory_mdnf.runner.components import load_dataset
from armory_mdnf.training.vocoder_data import find_recordings

needs_armory = pytest.mark.skipif(find_spec("armory") is None, reason="Armory is not installed")
incomplete = pytest.mark.filterwarnings("ignore:.*positions are other than in the whole split")
BLOCK = {
    "module": "armory_mdnf.plugin.datasets",
    "name": "librispeech",
    "eval_split": "test_clean",
    "batch_size": 1,
    "framework": "numpy",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up LibriSpeech, found through the environment."""
    folder = make_librispeech(tmp_path / "LibriSpeech")
    monkeypatch.setenv(librispeech.VARIABLE, str(folder))
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without Armory's configuration, and no container."""
    monkeypatch.delenv(librispeech.VARIABLE, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(locations, "CONTAINER", tmp_path / "container")
    return tmp_path / "home"


@incomplete
def test_a_split_is_read_whole_and_in_the_order_of_the_hashes(root: Path) -> None:
    found = load_split("test-clean")
    assert {u.id: u.transcript for u in found} == TEXTS
    assert [u.id for u in found] == sorted(TEXTS, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    for u in found:
        audio, rate = read_audio(u.path)
        assert (u.duration_s * rate, u.voice) == (len(audio), u.id.split("-")[0])


@pytest.mark.parametrize("name", librispeech.SPLITS)
def test_splits_have_the_names_of_openslr_and_of_armory(name: str) -> None:
    assert split_name(name) == split_name(name.replace("-", "_")) == name
    assert split_name(name.replace("-", "_").replace("n_1", "n1").replace("n_3", "n3").replace("r_5", "r5")) == name


def test_an_incomplete_split_is_warned_of(root: Path) -> None:
    with pytest.warns(ArmoryMdnfWarning, match="5 of the 2620 utterances of test-clean"):
        load_split("test_clean")


@incomplete
def test_of_flac_and_opus_the_one_without_loss_is_read(root: Path) -> None:
    expected = load_split("test-clean")
    for u in expected[:3]:
        soundfile.write(u.path.with_suffix(".opus"), read_audio(u.path)[0], 16000, format="OGG", subtype="OPUS")
    expected[0].path.unlink()
    found = load_split("test-clean")
    assert [u.path.suffix for u in found] == [".opus", *[".flac"] * 4]
    assert found[1:] == expected[1:]
    assert find_recordings(root) == sorted(u.path for u in found)


@incomplete
def test_the_native_runner_reads_it(root: Path) -> None:
    chosen = load_dataset(BLOCK | {"index": [3, 1]})
    assert [i for i, _ in chosen] == [1, 3]
    assert [u for _, u in chosen] == [load_split("test-clean")[i] for i in (1, 3)]


@incomplete
@needs_armory
@pytest.mark.armory
def test_armory_reads_it(root: Path) -> None:
    from armory.utils.config_loading import load_dataset as armorys

    expected = load_split("test-clean")
    data = armorys(BLOCK | {"index": "[1:4]"}, epochs=1, split="test_clean", num_batches=None, shuffle_files=False)
    assert len(data) == 3
    for utterance in expected[1:4]:
        x, y = next(data)
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, read_audio(utterance.path)[0][None])
        assert list(y) == [utterance.transcript]


@needs_armory
@pytest.mark.armory
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test_clear"}, "did you mean 'test-clean'"),
        ({"split": "test_clean[:10%]"}, "unknown split"),
        ({"framework": "tf"}, "expected framework 'numpy'"),
        ({"shuffle_files": True}, "shuffle_files"),
        ({"class_ids": 1}, "no classes"),
    ],
)
def test_the_dataset_refuses(root: Path, options: dict[str, Any], message: str) -> None:
    from armory_mdnf.plugin.datasets import librispeech as dataset

    with pytest.raises(OptionError, match=message):
        dataset(**options)


@incomplete
def test_targets_by_the_position_in_a_split_of_librispeech(root: Path) -> None:
    targeter = MatchedLengthTargeter("bundled", "test_clean")
    references = [u.transcript for u in load_split("test-clean")]
    targets = targeter.generate_at(range(5), references)
    assert targets == targeter.generate(references)
    assert not set(targets) & set(references)


# Where the folder is.


@incomplete
def test_the_folder_is_found_where_armory_keeps_data(home: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no LibriSpeech in .*datasets.LibriSpeech and .*openslr\.org/12") as error:
        find_root()
    assert librispeech.VARIABLE in str(error.value)
    inside = make_librispeech(tmp_path / "container" / "datasets" / "LibriSpeech")
    assert find_root() == inside
    (home / ".armory").mkdir(parents=True)
    (home / ".armory" / "config.json").write_text(json.dumps({"dataset_dir": str(tmp_path / "data")}))
    assert find_root() == inside
    named = make_librispeech(tmp_path / "data" / "LibriSpeech")
    assert find_root() == find_root(named) == find_root(tmp_path / "data") == named


def test_a_folder_that_is_named_is_the_only_one(root: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv(librispeech.VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(BundleError, match=r"no LibriSpeech in .*nowhere: expected"):
        load_split("test-clean")


def test_a_missing_split_says_what_there_is(root: Path) -> None:
    with pytest.raises(BundleError, match=r"no dev-other in .*, which has test-clean; get .*12/dev-other\.tar\.gz"):
        load_split("dev_other")


def test_weights_are_found_among_armorys_saved_models(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match="nor in Armory's saved_model_dir"):
        resolve("librispeech/a.safetensors")
    path = home / ".armory" / "saved_models" / "librispeech" / "a.safetensors"
    path.parent.mkdir(parents=True)
    path.touch()
    assert resolve("librispeech/a.safetensors") == path
    monkeypatch.chdir(path.parents[1])
    assert resolve("librispeech/a.safetensors") == Path("librispeech/a.safetensors")
    with pytest.raises(BundleError, match="no weight file"):
        resolve("librispeech/../../a.safetensors")


def test_armorys_configuration_that_is_not_json_is_named(home: Path) -> None:
    (home / ".armory").mkdir(parents=True)
    (home / ".armory" / "config.json").write_text("{")
    with pytest.raises(BundleError, match=r"config\.json is not JSON"):
        find_root()


# Damage.


def line(root: Path, text: str) -> None:
    (root / "test-clean" / "84" / "121" / "84-121.trans.txt").write_text(text)


GOOD = "84-121-0000 MISTER QUILTER IS THE APOSTLE\n84-121-0001 DON'T GO\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("84-121-0000 MISTER\n", r"84-121-0001\.flac has no transcript in 84-121\.trans\.txt"),
        (GOOD + "84-121-0002 MORE\n", r"names 84-121-0002, of which there is neither"),
        (GOOD + "84-121-0001 AGAIN\n", "line 3: 84-121-0001 is there twice"),
        (GOOD + "84-121-0002\n", "line 3: expected 84-121-0000 .* and its words, found '84-121-0002'"),
        (GOOD + "84-121-0002 lower case\n", "line 3: expected"),
        (GOOD + "84-122-0000 ANOTHER CHAPTER\n", "line 3: expected 84-121-0000"),
        (GOOD + "../../../../secret WORDS\n", "line 3: expected 84-121-0000"),
        (GOOD + "/etc/passwd WORDS\n", "line 3: expected 84-121-0000"),
        ("", "has no transcript"),
    ],
)
def test_transcripts_that_do_not_fit(root: Path, text: str, message: str) -> None:
    line(root, text)
    with pytest.raises(BundleError, match=message):
        load_split("test-clean")


@given(st.lists(st.text(max_size=40), max_size=4))
def test_no_line_of_a_listing_names_a_file_outside(lines: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "1-2.trans.txt"
        path.write_text("\n".join(lines), encoding="utf-8")
        words, refused, _ = read_transcripts(path, "1-2")
    assert all(len(name) == 8 and name.startswith("1-2-") and name[4:].isdecimal() for name in {*words, *refused})


def test_a_chapter_without_transcripts(root: Path) -> None:
    (root / "test-clean" / "7" / "5" / "7-5.trans.txt").unlink()
    with pytest.raises(BundleError, match=r"expected the transcripts 7-5\.trans\.txt, found none; `armory-mdnf data"):
        load_split("test-clean")
    with pytest.warns(ArmoryMdnfWarning, match="5 of the 2620"):
        found = load_split("test-clean", transcribed=False)
    assert {u.id: u.transcript for u in found} == TEXTS | {"7-5-0000": ""}


@pytest.mark.parametrize(
    ("channels", "rate", "message"),
    [(2, 16000, r"expected 1 channel\(s\), found 2"), (1, 22050, "expected 16000 Hz, found 22050")],
)
def test_audio_of_another_form(root: Path, channels: int, rate: int, message: str) -> None:
    path = root / "test-clean" / "7" / "5" / "7-5-0000.flac"
    soundfile.write(path, np.zeros((3000, channels), np.int16), rate, format="FLAC")
    with pytest.raises(BundleError, match=rf"7-5-0000\.flac: {message}"):
        load_split("test-clean")


@pytest.mark.parametrize(("content", "message"), [(b"", "not a FLAC file"), (b"RIFF" + bytes(60), "not a FLAC file")])
def test_what_is_no_flac(root: Path, content: bytes, message: str) -> None:
    (root / "test-clean" / "7" / "5" / "7-5-0000.flac").write_bytes(content)
    with pytest.raises(BundleError, match=rf"7-5-0000\.flac is {message}"):
        load_split("test-clean")


@incomplete
def test_a_truncated_recording_is_named_when_it_is_read(root: Path) -> None:
    path = root / "test-clean" / "7" / "5" / "7-5-0000.flac"
    path.write_bytes(path.read_bytes()[:-2000])
    (utterance,) = [u for u in load_split("test-clean") if u.id == "7-5-0000"]
    with pytest.raises(AudioError, match=r"7-5-0000\.flac is not a readable audio file \(truncated or corrupt\?\)"):
        selection.read_samples(utterance)


# The real thing.


@needs_real
@incomplete
def test_real_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(librispeech.VARIABLE, str(REAL))
    utterances = load_split("test_other")
    assert len({u.voice for u in utterances[:10]}) > 2
    for utterance in utterances[:3]:
        samples = selection.read_samples(utterance)
        assert len(samples) == round(16000 * utterance.duration_s)
        pcm = (samples * 32768).astype("<i2").tobytes()
        assert hashlib.md5(pcm).hexdigest() == flac_header(utterance.path).md5
    assert all(1 < u.duration_s < 25 and u.transcript for u in load_split("train-clean-100"))


@pytest.mark.skipif(not (REAL.parent / "opus").is_dir(), reason="no LibriSpeech as Opus beside the project")
@incomplete
def test_real_recordings_as_opus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(librispeech.VARIABLE, str(REAL.parent / "opus"))
    for utterance in load_split("train-clean-100")[:3]:
        assert utterance.path.suffix == ".opus"
        assert len(selection.read_samples(utterance)) == round(16000 * utterance.duration_s)
