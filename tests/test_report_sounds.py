"""Utterances that are heard and seen on the page."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import speechlike
from report_runs import RESULTS, outline, record

from armory_mdnf import cli
from armory_mdnf.data.bundled import load_split
from armory_mdnf.errors import ResultsError
from armory_mdnf.evaluation.records import Outcome, RunRecord, write_record
from armory_mdnf.report import listening, page, pictures, runs


def test_sounds_are_those_of_the_run(tmp_path: Path, config: Any, run: Any, capsys: Any) -> None:
    config["defense"] = {
        "module": "armory_mdnf.defenses", "name": "RandomizedSmoothing", "type": "Preprocessor",
        "kwargs": {"snr_db": 10, "passes": 2, "seed": 3},
    }  # fmt: skip
    folder = run(config)
    (placed,) = runs.read_runs([folder])
    heard = listening.listen(placed.run, [0, 2])
    assert [h.position for h in heard] == [0, 2]
    for h, outcome in zip(heard, placed.run.outcomes[::2], strict=True):
        assert [sound.name for sound in h.sounds] == [
            listening.ORIGINAL, listening.ATTACKED, listening.PERTURBATION, listening.DEFENDED,
            listening.DEFENDED_ATTACK, listening.BEHIND,
        ]  # fmt: skip
        assert h.transcripts == (outcome.benign, outcome.adversarial)
    out = tmp_path / "r.html"
    assert cli.main(["report", str(folder), "-o", str(out), "--audio", "1"]) == 0
    found = outline(out.read_text())
    assert found.tags.count("audio") == found.tags.count("img") == 6


def test_recordings_of_ones_own_that_a_page_has_are_named(tmp_path: Path, config: Any, run: Any, capsys: Any) -> None:
    first = load_split("human", "dev")[0]
    (tmp_path / "list.csv").write_text(f'audio,text\n"{first.path}","{first.transcript}"\n')
    config["dataset"] |= {"name": "recordings", "eval_split": str(tmp_path / "list.csv"), "index": None}
    folder = run(config)
    capsys.readouterr()
    assert cli.main(["report", str(folder), "-o", str(tmp_path / "r.html"), "--audio", "1"]) == 0
    assert f"on the page: {first.path}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "places"),
    [
        (["--audio", "2"], [[0, 1], [0, 1]]),
        (["--audio", "2", "--utterances", "worst"], [[2, 1], [2, 0]]),
        (["--audio", "9", "--utterances", "worst"], [[2, 1], [2, 0, 1]]),
        (["--utterances", "c,a"], [[0, 2], []]),
        (["--utterances", "2"], [[], [1]]),
        ([], [[], []]),
    ],
)
def test_which_utterances_are_heard(
    options: list[str], places: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ["A A A"] * 3
    under = {"a": [None, "A A X", "X X X"], "b": ["A X X", "A A A", "X"]}
    for name, texts in under.items():  # Armory's results, such as b's, name no utterances: the page counts them
        ids = ["a", "b", "c"] if name == "a" else [None] * 3
        rows = zip(said, said, texts, ids, strict=True)
        outcomes = tuple(Outcome(r, h, t, id=i) for r, h, t, i in rows)
        write_record(tmp_path / f"{name}.json", dataclasses.replace(record(), name=name, outcomes=outcomes))
    asked: dict[str, list[int]] = {}

    def listen(run: RunRecord, wanted: list[int], tell: Any) -> list[Any]:
        asked[run.name] = wanted
        return []

    monkeypatch.setattr(listening, "listen", listen)
    words = ["report", *(str(tmp_path / f"{name}.json") for name in under), "-o", str(tmp_path / "r.html")]
    assert cli.main([*words, *options]) == 0
    assert [asked.get(name, []) for name in under] == places


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--utterances", "2,x,11"], "--utterances: no attacked run has 'x', '11'"),
        (["--utterances", "worst"], "--utterances worst: expected --audio N"),
        (["--utterances", "1", "--audio", "2"], "--audio has no effect with --utterances ID"),
    ],
)
def test_utterances_that_cannot_be_heard(options: list[str], message: str, tmp_path: Path, capsys: Any) -> None:
    path = RESULTS / "human" / "none_pgd_l2.json"
    assert cli.main(["report", str(path), "-o", str(tmp_path / "r.html"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


@pytest.mark.slow
def test_twelve_cells_with_eight_sounding_utterances_can_be_sent_by_mail(placed: list[runs.Placed]) -> None:
    """Six signals of 2.7 s each, as long as the human split's are in the mean."""
    cells = [p for p in placed if p.run.split == "human" and p.attacked is not None][:12]
    heard = {}
    for place in range(8):
        sounds = tuple(listening._sound("x", "", speechlike(43200, seed=6 * place + i), 16000) for i in range(6))
        heard[place] = listening.Heard(place, sounds, ("A", "B"))
    html = page.render(cells, dict.fromkeys((p.path for p in cells), heard))
    assert html.count("<audio") == 12 * 8 * 6
    assert len(html.encode()) < 15e6


