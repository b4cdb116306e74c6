"""Baselines as files, and the commands that write and hold them."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from gate_cells import BEFORE, BUNDLED, DEFENDED, RESULTS, ROOT, UNDEFENDED, WORSE, cell, judged, refused
from hypothesis import given
from hypothesis import strategies as st
from test_summary import armory_content

from armory_mdnf import cli
from armory_mdnf.errors import ResultsError
from armory_mdnf.evaluation.baselines import Baseline, BaselineCell, read_baseline, write_baseline
from armory_mdnf.evaluation.gate import Options, gate
from armory_mdnf.evaluation.gate_files import read_cell
from armory_mdnf.evaluation.records import read_record, results_files, write_record
from armory_mdnf.files.locks import alone_in


def test_common_utterances_are_found_by_id_or_reference() -> None:
    names = tuple(f"r{i}" for i in range(12))
    expected = cell(DEFENDED, {"benign": BEFORE}, references=names, ids=tuple(f"u{i}" for i in range(12)))
    order = [11, 3, 0, 1, 2, 4, 5, 6, 7, 8]
    some = expected.select(order)
    assert judged(some, expected, common=True) == {"benign": "same"}
    report = gate({"r": some}, Baseline("b", "s", {"p": expected}), Options(common=True))
    assert report.findings[0].utterances == 10
    twice = cell(DEFENDED, {"benign": BEFORE}, references=("r0", *names[:-1]))
    assert "cannot be told" in refused(twice, expected, common=True)
    assert judged(twice.select(range(10)), twice, common=True) == {"benign": "same"}  # the first ten
    stranger = cell(DEFENDED, {"benign": BEFORE[:1]}, references=("x",))
    assert "none is in the baseline" in refused(stranger, expected, common=True, points=1.0)


def test_a_baseline_survives_its_file_and_damage_is_named(tmp_path: Path) -> None:
    known: dict[str, Any] = {"weights": {"w": "a"}, "targets": tuple(f"t{i}" for i in range(12))}
    counts = {"benign": BEFORE, "adversarial": WORSE, "target": BEFORE}
    expected = cell(DEFENDED, counts, [1.5, None] * 6, **known)
    published = BaselineCell("p", UNDEFENDED, 500, {"benign": 0.11}, note="Table 2")
    before = Baseline("name", "source", {"split/name": expected, "p": published})
    write_baseline(tmp_path / "b.json", before)
    assert read_baseline(tmp_path / "b.json") == before
    content = json.loads((tmp_path / "b.json").read_text())

    def damaged(change: Callable[[dict[str, Any]], Any]) -> Path:
        wrong = copy.deepcopy(content)
        change(wrong)
        (tmp_path / "wrong.json").write_text(json.dumps(wrong))
        return tmp_path / "wrong.json"

    for change, message in (
        (lambda c: c.update(format="x"), "expected a baseline of format"),
        (lambda c: c.pop("source"), "expected the keys"),
        (lambda c: c["cells"]["split/name"]["values"].update(benign=0.5), "but its utterances give"),
        (lambda c: c["cells"]["split/name"]["counts"].update(benign=[[1, 2]]), "every measure of the same utterances"),
        (
            lambda c: c["cells"]["split/name"]["counts"].update(benign=[[-1, 2]] * 12),
            "whole number from 0 to 9007199254740992, found -1",
        ),
        (lambda c: c["cells"]["split/name"].update(targets=["t"]), "expected 12 utterances"),
        (lambda c: c["cells"]["p"].update(utterances=0), "utterances as a whole number >= 1"),
        (lambda c: c["cells"]["p"].update(more=1), "unknown key 'more'"),
        (lambda c: c["cells"]["p"].pop("identity"), "is damaged"),
        (lambda c: c["cells"].update(q=c["cells"]["p"]), "are of the same configuration"),
    ):
        with pytest.raises(ResultsError, match=message):
            read_baseline(damaged(change))


def test_a_baseline_that_says_a_default_holds_runs_that_do_not(tmp_path: Path) -> None:
    own = DEFENDED | {"attack.module": "armory_mdnf.attacks"}
    wordy = cell(own | {"attack.kwargs.gradient": "exact"}, {"benign": BEFORE})
    write_baseline(tmp_path / "b.json", Baseline("b", "s", {"split/name": wordy}))
    (kept,) = read_baseline(tmp_path / "b.json").cells.values()
    assert judged(cell(own, {"benign": BEFORE}), kept) == {"benign": "same"}
    other = cell(own | {"attack.kwargs.gradient": "published"}, {"benign": BEFORE})
    assert "attack.kwargs.gradient" in refused(other, kept)


@pytest.mark.parametrize("cell", ["human/mg_mdnf_snr40", "published"])
@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("weights", {"ds2_mg": 5}, "expected weights with their checksums, found {'ds2_mg': 5}"),
        ("weights", {"ds2_mg": None}, "expected weights with their checksums"),
        ("weights", ["ds2_mg"], "expected weights with their checksums"),
        ("note", 5, "expected note as a text, found 5"),
        ("note", None, "expected note as a text"),
        ("ids", [5] * 10, "expected ids as a list of texts, found 5 in it"),
        ("ids", "abcdefghij", "expected ids as a list of texts, found 'abcdefghij'"),
        ("references", [None] * 10, "expected references as a list of texts, found None in it"),
        ("references", dict.fromkeys("abcdefghij"), "expected references as a list of texts"),
        ("targets", [["a"]] * 10, "expected targets as a list of texts"),
        ("snr_db", [True] * 10, "expected snr_db as a list of numbers, found True in it"),
        ("snr_db", ["40"] * 10, "expected snr_db as a list of numbers"),
        ("snr_db", dict.fromkeys("abcdefghij"), "expected snr_db as a list of numbers"),
        ("counts", {"benign": [[1.0, 2]] * 10}, "expected a whole number from 0 to 9007199254740992, found 1.0"),
        ("counts", {"benign": [[True, 2]] * 10}, "expected a whole number from 0"),
        ("counts", {"benign": [[0, 10**300]] * 10}, "expected a whole number from 0"),
        ("counts", {"benign": ["12"] * 10}, "expected a whole number from 0"),
        ("counts", {"benign": 5}, "is damaged"),
        ("counts", {"benign": [[1]] * 10}, "is damaged"),
        ("counts", {"other": [[1, 2]] * 10}, "unknown comparison 'other'"),
        ("counts", [], "expected counts as an object"),
        ("utterances", "10", "expected utterances as a whole number >= 1"),
        ("utterances", True, "expected utterances as a whole number >= 1"),
        ("values", {}, "expected a number of one of benign, adversarial, target, snr_db, found none"),
        ("values", {"benign": "0.1"}, "expected a number of one of"),
        ("values", {"benign": -0.1}, "expected a number of one of"),
        ("values", {"other": 0.1}, "expected a number of one of"),
        ("identity", [], "expected identity as an object"),
    ],
)
def test_a_damaged_cell_is_named_and_is_no_regression(
    cell: str, key: str, value: Any, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(BUNDLED.read_text())
    content["cells"]["published"] = {"identity": {"dataset.name": "d"}, "utterances": 10, "values": {"benign": 0.1}}
    content["cells"][cell][key] = value
    (tmp_path / "b.json").write_text(json.dumps(content))
    results = str(RESULTS / "human" / "mg_mdnf_snr40.json")
    assert cli.main(["gate", results, "--baseline", str(tmp_path / "b.json")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"armory-mdnf: error: {tmp_path / 'b.json'}: cell '{cell}' is damaged: ")
    assert words in line


@pytest.mark.parametrize("key", ["references", "targets", "ids", "snr_db"])
def test_a_cell_that_lost_its_counts_is_no_published_number(key: str, tmp_path: Path) -> None:
    value = [20.0] * 10 if key == "snr_db" else ["a"] * 10
    plain = {"identity": {}, "utterances": 10, "values": {"benign": 0.1}, key: value}
    head = {"format": "armory_mdnf_baseline/1", "name": "n", "source": "s"}
    (tmp_path / "b.json").write_text(json.dumps({**head, "cells": {"c": plain}}))
    with pytest.raises(
        ResultsError, match=f"'c' is damaged: expected counts of the utterances beside {key}, found none"
    ):
        read_baseline(tmp_path / "b.json")
    for other in ("name", "source"):
        (tmp_path / "b.json").write_text(json.dumps({**head, other: 5, "cells": {}}))
        with pytest.raises(ResultsError, match=f"expected {other} as a text, found 5"):
            read_baseline(tmp_path / "b.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("identity", "utterances", "values", "counts", "snr_db", "references", "targets", "ids", "weights", "note")


@given(st.sampled_from(FIELDS), JSON)
def test_whatever_a_baseline_holds_it_is_read_or_refused(key: str, value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "b.json")
        write_baseline(path, Baseline("n", "s", {"c": cell(DEFENDED, {"benign": BEFORE}, weights={"w": "a"})}))
        content = json.loads(path.read_text())
        content["cells"]["c"][key] = value
        path.write_text(json.dumps(content))
        with contextlib.suppress(ResultsError):
            found = read_baseline(path)
            assert gate({"r": found.cells["c"]}, found, Options()).code in (0, 2)


def test_the_recorded_results_pass_their_own_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [RESULTS / f"{name}.json" for name in read_baseline(BUNDLED).cells]
    reports = ["--junit", str(tmp_path / "gate.xml"), "--json", str(tmp_path / "gate.json")]
    assert cli.main(["gate", *map(str, names), "--baseline", str(BUNDLED), *reports]) == 0
    assert "0 better, 0 worse; 0 results cannot be compared\ngate: passed" in capsys.readouterr().out
    suite = ElementTree.parse(tmp_path / "gate.xml").getroot()[0]
    found = json.loads((tmp_path / "gate.json").read_text())
    assert int(suite.get("tests", "")) == len(found["findings"]) == len(suite) > len(names)
    assert (suite.get("failures"), suite.get("errors"), found["verdict"]) == ("0", "0", "passed")


def test_a_baseline_is_rewritten_by_its_command_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, files = tmp_path / "b.json", [str(RESULTS / "human" / f"{n}.json") for n in ("rs_benign", "mg_benign")]
    assert cli.main(["baseline", str(target), *files]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"added +human/mg_benign: benign 17.4, 64 utterances", printed)
    before = target.read_text()
    assert cli.main(["gate", *files, "--baseline", str(target)]) == 0
    assert target.read_text() == before
    with alone_in(tmp_path, ResultsError):  # of two at once, each would lose the other's cells
        assert cli.main(["baseline", str(target), files[0], "--keep"]) == 2
    assert "is being written by another command" in capsys.readouterr().err
    assert cli.main(["baseline", str(target), files[0], "--keep"]) == 0
    assert set(read_baseline(target).cells) == {"human/mg_benign", "human/rs_benign"}
    assert cli.main(["baseline", str(target), files[0]]) == 0
    assert "removed  human/mg_benign" in capsys.readouterr().out
    shutil.copy(files[0], tmp_path / "twin.json")
    assert cli.main(["baseline", str(target), files[0], str(tmp_path / "twin.json")]) == 2
    assert "are of the same configuration" in capsys.readouterr().err
    assert cli.main(["gate", files[0], "--baseline", str(target), "--tolerance", "x"]) == 2
    assert "--tolerance: expected a number >= 0 or `statistical`, got 'x'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["baseline", "record"])
def test_what_no_file_can_hold_is_named_with_its_run(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = armory_content()
    content["config"]["attack"] = {"kwargs": {"eps": math.inf}}  # Infinity, as Armory writes it
    (tmp_path / "loud.json").write_text(json.dumps(content))
    assert cli.main([command, str(tmp_path / "kept.json"), str(tmp_path / "loud.json")]) == 2
    said = capsys.readouterr().err
    assert "cannot be written as JSON" in said
    assert ("/loud'" if command == "baseline" else str(tmp_path / "kept.json")) in said
    assert not (tmp_path / "kept.json").exists()


def test_results_without_a_word_do_not_replace_a_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, good = tmp_path / "b.json", RESULTS / "human" / "mg_benign.json"
    assert cli.main(["baseline", str(target), str(good)]) == 0
    before, run = target.read_text(), read_record(good)
    silent = replace(run, outcomes=tuple(replace(outcome, reference="") for outcome in run.outcomes))
    write_record(tmp_path / "silent.json", silent)
    capsys.readouterr()
    assert cli.main(["baseline", str(target), str(tmp_path / "silent.json")]) == 2
    assert f"error: {tmp_path / 'silent.json'}: no reference has a word\n" in capsys.readouterr().err
    assert target.read_text() == before


def test_the_reports_of_a_regression_and_of_a_refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((RESULTS / "human" / "mg_benign.json").read_text())
    for utterance in content["utterances"]:
        utterance["benign"] = "\x1b[2J\x00 wrong"
    content["wer"]["benign"] = None
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(ResultsError, match="but its transcripts give") as error:
        read_cell(tmp_path / "r.json")
    content["wer"]["benign"] = float(re.search(r"give \{'benign': ([\d.]+)", str(error.value))[1])
    (tmp_path / "r.json").write_text(json.dumps(content))
    shutil.copy(RESULTS / "human" / "rs_benign.json", tmp_path / "\x01.json")
    assert cli.main(["baseline", str(tmp_path / "b.json"), str(RESULTS / "human" / "mg_benign.json")]) == 0
    capsys.readouterr()
    options = [
        "--baseline",
        str(tmp_path / "b.json"),
        "--junit",
        str(tmp_path / "x.xml"),
        "--json",
        str(tmp_path / "j"),
    ]
    assert cli.main(["gate", str(tmp_path / "r.json"), *options]) == 1
    assert re.search(r"human/mg_benign  benign WER % +17.4 +1\d\d.\d  \+.* WORSE", capsys.readouterr().out)
    assert ElementTree.parse(tmp_path / "x.xml").getroot()[0].get("failures") == "1"
    assert json.loads((tmp_path / "j").read_text())["findings"][0]["failed"] is True
    assert cli.main(["gate", str(tmp_path / "r.json"), str(tmp_path / "\x01.json"), *options]) == 2
    assert "defense.kwargs.passes None, found 5" in capsys.readouterr().out
    assert ElementTree.parse(tmp_path / "x.xml").getroot()[0].get("errors") == "1"


def test_armorys_own_numbers_do_where_there_are_no_transcripts(tmp_path: Path) -> None:
    config = {
        "dataset": {"module": "armory.data.datasets", "name": "librispeech", "eval_split": "test_clean"},
        "defense": None,
        "model": {
            "module": "armory.baseline_models.pytorch.deep_speech",
            "name": "get_art_model",
            "wrapper_kwargs": {"clip_values": [-1, 1], "pretrained_model": "librispeech"},
        },
    }
    pairs = [[[1.0, 10.0]]] * 90 + [[[2.0, 10.0]]] * 10
    content = {"config": config, "results": {"benign_word_error_rate": pairs}}
    (tmp_path / "armory.json").write_text(json.dumps(content))
    found = read_cell(tmp_path / "armory.json")
    baseline = read_baseline(ROOT / "baselines" / "armory.json")
    report = gate({"armory.json": found}, baseline, Options(points=2.0))
    assert [(f.cell, f.measure, f.verdict) for f in report.findings] == [("test_clean/none_benign", "benign", "same")]
    content["results"]["perturbation_snr_db"] = [[20.0 + i] for i in range(100)]
    content["results"]["adversarial_word_error_rate"] = pairs
    (tmp_path / "armory.json").write_text(json.dumps(content))
    assert read_cell(tmp_path / "armory.json").values["snr_db"] == 69.5
    del content["results"]["perturbation_snr_db"]
    for damaged in ("x", {"a": 1}, [], [math.inf, 3], [math.nan, 3], [1.0, 10**400], [2, -1], [True, 3]):
        content["results"] = {"benign_word_error_rate": [[damaged]]}
        (tmp_path / "armory.json").write_text(json.dumps(content))
        with pytest.raises(ResultsError, match="benign_word_error_rate is damaged"):
            read_cell(tmp_path / "armory.json")
    content["results"] = {}
    (tmp_path / "armory.json").write_text(json.dumps(content))
    with pytest.raises(ResultsError, match="neither transcripts nor word errors"):
        read_cell(tmp_path / "armory.json")


def test_a_baseline_has_the_weights_of_its_records(
    config: dict[str, Any], run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, record, target = run(config), tmp_path / "kept" / "mine.json", tmp_path / "b.json"
    assert cli.main(["record", str(record), str(folder / "results.json")]) == 0
    assert cli.main(["baseline", str(target), str(record)]) == 0
    content = json.loads(target.read_text())
    (cell,) = content["cells"].values()
    assert cell["weights"] == json.loads((folder / "run.json").read_text())["weights"]
    (folder / "partial.json").write_bytes((folder / "results.json").read_bytes())  # as of a sweep's cell so far
    sources = [str(record), str(folder / "results.json"), str(folder / "partial.json")]
    options = ["--baseline", str(target), "--tolerance", "0"]
    assert [cli.main(["gate", source, *options]) for source in sources] == [0, 0, 0]
    cell["weights"] = dict.fromkeys(cell["weights"], 64 * "0")
    target.write_text(json.dumps(content))
    capsys.readouterr()
    assert [cli.main(["gate", source, *options]) for source in sources] == [2, 2, 2]
    assert capsys.readouterr().out.count("other weights: ") == 3


def test_weights_that_are_compared_by_name_alone_are_a_note() -> None:
    def notes(found: dict[str, str], expected: dict[str, str]) -> list[str]:
        sides = (cell(DEFENDED, {"benign": BEFORE}, weights=weights) for weights in (found, expected))
        report = gate({"r": next(sides)}, Baseline("b", "s", {"c": next(sides)}), Options())
        assert report.code == 0
        return list(report.notes)

    both, one = {"ds2_mg": "a", "melgan": "b"}, {"ds2_mg": "a"}
    by_name = "weights; they are compared by name"
    assert notes(both, both) == notes({}, {}) == []
    assert notes(both, {}) == [f"split/name: the baseline has no checksums of {by_name}"]
    assert notes({}, both) == [f"split/name: the results have no checksums of {by_name}"]
    assert notes(one, both) == [f"split/name: the results have the checksums of some {by_name}"]


def test_folders_give_their_results(tmp_path: Path) -> None:
    passed_over = (".set_aside/a.2024/results.json", "a/.results.7.partial.json")
    for name in ("a/results.json", "a/run.json", "b/results.json", *passed_over):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("{}" if name.endswith("run.json") else "cut sh")
    assert results_files([tmp_path]) == [tmp_path / "a" / "results.json", tmp_path / "b" / "results.json"]
    assert len(results_files([RESULTS / "human", RESULTS / "human" / "rs_benign.json"])) == len(
        list((RESULTS / "human").glob("*.json"))
    )
    assert all("bench" not in path.parts for path in results_files([RESULTS]))
    with pytest.raises(ResultsError, match="found none"):
        results_files([tmp_path / "nothing"])


def test_the_published_baselines_are_what_their_tables_say() -> None:
    run = subprocess.run([sys.executable, "tools/make_baselines.py", "--check"], cwd=ROOT, timeout=300, check=False)
    assert run.returncode == 0


def test_the_papers_numbers_are_those_of_the_page_of_facts() -> None:
    page = ROOT.parent / "shared" / "FIDELITY.md"
    if not page.is_file():
        pytest.skip(f"no {page.name} beside this checkout")
    text = page.read_text(encoding="utf-8")
    cells = read_baseline(ROOT / "baselines" / "paper.json").cells
    names = {"none": "none", "RS": "rs", "MG": "mg", "MG-MDNF": "mg_mdnf", "WG": "wg", "WG-MDNF": "wg_mdnf"}
    threats = ("benign", "pgd_l2", "pgd_l2_1.0", "pgd_l2_0.5", "pgd_linf", "pgd_linf_0.005")
    checked = 0
    for table, columns in ((2, threats), (3, ("snr20", "snr30", "snr40", "cw")), (4, threats)):
        rows = text.split(f"\nTable {table}, ")[1].split("\n\n")[1].splitlines()[2:]
        for row in rows:
            defence, *values = [part.strip() for part in row.strip("|").split("|")]
            system = "none_100" if (table, defence) == (4, "none") else names[defence]
            for column, value in zip(columns, values, strict=True):
                numbers = [float(n) for n in re.findall(r"[\d.]+", value)]
                found = cells[f"test_clean/{system}_{column}"].values
                assert [round(100 * v, 1) for v in found.values()] == numbers, (defence, column)
                checked += 1
    assert checked == 4 * 6 + 4 * 4 + 3 * 6
