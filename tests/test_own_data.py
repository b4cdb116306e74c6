"""One's own recordings with their transcripts, in the usual layouts."""

from __future__ import annotations

import contextlib
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import speechlike
from hypothesis import given
from hypothesis import strategies as st
from librispeech_folder import make_librispeech

from armory_mdnf.audio import files as audio_files
from armory_mdnf.audio import recordings
from armory_mdnf.data import librispeech, own, paths, selection
from armory_mdnf.errors import ArmoryMdnfError, AudioError, BundleError, OptionError
from armory_mdnf.files.provenance import sha256_of


def sound(path: Path, seconds: float = 1.0, rate_hz: int = 16000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    x = speechlike(round(seconds * rate_hz), seed=len(path.stem))
    soundfile.write(path, np.stack([x] * channels, 1), rate_hz)
    return path


def found(path: Path, strict: bool = True) -> list[tuple[str, str]]:
    return [(u.id, u.transcript) for u in own.load_own(path, strict=strict)]


EXPECTED = [("a", "HELLO THERE"), ("b", "TWO WORDS")]


def test_a_text_file_beside_each(tmp_path: Path) -> None:
    sound(tmp_path / "b.flac", rate_hz=44100, channels=2).with_suffix(".lab").write_text("2 words")
    sound(tmp_path / "a.wav").with_suffix(".txt").write_text("Hello, there!\n")
    assert found(tmp_path) == EXPECTED
    sound(tmp_path / "deep" / "c.wav").with_suffix(".txt").write_text("x")
    assert found(tmp_path)[-1] == ("deep/c", "X")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", 'file,text\nb.wav,"two words"\na.wav,"hello, there"\n'),
        ("lines.csv", 'file,text\nb.wav,"two\nwords"\na.wav,hello there\n'),
        ("list.tsv", "path\tsentence\tclient_id\na.wav\tHello there\tz\nb.wav\tTwo words\tz\n"),
        ("m.jsonl", '{"audio_filepath": "a.wav", "text": "hello there"}\n\n{"wav": "b.wav", "words": "two words"}\n'),
    ],
)
def test_lists(name: str, text: str, tmp_path: Path) -> None:
    for letter in "ab":
        sound(tmp_path / f"{letter}.wav")
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert found(tmp_path) == found(tmp_path / name) == EXPECTED


def test_kaldi(tmp_path: Path) -> None:
    first, second = sound(tmp_path / "audio" / "x.wav"), sound(tmp_path / "y.wav")
    (tmp_path / "wav.scp").write_text(f"a audio/x.wav\nb {second}\nc sph2pipe x.sph |\n")
    (tmp_path / "text").write_text("a hello there\nb two words\nc more\nd none\n")
    utterances = {u.id: u for u in own.load_own(tmp_path, strict=False)}
    assert [(u.id, u.transcript) for u in utterances.values() if not u.problem] == EXPECTED
    assert (utterances["a"].path, utterances["b"].path) == (first, second)
    assert "made by a command, and none is run" in utterances["c"].problem
    assert "wav.scp lacks 'd'" in utterances["d"].problem
    (tmp_path / "segments").touch()
    with pytest.raises(BundleError, match="parts of recordings are not read"):
        own.load_own(tmp_path)


def test_kaldi_parts_by_any_white_space(tmp_path: Path) -> None:
    for letter in "abc":
        sound(tmp_path / f"{letter}.wav")
    (tmp_path / "wav.scp").write_text("a\ta.wav\nb   b.wav  \n \tc \t c.wav\t\nd\n")
    (tmp_path / "text").write_text("a\thello there\nb  two \t words \nc\nd\t\n")
    utterances = {u.id: u for u in own.load_own(tmp_path, strict=False)}
    assert [(u.id, u.transcript) for u in utterances.values() if not u.problem] == EXPECTED
    assert "expected a transcript with words" in utterances["c"].problem
    assert "no audio file" in utterances["d"].problem


@pytest.mark.filterwarnings("ignore:.* has .* of the .* utterances")
def test_a_librispeech_split_below_any_folder(tmp_path: Path) -> None:
    root = make_librispeech(tmp_path)
    expected = [(u.id, u.transcript) for u in librispeech.load_split("test-clean", root)]
    assert len(expected) > 1
    assert found(root / "test-clean") == expected
    with pytest.raises(BundleError, match=r"is a LibriSpeech: name one of its splits, as .*test-clean"):
        own.load_own(root)


