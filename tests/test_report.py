"""What the page says of its runs."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from typing import Any

import pytest
from report_runs import ROOT, changed, record

from armory_mdnf.evaluation.rates import difference
from armory_mdnf.evaluation.records import Outcome, compare
from armory_mdnf.report import content, page, runs
from armory_mdnf.runner.config import check_config

NONE_UNTARGETED = (
    *("none_pgd_l2", "none_pgd_l2_0.5", "none_pgd_l2_1.0", "none_pgd_linf", "none_pgd_linf_0.005"),
    *("none_pgd_l2_ours", "none_pgd_linf_ours"),
)


def test_the_table_has_the_rates_of_the_records(made: content.Page) -> None:
    table = next(t for t in made.tables if t.split == "human")
    rows = {row[:2]: dict(zip(table.columns, row[2], strict=True)) for row in table.rows}
    entries = rows["MG", "ds2_mg"]["l2 1.5"]
    found = [(entry.utterances, pytest.approx(entry.rate), entry.paper, entry.shade) for entry in entries]
    rates = [record(name).rate("adversarial") for name in ("mg_pgd_l2", "mg_pgd_l2_ours")]
    assert sorted(e.utterances for e in entries) == [10, 64]
    for number, rate in zip((10, 64), rates, strict=True):
        assert rate is not None
        assert (number, 100 * rate, 84.2, 4) in found
    assert rows["WG", "ds2_wg"]["CW 0.01"] == ()
    varied = (f"l2 1.5, {what}" for what in ("published gradient", "250 steps", "500 steps"))
    assert table.columns[:7] == ("benign", "l2 1.5", *varied, "l2 1.0", "l2 0.5")
    assert [row[0] for row in table.rows] == sorted((row[0] for row in table.rows), key=runs.defence_order)
    assert not any(entry.lacks for row in table.rows for entries in row[2] for entry in entries)


def test_the_worst_case_is_of_the_utterances_that_met_every_threat(made: content.Page, html: str) -> None:
    worst = {(w.split, w.defence, w.recogniser): w for w in made.worst}["human", "NO DEFENCE", "ds2_base"]
    found = [record(name).outcomes for name in NONE_UNTARGETED]
    shared = min(map(len, found))  # each run is of the first utterances, in this order
    assert (shared, max(map(len, found))) == (10, 64)
    words = sum(len(o.reference.split()) for o in found[0][:shared])
    counts = [max(compare(o, "adversarial").errors for o in utterance) for utterance in zip(*found, strict=False)]
    assert worst.rate is not None
    assert worst.alone_rate is not None
    assert (worst.threats, worst.rate.utterances, worst.alone_rate.utterances) == (5, shared, shared)
    assert worst.rate.value == pytest.approx(sum(counts) / words)
    assert worst.alone == "linf 0.01"
    assert f'{worst.rate.percent()}</td><td>human</td><td>ds2_base</td><td class="number">10</td>' in html


def attacked(name: str, errors: list[int], first: int = 0, **attack: Any) -> runs.Placed:
    """A run on utterances of ten words, of which so many were lost, numbered from ``first``."""
    said = " ".join(["A"] * 10)
    outcomes = [Outcome(said, said, " ".join(["A"] * (10 - k)), id=f"u{first + i}") for i, k in enumerate(errors)]
    return runs.place(changed(dataclasses.replace(record(), name=name, outcomes=tuple(outcomes)), **attack), name)


def test_the_worst_case_does_not_fall_when_an_attack_is_added() -> None:
    hard, easy = attacked("a", [9] * 10 + [1] * 20), attacked("b", [2] * 10, kwargs={"eps": 1.0})
    (one,), (both,) = (content.build(placed, {}).worst for placed in ([easy], [hard, easy]))
    assert (one.rate.value, both.rate.value) == (0.2, 0.9)
    assert (both.threats, both.alone, both.alone_rate.value, both.rate.utterances) == (2, "l2 1.5", 0.9, 10)
    assert not both.few
    # Two runs of one threat are one threat, on all that either attacked.
    more = attacked("c", [3] * 10, first=30)
    (three,) = content.build([hard, more], {}).worst
    assert (three.threats, three.rate.utterances) == (1, 40)


def test_a_worst_case_of_few_utterances_or_of_none_says_so() -> None:
    placed = [attacked("a", [9] * 10), attacked("b", [2] * 4, kwargs={"eps": 1.0})]
    assert '<td class="number">4, too few to rely on</td>' in page.render(placed)
    apart = [placed[0], attacked("b", [2] * 10, first=10, kwargs={"eps": 1.0})]
    (worst,) = content.build(apart, {}).worst
    assert (worst.threats, worst.rate, worst.alone) == (2, None, "")
    assert "<td>no utterance met them all</td>" in page.render(apart)


def test_a_run_without_ids_is_of_the_same_utterances() -> None:
    """Older records and Armory's results have none: nothing may be counted twice for that."""
    first = record("mg_pgd_l2")
    second = record("mg_pgd_l2_1.0_ours")
    assert {o.id is None for o in first.outcomes} == {True}
    assert {o.id is None for o in second.outcomes} == {False}
    both = [runs.place(run, run.name) for run in (first, second)]
    (worst,) = content.build(both, {}).worst
    pairs = zip(first.outcomes, second.outcomes, strict=True)
    counts = [max(compare(o, "adversarial").errors for o in pair) for pair in pairs]
    words = sum(len(o.reference.split()) for o in first.outcomes)
    assert worst.rate.value == pytest.approx(sum(counts) / words)