def test_a_run_that_cannot_be_computed_is_told(tmp_path: Path, capsys: Any) -> None:
    run = record()
    block = run.config["model"] | {"model_kwargs": {"weights": "gone.safetensors"}}
    write_record(tmp_path / "a.json", dataclasses.replace(run, config={**run.config, "model": block}))
    words = ["report", str(tmp_path / "a.json"), "-o", str(tmp_path / "r.html"), "--audio", "1"]
    assert cli.main(words) == 3
    assert "without sound" in capsys.readouterr().err
    assert (tmp_path / "r.html").is_file()


def test_other_data_are_refused() -> None:
    run = dataclasses.replace(record(), outcomes=(Outcome("SOMETHING ELSE", "A", "B"),))
    with pytest.raises(ResultsError, match="are not the utterances of the run"):
        listening.listen(run, [0])


def test_mp3_holds_the_sound(tmp_path: Path) -> None:
    x = speechlike(16000)
    (tmp_path / "x.mp3").write_bytes(listening.mp3(x, 16000))
    found, rate = soundfile.read(tmp_path / "x.mp3")
    assert rate == 16000
    assert np.corrcoef(found[: len(x)], x)[0, 1] > 0.9
    assert (tmp_path / "x.mp3").stat().st_size < 2 * len(x) / 4


def test_a_full_scale_tone_is_at_the_top_of_the_scale_and_in_its_row() -> None:
    t = np.arange(16000) / 16000
    found = pictures.spectrogram_db(np.sin(2 * np.pi * 2000 * t), 16000)
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert row in (pictures.ROWS // 4 - 1, pictures.ROWS // 4)
    assert -6 < found[row, column] <= 1  # rows are means of two or three bins
    quiet = pictures.spectrogram_db(1e-2 * np.sin(2 * np.pi * 2000 * t), 16000)
    assert found.max() - quiet.max() == pytest.approx(40, abs=0.1)
    assert pictures.spectrogram_db(np.zeros(100), 16000).max() < pictures.FLOOR_DB


def test_png_holds_the_shades() -> None:
    shades = np.arange(5 * 7).reshape(5, 7).astype(np.uint8) % 16
    data = pictures.png(shades, pictures.palette())
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, place = {}, 8
    while place < len(data):
        (size,) = struct.unpack(">I", data[place : place + 4])
        name, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        assert struct.unpack(">I", data[place + 8 + size : place + 12 + size])[0] == zlib.crc32(name + body)
        chunks[name], place = body, place + 12 + size
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (7, 5, 4, 3, 0, 0, 0)
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(5, 5)
    assert not lines[:, 0].any()
    pixels = np.stack([lines[:, 1:] >> 4, lines[:, 1:] & 15], 2).reshape(5, 8)[:, :7]
    np.testing.assert_array_equal(pixels, shades)
    luminance = pictures.palette() @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance) > 0).all()