def test_folders_called_by_numbers_are_no_librispeech(tmp_path: Path) -> None:
    for name, text in (("05/a", "Hello there"), ("06/b", "2 words")):
        sound(tmp_path / "2021" / f"{name}.wav").with_suffix(".txt").write_text(text)
    assert found(tmp_path) == [("2021/05/a", "HELLO THERE"), ("2021/06/b", "TWO WORDS")]


@pytest.mark.filterwarnings("ignore:.* has .* of the .* utterances")
def test_what_is_no_utterance_of_a_librispeech_is_not_lost(tmp_path: Path) -> None:
    split = make_librispeech(tmp_path) / "test-clean"
    whole = own.load_own(split)
    chapter = split / "84" / "121"
    sound(chapter / "84-121-00001.flac")
    with (chapter / "84-121.trans.txt").open("a") as file:
        file.write("84-121-00001 ONE MORE\n")
    sound(chapter / "84-121-0001.wav")  # the same one in another form
    for name in ("84/121/a.wav", "further/a.wav", "further/a.ogg"):
        sound(split / name).with_suffix(".txt").write_text("hello")
    utterances = own.load_own(split, strict=False)
    assert utterances[: len(whole)] == whole
    strays = {u.id: u.problem for u in utterances[len(whole) :]}
    expected = "expected a recording of LibriSpeech, SPEAKER/CHAPTER/SPEAKER-CHAPTER-0000.flac"
    listing = chapter / "84-121.trans.txt"
    assert strays == {
        "84/121/84-121.trans.txt, 1": f"{listing}, line 3: expected 84-121-0000 (or so) and its words, "
        "found '84-121-00001 ONE MORE'",
        "84/121/84-121-00001": f"{chapter / '84-121-00001.flac'}: expected a name such as 84-121-0000.flac",
        **{name: f"{split / name}: {expected}" for name in ("84/121/a.wav", "further/a.ogg", "further/a.wav")},
    }
    with pytest.raises(BundleError, match=r"84-121\.trans\.txt, line 3: expected .* \(and 4 more\)"):
        own.load_own(split)


def test_what_is_wrong_with_one_is_its_problem(tmp_path: Path) -> None:
    sound(tmp_path / "good.wav").with_suffix(".txt").write_text("fine")
    sound(tmp_path / "mute.wav")
    sound(tmp_path / "empty.wav").with_suffix(".txt").write_text(" ... ")
    sound(tmp_path / "greek.wav").with_suffix(".txt").write_text("\u03b1")
    (tmp_path / "noise.wav").write_text("no audio")
    (tmp_path / "noise.txt").write_text("fine")
    problems = {u.id: u.problem for u in own.load_own(tmp_path, strict=False)}
    assert problems["good"] == ""
    assert "expected its transcript in mute.txt or mute.lab" in problems["mute"]
    assert "expected a transcript with words" in problems["empty"]
    assert "no reading for" in problems["greek"]
    assert "is not audio that can be read" in problems["noise"]
    with pytest.raises(BundleError, match=r"\(and 3 more\)"):
        own.load_own(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.csv", "file,words_\nx.wav,y\n", "a.csv: expected a column text, transcript.* found 'file, words_'"),
        ("a.csv", "file,text\nx.wav,hello, how are you\n", "line 2: more fields than the header: quote a text"),
        ("a.tsv", "file\ttext\nx.wav\thello\thow are you\n", "line 2: more fields than the header"),
        ("a.tsv", 'file\ttext\nx.wav\t"Come\there"\n', "line 2: more fields than the header"),
        ("a.csv", 'file,text\nx.wav,"y\n', "line 2: Error: unexpected end"),
        ("a.jsonl", "[1]", "expected an object"),
        ("a.jsonl", '{"file": "x.wav", "txt": "x"}', "expected a column text, transcript"),
        ("a.jsonl", '{"file": "x.wav", "text": "y"}\n{"file": "x.wav", "text": "y"}', "is there twice"),
        ("a.csv", "file,text\n", "found no utterances"),
        ("a.doc", "x", "expected a list ending in"),
    ],
)
def test_lists_that_are_none(name: str, text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BundleError, match=why):
        own.load_own(tmp_path / name, strict=False)


def test_a_tsv_may_quote_as_it_likes(tmp_path: Path) -> None:
    for letter in "abc":
        sound(tmp_path / f"{letter}.wav", 0.1)
    text = 'file\ttext\na.wav\t"Hello" said he\n"b.wav"\t"She said ""no"""\nc.wav\t"Open\n'
    (tmp_path / "list.TSV").write_text(text)
    found = {u.id: u.transcript for u in own.load_own(tmp_path)}
    assert found == {"a": "HELLO SAID HE", "b": "SHE SAID NO", "c": "OPEN"}


