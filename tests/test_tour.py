"""The tour and the examples of the helps, run as they stand."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import speechlike
from librispeech_folder import make_librispeech
from test_summary import armory_content

from armory_mdnf import cli
from armory_mdnf.asr.huggingface import folders
from armory_mdnf.audio.recordings import write_recording
from armory_mdnf.checkpoints import published
from armory_mdnf.commands import blocks
from armory_mdnf.defenses import mel_resynth
from armory_mdnf.vocoders import Vocoder

ROOT = Path(__file__).parents[1]
TOUR = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TOUR, re.DOTALL) for line in block.splitlines()]


def words_of(line: str) -> list[str]:
    program, *words = shlex.split(line)
    assert program == "armory-mdnf"
    return words


@pytest.mark.slow
def test_the_tour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra plot)")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").symlink_to(ROOT / "results")
    printed = {}
    for line in COMMANDS:
        assert cli.main(words_of(line)) == 0, line
        printed[line] = capsys.readouterr().out
    told = re.findall(r"```sh\n([^\n]*)\n```\n\n```text\n(.*?)```", TOUR, re.DOTALL)
    assert len(told) == TOUR.count("```text")
    for line, expected in told:
        assert [row.split()[0] for row in printed[line].splitlines()] == [
            row.split()[0] for row in expected.splitlines()
        ]
    for name in ("defended.wav", "flooded.wav", "attacked.wav", "report.html", "wer.svg", "all.html"):
        assert (tmp_path / name).stat().st_size > 1000
    assert len(list(tmp_path.glob("runs/*/results.json"))) == 3
    assert "<audio" in (tmp_path / "report.html").read_text()


def test_the_tour_names_nothing_that_is_not_there() -> None:
    spoken = {words_of(line)[0] for line in COMMANDS}
    assert {"doctor", "data", "transcribe", "defend", "attack", "evaluate", "run", "report", "plot"} == spoken
    assert (ROOT / "tests" / "test_tour.py").name in TOUR


# Examples of the helps.


def subparsers(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield name, child
                yield from subparsers(child)


EXAMPLES = {
    name: [line.strip() for line in (parser.epilog or "").splitlines() if line.strip().startswith("armory-mdnf ")]
    for name, parser in subparsers(cli.build_parser())
}


def gathers(action: argparse.Action) -> bool:
    """Whether an option that takes a list and is given twice has both: the first would be lost without a word."""
    return not action.option_strings or action.nargs not in ("+", "*") or isinstance(action, argparse._ExtendAction)


def test_a_list_that_is_given_twice_has_both() -> None:
    lost = [(n, a.dest) for n, parser in subparsers(cli.build_parser()) for a in parser._actions if not gathers(a)]
    assert lost == []
    words = ("record", "out.json", "a.json", "--add", "b.json", "c.json", "--partial", "--add", "d.json")
    assert [path.name for path in cli.build_parser().parse_args(words).add] == ["b.json", "c.json", "d.json"]


def test_every_command_has_an_example() -> None:
    groups = [name for name, parser in subparsers(cli.build_parser()) if any(subparsers(parser))]
    assert [name for name in EXAMPLES if not EXAMPLES[name] and name not in groups] == []


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str, melgan: Vocoder) -> None:
    """A working directory with all that the examples name; small models, one step of an attack, two utterances."""
    monkeypatch.chdir(tmp_path)
    write_recording("hello.wav", speechlike(24000), 16000)
    own = tmp_path / "my_recordings"
    own.mkdir()
    shutil.copy("hello.wav", own / "a.wav")
    (own / "a.txt").write_text("hello")
    (tmp_path / "baselines").symlink_to(ROOT / "baselines")
    folder = tmp_path / "results" / "human"
    folder.mkdir(parents=True)
    for name in ("none_benign", "none_pgd_l2", "none_pgd_l2_0.5", "none_pgd_linf", "mg_mdnf_pgd_l2"):
        shutil.copy(ROOT / "results" / "human" / f"{name}.json", folder)
    (tmp_path / "results.json").write_text(json.dumps(armory_content()))
    shutil.copy(ROOT / "tests" / "data" / "deepspeech2" / "unilstm.ckpt", tmp_path / "librispeech.ckpt")
    make_librispeech(tmp_path / "LibriSpeech")
    configs = tmp_path / "scenario_configs"
    configs.mkdir()
    for name in ("none_pgd_l2", "none_pgd_l2_ours", "rs_pgd_l2_ours", "mg_mdnf_pgd_l2"):
        config = json.loads((ROOT / "scenario_configs" / f"{name}.json").read_text())
        config["attack"]["kwargs"]["max_iter"] = 1
        config["model"]["model_kwargs"]["weights"] = weights
        if "curve" in (config["defense"] or {"kwargs": {}})["kwargs"]:
            config["defense"]["kwargs"]["curve"] = None
        (configs / f"{name}.json").write_text(json.dumps(config))
    monkeypatch.setattr(blocks, "DEFAULT_MODEL", weights)
    monkeypatch.setattr(blocks, "HEARS_BEST", weights)
    monkeypatch.setattr(blocks, "FINE_TUNED", {})
    monkeypatch.setattr(blocks, "ATTACKS", {name: kwargs | {"max_iter": 1} for name, kwargs in blocks.ATTACKS.items()})
    monkeypatch.setitem(blocks.DEFENSES, "mg_mdnf", ("MDNF", {"vocoder": "melgan", "curve": None}))
    monkeypatch.setattr(mel_resynth, "shared_vocoder", lambda name, device: melgan.to(device))
    monkeypatch.setattr(published, "download", lambda name, folder, sha256: tmp_path / "librispeech.ckpt")
    monkeypatch.setattr(folders, "find_folder", lambda name, download: tmp_path)


FEWER = {"sweep": ["--processes", "1", "--num-eval-batches", "2"], "audit": ["--utterances", "2"]}


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_examples_run(line: str, place: None, capsys: pytest.CaptureFixture[str]) -> None:
    """That the real models run is the tour's."""
    if line.split()[1] == "plot":
        pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra plot)")
    words = words_of(line)
    if "--limit" in words:
        words[words.index("--limit") + 1] = "2"
    if "--audio" in words:  # a hundred iterations of the real models: tests/test_report.py listens
        del words[words.index("--audio") :]
    words += FEWER.get(words[0], [])
    if words[-1] == "--help":
        with pytest.raises(SystemExit) as stopped:
            cli.main(words)
        assert stopped.value.code == 0
        return
    assert cli.main(words) == 0, capsys.readouterr().err
    if "-o" in words:
        assert Path(words[words.index("-o") + 1]).stat().st_size > 100