def test_no_worst_case_is_better_than_one_of_its_threats(made: content.Page) -> None:
    for worst in made.worst:
        assert worst.rate is not None
        assert worst.alone_rate is not None
        assert worst.rate.value >= worst.alone_rate.value
        assert worst.rate.utterances == worst.alone_rate.utterances


def test_white_noise_is_no_threat() -> None:
    attacked = record("none_pgd_l2_0.5")
    noise = changed(record("none_pgd_l2"), name="RandomNoise", module="armory_mdnf.attacks")  # of a higher rate
    both = [runs.place(run, name) for run, name in ((attacked, "a"), (noise, "n"))]
    assert [p.threat.control for p in both] == [False, True]
    assert both[1].attacked.value > both[0].attacked.value
    made = content.build(both, {})
    (worst,) = made.worst
    assert (worst.threats, worst.alone, worst.rate) == (1, "l2 0.5", both[0].attacked)
    assert [b.threat for b in made.balances] == ["l2 0.5, human"]
    assert content.build(both[1:], {}).worst == ()


def test_cost_and_gain_are_differences_of_rates(made: content.Page) -> None:
    (found,) = [b for b in made.balances if (b.defence, b.threat) == ("RS", "l2 1.5, human")]
    none, rs = (record(f"{name}_pgd_l2_ours").rate("adversarial") for name in ("none", "rs"))
    benign = [record(f"{name}_benign").rate("benign") for name in ("rs", "none")]
    assert None not in (none, rs, *benign)
    assert found.gain.difference.value == pytest.approx(none - rs)  # type: ignore[operator]
    lost = [record(f"{name}_pgd_l2_ours").counts("adversarial").without_insertions.rate for name in ("none", "rs")]
    assert found.kept.difference.value == pytest.approx(lost[0] - lost[1])
    assert found.cost.difference.value == pytest.approx(benign[0] - benign[1])  # type: ignore[operator]


def test_a_defence_is_held_against_its_own_recogniser(placed: list[runs.Placed], made: content.Page) -> None:
    """Or what tells two recognisers apart is called the gain of a defence."""
    rows = {(b.defence, b.recogniser): b for b in made.balances if b.threat == "l2 1.5, test_clean"}
    tiny = "hf:openai/whisper-tiny.en"
    by_name = {p.run.name: p.run for p in placed if p.run.split == "test_clean"}
    for row, undefended, defended in (
        (("HG", tiny), "tiny_en_pgd_l2_ours", "tiny_en_hg_pgd_l2_ours"),
        (("MG", "whisper_ctc_mg"), "none_whisper_mg_pgd_l2_ours", "whisper_mg_pgd_l2_ours"),
    ):
        cost, gain = rows[row].cost, rows[row].gain
        assert cost is not None
        assert gain is not None
        assert gain.difference == difference(by_name[undefended], by_name[defended], "adversarial")
        assert (cost.against, gain.against) == ("", "")
    alone = [b for b in made.balances if b.defence == "NO DEFENCE"]
    assert {b.recogniser for b in alone} > {tiny, "whisper_ctc", "whisper_ctc_mg"}
    assert {(b.cost, b.gain, b.kept) for b in alone} == {(None, None, None)}


