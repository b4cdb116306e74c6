"""``armory-mdnf data check``: counts, and every kind of damage by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from librispeech_folder import REAL, make_librispeech, needs_real

from armory_mdnf import cli
from armory_mdnf.data.check import check_split


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_librispeech(tmp_path / "LibriSpeech", seconds=36)


def test_what_is_there_and_where_to_get_the_rest(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "check", str(root.parent)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{root}\n")
    assert "test-clean 5 of 2620 3 0.1 2615 missing" in " ".join(out.split())
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


@needs_real
def test_the_real_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "check", str(REAL.parent)]) == 1
    out = capsys.readouterr().out
    assert "251 of 28539" in out
    assert "251 without transcripts" in out
    assert "50 of 2939" in out
    assert "damaged" not in out
    assert cli.main(["data", "check", str(REAL.parent), "--split", "test-other", "--decode"]) == 0