def test_a_recording_in_another_format_is_not_passed_over(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav", 0.1).with_suffix(".txt").write_text("fine")
    soundfile.write(tmp_path / "b.sph", np.zeros(1600), 16000, format="NIST")
    (tmp_path / "c.m4a").write_bytes(b"\0" * 64)
    (tmp_path / "a.json").write_text("{}")  # beside a recording, and none itself
    for name in "bc":
        (tmp_path / f"{name}.txt").write_text("fine")
    found = {u.path.name: u.problem for u in own.load_own(tmp_path, strict=False)}
    assert {name: bool(problem) for name, problem in found.items()} == {"a.wav": False, "b.sph": False, "c.m4a": True}
    assert "c.m4a is not audio that can be read" in found["c.m4a"]
    assert "Format not recognised" in found["c.m4a"]


def test_a_row_that_lacks_something_is_a_problem_of_its_own(tmp_path: Path) -> None:
    for letter in "ab":
        sound(tmp_path / f"{letter}.wav", 0.1)
    rows = {
        "list.csv": "file,text\na.wav,good,\nb.wav\n\n,none\n",
        "list.tsv": 'file\ttext\n"a.wav"\t"good ""one"""\nb.wav\n',
        "list.jsonl": '{"file": "a.wav", "text": "good"}\n{"file": "b.wav"}\n{"file": 3, "text": "x"}\n{"text": "y"}\n',
    }
    for name, text in rows.items():
        (tmp_path / name).write_text(text)
        found = {u.id: u for u in own.load_own(tmp_path / name, strict=False)}
        assert (found["a"].problem, found["a"].transcript.split()[0]) == ("", "GOOD")
        problems = {u.id: u.problem for u in found.values()}
        assert sum(map(bool, problems.values())) == len(found) - 1 > 0
        assert "expected a value for one of text, transcript" in problems["b"]
    assert "line 3: expected file as text, found 3" in problems["line 3"]
    assert "line 4: expected a value for one of audio, file" in problems["line 4"]


def test_a_text_file_that_cannot_be_read_is_a_problem_of_its_own(tmp_path: Path) -> None:
    for letter in "abc":
        sound(tmp_path / f"{letter}.wav", 0.1).with_suffix(".txt").write_text("fine")
    (tmp_path / "b.txt").write_bytes("caf\u00e9".encode("latin-1"))
    (tmp_path / "c.txt").write_text("x" * (own.MAX_TEXT_BYTES + 1))
    problems = {u.id: u.problem for u in own.load_own(tmp_path, strict=False)}
    assert problems["a"] == ""
    assert "b.txt is not a readable list or transcript: UnicodeDecodeError" in problems["b"]
    assert "c.txt: expected at most" in problems["c"]


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no recordings at"):
        own.load_own(tmp_path / "none")
    with pytest.raises(BundleError, match="found none of these"):
        own.load_own(tmp_path)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).touch()
    with pytest.raises(BundleError, match=r"expected one list, found a\.csv, b\.csv"):
        own.load_own(tmp_path)


@given(st.sampled_from(paths.LISTS), st.binary(max_size=200))
def test_any_list_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, end: str, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{end}"
    path.write_bytes(content)
    with contextlib.suppress(ArmoryMdnfError):
        assert own.load_own(path, strict=False)


# As a split.


