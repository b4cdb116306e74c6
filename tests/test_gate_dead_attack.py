"""An attack that does nothing any more is no better defence."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from gate_cells import BEFORE, BUNDLED, DEFENDED, RESULTS, UNDEFENDED, WORSE, cell, judged

from armory_mdnf import cli
from armory_mdnf.evaluation.baselines import Baseline, BaselineCell
from armory_mdnf.evaluation.gate import Finding, Options, gate
from armory_mdnf.evaluation.records import read_record, write_record

ATTACKED = {"benign": BEFORE, "adversarial": WORSE}
LESS = [(e + 1, w) for e, w in BEFORE]
DEAD = "the attack does nothing any more; look at it before the defence is praised"


def under_attack(found: dict[str, Any], before: dict[str, Any], identity: Any = DEFENDED, **options: Any) -> Finding:
    expected = cell(identity, before)
    report = gate({"r": cell(identity, found)}, Baseline("b", "s", {"c": expected}), Options(**options))
    assert not report.refusals
    (finding,) = (f for f in report.findings if f.measure == "adversarial")
    return finding


@pytest.mark.parametrize("points", [None, 5.0])
def test_an_attack_that_does_nothing_any_more_is_worse(points: float | None) -> None:
    alive = under_attack({"benign": BEFORE, "adversarial": LESS}, ATTACKED, points=points)
    assert (alive.verdict, alive.why) == ("better", "")
    one_more = [(BEFORE[0][0] + 1, 8), *BEFORE[1:]]
    assert under_attack({"benign": BEFORE, "adversarial": one_more}, ATTACKED, points=points).verdict == "better"
    fewer = [(max(e - 1, 0), w) for e, w in BEFORE]
    for attacked, errors in ((BEFORE, 21), (fewer, 11)):
        dead = under_attack({"benign": BEFORE, "adversarial": attacked}, ATTACKED, points=points)
        assert (dead.verdict, dead.why) == ("worse", f"{errors} errors, 21 benign: {DEAD}")
    assert under_attack(ATTACKED, ATTACKED, points=points).verdict == "same"


@pytest.mark.parametrize("points", [None, 5.0])
def test_what_raised_nothing_before_need_not_now(points: float | None) -> None:
    """Noise in place of an attack, which is as often a little below as above."""
    noise = [(BEFORE[0][0] + 1, 8), *BEFORE[1:]]
    for after in (BEFORE, noise, [(max(e - 1, 0), w) for e, w in BEFORE]):
        found = {"benign": BEFORE, "adversarial": after}
        assert under_attack(found, {"benign": BEFORE, "adversarial": noise}, points=points).verdict != "worse"


def test_a_dead_attack_fails_though_its_fall_may_be_chance() -> None:
    """Ten utterances under a weak attack, among many cells that moved."""
    before, after = [(1, 8)] * 12, [(2, 8)] * 6 + [(1, 8)] * 6
    expected = {"0": cell(DEFENDED, {"benign": before, "adversarial": after})}
    found = {"0": cell(DEFENDED, {"benign": before, "adversarial": before})}
    shuffled = [BEFORE[(i + 1) % 12] for i in range(12)]
    for i in range(1, 200):
        expected[str(i)] = cell(DEFENDED | {"i": i}, {"benign": BEFORE})
        found[str(i)] = cell(DEFENDED | {"i": i}, {"benign": shuffled})
    named = {key: replace(one, name=key) for key, one in expected.items()}
    report = gate(found, Baseline("b", "s", named), Options())
    (failed,) = filter(report.failed, report.findings)
    assert (failed.cell, failed.why) == ("0", f"12 errors, 12 benign: {DEAD}")
    assert failed.low is not None
    assert failed.high is not None
    assert failed.low < 0 < failed.high
    assert report.code == 1


def test_where_the_rule_does_not_hold() -> None:
    found = {"benign": BEFORE, "adversarial": BEFORE}
    weaker = under_attack(found, ATTACKED, UNDEFENDED)
    assert (weaker.verdict, weaker.why) == ("worse", "the attack got weaker")
    targeted = {"target": BEFORE}
    assert under_attack(found | targeted, ATTACKED | targeted).verdict == "better"
    assert under_attack({"adversarial": BEFORE}, {"adversarial": WORSE}).verdict == "better"
    assert judged(cell(DEFENDED, {"benign": BEFORE}), cell(DEFENDED, {"benign": WORSE})) == {"benign": "better"}


def test_against_a_published_attack() -> None:
    found = cell(DEFENDED, {"benign": BEFORE, "adversarial": BEFORE})
    for attacked, verdict in ((0.6, "worse"), (0.24, "same")):  # 21 of 96 words are wrong, 0.219
        published = BaselineCell("p", DEFENDED, 12, {"benign": 0.22, "adversarial": attacked})
        assert judged(found, published, points=5.0) == {"benign": "same", "adversarial": verdict}
    alone = BaselineCell("p", DEFENDED, 12, {"adversarial": 0.6})
    assert judged(found, alone, points=5.0) == {"adversarial": "better"}


def test_every_report_of_a_recorded_attack_that_died(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = read_record(RESULTS / "human" / "rs_pgd_l2_ours.json")
    dead = tuple(replace(outcome, adversarial=outcome.benign) for outcome in run.outcomes)
    write_record(tmp_path / "r.json", replace(run, outcomes=dead))
    reports = ["--junit", str(tmp_path / "x.xml"), "--json", str(tmp_path / "x.json")]
    assert cli.main(["gate", str(tmp_path / "r.json"), "--baseline", str(BUNDLED), *reports]) == 1
    out = capsys.readouterr().out
    why = re.findall(r"^human/rs_pgd_l2_ours +WER under attack % +54\.7 +16\.6 .*\((.*)\)  WORSE$", out, re.MULTILINE)
    assert [re.sub(r"\d+", "N", words) for words in why] == [f"N errors, N benign: {DEAD}"]
    assert out.endswith("0 better, 1 worse; 0 results cannot be compared\ngate: regression\n")
    suite = ElementTree.parse(tmp_path / "x.xml").getroot()[0]
    (failure,) = suite.iter("failure")
    assert suite.get("failures") == "1"
    assert why[0] in str(failure.get("message"))
    (failed,) = (f for f in json.loads((tmp_path / "x.json").read_text())["findings"] if f["failed"])
    assert (failed["measure"], failed["verdict"], failed["why"]) == ("adversarial", "worse", why[0])


@pytest.mark.parametrize("name", ["mg_noise_l2", "hg_mdnf_noise_l2"])
def test_recorded_noise_that_does_nothing_passes(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = read_record(RESULTS / "human" / f"{name}.json")
    silent = tuple(replace(outcome, adversarial=outcome.benign) for outcome in run.outcomes)
    write_record(tmp_path / "r.json", replace(run, outcomes=silent))
    assert cli.main(["gate", str(tmp_path / "r.json"), "--baseline", str(BUNDLED)]) == 0, capsys.readouterr().out