def test_without_its_own_recogniser_it_is_held_against_the_one_that_is_named(placed: list[runs.Placed]) -> None:
    by_name = {p.run.name: p for p in placed if p.run.split == "test_clean"}
    base, mg = by_name["whisper_pgd_l2_ours"], by_name["whisper_mg_pgd_l2_ours"]
    (found,) = [b for b in content.build([base, mg], {}).balances if b.defence == "MG"]
    assert found.gain is not None
    assert (found.gain.difference, found.gain.against) == (difference(base.run, mg.run, "adversarial"), "whisper_ctc")
    n = found.gain.difference.utterances
    assert f'<span class="small">n {n}, against whisper_ctc</span>' in page.render([base, mg])
    # Each column by itself: the recogniser of its own has no attacked run here.
    own = by_name["none_whisper_mg_benign"]
    (found,) = [b for b in content.build([base, mg, own], {}).balances if b.defence == "MG"]
    assert found.cost is not None
    assert found.gain is not None
    assert (found.cost.difference, found.cost.against) == (difference(mg.run, own.run, "benign"), "")
    assert found.gain.against == "whisper_ctc"
    for others in (
        ["whisper_pgd_l2_ours", "tiny_en_hg_pgd_l2_ours"],
        ["none_whisper_mg_pgd_l2_ours", "whisper_rs_pgd_l2_ours"],
    ):
        held = content.build([by_name[name] for name in others], {}).balances
        assert [(b.cost, b.gain) for b in held] == [(None, None)] * 2


def test_utterances_have_their_errors(placed: list[runs.Placed], made: content.Page) -> None:
    assert len(made.said) == sum(len(p.run.outcomes) for p in placed)
    for said, outcome in zip(made.said, (o for p in placed for o in p.run.outcomes), strict=True):
        counts = compare(outcome, "benign")
        assert said.benign_errors == (counts.errors if counts else None)


def test_how_to_run_it_again_is_a_configuration(placed: list[runs.Placed], made: content.Page) -> None:
    for p, described in zip(placed, made.runs, strict=True):
        config = json.loads(described.config)
        check_config(config)
        assert {k: config[k] for k in p.run.config} == p.run.config
        assert bool(config["sysconfig"].get("skip_attack")) == (p.attacked is None)
        kind, data = described.address.split(";base64,")
        assert kind == "data:application/json"
        assert json.loads(base64.b64decode(data)) == config
        command = described.command.split()[-1]
        if command.startswith("scenario_configs/"):
            shipped = json.loads((ROOT / command).read_text())
            assert {k: shipped[k] for k in ("attack", "defense", "model", "dataset")} == {
                k: config[k] for k in ("attack", "defense", "model", "dataset")
            }
        names = dict(described.checksums)
        if "not on this machine" in names:  # an extra's vocoder, say
            continue
        assert all(re.fullmatch("[0-9a-f]{64}", value) for value in names.values())
        assert p.run.recognizer in names


def test_weights_that_are_not_here_have_no_checksum() -> None:
    run = record()
    block = run.config["model"] | {"model_kwargs": {"weights": "gone.safetensors"}}
    gone = dataclasses.replace(run, config={**run.config, "model": block})
    ((name, why),) = content.build([runs.place(gone, "x")], {}).runs[0].checksums
    assert (name, "gone.safetensors" in why) == ("not on this machine", True)


def test_a_run_that_says_what_made_it_is_shown_so() -> None:
    known = dataclasses.replace(record(), weights={"ds2_base": "ab" * 32}, device="cuda")
    placed = [runs.place(known, "x"), runs.place(record(), "y")]
    own, other = content.build(placed, {}).runs
    assert (own.checksums, own.here) == ((("ds2_base", "ab" * 32),), False)
    assert other.here
    assert ("device", "cuda") in own.facts
    assert "device" not in dict(other.facts)
    parted = dataclasses.replace(known, elsewhere={str(known.outcomes[0].id): "cpu"})
    (found,) = content.build([runs.place(parted, "x")], {}).runs
    assert dict(found.facts)["device"] == f"cuda, 1 of {len(known.outcomes)} on cpu"
    assert [json.loads(run.config)["sysconfig"]["use_gpu"] for run in (own, other)] == [True, False]
    commands = [run.command for run in (own, other)]  # what is shipped is of a CPU
    assert commands == [f"armory-mdnf run {name}none_pgd_l2.json" for name in ("", "scenario_configs/")]
    html = page.render(placed)
    assert html.count("<dt>SHA-256</dt>") == html.count("<dt>SHA-256 here, now</dt>") == 1
