"""``armory-mdnf data check``: counts, and every kind of damage by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import tiny_recognizer
from librispeech_folder import REAL, make_librispeech, needs_real

from armory_mdnf import cli
from armory_mdnf.asr.whisper.ctc import WhisperCTC, WhisperCTCConfig
from armory_mdnf.audio.files import write_flac
from armory_mdnf.data.check import FRAME, MIN_SAMPLES, check_split
from armory_mdnf.data.librispeech import SPLITS, SUFFIXES, find_root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_librispeech(tmp_path / "LibriSpeech", seconds=36)


def test_what_is_there_and_where_to_get_the_rest(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "check", str(root.parent)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{root}\n")
    assert "test-clean 5 of 2620 3 0.1 2615 missing" in " ".join(out.split())
    assert cli.main(["data", "check", str(root.parent), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (split,) = [s for s in found["splits"] if s["name"] == "test-clean"]
    assert (split["utterances"], split["missing"], split["usable"], split["problems"]) == (5, 2615, True, [])
    assert "get https://www.openslr.org/resources/12/test-clean.tar.gz (again)\n" in out
    assert "get https://www.openslr.org/resources/12/train-other-500.tar.gz\n" in f"{out}\n"
    assert cli.main(["data", "check", str(root), "--split", "dev-clean"]) == 1


def test_no_librispeech_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "check", str(tmp_path)]) == 2
    assert f"no LibriSpeech in {tmp_path}: expected a folder with dev-clean" in capsys.readouterr().err


def test_damage_is_listed_and_only_decoding_finds_some(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chapter = root / "test-clean" / "84" / "121"
    (chapter / "84-121-0000.flac").write_bytes(b"")
    (root / "test-clean" / "7" / "5" / "7-5.trans.txt").unlink()
    cut = root / "test-clean" / "84" / "122" / "84-122-0000.flac"
    cut.write_bytes(cut.read_bytes()[:-5000])
    other = root / "test-clean" / "61" / "70" / "61-70-0003.flac"
    header = other.read_bytes()[:42]
    soundfile.write(other, np.ones(1000, np.int16), 16000, format="FLAC")
    other.write_bytes(header + other.read_bytes()[42:])  # the audio of another file behind this one's header
    assert cli.main(["data", "check", str(root)]) == 1
    out = capsys.readouterr().out
    assert "4 of 2620" in out
    assert "1 without transcripts, 1 damaged" in out
    assert "84-121-0000.flac is not a FLAC file" in out
    report = check_split(root, "test-clean", decode=True)
    assert not report.usable
    found = "\n".join(report.problems)
    assert "84-122-0000.flac is not a readable audio file" in found
    assert "61-70-0003.flac" in found
    assert len(report.problems) == 3


def test_what_is_too_short_is_found_without_decoding(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chapter = root / "test-clean" / "84" / "121"
    write_flac(chapter / "84-121-0000.flac", np.zeros(MIN_SAMPLES - 1, np.float32), 16000)
    write_flac(chapter / "84-121-0001.flac", np.full(8 * FRAME - 1, 0.1, np.float32), 16000)  # DON'T GO: 8 frames
    assert cli.main(["data", "check", str(root)]) == 1
    out = capsys.readouterr().out
    assert "2 too short" in out
    assert f"84-121-0000 is too short: expected at least 400 samples, found 399 in {chapter}" in out
    assert "84-121-0001 is too short for its transcript, whose 8 characters need 8 frames of 20 ms: found 7" in out
    write_flac(chapter / "84-121-0000.flac", np.zeros(40 * FRAME, np.float32), 16000)
    write_flac(chapter / "84-121-0001.flac", np.full(8 * FRAME, 0.1, np.float32), 16000)
    assert cli.main(["data", "check", str(root)]) == 0


def test_what_the_check_accepts_every_recogniser_takes() -> None:
    for recognizer in (tiny_recognizer(), WhisperCTC(WhisperCTCConfig(80, 32, 2, 2, 48))):
        assert recognizer.min_samples <= MIN_SAMPLES
        for samples in (*range(MIN_SAMPLES, MIN_SAMPLES + 2 * FRAME), 16000, 16001):
            assert int(recognizer.out_frames(torch.tensor(samples))) >= samples // FRAME


def test_opus_is_checked_and_decoded(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in root.rglob("*.flac"):
        soundfile.write(path.with_suffix(".opus"), soundfile.read(path)[0], 16000, format="OGG", subtype="OPUS")
        path.unlink()
    assert cli.main(["data", "check", str(root), "--decode"]) == 0
    cut = next(root.rglob("*.opus"))
    cut.write_bytes(cut.read_bytes()[:40])
    assert cli.main(["data", "check", str(root)]) == 1
    assert f"{cut} is not a readable audio file" in capsys.readouterr().out


@needs_real
@pytest.mark.parametrize("folder", [REAL.parent, REAL.parent / "opus"])
def test_an_incomplete_librispeech(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not folder.is_dir():
        pytest.skip("no LibriSpeech as Opus beside the project")
    assert cli.main(["data", "check", str(folder)]) in (0, 1)
    rows = {row.split()[0]: " ".join(row.split()) for row in capsys.readouterr().out.splitlines()[2:]}
    for name in SPLITS:
        split = find_root(folder) / name
        files = [p for p in split.rglob("*") if p.suffix in SUFFIXES]
        assert (name in rows) is split.is_dir()
        if files:
            assert rows[name].startswith(f"{name} {len(files)} of {SPLITS[name]} ")
            assert (f"{SPLITS[name] - len(files)} missing" in rows[name]) is (len(files) < SPLITS[name])


@needs_real
def test_the_real_recordings_decode() -> None:
    assert cli.main(["data", "check", str(REAL.parent), "--split", "test-other", "--decode"]) == 0
