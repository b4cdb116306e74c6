"""How the gate judges a cell against its baseline."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from gate_cells import BEFORE, BUNDLED, DEFENDED, RESULTS, UNDEFENDED, WORSE, cell, judged, refused

from armory_mdnf import cli
from armory_mdnf.errors import TranscriptError
from armory_mdnf.evaluation import gate as gate_module
from armory_mdnf.evaluation.baselines import Baseline, BaselineCell, make_cell, read_baseline
from armory_mdnf.evaluation.gate import Finding, Options, Report, gate
from armory_mdnf.evaluation.records import LeftOut, read_record, write_record
from armory_mdnf.metrics.intervals import CONFIDENCE, difference_interval

BETTER = [(max(e - 2, 0), w) for e, w in BEFORE]
# As many errors, elsewhere: what another seed does.
SHUFFLED = [(e, 8) for e in (3, 0, 2, 1, 4, 1, 1, 1, 3, 2, 2, 1)]


@pytest.mark.parametrize("tolerance", [None, 5.0])
@pytest.mark.parametrize(
    ("identity", "measure", "after", "verdict"),
    [
        (DEFENDED, "benign", WORSE, "worse"),
        (DEFENDED, "benign", BETTER, "better"),
        (DEFENDED, "benign", SHUFFLED, "same"),
        (DEFENDED, "adversarial", WORSE, "worse"),
        (DEFENDED, "target", WORSE, "better"),  # farther from the attacker's target
        (DEFENDED, "target", BETTER, "worse"),
        (UNDEFENDED, "benign", WORSE, "worse"),
        (UNDEFENDED, "adversarial", WORSE, "better"),  # the attack got stronger
        (UNDEFENDED, "adversarial", BETTER, "worse"),
        (UNDEFENDED, "target", WORSE, "worse"),
    ],
)
def test_which_way_is_worse(
    identity: dict[str, Any], measure: str, after: Any, verdict: str, tolerance: float | None
) -> None:
    before = {"benign": BEFORE} | {measure: BEFORE}
    found = cell(identity, before | {measure: after})
    assert judged(found, cell(identity, before), points=tolerance)[measure] == verdict


def test_what_moved_for_the_better_fails_where_any_change_does() -> None:
    found, expected = cell(DEFENDED, {"benign": BETTER}), cell(DEFENDED, {"benign": BEFORE})
    for any_change, code in ((False, 0), (True, 1)):
        report = gate({"r": found}, Baseline("b", "s", {"split/name": expected}), Options(any_change=any_change))
        assert report.code == code


def test_points_are_the_largest_difference_that_passes() -> None:
    expected = cell(DEFENDED, {"benign": [(10, 100), (0, 100)]})
    found = cell(DEFENDED, {"benign": [(10, 100), (4, 100)]})
    assert judged(found, expected, points=2.0) == {"benign": "same"}
    assert judged(found, expected, points=1.9) == {"benign": "worse"}


def together(*counts: tuple[Any, Any]) -> Report:
    """How many cells are judged in one call, each of the errors that it had in the baseline and has now."""
    expected = {
        str(i): make_cell(str(i), DEFENDED | {"i": i}, {"benign": tuple(before)}, [])
        for i, (before, _) in enumerate(counts)
    }
    found = {str(i): cell(DEFENDED | {"i": i}, {"benign": after}) for i, (_, after) in enumerate(counts)}
    return gate(found, Baseline("b", "s", expected), Options())


TWO = [(2, 8)] * 12
SOME_WORSE = [(3, 8)] * 4 + TWO[4:]
"""Worse than two of eight each at 95 %, and not at the confidence of many."""


def test_many_cells_do_not_make_a_chance_difference_a_regression() -> None:
    """What one comparison alone would call worse passes among two hundred that all moved."""
    assert together((TWO, SOME_WORSE)).code == 1
    report = together((TWO, SOME_WORSE), *[(BEFORE, SHUFFLED)] * 199)
    assert report.code == 0
    assert {f.confidence for f in report.findings} == {1 - (1 - CONFIDENCE) / 200}
    assert report.findings[0].low is not None
    assert report.findings[0].low < 0  # the interval is as it was judged


def test_cells_in_which_nothing_moved_hide_no_regression() -> None:
    report = together((TWO, SOME_WORSE), *[(TWO, TWO)] * 199)
    assert [f.verdict for f in report.findings] == ["worse"] + ["same"] * 199
    assert {(f.low, f.high) for f in report.findings[1:]} == {(0, 0)}


def test_a_regression_that_is_shown_leaves_the_error_to_the_others() -> None:
    """Holm's procedure: of three comparisons, the second smallest needs what two have, and the last what one has."""
    found = [Finding(str(i), "benign", 0.0, 0.1, 12, "same", -0.1, 0.3) for i in range(4)]
    found.append(replace(found[0], low=0.0, high=0.0))  # in which nothing moved

    def stepped(*chances: float) -> list[tuple[str, float]]:
        def judge(i: int, confidence: float) -> Finding:
            worse = chances[i] <= 1 - confidence + 1e-12
            return replace(found[i], verdict="worse" if worse else "same", confidence=confidence)

        decided = gate_module._stepped_down([*found[: len(chances)], found[-1]], judge)
        assert decided[-1] is found[-1]
        return [(f.verdict, round(1 - (f.confidence or 0), 4)) for f in decided[:-1]]

    assert stepped(0.016, 0.024, 0.049) == [("worse", 0.0167), ("worse", 0.025), ("worse", 0.05)]
    assert stepped(0.049, 0.016, 0.026) == [("same", 0.025), ("worse", 0.0167), ("same", 0.025)]
    assert stepped(0.017, 0.017, 0.017) == [("same", 0.0167)] * 3
    assert stepped(0.04, 0.001, 0.001, 0.001) == [("worse", 0.05)] + [("worse", 0.0125)] * 3


