"""Ctrl-C in the middle of each command of one's own, what they print for machines, and how far they are."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile

from armory_mdnf import cli
from armory_mdnf.commands import configs, doctor, evaluate, listener, options
from armory_mdnf.report import runs
from armory_mdnf.runner import components

RESULTS = Path(__file__).parents[1] / "results" / "human" / "none_pgd_l2.json"


def stop(*args: Any, **kwargs: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("words", "place", "name"),
    [
        ("transcribe x.wav", listener, "load"),
        ("attack x.wav -o y.wav", listener, "load"),
        ("defend x.wav -o y.wav", components, "make_defense"),
        ("evaluate --only-write", evaluate, "make_config"),
        ("configs", configs, "chosen"),
        ("report r.json -o r.html", runs, "place"),
        ("plot r.json -o r.svg", runs, "place"),
        ("doctor", doctor, "examine"),
    ],
)
def test_ctrl_c_ends_with_130(
    words: str,
    place: Any,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if words.startswith("plot"):
        pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra plot)")
    monkeypatch.chdir(tmp_path)
    soundfile.write("x.wav", [0.0] * 1600, 16000)
    Path("r.json").write_bytes(RESULTS.read_bytes())
    monkeypatch.setattr(place, name, stop)
    assert cli.main(words.split()) == cli.INTERRUPTED
    assert capsys.readouterr().err == "armory-mdnf: stopped\n"
    assert {path.name for path in tmp_path.iterdir()} == {"x.wav", "r.json"}  # nothing half done


def test_a_sample_for_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "sample", str(tmp_path / "s"), "--count", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (entry,) = found["files"]
    assert entry == {"file": str(tmp_path / "s" / "000.wav"), "transcript": "PRESS SEVEN TO DELETE THIS MESSAGE"}
    assert Path(found["licence"]).is_file()


def test_runs_are_counted_as_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    assert len(runs.read_runs([RESULTS, RESULTS.with_name("none_benign.json")], told.append)) == 2
    assert told == [2, 2]
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(options, "PROGRESS_AFTER_S", 0.0)
    with options.Progress(None, "runs") as progress:
        progress.step_of(2)
        progress.step_of(2)
    assert "2/2" in screen.getvalue()
