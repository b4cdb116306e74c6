"""``train resynthesis``, ``curve`` and ``level``: stopped, gone on with, and refused with other options."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from conftest import tiny_recognizer
from librispeech_folder import make_librispeech

from armory_mdnf import cli
from armory_mdnf.asr.checkpoints import save_recognizer
from armory_mdnf.data.librispeech import VARIABLE, load_split
from armory_mdnf.errors import BundleError
from armory_mdnf.options import number
from armory_mdnf.training import curve, level, resynthesis, state
from armory_mdnf.training.sources import Shards
from armory_mdnf.training.state import Progress
from armory_mdnf.vocoders import Vocoder, save_vocoder

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*positions are other than in the whole split"),
    pytest.mark.usefixtures("closes_files"),
]


@pytest.fixture
def folder(tmp_path: Path, melgan: Vocoder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny recogniser, a tiny vocoder and five recordings, in the working directory."""
    monkeypatch.chdir(tmp_path)
    save_recognizer(tmp_path / "tiny.safetensors", tiny_recognizer(), {})
    save_vocoder(tmp_path / "vocoder.safetensors", melgan)
    make_librispeech(tmp_path / "LibriSpeech", "train-clean-100")
    return tmp_path


RESYNTHESIS = ["train", "resynthesis", "--vocoder", "./vocoder.safetensors", "--data-dir", ".", "--threads", "1"]
SOURCES = ["--sources", "train-clean-100=inf"]
MODELS = ["--recognizer", "./tiny.safetensors", "--vocoder", "./vocoder.safetensors", "--threads", "1"]
CURVE = ["train", "curve", *MODELS, "--data-dir", ".", "--corpus", "train-clean-100", "--iterations", "1"]
CURVE += ["--max-duration-s", "60", "--out", "curve.json"]
GRID = ["train", "level", *MODELS, "--utterances", "1", "--iterations", "1", "--out", "level.json"]
LEVEL = [*GRID[:-2], "--curve", "flat", *GRID[-2:]]