def test_a_path_is_a_split(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav", 0.5, 8000, 2).with_suffix(".txt").write_text("one")
    sound(tmp_path / "b.wav").with_suffix(".txt").write_text("two")
    ((position, utterance),) = selection.bundled(str(tmp_path), "[1:2]")
    assert (position, utterance.transcript) == (1, "TWO")
    assert selection.split_size(str(tmp_path)) == 2
    assert [u.transcript for u in selection.any_split(str(tmp_path))] == ["ONE", "TWO"]
    (_, first), _ = selection.bundled(str(tmp_path))
    x = selection.read_samples(first)
    assert (x.dtype, len(x)) == (np.float32, 8000)
    np.testing.assert_array_equal(x * 32768, np.rint(x * 32768))
    assert selection.fingerprint(first) != selection.fingerprint(utterance)


def with_id3_tag(path: Path) -> None:
    path.write_bytes(b"ID3\x03\x00\x00\x00\x00\x00\x0a" + bytes(10) + path.read_bytes())


def test_other_audio_under_a_name_of_flac_is_another_recording(tmp_path: Path) -> None:
    """Whatever libsndfile reads there: FLAC behind a tag, WAV, the same samples at another rate."""
    path, found = tmp_path / "a.flac", []
    path.with_suffix(".txt").write_text("hello")

    def note() -> None:
        (utterance,) = own.load_own(tmp_path)
        selection.read_samples(utterance)
        found.append(selection.fingerprint(utterance))
        again = selection.fingerprint(utterance)
        assert again == found[-1]

    for seed in (0, 1):
        x = speechlike(1600, seed)
        soundfile.write(path, x, 16000)
        note()
        with_id3_tag(path)
        note()
        soundfile.write(path, x, 16000, format="WAV")
        note()
    soundfile.write(path, x, 8000)
    note()
    assert len(set(found)) == len(found)


def test_checksums_of_files_called_flac_are_of_what_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, speechlike(1600), 16000)
    assert librispeech.audio_checksum(path) == librispeech.flac_header(path).md5
    with_id3_tag(path)
    assert librispeech.audio_checksum(path) == sha256_of(path)
    with pytest.raises(AudioError, match=r"gone\.flac cannot be read"):
        librispeech.audio_checksum(tmp_path / "gone.flac")


def test_a_name_that_is_neither_says_how_a_path_is_written() -> None:
    with pytest.raises(OptionError, match="or the path of your own recordings"):
        selection.bundled("humann")


@pytest.mark.armory
@pytest.mark.skipif(find_spec("armory") is None, reason="Armory is not installed")
def test_armory_gets_the_same_samples(tmp_path: Path) -> None:
    from armory_mdnf.plugin import datasets

    sound(tmp_path / "a.ogg", 0.5, 44100, 2).with_suffix(".txt").write_text("one")
    ((x, y),) = list(datasets.recordings(str(tmp_path)))
    ((_, utterance),) = selection.bundled(str(tmp_path))
    np.testing.assert_array_equal(x[0], selection.read_samples(utterance))
    assert list(y) == ["ONE"]


def test_json_lines_are_strict(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"file": "x.wav", "text": "y"}) + "\n{'a': 1}\n")
    with pytest.raises(BundleError, match="line 2"):
        own.load_own(tmp_path / "a.jsonl")


def test_an_entry_that_names_no_file_is_a_problem_of_its_own(tmp_path: Path) -> None:
    sound(tmp_path / "good.wav", 0.5)
    (tmp_path / "a.raw").write_bytes(bytes(100))
    rows = ["audio,text", ",none", "/,root", f"{'x' * 300}.wav,long", "a.raw,headerless", "good.wav,good"]
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    found = own.load_own(tmp_path / "list.csv", strict=False)
    assert [utterance.transcript for utterance in found if not utterance.problem] == ["GOOD"]
    assert len(found) == 5


def test_other_ends_of_lines_are_part_of_a_text(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav", 0.5)
    row = json.dumps({"audio": "a.wav", "text": "one\u2028two"}, ensure_ascii=False)
    (tmp_path / "list.jsonl").write_text(row + "\r\n", encoding="utf-8")
    (utterance,) = own.load_own(tmp_path / "list.jsonl")
    assert utterance.transcript == "ONE TWO"


def test_an_empty_recording_is_a_problem_of_its_own(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0, np.float32), 16000)
    (tmp_path / "a.txt").write_text("hello")
    (utterance,) = own.load_own(tmp_path, strict=False)
    assert utterance.problem == f"{tmp_path / 'a.wav'} is empty: expected samples"


def test_a_name_that_is_no_utf8_costs_one_recording(tmp_path: Path, not_utf8: str) -> None:
    sound(tmp_path / "good.wav").with_suffix(".txt").write_text("fine")
    path = sound(tmp_path / "x.wav").rename(tmp_path / f"{not_utf8}.wav")
    path.with_suffix(".txt").write_text("fine")
    bad, good = own.load_own(tmp_path, strict=False)
    assert (good.id, good.problem) == ("good", "")
    assert bad.id == r"caf\udce9"
    assert "is not audio that can be read: UnicodeEncodeError" in bad.problem
    for read in (audio_files.read_audio, lambda path: recordings.read_recording(path, 16000), librispeech._samples):
        with pytest.raises(AudioError, match=r"caf"):
            read(path)  # type: ignore[operator]
