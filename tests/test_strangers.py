"""What a record from elsewhere may make: nothing that it names is run but what this project's configurations do."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runner_folder import CONFIGS, TARGETED, change, strict
from test_runner_resume import stop_in_second_batch

from armory_mdnf import cli
from armory_mdnf.errors import OptionError
from armory_mdnf.evaluation.records import RunRecord, read_record, write_record
from armory_mdnf.report import content, runs
from armory_mdnf.runner.completion import complete_config
from armory_mdnf.runner.strangers import refuse_others_code

RECORD = Path(__file__).parents[1] / "results" / "human" / "none_pgd_l2_ours.json"
ARMORYS = "armory.art_experimental.attacks.snr_pgd"  # another package, which a page does not import
ART_PGD = {"module": "art.attacks.evasion", "name": "ProjectedGradientDescent", "knowledge": "white"}
HG = {"module": "armory_mdnf.defenses", "name": "MelResynth", "type": "Preprocessor", "kwargs": {"vocoder": "melgan"}}


def writes(path: Path) -> dict[str, Any]:
    """A block that writes a file, if what it names is called with its keywords."""
    return {
        "module": "armory_mdnf.files.atomic",
        "name": "write_text",
        "kwargs": {"path": str(path), "text": "from elsewhere"},
    }


def record(**blocks: Any) -> RunRecord:
    run = read_record(RECORD)
    return dataclasses.replace(run, config=copy.deepcopy({**run.config, **blocks}))


def a_targeted(path: Path) -> dict[str, Any]:
    attack = dict(read_record(RECORD).config["attack"])
    return attack | {
        "kwargs": attack["kwargs"] | {"targeted": True},
        "use_label": False,
        "targeted_labels": writes(path),
    }


@pytest.mark.parametrize(
    ("key", "block"),
    [
        ("user_init", writes),
        ("attack", a_targeted),
        ("attack", lambda path: writes(path) | {"knowledge": "white"}),
        ("defense", lambda path: writes(path) | {"type": "Preprocessor"}),
    ],
)
def test_nothing_that_a_record_names_is_called(
    key: str, block: Callable[[Path], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "marker"
    write_record(tmp_path / "evil.json", record(**{key: block(marker)}))
    words = ["report", str(tmp_path / "evil.json"), "-o", str(tmp_path / "x.html"), "--audio", "1"]
    assert cli.main(words) == 3
    said = capsys.readouterr().err
    assert f"{key}." in said
    assert "armory_mdnf.files.atomic.write_text" in said
    assert not marker.exists()


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("user_init", {"module": "art.config", "name": "set_data_path", "kwargs": {"path": "x"}}, "seed_everything"),
        ("user_init.name", "os", "user_init.module, user_init.name: expected armory_mdnf.plugin.seeding.seed_everyt"),
        ("dataset.name", "Dataset", "dataset.module, dataset.name: expected armory_mdnf.plugin.datasets.bundled or"),
        ("dataset.module", "armory_mdnf.training.books", "dataset.module, dataset.name: expected"),
        ("model.name", "RecognizerEstimator", "model.module, model.name: expected armory_mdnf.plugin.model.get_art"),
        ("attack.module", "not_ours", "attack.module, attack.name: expected a class of armory_mdnf.attacks or"),
        ("attack.module", "art.attacks_of_others", "attack.module, attack.name: expected a class"),
        ("attack", {**ART_PGD, "name": "Attack", "kwargs": {}}, "attack.name: no 'Attack' in art.attacks.evasion"),
        (
            "attack",
            {**ART_PGD, "module": "art.attacks", "name": "Attack", "kwargs": {}},
            "is one of ART's EvasionAttack",
        ),
        ("attack", {**ART_PGD, "module": "armory_mdnf.attacks.targets", "name": "normalise", "kwargs": {}}, "Evasion"),
        ("attack", {**ART_PGD, "kwargs": {"summary_writer": True}}, "attack.kwargs.summary_writer: expected false"),
        ("attack", {**ART_PGD, "kwargs": {"summary_writer": "/x"}}, "found '/x'"),
        ("attack.kwargs.summary_writer", "/x", "attack.kwargs.summary_writer: expected false"),
        (
            "attack",
            {**ART_PGD, "kwargs": {"other": "/x"}},
            "attack.kwargs.other: expected numbers, true, false or null",
        ),
        ("attack", {**ART_PGD, "kwargs": {"norm": {"summary_writer": "x"}}}, "attack.kwargs.norm: expected numbers"),
        ("attack", {**ART_PGD, "kwargs": {"eps": [1, ["x"]]}}, "attack.kwargs.eps: expected numbers"),
        ("defense", {**HG, "name": "load_curve"}, "defense"),
        ("defense", {**HG, "module": "armory_mdnf.defenses.curves", "name": "load_curve"}, "is one of ART's Preproc"),
        ("defense", {**HG, "module": "art.attacks.evasion", "name": "FastGradientMethod"}, "of ART's Preprocessor"),
        (
            "defense",
            {**HG, "module": "art.defences.preprocessor", "name": "VideoCompression", "kwargs": {"video_format": "/x"}},
            "defense.kwargs.video_format: expected numbers",
        ),
        ("metric.task", ["word_error_rate", "armory_mdnf.files.atomic.write_text"], "metric.task: expected word_error"),
        ("metric.perturbation", "art.utils.get_file", "metric.perturbation: expected snr_db or l2 or linf"),
    ],
)
def test_what_a_record_may_not_name(where: str, value: Any, message: str) -> None:
    config = change(complete_config(record().config), where, value)
    with pytest.raises(OptionError, match=re.escape(message)):
        refuse_others_code(config)


def test_what_this_project_configures_may_be_made() -> None:
    """A new cell that a page could not compute shows here."""
    files = [*CONFIGS.glob("*.json"), *CONFIGS.glob("*/*.json")]
    assert len(files) > 400
    for file in files:
        config = strict(file)
        if (config["attack"] or {}).get("module") == ARMORYS:
            with pytest.raises(OptionError, match=ARMORYS):
                refuse_others_code(config)
        else:
            refuse_others_code(config)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("user_init", None),
        ("user_init", {"module": "anybodys", "name": None}),
        ("attack", {**ART_PGD, "kwargs": {"norm": "inf", "eps": 0.1, "summary_writer": False}}),
        ("attack", {**ART_PGD, "name": "FastGradientMethod", "kwargs": {"eps": 0.1}}),
        ("defense", {**HG, "kwargs": {"vocoder": "mine.safetensors"}}),
        (
            "defense",
            {**HG, "module": "art.defences.preprocessor", "name": "Mp3Compression", "kwargs": {"verbose": False}},
        ),
        ("dataset.name", "recordings"),
        ("attack.targeted_labels", TARGETED),
    ],
)
def test_what_a_record_may_name(where: str, value: Any) -> None:
    config = complete_config(record().config)
    if where == "attack.targeted_labels":
        config["attack"]["kwargs"]["targeted"] = True
        config["attack"]["use_label"] = False
    refuse_others_code(change(config, where, value))


@pytest.mark.parametrize("block", ["attack", "defense", "user_init"])
def test_checksums_of_a_record_run_nothing(block: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    further = {"defense": {"type": "Preprocessor"}, "attack": {"knowledge": "white"}}.get(block, {})
    run = record(**{block: writes(marker) | further})
    ((name, why),) = content._checksums(run.config)
    assert name == "not on this machine"
    assert f"{block}.module, {block}.name: expected " in why
    assert "write_text" in why
    assert not marker.exists()


def test_the_size_of_a_split_is_asked_of_our_data_sets_only(
    config: Any, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = stop_in_second_batch(config, run, monkeypatch)
    about = strict(part / "run.json")
    about["config"]["dataset"] |= {"module": "armory_mdnf.nowhere", "name": "anything"}
    (part / "run.json").write_text(json.dumps(about))
    assert cli.main(["record", str(tmp_path / "kept.json"), str(part), "--partial"]) == 0
    assert read_record(tmp_path / "kept.json").split_size is None


@pytest.mark.parametrize("name", ["a; touch x", "$(touch x)", "it's", "--help", "a\nb", "plain"])
def test_a_name_is_one_word_of_the_command(name: str) -> None:
    placed = runs.place(dataclasses.replace(read_record(RECORD), name=name, device="cuda"), "x")
    (described,) = content.build([placed], {}).runs
    program, verb, file = shlex.split(described.command)
    assert (program, verb) == ("armory-mdnf", "run")
    assert file.removeprefix("./") == f"{name}.json"
    assert not file.startswith("-")