def files(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def refusal(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """Run a command that is refused. Returns the one line that it prints."""
    capsys.readouterr()
    assert cli.main(list(command)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_shards_of_other_noise_seed_vocoder_or_recordings_are_refused(
    folder: Path, pwg: Vocoder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*RESYNTHESIS, *SOURCES]) == 0
    shards = folder / "vocoder_train-clean-100"
    before = files(shards)
    assert set(before) == {"0000.npy", "0000.jsonl", "made_of.json"}
    assert cli.main([*RESYNTHESIS, *SOURCES]) == 0
    refused = {
        "noise_snr_db was None there, is [0.0, 1.0] now": ["--noise-snr-db", "0", "1"],
        "seed was 7 there, is 8 now": ["--seed", "8"],
        "recordings was '": ["--max-duration-s", "1.21"],
    }
    for message, options in refused.items():
        line = refusal(capsys, *RESYNTHESIS, *SOURCES, *options)
        assert f"{shards.name} was made of something else" in line
        assert line.endswith("delete that folder, or choose another --data-dir")
        assert message in line
    assert "hours was 'all' there, is 0.001 now" in refusal(capsys, *RESYNTHESIS, "--sources", "train-clean-100=0.001")
    save_vocoder(folder / "vocoder.safetensors", pwg)
    assert "vocoder was '" in refusal(capsys, *RESYNTHESIS, *SOURCES)
    assert files(shards) == before


def test_nothing_is_trained_on_shards_that_are_not_all_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resynthesis, "SHARD_HOURS", 3 / 3600)
    written: list[str] = []
    real = resynthesis.write_shard

    def stop(place: Path, name: str, utterances: Any) -> float:
        if written:
            raise KeyboardInterrupt
        written.append(name)
        return real(place, name, utterances)

    with monkeypatch.context() as patch:
        patch.setattr(resynthesis, "write_shard", stop)
        with pytest.raises(KeyboardInterrupt):
            resynthesis.main([*RESYNTHESIS[2:], *SOURCES])
    shards = folder / "vocoder_train-clean-100"
    assert (shards / "0000.jsonl").exists()
    recipe = {"name": "t", "init": "tiny.safetensors", "sources": {shards.name: [1, 1]}, "steps": 1, "seed": 1}
    (folder / "r.json").write_text(json.dumps(recipe | {"dev": []}))
    line = refusal(capsys, "train", "recognizer", "r.json", "--data-dir", ".", "--out", "x.safetensors")
    assert line.endswith("unfinished: the shards there are not all: start `train resynthesis` again, which goes on")
    assert cli.main([*RESYNTHESIS, *SOURCES]) == 0
    assert len(Shards(shards)) == 5
    assert sorted(path.suffix for path in shards.iterdir()) == [".json", *[".jsonl"] * 3, *[".npy"] * 3]


def test_a_source_of_no_hours_or_an_option_without_effect_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("train-clean-100=-1", "train-clean-100=0", "train-clean-100=nan", "train-clean-100", "=1", "a=b"):
        assert "expected NAME=HOURS, hours above 0 or inf" in refusal(capsys, *RESYNTHESIS, "--sources", text)
    assert "is there twice" in refusal(capsys, *RESYNTHESIS, "--sources", "a=1", "a=2")
    assert "--curve has no effect" in refusal(capsys, *RESYNTHESIS, *SOURCES, "--curve", "flat")
    assert "expected the lower end first" in refusal(capsys, *RESYNTHESIS, *SOURCES, "--noise-snr-db", "1", "0")
    assert "expected a plain name" in refusal(capsys, *RESYNTHESIS, "--sources", "../x=1")
    (folder / "file").write_text("")
    assert "cannot write to the folder" in refusal(capsys, *RESYNTHESIS, *SOURCES, "--data-dir", "file")


def stopping(measured: list[object], stop_at: int, real: type) -> type:
    """An attack that is killed when it is started for the n-th time."""

    class Attack(real):  # type: ignore[misc]
        def generate(self, x: list[np.ndarray]) -> list[np.ndarray]:
            if len(measured) == stop_at:
                raise KeyboardInterrupt
            measured.append(None)
            return list(super().generate(x))

    return Attack


def test_a_stopped_curve_goes_on_and_another_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(curve, "ATTACKED_AT_ONCE", 2)
    monkeypatch.setattr(curve, "choose", five_of(folder))
    assert cli.main([*CURVE[:-1], "whole.json"]) == 0
    measured: list[object] = []
    real = curve.PGD
    monkeypatch.setattr(curve, "PGD", stopping(measured, 2, real))
    with pytest.raises(KeyboardInterrupt):
        curve.main(CURVE[2:])
    assert len((folder / "curve.json.progress.jsonl").read_text().splitlines()) == 1 + 2
    assert not (folder / "curve.json").exists()
    assert "eps was 1.5 there, is 2.0 now" in refusal(capsys, *CURVE, "--eps", "2")
    monkeypatch.setattr(curve, "PGD", stopping([None], 2, real))  # may attack once more
    assert cli.main(CURVE) == 0
    assert "going on after 4 of 5 pairs" in capsys.readouterr().err
    assert (folder / "curve.json").read_text() == (folder / "whole.json").read_text()
    assert not (folder / "curve.json.progress.jsonl").exists()
    monkeypatch.setattr(curve, "PGD", stopping([], 0, real))
    assert cli.main(CURVE) == 0  # is there already
    line = refusal(capsys, *CURVE, "--iterations", "2")
    assert "curve.json was made of something else: iterations was 1 there, is 2 now" in line
    assert line.endswith("delete it, or give another --out")


def five_of(folder: Path) -> object:
    rng = np.random.default_rng(0)
    recordings = [(0.1 * rng.standard_normal(4000)).astype(np.float32) for _ in range(5)]
    return lambda *arguments: (recordings, "five")


def test_a_curve_of_something_else_is_not_written_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(curve, "choose", five_of(folder))
    for content, message in (
        ('{"curve": [1]}', "does not say what it was made of"),
        ("[1]", "does not say what it was made of"),
        ("{", "is not JSON"),
    ):
        (folder / "curve.json").write_text(content)
        assert message in refusal(capsys, *CURVE)
        assert (folder / "curve.json").read_text() == content


def test_a_killed_level_goes_on_and_another_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    levels = ["--levels", "0", "1", "2"]
    assert cli.main([*LEVEL[:-1], "whole.json", *levels]) == 0
    real = level.PGD
    monkeypatch.setattr(level, "PGD", stopping([], 2, real))
    with pytest.raises(KeyboardInterrupt):
        level.main([*LEVEL[2:], *levels])
    progress = folder / "level.json.progress.jsonl"
    assert len(progress.read_text().splitlines()) == 1 + 2
    with progress.open("a") as f:
        f.write('{"noise_level": 2, "benign')  # as a kill in the middle of a line leaves it
    assert "levels was [0.0, 1.0, 2.0] there, is [0.0, 1.0] now" in refusal(capsys, *LEVEL, "--levels", "0", "1")
    monkeypatch.setattr(level, "PGD", stopping([None], 2, real))
    assert cli.main([*LEVEL, *levels]) == 0
    printed = capsys.readouterr()
    assert "going on after 2 of 3 levels" in printed.err
    assert [json.loads(line)["noise_level"] for line in printed.out.splitlines()] == [2.0]
    assert (folder / "level.json").read_text() == (folder / "whole.json").read_text()
    assert not progress.exists()
    save_recognizer(folder / "tiny.safetensors", tiny_recognizer(hidden_size=16), {})
    assert "recognizer was '" in refusal(capsys, *LEVEL, *levels)


def test_curves_and_levels_are_chosen_together_against_the_mean_of_draws(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draws: list[int] = []
    real = level.PGD

    class Attack(real):  # type: ignore[misc]
        def generate(self, x: list[np.ndarray]) -> list[np.ndarray]:
            draws.append(self.eot_draws)
            return list(super().generate(x))

    monkeypatch.setattr(level, "PGD", Attack)
    rising = np.linspace(0.1, 1, 20)
    (folder / "rising.json").write_text(json.dumps({"curve": list(rising)}))
    command = [*GRID, "--curve", "rising.json", "flat", "--levels", "0", "5", "--eot-draws", "3"]
    assert cli.main(command) == 0
    content = json.loads((folder / "level.json").read_text())
    rows = content["grid"]
    assert [(row["curve"], row["noise_level"]) for row in rows] == [("rising.json", 0), ("rising.json", 5), ("flat", 5)]
    assert draws == [3, 3, 3]
    assert content["chosen"] == min(rows, key=lambda row: row["benign_wer"] + row["adversarial_wer"])
    assert content["made_of"]["curve"]["flat"] == "flat"
    assert "eot_draws was 3 there, is 1 now" in refusal(capsys, *command[:-2])
    (folder / "rising.json").write_text(json.dumps({"curve": list(rising[::-1])}))
    assert "curve.rising.json was '" in refusal(capsys, *command)
    assert "--curve: expected each once" in refusal(capsys, *GRID, "--levels", "1", "--curve", "flat", "flat")


def test_a_grid_is_whole_whatever_the_order_of_its_curves(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "rising.json").write_text(json.dumps({"curve": list(np.linspace(0.1, 1, 20))}))
    curves, levels = ["rising.json", "flat"], [0.0, 1.0, 2.0]
    options = ["--levels", *map(str, levels), "--curve"]
    assert cli.main([*GRID[:-1], "whole.json", *options, *curves]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(level, "PGD", stopping([], 2, level.PGD))
        with pytest.raises(KeyboardInterrupt):
            level.main([*GRID[2:], *options, *curves])
    capsys.readouterr()
    assert cli.main([*GRID, *options, *curves[::-1]]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3  # what was measured is not measured again
    whole, found = (json.loads((folder / name).read_text())["grid"] for name in ("whole.json", "level.json"))
    # Without noise all curves are the same: that row has the curve by which it was measured.
    cells = [("rising.json", 0), *((curve, level) for level in levels[1:] for curve in curves[::-1])]
    assert [(row["curve"], row["noise_level"]) for row in found] == cells
    assert sorted(found, key=str) == sorted(whole, key=str)


def test_two_commands_do_not_make_one_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "level.json.progress.jsonl"
    with closing(Progress(folder / "level.json", {"seed": 1}, level.ROW)):
        before = path.read_bytes()
        line = refusal(capsys, *LEVEL, "--levels", "0")
        assert line == "armory-mdnf: error: level.json.progress.jsonl is being written by another command"
        assert path.read_bytes() == before
    assert cli.main([*LEVEL, "--levels", "0"]) == 0  # nothing was done by it
    path.touch()  # as a kill leaves it before the first line
    (folder / "level.json").unlink()
    assert cli.main([*LEVEL, "--levels", "0"]) == 0


def test_a_file_that_is_gone_when_its_lock_is_had_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(file: IO[bytes]) -> bool:
        (tmp_path / "o.json.progress.jsonl").unlink()
        return True

    monkeypatch.setattr(state, "lock", late)
    with pytest.raises(BundleError, match="is being written by another command"):
        Progress(tmp_path / "o.json", {"seed": 1}, {"x": number(0)})


def test_a_level_is_chosen_on_the_speakers_that_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, str(make_librispeech(folder / "LibriSpeech", "dev-clean")))
    there = load_split("dev-clean")
    speaker = there[-1].voice
    heard: list[int] = []

    def measure(name: str, noises: object, utterances: list[object], *rest: object) -> list[dict[str, object]]:
        heard.append(len(utterances))
        return [{"curve": "flat", "noise_level": 0, "benign_wer": 1, "adversarial_wer": 2}]

    monkeypatch.setattr(level, "measure", measure)
    command = [*LEVEL, "--levels", "0", "--corpus", "dev-clean", "--utterances", "99", "--speakers"]
    assert cli.main([*command, speaker]) == 0
    assert heard == [sum(u.voice == speaker for u in there)]
    assert 0 < heard[0] < len(there)
    line = refusal(capsys, *command, speaker, "0", "--batch-seconds", "600")
    assert line.endswith("--speakers: dev-clean has no speaker '0'")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"made_of": {"se', "does not say what it was made of"),
        ("[]\n", "line 1: expected an object"),
        ('{"made_of": {"seed": 1}}\n{"x": "1"}\n', "line 2: expected x, found"),
        ('{"made_of": {"seed": 1}}\n{"x": 1}\n{"y": 1}\n', "line 3: expected x, found"),
        ('{"made_of": {"seed": 1}}\n{"x": NaN}\n', "line 2 is not JSON as it is meant: x: NaN"),
        ('{"made_of": {"seed": 1}}\n\xff\n', "line 2 is not JSON"),
        ('{"made_of": {"seed": 2}}\n{"x": 1}\n', "made of something else: seed was 2 there"),
    ],
)
def test_damaged_partial_results_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "o.json.progress.jsonl").write_text(content, encoding="latin-1")
    with pytest.raises(BundleError, match=message):
        Progress(tmp_path / "o.json", {"seed": 1}, {"x": number(0)})


@pytest.mark.parametrize("command", [CURVE, [*LEVEL, "--levels", "0"]])
def test_targets_are_tried_before_the_work(
    folder: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "file").write_text("")
    (folder / "sub").mkdir()
    for module in (curve, level):
        monkeypatch.setattr(module, "PGD", stopping([], 0, module.PGD))
    assert "sub: it is a folder" in refusal(capsys, *command, "--out", "sub")
    assert "file is a file, expected a folder" in refusal(capsys, *command, "--out", "file/curve.json")
    assert "file is a file, expected a folder" in refusal(capsys, *command, "--out", "file/deep/curve.json")


def test_a_picture_that_cannot_be_drawn_is_refused_before_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    (folder / "sub.png").mkdir()
    monkeypatch.setattr(curve, "PGD", stopping([], 0, curve.PGD))
    assert "format of a picture 'pgn'" in refusal(capsys, *CURVE, "--plot", "curve.pgn")
    assert "sub.png: it is a folder" in refusal(capsys, *CURVE, "--plot", "sub.png")