def test_a_recorded_cell_that_got_worse_fails_alone_and_among_all_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = list(read_baseline(BUNDLED).cells)
    others = [str(RESULTS / f"{name}.json") for name in names if name != "human/rs_snr30"]
    run = read_record(RESULTS / "human" / "rs_snr30.json")
    broken = [replace(outcome, benign=f"WRONG WRONG WRONG {outcome.benign}") for outcome in run.outcomes[:6]]
    write_record(tmp_path / "rs_snr30.json", replace(run, outcomes=(*broken, *run.outcomes[6:])))
    for more in ([], others):
        command = ["gate", str(tmp_path / "rs_snr30.json"), *more, "--baseline", str(BUNDLED)]
        assert cli.main(command) == 1
        assert re.search(r"^human/rs_snr30 +benign WER % +16\.9 +42\.3 .*WORSE$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("points", [None, 1.0])
def test_the_attacks_size_is_to_stay(points: float | None) -> None:
    counts, before = {"adversarial": BEFORE}, [20.0 + 0.01 * i for i in range(12)]
    expected = cell(DEFENDED, counts, before)
    for change, verdict in ((0.3, "same"), (1.0, "worse"), (-1.0, "worse")):
        found = cell(DEFENDED, counts, [v + change for v in before])
        assert judged(found, expected, points=points)["snr_db"] == verdict
    scattered = cell(DEFENDED, counts, [v + (9, -7)[i % 2] for i, v in enumerate(before)])  # one more on average
    assert judged(scattered, expected, points=points)["snr_db"] == ("same" if points is None else "worse")
    nothing = cell(DEFENDED, counts, [None] * 12)
    assert judged(nothing, expected, points=points)["snr_db"] == "worse"


@pytest.mark.parametrize("points", [None, 50.0])
@pytest.mark.parametrize("unchanged", [1, 10, 11])
def test_an_attack_that_leaves_utterances_unchanged_is_worse(points: float | None, unchanged: int) -> None:
    before: list[float | None] = [20.0 + 0.01 * i for i in range(11)]
    expected = cell(DEFENDED, {"adversarial": BEFORE}, [*before, None])
    found = cell(DEFENDED, {"adversarial": BETTER}, [None] * unchanged + before[unchanged:] + [21.0])
    report = gate({"r": found}, Baseline("b", "s", {"split/name": expected}), Options(points=points))
    (size,) = (finding for finding in report.findings if finding.measure == "snr_db")
    assert (size.verdict, report.code) == ("worse", 1)
    assert size.why == f"{unchanged} of 11 utterances have no finite SNR any more"
    assert judged(expected, expected, points=points)["snr_db"] == "same"


def test_utterances_that_got_lost_are_a_regression() -> None:
    names = tuple(f"r{i}" for i in range(12))
    expected = cell(DEFENDED, {"benign": BEFORE}, references=names)
    found = cell(
        DEFENDED, {"benign": BEFORE[:5] + BEFORE[6:]}, references=names[:5] + names[6:], chosen=12, left_out=("r5",)
    )
    assert judged(found, expected) == {"utterances": "worse", "benign": "same"}


def test_the_common_utterances_do_not_hide_lost_ones() -> None:
    names = tuple(f"u{i}" for i in range(12))
    expected = cell(DEFENDED, {"benign": BEFORE}, ids=names)
    lost = replace(cell(DEFENDED, {"benign": BEFORE}, ids=names).select(range(11)), chosen=12, left_out=(names[11],))
    for common in (False, True):
        assert judged(lost, expected, common=common)["utterances"] == "worse"


def test_the_common_utterances_of_a_part_do_not_hide_lost_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = read_record(RESULTS / "human" / "hg_benign.json")
    lost = tuple(LeftOut(str(o.id), "a.wav", "damaged") for o in run.outcomes[1:30:2])
    strangers = tuple(LeftOut(name, "b.wav", "damaged") for name in ("not/in/the/baseline", str(run.outcomes[0].id)))
    part = replace(run, outcomes=run.outcomes[:30:2], chosen=30)
    for left_out, code in ((lost, 1), (strangers, 0), ((), 0)):
        write_record(tmp_path / "r.json", replace(part, left_out=left_out))
        assert cli.main(["gate", str(tmp_path / "r.json"), "--baseline", str(BUNDLED), "--common"]) == code
        shown = re.findall(r"^human/hg_benign +utterances .*", capsys.readouterr().out, re.MULTILINE)
        assert [re.split(r"  +", line)[1:4] for line in shown] == [["utterances", "30", "15"]] * code


def test_lost_utterances_need_a_baseline_that_names_its_own() -> None:
    names = tuple(f"r{i}" for i in range(12))
    expected = cell(DEFENDED, {"benign": BEFORE}, references=names)
    part = replace(expected.select(range(10)), left_out=("u11",), chosen=11)
    words = "whether the baseline has the 1 that the run left out cannot be told: it has no ids"
    assert words in refused(part, expected, common=True)
    more = cell(DEFENDED, {"benign": [*BEFORE, (0, 8)]}, references=(*names, "more"))
    whole = replace(more, left_out=("u14",), chosen=14)  # the baseline has none but these
    assert judged(whole, expected, common=True) == {"benign": "same"}


def test_what_cannot_be_compared_says_why() -> None:
    expected = cell(DEFENDED, {"benign": BEFORE, "adversarial": BEFORE}, weights={"ds2_mg": "a" * 64})
    other = cell({**DEFENDED, "defense.kwargs.noise_level": 5.0}, {"benign": BEFORE, "adversarial": BEFORE})
    assert "has defense.kwargs.noise_level None, found 5.0" in refused(other, expected)
    weights = cell(DEFENDED, {"benign": BEFORE, "adversarial": BEFORE}, weights={"ds2_mg": "b" * 64})
    assert "other weights: ds2_mg had SHA-256 aaaaaaaaaaaa..., found bbbbbbbbbbbb..." in refused(weights, expected)
    fewer = cell(DEFENDED, {"benign": BEFORE[:10], "adversarial": BEFORE[:10]})
    assert "expected the 12 of split/name, found 10, of which number 11" in refused(fewer, expected)
    half = cell(DEFENDED, {"benign": BEFORE})
    assert "no WER under attack %" in refused(half, expected)
    few = cell(DEFENDED, {"benign": BEFORE[:9]})
    assert "9 utterances are too few" in refused(few, cell(DEFENDED, {"benign": BEFORE[:9]}))
    published = BaselineCell("p", DEFENDED, 500, {"benign": 0.1})
    assert "is of 500, found 12" in refused(half, published, points=1.0)
    same = BaselineCell("p", DEFENDED, 12, {"benign": 0.1})
    assert "give --tolerance POINTS" in refused(half, same)
    report = gate({"a": half, "b": half}, Baseline("b", "s", {"p": cell(DEFENDED, {"benign": BEFORE})}), Options())
    assert "same cell as a" in report.refusals[0].why


TARGETED = {"adversarial": BEFORE, "target": BEFORE}
TARGETS = tuple(f"t{i}" for i in range(12))


@pytest.mark.parametrize("points", [None, 5.0])
def test_distances_to_other_targets_are_not_compared(points: float | None) -> None:
    ids = tuple(f"u{i}" for i in range(12))
    expected = cell(DEFENDED, TARGETED, targets=TARGETS, ids=ids)
    other = cell(DEFENDED, TARGETED, targets=(*TARGETS[:3], "x", *TARGETS[4:]), ids=ids)
    words = "other targets: expected those of split/name, of which number 4 (u3) is the first that differs"
    assert words == refused(other, expected, points=points)
    assert words.replace("4 (u3)", "3 (u3)") == refused(
        other.select(range(1, 12)), expected, points=points, common=True
    )
    assert judged(expected, expected, points=points)["target"] == "same"
    longer = [*BEFORE[:3], (1, 9), *BEFORE[4:]]
    for targets in (TARGETS, ()):  # without checksums in a baseline of an older version
        older = cell(DEFENDED, TARGETED, targets=targets, ids=ids)
        assert words == refused(cell(DEFENDED, TARGETED | {"target": longer}, ids=ids), older, points=points)
    shorter = cell(DEFENDED, {"adversarial": longer}, references=())
    assert "other utterances: expected those of split/name, of which number 4 is" in refused(shorter, expected)


def test_targets_that_are_compared_by_their_words_alone_are_a_note() -> None:
    known, older = cell(DEFENDED, TARGETED, targets=TARGETS), cell(DEFENDED, TARGETED)
    words = "have no checksums of targets; they are compared by their numbers of words"
    for found, expected, side in ((known, older, "baseline"), (older, known, "results")):
        report = gate({"r": found}, Baseline("b", "s", {"c": expected}), Options())
        assert report.code == 0
        (note,) = report.notes
        assert note == f"split/name: the {side} {words if side == 'results' else words.replace('have', 'has', 1)}"


def test_a_cell_that_cannot_be_judged_leaves_the_others_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    def intervals(first: Any, second: Any, confidence: float) -> Any:
        if len(first) == 11:
            raise TranscriptError("no words")
        return difference_interval(first, second, confidence)

    monkeypatch.setattr(gate_module, "difference_interval", intervals)
    cells = {"a": cell(DEFENDED, {"benign": BEFORE[1:]}), "b": cell(UNDEFENDED, {"benign": BEFORE})}
    named = {key: replace(found, name=key) for key, found in cells.items()}
    report = gate(cells, Baseline("b", "s", named), Options())
    assert [(refusal.results, refusal.why) for refusal in report.refusals] == [("a", "no words")]
    assert [(finding.cell, finding.verdict) for finding in report.findings] == [("b", "same")]
    assert (report.code, report.not_run) == (2, [])


def reported_beside(wrong: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Why a file is refused in a call in which another one is sound, which is judged and in the report."""
    junit = wrong.with_suffix(".xml")
    sound = str(RESULTS / "human" / "rs_benign.json")
    assert cli.main(["gate", str(wrong), sound, "--baseline", str(BUNDLED), "--junit", str(junit)]) == 2
    out = capsys.readouterr().out
    suite = ElementTree.parse(junit).getroot()[0]
    assert (suite.get("errors"), suite.get("failures")) == ("1", "0")
    assert re.search(r"^human/rs_benign  benign WER %", out, re.MULTILINE)
    (why,) = re.findall(rf"^CANNOT COMPARE {re.escape(str(wrong))}: (.*)", out, re.MULTILINE)
    return str(why)


SNR20 = RESULTS / "human" / "mg_mdnf_snr20.json"


@pytest.mark.parametrize("change", [lambda t: f"{t} MORE", lambda t: f"OTHER {t.split(maxsplit=1)[1]}"])
def test_another_target_is_reported_beside_what_is_sound(
    change: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = read_record(SNR20)
    first = replace(run.outcomes[0], target=change(str(run.outcomes[0].target)))
    write_record(tmp_path / "r.json", replace(run, outcomes=(first, *run.outcomes[1:])))
    why = reported_beside(tmp_path / "r.json", capsys)
    assert why == "other targets: expected those of human/mg_mdnf_snr20, of which number 1 is the first that differs"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("{", "", "not readable JSON"),
        ('"wer": {', '"x": {', "'wer'"),
    ],
)
def test_a_file_that_cannot_be_read_is_reported_beside_what_is_sound(
    old: str, new: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.json").write_text(SNR20.read_text().replace(old, new, 1))
    assert why in reported_beside(tmp_path / "r.json", capsys)


def test_targets_of_another_case_are_reported_beside_what_is_sound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(SNR20.read_text())
    for utterance in content["utterances"]:
        utterance["target"] = utterance["target"].lower()
    (tmp_path / "r.json").write_text(json.dumps(content))
    assert "one list is upper case and the other lower case" in reported_beside(tmp_path / "r.json", capsys)


def test_results_that_are_not_there_are_reported_beside_what_is_sound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "expected a results file or a folder that holds some, found none" in reported_beside(
        tmp_path / "gone.json", capsys
    )


def test_a_quick_run_is_no_run_that_lost_the_rest() -> None:
    """``chosen`` is what the configuration names, not how far the run went; what a run loses it lists."""
    names = tuple(f"u{i}" for i in range(12))
    expected = cell(DEFENDED, {"benign": BEFORE}, ids=names)
    quick = replace(expected.select(range(10)), chosen=12)
    assert judged(quick, expected, common=True) == {"benign": "same"}
    assert "--common compares" in refused(quick, expected)


@pytest.mark.parametrize("points", [None, 2.0])
def test_nothing_to_compare_is_no_pass(points: float | None) -> None:
    silent = [(0, 0)] * 10
    expected = cell(DEFENDED, {"benign": [*BEFORE, *silent]}, ids=tuple(f"u{i}" for i in range(22)))
    found = replace(expected.select(range(12, 22)), counts={"benign": tuple([(6, 0)] * 10)})
    assert "no reference has a word" in refused(found, expected, common=True, points=points)


def test_silent_utterances_are_no_evidence() -> None:
    """Four utterances decide nothing, and six of which nothing was said or understood make them no ten."""
    few, silent = BEFORE[:4], [(0, 0)] * 6
    expected = cell(DEFENDED, {"benign": [*few, *silent]})
    found = cell(DEFENDED, {"benign": [*WORSE[:4], *silent]})
    assert "4 utterances with words are too few for the paired interval" in refused(found, expected)
    assert judged(found, expected, points=2.0) == {"benign": "worse"}
