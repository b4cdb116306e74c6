"""Armory's results files, records, the summary and the table."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from armory_mdnf.errors import ResultsError
from armory_mdnf.evaluation import armory_results, records, summary, tables
from armory_mdnf.evaluation.comparison import read_run
from armory_mdnf.evaluation.rates import interval

RESULTS = Path(__file__).parents[1] / "results"
# What the paper has for them: Tables 2, 3 and 4, the text, and nothing for a control and another number of decibels.
NUMBERED = {
    "none_benign": "11.0",
    "mg_mdnf_pgd_l2": "52.4",
    "mg_mdnf_pgd_l2_1.0": "42.2",
    "mg_mdnf_cw": "56.3",
    "mg_mdnf_eot_l2": "63.3",
    "mg_mdnf_flat_pgd_linf_ours": "25.8",
    "wg_mdnf_benign": "19.2",
    "none_mg_pgd_l2": "-",
    "none_snr13": "-",
}
DAMAGED = {
    "compute": [None, "x", {"Avg. CPU time (s) for 2 executions of Attack": "x"}],
    "benign_total_wer": [[], [[1]], "x", [[0, ["a", 1]]]],
    "perturbation_l2": ["x", [[None], 3]],
    "benign_transcripts": [[{"utterances": [{"reference": "A", "hypothesis": "B"}] * 2, "versions": ""}]],
}
"""Values of results that no run writes."""
INFINITY, NAN = float("inf"), float("nan")


def armory_content() -> dict[str, Any]:
    """Two utterances as Armory 0.19 writes them, the second left unchanged by the attack."""
    texts = {"benign": ["PRESS ONE", "HELLO YOU"], "adversarial": ["DRESS WON", "HELLO YOU"]}
    references = ["PRESS ONE", "HELLO THERE"]
    results: dict[str, Any] = {
        "benign_total_wer": [[0.25, [1, 4]]],
        "adversarial_total_wer": [[0.75, [3, 4]]],
        "perturbation_snr_db": [[20.5], [INFINITY]],
        "perturbation_mean_snr_db": [INFINITY],
        "perturbation_l2": [[1.5], [0.0]],
        "perturbation_linf": [[0.125], [NAN]],
        "compute": {
            "Avg. CPU time (s) for 2 executions of Attack": 10.0,
            "Avg. CPU time (s) for 2 executions of Inference": 0.5,
        },
    }
    for name, hypotheses in texts.items():
        pairs = zip(references, hypotheses, strict=True)
        utterances = [{"reference": r, "hypothesis": h} for r, h in pairs]
        results[f"{name}_transcripts"] = [{"utterances": utterances, "versions": {"torch": "2.11.0"}}]
    config = {
        "_description": "MG-MDNF in a test",
        "dataset": {"eval_split": "human"},
        "defense": {"name": "MDNF"},
        "metric": {},
        "model": {"model_kwargs": {"weights": "ds2_mg"}},
        "user_init": {"kwargs": {"seed": 3}},
    }
    return {"armory_version": "0.19.2", "config": config, "results": results, "timestamp": 1700000000}


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return write(tmp_path / "AutomaticSpeechRecognition_1.json", armory_content())


def test_reading_armory_results(results: Path) -> None:
    run = armory_results.read_armory_results(results)
    assert [o.snr_db for o in run.outcomes] == [20.5, None]
    assert run.outcomes[1].linf is None
    assert run.rate("benign") == 0.25
    assert run.rate("adversarial") == 0.75
    assert (run.split, run.recognizer, run.defense, run.seed) == ("human", "ds2_mg", "MDNF", 3)
    assert run.seconds == {"attack": 20.0, "inference": 1.0}
    assert run.versions == {"armory": "0.19.2", "torch": "2.11.0"}


def test_the_summary_tells_what_a_reader_asks(results: Path) -> None:
    text = summary.summarise(armory_results.read_armory_results(results), where=str(results))
    for part in ("25.0", "75.0", "3 / 4", "20.5 dB", "HELLO THERE", "DRESS WON", str(results), "MG-MDNF in a test"):
        assert part in text


def test_the_summary_shows_as_many_utterances_as_asked(results: Path) -> None:
    run = armory_results.read_armory_results(results)
    assert summary.summarise(run, examples=1).count("reference ") == 1


def test_runs_without_attack_have_no_adversarial_rate(tmp_path: Path) -> None:
    content = armory_content()
    kept = {k: v for k, v in content["results"].items() if k.startswith("benign")}
    run = armory_results.read_armory_results(write(tmp_path / "r.json", content | {"results": kept}))
    assert run.rate("adversarial") is None
    assert "attack" not in summary.summarise(run).split("\n\n", 1)[1]


def targeted_content() -> dict[str, Any]:
    """The same run with targets, of which the second is reached."""
    content = armory_content()
    texts = (("PRESS TWO", "DRESS WON"), ("HELLO YOU", "HELLO YOU"))
    pairs = [{"reference": r, "hypothesis": h} for r, h in texts]
    content["results"]["targeted_transcripts"] = [{"utterances": pairs}]
    content["results"]["targeted_total_wer"] = [[0.5, [2, 4]]]
    return content


def test_targets_are_read_recorded_and_shown(tmp_path: Path) -> None:
    run = armory_results.read_armory_results(write(tmp_path / "r.json", targeted_content()))
    assert [o.target for o in run.outcomes] == ["PRESS TWO", "HELLO YOU"]
    assert (run.rate("target"), run.reached) == (0.5, 1)
    records.write_record(tmp_path / "record.json", run)
    assert records.read_record(tmp_path / "record.json") == run
    text = summary.summarise(run)
    assert "target       reached by 1 of 2, word error rate to it 50.0 %" in text
    assert "target       PRESS TWO" in text
    cells = tables.results_table([run]).splitlines()[-1].strip("| ").split(" | ")
    rates = [interval(run, name).percent() for name in ("benign", "adversarial", "target")]
    assert [rate.split()[0] for rate in rates] == ["25.0", "75.0", "50.0"]
    assert cells[3:] == [*rates[:2], "-", rates[2], "1", "20.5", "2"]


def test_targets_of_other_utterances_are_refused(tmp_path: Path) -> None:
    content = targeted_content()
    content["results"]["targeted_transcripts"][0]["utterances"].reverse()
    with pytest.raises(ResultsError, match="adversarial and targeted transcripts are not of the same"):
        armory_results.read_armory_results(write(tmp_path / "r.json", content))
    content = targeted_content()
    del content["results"]["adversarial_transcripts"]
    with pytest.raises(ResultsError, match="adversarial and targeted transcripts are not of the same"):
        armory_results.read_armory_results(write(tmp_path / "r.json", content))


def without(*keys: str) -> dict[str, Any]:
    content = armory_content()
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    return content


def changed(key: str, value: object) -> dict[str, Any]:
    content = armory_content()
    content["results"][key] = value
    return content


OTHER = copy.deepcopy(armory_content()["results"]["benign_transcripts"])
OTHER[0]["utterances"][0]["reference"] = "ANOTHER"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected a JSON object, found list"),
        (without("config"), "an object with 'config' and 'results'"),
        (without("results"), "an object with 'config' and 'results'"),
        (changed("perturbation_snr_db", [[20.5]]), "expected 2 values of perturbation_snr_db, found 1"),
        (changed("perturbation_l2", [["far"], [1]]), "perturbation_l2 is damaged"),
        (changed("benign_transcripts", [{"utterances": [{"reference": "A"}]}]), "transcripts are damaged"),
        (changed("benign_transcripts", [{"utterances": []}]), "at least one utterance"),
        (changed("benign_transcripts", OTHER), "not of the same utterances"),
        (changed("benign_total_wer", [[0.5, [2, 4]]]), "Armory counts 2 errors in 4 benign words"),
    ],
)
def test_damaged_results(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        armory_results.read_armory_results(write(tmp_path / "r.json", content))


def test_results_without_transcripts_say_how_to_get_them(tmp_path: Path) -> None:
    content = armory_content()
    for name in ("benign", "adversarial"):
        del content["results"][f"{name}_transcripts"]
    with pytest.raises(ResultsError, match=r"armory_mdnf\.plugin\.metrics\.transcripts"):
        armory_results.read_armory_results(write(tmp_path / "r.json", content))


@settings(deadline=None)
@given(st.text(max_size=30))
def test_no_text_is_mistaken_for_results(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "text.json"
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    with pytest.raises(ResultsError):
        armory_results.read_armory_results(path)


def test_truncated_and_missing_files_are_named(results: Path, tmp_path: Path) -> None:
    results.write_text(results.read_text()[:200])
    with pytest.raises(ResultsError, match=results.name):
        armory_results.read_armory_results(results)
    with pytest.raises(ResultsError, match="no results file at"):
        armory_results.read_armory_results(tmp_path / "none.json")


def test_newest_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ResultsError, match="no results in"):
        armory_results.newest_results()
    folder = tmp_path / "elsewhere"
    (tmp_path / ".armory").mkdir()
    write(tmp_path / ".armory" / "config.json", {"output_dir": str(folder)})
    for i, name in enumerate(("new", "old")):
        (folder / name).mkdir(parents=True)
        os.utime(write(folder / name / "r.json", {}), (2000 - i, 2000 - i))
    assert armory_results.newest_results().parent.name == "new"
    assert armory_results.newest_results(since=2000).parent.name == "new"
    with pytest.raises(ResultsError, match="was `armory run` interrupted"):
        armory_results.newest_results(since=2001)


def test_records_are_strict_json_and_come_back(results: Path, tmp_path: Path) -> None:
    run = armory_results.read_armory_results(results)
    path = tmp_path / "deep" / "run.json"
    records.write_record(path, run)

    def refuse(token: str) -> None:
        raise AssertionError(token)

    content = json.loads(path.read_text(), parse_constant=refuse)
    assert content["wer"] == {"benign": 0.25, "adversarial": 0.75, "target": None}
    words = {"hits": 1, "substitutions": 1, "deletions": 0, "insertions": 0}
    assert content["utterances"][1]["words"]["benign"] == words
    assert records.read_record(path) == run


def test_records_whose_numbers_disagree_are_refused(results: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    records.write_record(path, armory_results.read_armory_results(results))
    content = json.loads(path.read_text())
    content["wer"]["benign"] = 0.1
    with pytest.raises(ResultsError, match="states word error rates"):
        records.read_record(write(path, content))
    with pytest.raises(ResultsError, match="expected format"):
        records.read_record(write(path, {"format": "other"}))
    with pytest.raises(ResultsError, match="not a complete record"):
        records.read_record(write(path, {"format": records.FORMAT}))


def test_the_table_is_in_the_papers_order(results: Path, tmp_path: Path) -> None:
    run = armory_results.read_armory_results(results)
    for name in ("wg_pgd_l2", "mg_mdnf_pgd_l2", "none_pgd_l2", "mg_pgd_l2"):
        named = records.RunRecord(name=name, outcomes=run.outcomes, config=run.config)
        records.write_record(tmp_path / "results" / "human" / f"{name}.json", named)
    rows = tables.results_table(tables.read_folder(tmp_path / "results")).splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == ["none_pgd_l2", "mg_pgd_l2", "mg_mdnf_pgd_l2", "wg_pgd_l2"]
    rates = [interval(run, name).percent() for name in ("benign", "adversarial")]
    assert rows[0] == f"| human | none_pgd_l2 | ds2_mg | {' | '.join(rates)} | - | - | - | 20.5 | 2 |"


def test_the_tables_have_the_papers_numbers() -> None:
    human = [records.read_record(RESULTS / "human" / f"{name}.json") for name in NUMBERED]
    place = tables.HEADER.index(tables.PAPER)
    rows = tables.results_table(human).splitlines()[2:]
    assert {row.strip("| ").split(" | ")[1]: row.strip("| ").split(" | ")[place] for row in rows} == NUMBERED


def test_an_empty_folder_has_no_table(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="found none"):
        tables.read_folder(tmp_path)


def test_replacing_the_block() -> None:
    text = f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n"
    once = tables.replace_block(text, "new")
    assert once == f"before\n{tables.BEGIN}\n\nnew\n\n{tables.END}\nafter\n"
    assert tables.replace_block(once, "new") == once
    for wrong in ("no markers", tables.END + tables.BEGIN, tables.BEGIN):
        with pytest.raises(ResultsError, match="markers"):
            tables.replace_block(wrong, "new")


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in DAMAGED.items() for value in values])
def test_results_of_another_form_are_refused(tmp_path: Path, key: str, value: Any) -> None:
    content = armory_content()
    content["results"][key] = value
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(ResultsError, match=r"r\.json"):
        armory_results.read_armory_results(tmp_path / "r.json")


@pytest.mark.parametrize("block", ["attack", "dataset", "defense", "model", "user_init"])
@pytest.mark.parametrize("value", [3, "x", [], {"kwargs": []}, {"model_kwargs": "x"}])
def test_blocks_of_another_form_are_refused(tmp_path: Path, block: str, value: Any) -> None:
    content = armory_content()
    content["config"][block] = value
    (tmp_path / "r.json").write_text(json.dumps(content))
    kept = json.loads((RESULTS / "human" / "none_pgd_l2.json").read_text())
    kept["config"][block] = value
    (tmp_path / "k.json").write_text(json.dumps(kept))
    for name in ("r.json", "k.json"):
        with pytest.raises(ResultsError, match=rf"{name}.*config\.{block}"):
            read_run(tmp_path / name)


@pytest.mark.parametrize(("key", "value"), [("seconds", {"a": "x"}), ("name", 3), ("versions", []), ("timestamp", "x")])
def test_fields_of_another_form_are_refused(tmp_path: Path, key: str, value: Any) -> None:
    kept = json.loads((RESULTS / "human" / "none_pgd_l2.json").read_text())
    (tmp_path / "k.json").write_text(json.dumps(kept | {key: value}))
    with pytest.raises(ResultsError, match=rf"k\.json.*{key}"):
        read_run(tmp_path / "k.json")
    kept["utterances"][0]["l2"] = "x"
    (tmp_path / "k.json").write_text(json.dumps(kept))
    with pytest.raises(ResultsError, match=r"k\.json.*l2"):
        read_run(tmp_path / "k.json")


def test_a_table_is_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="expected a folder of records, found a file"):
        tables.read_folder(RESULTS / "human" / "none_pgd_l2.json")
