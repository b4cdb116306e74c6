"""What a label says: the run, not the file that it was made from."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runner_folder import CONFIGS, strict

from armory_mdnf import cli
from armory_mdnf.errors import ResultsError
from armory_mdnf.evaluation import cells, records, summary, tables
from armory_mdnf.evaluation.armory_results import read_armory_results

RESULTS = CONFIGS.parent / "results"
PGD = "none_pgd_l2"


def content(name: str = PGD, utterances: int = 10, adversarial: bool = True) -> dict[str, Any]:
    """Results of a configuration of the project, as Armory writes them."""
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    config["scenario"]["kwargs"] = dict.fromkeys(("check_run", "skip_attack", "skip_benign"), False)
    config["scenario"]["kwargs"] |= {"num_eval_batches": None, "skip_misclassified": False}
    pairs = [{"reference": "PRESS ONE", "hypothesis": "PRESS TWO"}] * utterances
    results = {"benign_transcripts": [{"utterances": pairs}]}
    if adversarial:
        results["adversarial_transcripts"] = [{"utterances": pairs}]
    return {"armory_version": "0.19.2", "config": config, "results": results, "timestamp": 1700000000}


def flagged(name: str, value: object = True, **options: Any) -> dict[str, Any]:
    found = content(**options)
    found["config"]["scenario"]["kwargs"][name] = value
    return found


def edited(where: str, value: object) -> dict[str, Any]:
    found = content()
    block = found["config"]
    *parents, key = where.split(".")
    for parent in parents:
        block = block[parent]
    block[key] = value
    return found


def checked() -> dict[str, Any]:
    found = flagged("check_run", utterances=1)
    found["config"]["attack"]["kwargs"]["max_iter"] = 1
    return found


ALTERED = [
    (checked(), "attack max_iter 1 instead of 100; a check run; 1 of 10 utterances"),
    (flagged("num_eval_batches", 2, utterances=2), "the first 2 batches; 2 of 10 utterances"),
    (flagged("skip_attack", adversarial=False), "without the attack"),
    (flagged("skip_benign"), "without the benign utterances"),
    (content(utterances=9), "9 of 10 utterances"),
    (edited("attack.kwargs.max_iter", 5), "attack max_iter 5 instead of 100"),
    (edited("attack.kwargs.eps", 0.1), "attack eps 0.1 instead of 1.5"),
    (edited("user_init.kwargs.seed", 7), "seed 7 instead of 0"),
    (edited("dataset.index", [0, 5]), "utterances [0, 5] instead of [:10]"),
    (edited("dataset.index", "[1:11]"), "utterances [1:11] instead of [:10]"),
    (edited("model.model_kwargs.weights", "mine"), "model weights mine instead of ds2_base"),
    (edited("defense", {"module": "a", "name": "B", "kwargs": {"c": 1}}), "defense a.B instead of none"),
]


@pytest.fixture
def file(tmp_path: Path) -> Callable[[object], Path]:
    def write(what: object) -> Path:
        path = tmp_path / "AutomaticSpeechRecognition_1.json"
        path.write_text(json.dumps(what))
        return path

    return write


@pytest.mark.parametrize(("results", "words"), ALTERED, ids=[words for _, words in ALTERED])
def test_what_is_not_the_whole_cell_is_marked_or_refused(
    results: dict[str, Any],
    words: str,
    file: Callable[[object], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, out = file(results), tmp_path / "results" / "human" / f"{PGD}.json"
    assert cli.main(["summary", str(path)]) == 0
    text = capsys.readouterr().out
    assert words in text
    assert "100 iterations: Table 2" not in text
    assert cli.main(["record", str(out), str(path)]) == 2
    message = capsys.readouterr().err
    assert f"the run is not the whole of {PGD}: " in message
    assert words in message
    assert not out.exists()
    assert cli.main(["record", str(out), str(path), "--partial"]) == 0
    assert "100 iterations: Table 2" not in out.read_text()
    (row,) = tables.results_table(tables.read_folder(out.parents[1])).splitlines()[2:]
    assert f"| {PGD} (not whole: " in row
    assert words in row


@pytest.mark.parametrize(
    "results",
    [
        content(),
        content("none_benign", adversarial=False),
        content("mg_mdnf_snr20"),
        edited("user_init.kwargs.threads", 1),
        edited("dataset.eval_split", "synthetic"),
        edited("dataset.index", "[:200]"),
        edited("dataset.index", list(range(10))),
        edited("dataset.index", None),
        edited("attack.kwargs.verbose", True),
    ],
)
def test_the_whole_cell_has_the_words_of_its_file(
    results: dict[str, Any], file: Callable[[object], Path], tmp_path: Path
) -> None:
    description = results["config"]["_description"]
    run = read_armory_results(file(results))
    assert summary.summarise(run).splitlines()[1] == description
    name = next(c.name for c in cells._cells()["bundled"].values() if c.description == description)
    kept = cells.as_recorded(run, name)
    assert kept.config["_description"] == description
    assert tables.results_table([kept]).splitlines()[2].split(" | ")[1] == name


def test_a_copy_under_a_name_of_its_own_is_described_as_it_was_run(file: Callable[[object], Path]) -> None:
    kept = cells.as_recorded(read_armory_results(file(edited("attack.kwargs.max_iter", 5))), "mine")
    assert kept.config["_description"] == (
        "no defence against untargeted ProjectedGradientDescent (eps 1.5, eps_step 0.3, norm 2), 5 iterations"
    )


def test_a_description_on_other_data_is_not_shown(file: Callable[[object], Path]) -> None:
    text = summary.summarise(read_armory_results(file(edited("dataset.name", "librispeech"))))
    assert "not the whole configuration: data librispeech" in text
    assert "Table 2" not in text


def test_the_cells_are_the_configurations() -> None:
    known = cells._cells()
    paths = {"bundled": CONFIGS, "librispeech": CONFIGS / "librispeech"}
    assert known.keys() == paths.keys()
    for data, folder in paths.items():
        configs = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
        assert known[data].keys() == configs.keys()
        for name, config in configs.items():
            cell = known[data][name]
            assert (cell.description, cell.index) == (config["_description"], config["dataset"]["index"])
            assert cell.blocks == {key: config[key] for key in ("attack", "defense", "model", "user_init")}
            assert cell.attacked is not bool(config["sysconfig"].get("skip_attack"))


def test_the_committed_records_are_whole() -> None:
    for run in tables.read_folder(RESULTS):
        assert cells.cell_named(run, run.name), run.name
        assert cells.departures(run, cells.cell_named(run, run.name)) == [], run.name
    for run in tables.read_folder(RESULTS / "librispeech"):  # of fewer utterances, and of no other attack or defence
        departures = cells.departures(run, cells.cell_named(run, run.name))
        assert all(text.startswith("utterances [") or " of 500 utterances" in text for text in departures), run.name


@pytest.mark.parametrize(
    ("index", "wanted", "covered"),
    [
        (None, "[:10]", True),
        ("[:10]", "[:10]", True),
        ("[:]", "[:10]", True),
        ("[0:200]", "[:10]", True),
        ("[:9]", "[:10]", False),
        ("[1:]", "[:10]", False),
        ("[:-1]", "[:10]", False),
        ("0,5", "[:10]", False),
        ([3, 1, 0, 2], "[:4]", True),
        ([0, 1, 3], "[:4]", False),
        ([], "[:4]", False),
    ],
)
def test_which_utterances_cover_which(index: Any, wanted: str, covered: bool) -> None:
    assert cells.covers(index, wanted) is covered


def test_no_word_of_a_table_comes_from_a_file_unescaped(file: Callable[[object], Path]) -> None:
    run = read_armory_results(file(edited("attack.name", "A|B\n\u001b[31m" + 99 * "x")))
    (row,) = tables.results_table([cells.as_recorded(run, PGD, partial=True)]).splitlines()[2:]
    assert row.isprintable()
    assert len(row) < 300
    assert r"A\|B\n" in row


def test_records_keep_what_tells_a_part_from_the_whole(file: Callable[[object], Path], tmp_path: Path) -> None:
    results = checked() | {
        "run": {
            "ids": ["a-1"],
            "chosen": 10,
            "split_size": 64,
            "changed": {"attack.kwargs.max_iter": [100, 1]},
            "left_out": [{"id": "a-2", "file": "/x/a-2.flac", "reason": "too short"}],
        }
    }
    run = cells.as_recorded(read_armory_results(file(results)), "mine", partial=True)
    path = tmp_path / "mine.json"
    records.write_record(path, run)
    assert records.read_record(path) == run
    assert not {"weights", "device"} & json.loads(path.read_text()).keys()  # nobody knows them
    assert "mine (not whole: attack max_iter 1 instead of 100; a check run; 1 of 10 utterances)" in (
        tables.results_table([run])
    )
    with pytest.raises(ResultsError, match="not the whole of mine"):
        cells.as_recorded(run, "mine")
    stored = json.loads(path.read_text())
    elsewhere = (("elsewhere", ["x"]), ("elsewhere", {"x": 1}), ("elsewhere", {"x": "cpu"}))
    wrong = (("chosen", "ten"), ("changed", {"a": 1}), ("left_out", {}), ("flags", []), ("split_size", True))
    for key, value in (*wrong, ("weights", {"ds2_base": 1}), ("weights", ["x"]), ("device", 0), *elsewhere):
        path.write_text(json.dumps(copy.deepcopy(stored) | {key: value}))
        with pytest.raises(ResultsError, match="not a complete record"):
            records.read_record(path)


@pytest.mark.parametrize("block", [None, [], {}, {"local_repo_path": "/x"}])
def test_blocks_that_no_record_has_are_not_taken(block: Any, tmp_path: Path) -> None:
    path = RESULTS / "human" / "none_benign.json"
    content = json.loads(path.read_text())
    content["config"] |= {"sysconfig": block, "adhoc": block, "scenario": block, "metric": block}
    (tmp_path / path.name).write_text(json.dumps(content))
    assert records.read_record(tmp_path / path.name) == records.read_record(path)


@pytest.mark.parametrize("text", ['{"format": 1, "format": 1}', '{"format": NaN}', "[]", "[" * 5000, "\0"])
def test_what_is_no_record_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    for read in (records.read_record, read_armory_results):
        with pytest.raises(ResultsError, match=r"a\.json"):
            read(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seconds", ["a"]),
        ("seconds", [["a", 1]]),
        ("seconds", {"a": 10**350}),
        ("timestamp", 1e300),
        ("timestamp", -1),
        ("utterances", [{"reference": 5}]),
        ("utterances", [{"target": ["a"]}]),
        ("utterances", [{"snr_db": 10**350}]),
        ("utterances", [{"reference": "YES NO", "benign": "yes no"}]),
    ],
)
def test_a_damaged_record_is_named_and_no_more(
    key: str, value: Any, file: Callable[[object], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.json"
    run = cells.as_recorded(read_armory_results(file(content(utterances=1))), "mine", partial=True)
    records.write_record(path, run)
    stored = json.loads(path.read_text())
    value = [stored[key][0] | value[0]] if key == "utterances" else value
    path.write_text(json.dumps(stored | {key: value}))
    for command in ("gate RECORD --baseline BASE", "metrics RECORD", "claims RECORD", "compare RECORD RECORD"):
        words = command.replace("RECORD", str(path)).replace("BASE", str(RESULTS.parent / "baselines" / "paper.json"))
        assert cli.main(words.split()) == 2
        told = "".join(capsys.readouterr())
        assert f"{path}: not a complete record" in told or f"{path} is not JSON as it is meant" in told


@pytest.mark.parametrize(
    ("value", "problem"),
    [(json.loads("[" * 800 + "]" * 800), "more than 64 levels of nesting"), ("x\ud800y", "an unpaired surrogate in")],
)
def test_results_that_nothing_could_show_are_named(
    value: Any, problem: str, file: Callable[[object], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file(edited("attack.kwargs.mine", value))
    for words in (["summary", str(path)], ["report", str(path), "-o", str(tmp_path / "x.html")]):
        assert cli.main(words) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"armory-mdnf: error: {path} is not JSON as it is meant: ")
        assert problem in said


@pytest.mark.parametrize("damage", [{"ids": []}, {"ids": None}, {"changed": 1}, {"left_out": [1]}, []])
def test_damaged_words_on_the_run_are_named(damage: Any, file: Callable[[object], Path]) -> None:
    own: Any = {"ids": ["x"] * 10, "chosen": 10, "split_size": 64, "changed": {}, "left_out": []}
    own = own | damage if damage else damage
    with pytest.raises(ResultsError, match="what it says of the run is damaged"):
        read_armory_results(file(content() | {"run": own}))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--check"], "attack max_iter 1 instead of 2; a check run; 1 of 3 utterances"),
        (["--num-eval-batches", "2"], "the first 2 batches; 2 of 3 utterances"),
        (["--index", "18"], "dataset index [18] instead of [13, 18, 41]"),
        (["--seed", "4"], "seed 4 instead of 0"),
        (["--skip-attack"], "without the attack"),
        (["--skip-benign"], "without the benign utterances"),
    ],
)
def test_a_run_of_a_configuration_of_ones_own_says_what_the_command_line_changed(
    options: list[str],
    words: str,
    config: dict[str, Any],
    run: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config["_description"] = "two iterations of something of mine"
    path = run(config, *options) / "results.json"
    text = capsys.readouterr().out
    assert words in text
    assert "something of mine" not in text
    assert "of the split's 64 utterances" in text
    assert cli.main(["record", str(tmp_path / "tiny.json"), str(path)]) == 2
    assert words in capsys.readouterr().err
    assert cli.main(["record", str(tmp_path / "tiny.json"), str(path), "--partial"]) == 0
    assert "something of mine" not in (tmp_path / "tiny.json").read_text()
    if options[0] in ("--index", "--seed"):  # a run that goes on says it too
        assert cli.main(["run", "--resume", str(path.parent)]) == 0
        assert words in capsys.readouterr().out
        assert strict(path)["run"]["changed"]


def test_a_whole_run_of_ones_own_has_its_own_words_and_values(
    config: dict[str, Any], run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config["_description"] = "mine"
    run(config)
    assert capsys.readouterr().out.splitlines()[1:4] == [
        "mine",
        "split human, recogniser " + config["model"]["model_kwargs"]["weights"] + ", defence none, "
        "3 of the split's 64 utterances, seed 0",
        "no defence against untargeted ProjectedGradientDescent (eps 1.5, eps_step 0.3, norm 2), 2 iterations",
    ]


def test_files_of_something_else_are_told_from_damaged_ones(tmp_path: Path) -> None:
    texts = {"audit": '{"format": "armory-mdnf audit 1"}', "speeds": '{"rows": []}', "list": "[1]"}
    for name, text in texts.items():
        (tmp_path / f"{name}.json").write_text(text)
        assert records.is_of_else(tmp_path / f"{name}.json")
    (tmp_path / "cut.json").write_text('{"format": "armory_mdnf_rec')
    assert not records.is_of_else(tmp_path / "cut.json")
    (tmp_path / "armorys.json").write_text(json.dumps(content()))
    assert not records.is_of_else(tmp_path / "armorys.json")
    assert not records.is_of_else(RESULTS / "human" / "none_benign.json")
    found = records.results_files([RESULTS])
    assert {path.parent.name for path in found} == {"human", "librispeech", "synthetic"}


@pytest.mark.parametrize("name", ["results.json", "partial.json"])  # the second of a sweep's cell that is not done
def test_a_record_says_which_weights_and_device_made_it(
    name: str, config: dict[str, Any], run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = run(config), tmp_path / "kept" / "mine.json"
    path = (folder / "results.json").rename(folder / name)
    assert read_armory_results(path).name == folder.name
    assert cli.main(["record", str(out), str(path)]) == 0
    about, kept = strict(folder / "run.json"), records.read_record(out)
    assert about["weights"]
    assert (kept.weights, kept.device) == (about["weights"], about["device"])
    assert strict(out)["format"] == records.FORMAT
    (folder / "copy.json").write_bytes(path.read_bytes())  # it may be of another run
    assert (read_armory_results(folder / "copy.json").weights, kept.device) == ({}, "cpu")
    (folder / "run.json").write_text(json.dumps(about | {"weights": {"w": 1}}))
    capsys.readouterr()
    assert cli.main(["record", str(out), str(path)]) == 2
    assert "run.json: expected weights with their checksums" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        {"benign_total_wer": [[0.0, [float("inf"), 1]]]},
        {"perturbation_l2": [[10**400]]},
        {"compute": {f"Avg. CPU time (s) for {'9' * 400} executions of Attack": 1.0}},
        {"benign_transcripts": [{"utterances": [{"reference": "A", "hypothesis": "A"}], "versions": {"torch": ["2"]}}]},
    ],
)
def test_numbers_that_are_none_and_versions_that_are_none_are_named(
    damage: dict[str, Any], file: Callable[[object], Path]
) -> None:
    found = content(adversarial=False)
    found["results"] |= damage
    path = file(found)
    with pytest.raises(ResultsError, match=path.name):
        read_armory_results(path)


def test_the_number_of_threads_is_no_departure(file: Callable[[object], Path]) -> None:
    run = replace(read_armory_results(file(content())), changed={"user_init.kwargs.threads": [None, 1]})
    assert cells.departures(run, None) == []
    assert cells.departures(replace(run, changed={**run.changed, "user_init.kwargs.seed": [0, 1]}), None) == [
        "seed 1 instead of 0"
    ]
