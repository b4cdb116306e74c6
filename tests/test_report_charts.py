"""The page's charts and noise curves."""

from __future__ import annotations

import dataclasses
import json

import pytest
from report_runs import RESULTS, ROOT, changed, record

from armory_mdnf.defenses.curves import load_curve
from armory_mdnf.evaluation.records import compare, kept_blocks, read_record
from armory_mdnf.report import charts, noise, runs


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
    published = changed(run, kwargs={"gradient": "published"})
    (chart,) = charts.sweeps([*both, runs.place(published, "p")])
    assert (chart.title, len(chart.lines)) == ("WER under PGD l2 against eps, test_clean", 1)


def test_another_label_is_another_curve(placed: list[runs.Placed]) -> None:
    run = next(p for p in placed if p.run.name == "whisper_mg_mdnf_pgd_l2_ours").run
    said = runs.place(changed(run, kwargs={"eps": 1.0}, use_label=True), "b")
    assert charts.sweeps([runs.place(run, "a"), said]) == []
    (chart,) = charts.sweeps([runs.place(changed(run, use_label=True), "a"), said])
    assert chart.title == "WER under PGD l2 by what was said against eps, test_clean"


def shipped(name: str) -> runs.Placed:
    """The outcomes of another run as if they were those of a configuration of the paper's scale."""
    content = json.loads((ROOT / "scenario_configs" / "librispeech" / f"{name}.json").read_text())
    return runs.place(dataclasses.replace(record(), name=name, config=kept_blocks(content)), name)


@pytest.mark.parametrize(
    ("norm", "axis"),
    [
        ("snr", "eps, the power ratio of speech to perturbation"),
        (None, "eps, the power ratio of speech to perturbation"),  # as Armory has it
        ("snr_db", "eps, SNR of the attack, dB"),
        ("x", "eps"),
    ],
)
def test_the_axis_says_what_the_attack_takes(norm: str | None, axis: str) -> None:
    files = [shipped(f"none_snr_linear{n}") for n in (20, 30, 40)]
    own = [runs.place(changed(p.run, kwargs={"norm": norm}), p.path) for p in files]
    for placed in (files, own) if norm == "snr" else (own,):
        (chart,) = charts.sweeps(placed)
        assert (chart.axis, [text for _, text in chart.x_ticks]) == (axis, ["20", "30", "40"])
    (amplitude,) = charts.sweeps([runs.place(record(name), name) for name in ("none_pgd_linf", "none_pgd_linf_0.005")])
    assert amplitude.axis == "eps, full scale being 1"


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
