"""The fifteen claims: what a run is in the paper's terms, the rule of each, and the page that is made of them."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from armory_mdnf import cli
from armory_mdnf.evaluation.baselines import read_baseline
from armory_mdnf.evaluation.claim_runs import Ground, is_untuned, role_of, tables
from armory_mdnf.evaluation.claims import (
    CELLS,
    CLAIMS,
    FAILS,
    HOLDS,
    MISSING,
    UNDECIDED,
    Part,
    Verdict,
    _find,
    has_published,
    judge,
    verdict_of,
    without_run,
)
from armory_mdnf.evaluation.claims_command import judge_all, numbers, page, titles_of
from armory_mdnf.evaluation.identity import DEFAULTS
from armory_mdnf.evaluation.paper import EXACT, PUBLISHED, paper, threat_of
from armory_mdnf.evaluation.records import Outcome, RunRecord
from armory_mdnf.metrics.intervals import Interval
from armory_mdnf.report import charts
from armory_mdnf.report.runs import place

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "scenario_configs"
WORDS = 400
# Files of the bundled benchmark, by the defence and attack of a claim.
SYSTEMS = {
    "none": "none", "RS": "rs", "MG": "mg", "MG-MDNF": "mg_mdnf", "MG-MDNF flat": "mg_mdnf_flat", "WG": "wg",
    "WG-MDNF": "wg_mdnf",
}  # fmt: skip
THREATS = {
    "benign": "benign", "l2 1.5": "pgd_l2", "l2 1": "pgd_l2_1.0", "l2 0.5": "pgd_l2_0.5", "linf 0.01": "pgd_linf",
    "linf 0.005": "pgd_linf_0.005", "l2 1.5 EOT 5": "eot_l2", "20 dB": "snr20", "30 dB": "snr30", "40 dB": "snr40",
    "CW 0.01": "cw",
    "l2 1.5 of 250 iterations": "pgd_l2_250_steps", "l2 1.5 of 500 iterations": "pgd_l2_500_steps",
}  # fmt: skip


def config(system: str, threat: str) -> dict[str, Any]:
    return json.loads((CONFIGS / f"{SYSTEMS[system]}_{THREATS[threat]}.json").read_text())


def heard(rate: float) -> tuple[str, str]:
    """A reference of :data:`WORDS` words and a transcript of that word error rate, in percent."""
    errors = round(rate * WORDS / 100)
    wrong = min(errors, WORDS)
    return " ".join(["A"] * WORDS), " ".join(["X"] * wrong + ["A"] * (WORDS - wrong) + ["Y"] * (errors - wrong))


def run(system: str, threat: str, rates: list[float], **known: Any) -> RunRecord:
    texts = [heard(rate) for rate in rates]
    name = "benign" if threat == "benign" else "adversarial"
    outcomes = tuple(
        Outcome(reference, **{name: text}, id=f"u{i}")  # type: ignore[arg-type]
        for i, (reference, text) in enumerate(texts)
    )
    return RunRecord("name", outcomes, **{"config": config(system, threat)} | known)


def ten(rate: float, number: int) -> list[float]:
    """Ten rates, some of the first five a word above the others, by the bits of a number.

    Of two numbers the utterances do not move alike, which would leave the interval of their difference no width.
    """
    return [rate + 100 / WORDS * (number >> i & 1) for i in range(10)]


def papers_runs(**changes: float) -> list[RunRecord]:
    """A run per cell of the claims, every utterance at the paper's rate but for a word."""
    rates: dict[tuple[str, str], float] = {}
    for claim in CLAIMS:
        for part in claim.parts:
            rates |= dict(zip((part.first, part.second), part.paper or (54.0, 52.4), strict=True))
    rates |= {("MG-MDNF", "l2 1.5"): 52.4}
    assert len(rates) <= 2**5
    found = {cell: changes.get(" ".join(cell).replace(" ", "_"), rate) for cell, rate in rates.items()}
    return [run(*cell, ten(rate, number)) for number, (cell, rate) in enumerate(found.items())]


def verdicts(runs: list[RunRecord], gradient: str = EXACT) -> dict[int, str]:
    (table,) = tables(runs).values()
    return {v.claim.number: v.verdict for v in judge(table, gradient)}


def test_every_claim_holds_on_the_papers_own_numbers() -> None:
    assert verdicts(papers_runs()) == dict.fromkeys(range(1, 16), HOLDS)


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({"MG_l2_1.5": 60.0}, {1, 2, 7}),
        ({"MG-MDNF_l2_1.5": 80.0}, {2, 4, 7, 13, 15}),
        ({"MG-MDNF_linf_0.01": 90.0}, {3, 4}),
        ({"RS_l2_0.5": 40.0}, {5}),
        ({"MG-MDNF_benign": 18.0}, {6}),
        ({"RS_20_dB": 40.0}, {8}),
        ({"RS_40_dB": 5.0}, {9}),
        ({"WG_l2_1.5": 80.0}, {10, 11}),
        ({"WG_linf_0.01": 60.0}, {11}),
        ({"WG_benign": 14.0}, {12}),
        ({"MG-MDNF_flat_l2_1.5": 50.0}, {13}),
        ({"MG-MDNF_flat_linf_0.01": 70.0}, {14}),
        ({"MG-MDNF_l2_1.5_of_500_iterations": 70.0}, {15}),
    ],
)
def test_a_number_on_the_wrong_side_fails_its_claims(changes: dict[str, float], failing: set[int]) -> None:
    found = verdicts(papers_runs(**changes))
    assert {number for number, verdict in found.items() if verdict == FAILS} == failing
    assert {verdict for number, verdict in found.items() if number not in failing} == {HOLDS}


@pytest.mark.parametrize(
    ("bounds", "interval", "verdict"),
    [
        ({"low": 20.0}, (20.0, 40.0), HOLDS),
        ({"low": 20.0}, (19.9, 40.0), UNDECIDED),
        ({"low": 20.0}, (0.0, 19.9), FAILS),
        ({"low": 0.0, "above": True}, (0.0, 3.0), UNDECIDED),
        ({"low": 0.0, "above": True}, (0.1, 3.0), HOLDS),
        ({"low": 0.0, "above": True}, (-3.0, 0.0), FAILS),
        ({"high": 6.0}, (-9.0, 6.0), HOLDS),
        ({"high": 6.0}, (6.1, 9.0), FAILS),
        ({"high": 6.0}, (5.0, 7.0), UNDECIDED),
        ({"low": -3.0, "high": 3.0}, (-3.0, 3.0), HOLDS),
        ({"low": -3.0, "high": 3.0}, (-9.0, -3.1), FAILS),
        ({"low": -3.0, "high": 3.0}, (-4.0, 0.0), UNDECIDED),
        ({"low": 0.0}, None, UNDECIDED),
    ],
)
def test_the_rule_of_a_part(bounds: dict[str, Any], interval: tuple[float, float] | None, verdict: str) -> None:
    low, high = (None, None) if interval is None else (interval[0] / 100, interval[1] / 100)
    part = Part(("a", "x"), ("b", "x"), None, **bounds)
    assert verdict_of(part, Interval(0.0, low, high, 10)) == verdict
    assert verdict_of(part, Interval(0.0, low, high, 9)) == UNDECIDED


@pytest.mark.parametrize("utterances", [1, 2, 9])
def test_few_utterances_decide_nothing(utterances: int) -> None:
    runs = [r for r in papers_runs() if role_of(r) is not None]
    few = [replace(r, outcomes=r.outcomes[:utterances]) for r in runs]
    assert set(verdicts(few).values()) == {UNDECIDED}


def test_utterances_that_all_move_alike_decide_nothing() -> None:
    """Ten on which nothing moves are no sign that a cost of 7 points is not there."""
    for rate in (10.0, 12.0, 40.0):
        runs = [run("none", "benign", [10.0] * 10), run("MG-MDNF", "benign", [rate] * 10)]
        assert verdicts(runs)[6] == UNDECIDED


def test_a_missing_run_is_named_and_one_that_fails_decides_all_the_same() -> None:
    def without(name: str, **changes: float) -> list[Verdict]:
        runs = [r for r in papers_runs(**changes) if (role_of(r) or [None])[0] is None or _name(r) != name]
        (table,) = tables(runs).values()
        return judge(table)

    found = without("RS linf 0.01")[3]
    assert (found.verdict, found.parts[1].why) == (MISSING, "no run of RS, linf 0.01")
    assert without("RS linf 0.01", **{"RS_l2_1.5": 55.0})[3].verdict == FAILS


def _name(record: RunRecord) -> str:
    placed = role_of(record)
    assert placed is not None
    return f"{placed[0].system} {placed[0].threat}"


def test_of_equally_long_runs_that_of_this_packages_attack_counts() -> None:
    arts = run("MG-MDNF", "l2 1.5", [80.0] * 10)
    ours = replace(
        run("MG-MDNF", "l2 1.5", [90.0] * 10),
        config=json.loads((CONFIGS / "mg_mdnf_pgd_l2_ours.json").read_text()),
    )
    longer = run("MG-MDNF", "l2 1.5", [70.0] * 11)
    for chosen, runs in ((ours, (arts, ours)), (ours, (ours, arts)), (longer, (ours, longer))):
        (table,) = tables(runs).values()
        assert table["MG-MDNF", "l2 1.5", "exact"] is chosen


def test_the_published_gradient_is_judged_by_its_own_runs() -> None:
    runs = papers_runs()
    assert not has_published(next(iter(tables(runs).values())))
    block = config("MG-MDNF", "l2 1.5")
    block["attack"] = {
        "module": "armory_mdnf.attacks",
        "name": "PGD",
        "use_label": False,
        "kwargs": {"norm": "l2", "eps": 1.5, "eps_step": 0.3, "max_iter": 100, "seed": 0, "gradient": "published"},
    }
    runs.append(run("MG-MDNF", "l2 1.5", ten(80.0, 31), config=block))
    (table,) = tables(runs).values()
    assert has_published(table)
    assert verdicts(runs) == dict.fromkeys(range(1, 16), HOLDS)
    found = verdicts(runs, PUBLISHED)
    assert found[2] == FAILS  # 84.2 less 80.0: MG draws no noise, and has one gradient
    assert found[13] == MISSING
    assert found.keys() == set(range(1, 16)) - {1, 6, 12}  # none of whose defences has its noise attacked


def test_every_configuration_of_the_claims_is_recognised() -> None:
    for system in SYSTEMS:
        for threat in THREATS:
            path = CONFIGS / f"{SYSTEMS[system]}_{THREATS[threat]}.json"
            if path.is_file():
                placed = role_of(run(system, threat, [10.0]))
                assert placed is not None, path
                assert (placed[0].system, placed[0].threat, placed[0].gradient) == (system, threat, EXACT)
                vocoder = {"MG": "melgan", "WG": "pwg"}.get(system[:2], "")
                assert placed[1] == Ground("human", "ds2", vocoder)


@pytest.mark.parametrize("name", ["none_mg_pgd_l2", "mg_mdnf_frame_pgd_l2", "librispeech/mg_mdnf_snr_linear20"])
def test_what_is_in_none_of_the_claims_tables_is_left_out(name: str) -> None:
    block = json.loads((CONFIGS / f"{name}.json").read_text())
    assert role_of(run("none", "l2 1.5", [10.0], config=block)) is None


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("defense.kwargs.noise_level", 80.0),
        ("defense.kwargs.normalize", "frame"),
        ("defense.kwargs.vocoder", "my.safetensors"),
        ("defense.name", "Other"),
        ("attack.kwargs.eps_step", 0.1),
        ("attack.kwargs.num_random_init", 2),
        ("attack.kwargs.norm", 1),
        ("attack.name", "FastGradientMethod"),
        ("attack.module", "mine.attacks"),
        ("attack.module", "armory_mdnf_of_others.attacks"),
        ("attack.use_label", True),
        ("attack", {"name": "CarliniWagner", "kwargs": {"eps": 0.1}}),
    ],
)
def test_a_run_with_another_option_is_not_the_papers(where: str, value: object) -> None:
    block = copy.deepcopy(config("MG-MDNF", "l2 1.5"))
    *parents, key = where.split(".")
    inner = block
    for parent in parents:
        inner = inner[parent]
    inner[key] = value
    assert role_of(run("MG-MDNF", "l2 1.5", [10.0], config=block)) is None


@pytest.mark.parametrize("said", DEFAULTS["attack"][2].items(), ids=lambda item: item[0])
def test_an_option_that_says_its_default_leaves_a_run_the_papers(said: tuple[str, Any]) -> None:
    option, default = said
    block = config("MG-MDNF", "l2 1.5")
    kwargs = {"norm": "l2", "eps": 1.5, "step_fraction": 0.2, "max_iter": 100, option: default}
    block["attack"] = {"module": "armory_mdnf.attacks", "name": "PGD", "use_label": False, "kwargs": kwargs}
    placed = role_of(run("MG-MDNF", "l2 1.5", [10.0], config=block))
    assert placed is not None
    assert (placed[0].threat, placed[0].gradient) == ("l2 1.5", EXACT)
    kwargs[option] = {str: "another", int: 2, bool: not default}[type(default)]
    placed = role_of(run("MG-MDNF", "l2 1.5", [10.0], config=block))
    assert placed is None or (placed[0].threat, placed[0].gradient) != ("l2 1.5", EXACT)


@pytest.mark.parametrize("value", ["a", ["a"], [15.0], {"a": 1}, True, 10**350, float("nan")], ids=lambda v: str(v)[:9])
@pytest.mark.parametrize("option", ["eps", "snr_db", "eps_step", "step_fraction", "max_iter", "eot_draws", "norm"])
def test_an_option_that_is_no_number_stops_no_reader(option: str, value: object) -> None:
    for threat in ("l2 1.5", "20 dB"):
        block = config("none", threat)
        targeted = run("none", threat, [10.0], config=block).outcomes[0]
        block["attack"]["kwargs"][option] = value
        found = run("none", threat, [10.0], config=block)
        for one in (found, replace(found, outcomes=(replace(targeted, target="A"),))):
            table = tables([one])
            assert not (option == "eps" and threat == "l2 1.5" and table)
            assert threat_of(one).order
            charts.sweeps([place(one, "a"), place(one, "b")])


def test_half_of_full_scale_is_no_step_of_the_papers() -> None:
    block = config("none", "20 dB")
    kwargs = block["attack"]["kwargs"]
    assert kwargs.pop("step_fraction") == 0.5
    kwargs["eps_step"] = 0.5  # of this package's PGD in full-scale samples
    assert role_of(run("none", "20 dB", [10.0], config=block)) is None


def test_grounds_keep_recognisers_splits_and_vocoders_apart() -> None:
    def moved(system: str, weights: str, vocoder: str | None = None) -> RunRecord:
        block = config(system, "l2 1.5")
        block["model"]["model_kwargs"]["weights"] = weights
        if vocoder:
            block["defense"]["kwargs"]["vocoder"] = vocoder
        return run(system, "l2 1.5", [50.0] * 10, config=block)

    runs = [
        moved("none", "ds2_base"),
        moved("MG", "ds2_mg"),
        moved("none", "whisper_ctc"),
        moved("MG", "whisper_ctc_mg", "melgan_gan"),
        moved("MG", "whisper_ctc", "melgan"),
    ]
    found = tables(runs)
    assert [(g.recogniser, g.vocoders, len(table)) for g, table in found.items()] == [
        ("ds2", "", 2),
        ("whisper_ctc", "", 2),
        ("whisper_ctc", "melgan_gan", 2),
    ]
    assert [g.vocoders for g in tables(runs[3:4])] == ["melgan_gan"]
    # of WG there is one vocoder alone: it stands beside either of MG's, and beside the only one
    wg = moved("WG", "whisper_ctc_mg")
    assert [(g.recogniser, g.vocoders, len(t)) for g, t in tables([*runs, wg]).items()] == [
        ("ds2", "", 2),
        ("whisper_ctc", "", 3),
        ("whisper_ctc", "melgan_gan, pwg", 3),
    ]
    assert [(g.vocoders, len(t)) for g, t in tables([*runs[2:4], wg]).items()] == [("melgan_gan, pwg", 3)]
    tuned, plain = moved("MG", "ds2_mg"), moved("MG", "ds2_base")
    longer = replace(plain, outcomes=plain.outcomes * 2)
    (table,) = tables([longer, tuned]).values()
    assert table["MG", "l2 1.5", EXACT] is tuned


def moved_to(weights: str, system: str = "none", **known: Any) -> RunRecord:
    block = config(system, "l2 1.5")
    block["model"]["model_kwargs"]["weights"] = weights
    block["dataset"] |= known.pop("dataset", {})
    if "vocoder" in known:
        block["defense"]["kwargs"]["vocoder"] = known.pop("vocoder")
    return run(system, "l2 1.5", [50.0] * 10, config=block)


def test_recognisers_of_one_file_name_are_not_one() -> None:
    names = ["hf:openai/whisper-tiny", "hf:openai/whisper-tiny.en", "hf:other/whisper-tiny"]
    assert [g.recogniser for g in tables(map(moved_to, names))] == names
    files = ["/a/b/model.safetensors", "/a/c/model.safetensors", "mine/model.safetensors", "/d/other.safetensors"]
    grounds = tables(map(moved_to, files))
    assert [g.recogniser for g in grounds] == ["/a/b/model", "/a/c/model", "/d/other", "mine/model"]
    # On a page, which others read, no path of this machine is whole.
    titles = titles_of(grounds)
    names = ["b/model", "c/model", "other", "mine/model"]
    assert list(titles.values()) == [f"human, recogniser {name}" for name in names]
    text = page(judge_all(grounds), {ground: without_run(table) for ground, table in grounds.items()})
    assert not re.search(r"[ (]/(a|d)/", text)
    pair = [moved_to(f"/a/ds2_{tuning}.safetensors", system) for tuning, system in (("base", "none"), ("mg", "MG"))]
    assert [(g.recogniser, len(table)) for g, table in tables(pair).items()] == [("/a/ds2", 2)]
    own = [moved_to("ds2_base", dataset={"name": "recordings", "eval_split": f"/home/{name}"}) for name in "ab"]
    assert list(titles_of(tables(own)).values()) == ["a, recogniser ds2", "b, recogniser ds2"]


def test_vocoders_of_one_file_name_are_not_one() -> None:
    files = ["/a/melgan.safetensors", "/b/melgan.safetensors", "melgan"]
    grounds = tables(moved_to("ds2_mg", "MG", vocoder=name) for name in files)
    assert [(g.vocoders, len(table)) for g, table in grounds.items()] == [("", 1), ("/a/melgan", 1), ("/b/melgan", 1)]
    (paired,) = tables([moved_to("ds2_mg", "MG", vocoder="x/melgan"), moved_to("ds2_wg", "WG", vocoder="x/pwg")])
    assert paired.vocoders == "x/melgan, x/pwg"


def test_of_two_curves_that_of_the_projects_configurations_counts() -> None:
    usual = run("MG-MDNF", "l2 1.5", [50.0] * 10)
    block = config("MG-MDNF", "l2 1.5")
    block["defense"]["kwargs"]["curve"] = "whisper_l2"
    longer = run("MG-MDNF", "l2 1.5", [50.0] * 20, config=block)
    (table,) = tables([longer, usual]).values()
    assert table["MG-MDNF", "l2 1.5", EXACT] is usual
    (table,) = tables([longer]).values()
    assert table["MG-MDNF", "l2 1.5", EXACT] is longer


def untuned(system: str, threat: str, rates: list[float]) -> RunRecord:
    block = config(system, threat)
    block["model"]["model_kwargs"]["weights"] = "ds2_base"
    return run(system, threat, rates, config=block)


def test_what_a_defence_costs_is_that_of_the_recogniser_fine_tuned_for_it() -> None:
    none = run("none", "benign", ten(10.0, 1) + ten(10.0, 2))
    tuned = run("MG-MDNF", "benign", ten(12.0, 3))
    attacked = untuned("MG-MDNF", "l2 1.5", [80.0] * 20)
    longer = replace(attacked, outcomes=tuple(
        replace(o, benign=text) for o, (_, text) in zip(attacked.outcomes, map(heard, ten(30.0, 4) * 2), strict=True)
    ))  # fmt: skip
    assert verdicts([none, tuned, longer])[6] == HOLDS
    assert verdicts([none, longer])[6] == FAILS


def test_a_side_that_was_not_fine_tuned_is_named() -> None:
    none, mg = run("none", "l2 1.5", ten(90.0, 1)), untuned("MG", "l2 1.5", ten(50.0, 2))
    flooded = untuned("MG-MDNF", "l2 1.5", ten(60.0, 3))
    (table,) = tables([none, mg, flooded]).values()
    first, second = (judge(table)[i].parts[0] for i in (0, 1))
    assert (first.untuned, second.untuned) == (("MG",), ("MG", "MG-MDNF"))
    assert numbers(first).endswith(" 10 utterances; MG before a recogniser not fine-tuned for it")
    assert numbers(second).endswith("; MG and MG-MDNF before a recogniser not fine-tuned for them")
    (table,) = tables([none, run("MG", "l2 1.5", ten(50.0, 2))]).values()
    assert numbers(judge(table)[0].parts[0]).endswith(" 10 utterances")


def test_a_recogniser_may_name_the_vocoders_variant_that_it_was_fine_tuned_for() -> None:
    names, vocoders = ("ds2_mg", "ds2_mg_gan", "ds2_wg_gan", "ds2_gan"), ("melgan", "melgan_gan")
    behind = {vocoder: [moved_to(name, "MG", vocoder=vocoder) for name in names] for vocoder in vocoders}
    assert [is_untuned(found) for found in behind["melgan"]] == [False, True, True, True]
    assert [is_untuned(found) for found in behind["melgan_gan"]] == [False, False, True, True]
    control, none = moved_to("ds2_mg_gan"), moved_to("ds2_base")
    ((ground, table),) = tables([control, none, behind["melgan_gan"][1]]).items()
    assert (ground.recogniser, ground.vocoders) == ("ds2", "melgan_gan")
    assert table["none", "l2 1.5", EXACT] is none


def test_other_weights_under_one_name_are_not_compared() -> None:
    none, mg = (
        run(system, "l2 1.5", ten(90.0 + i, i), weights={"ds2": "a"}) for i, system in enumerate(("none", "MG"))
    )
    for found, verdict in ((mg, None), (replace(mg, weights={"ds2": "b"}), MISSING)):
        (table,) = tables([none, found]).values()
        (part,) = judge(table)[0].parts
        assert (part.verdict == MISSING) == (verdict == MISSING)
    assert part.why == "the two have other weights of ds2"


def test_a_longer_run_of_other_weights_hides_none_of_the_same() -> None:
    none = run("none", "benign", ten(10.0, 5) * 2, weights={"ds2": "a"})
    same, other = (run("MG", "benign", ten(20.0, i) * (1 + i), weights={"ds2": name}) for i, name in enumerate("ab"))
    (table,) = tables([none, same]).values()
    table["MG", "another threat", EXACT] = other
    found = _find(Part(("MG", "benign"), ("none", "benign"), None, high=90.0), table, EXACT)
    assert (found.verdict, found.why) == (HOLDS, "")
    assert found.difference is not None
    assert found.difference.utterances == len(same.outcomes) < len(other.outcomes)


def test_a_bound_that_is_met_exactly_is_met() -> None:
    part = CLAIMS[10].parts[0]
    assert (part.low, part.high) == (-2.0, 2.0)
    assert verdict_of(part, Interval(0.0, -0.02, 0.02000000000000018, 64)) == HOLDS
    assert verdict_of(part, Interval(0.0, -0.02, 0.0201, 64)) == UNDECIDED


def test_differences_are_of_the_utterances_that_both_have() -> None:
    none, mg = run("none", "l2 1.5", [90.0] * 12), run("MG", "l2 1.5", [88.0] * 10)
    (table,) = tables([none, mg]).values()
    (part,) = judge(table)[0].parts
    assert part.difference is not None
    assert part.difference.utterances == 10
    apart = replace(mg, outcomes=tuple(replace(o, id=f"v{i}") for i, o in enumerate(mg.outcomes)))
    (table,) = tables([none, apart]).values()
    found = judge(table)[0]
    assert (found.verdict, found.parts[0].why) == (
        MISSING,
        "the two have no utterances in common that can be told apart",
    )


def test_the_papers_numbers_are_those_of_its_baseline() -> None:
    cells = read_baseline(ROOT / "baselines" / "paper.json").cells
    checked = 0
    for claim in CLAIMS:
        four = any("WG" in cell[0] for part in claim.parts for cell in (part.first, part.second))
        for part in claim.parts:
            for cell, number in zip((part.first, part.second), part.paper or (), strict=bool(part.paper)):
                system = SYSTEMS[cell[0]] + ("_100" if four and cell[0] == "none" else "")
                (value,) = cells[f"test_clean/{system}_{THREATS[cell[1]]}"].values.values()
                assert round(100 * value, 1) == number
                checked += 1
    assert checked == 2 * sum(len(c.parts) for c in CLAIMS[:-1])


def test_the_page_is_made_of_the_recorded_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, written = str(ROOT / "results"), ROOT / "docs" / "claims.md"
    assert cli.main(["claims", results, "--check", str(written)]) == 0, capsys.readouterr().err
    (tmp_path / "old.md").write_text("old")
    assert cli.main(["claims", results, "--check", str(tmp_path / "old.md")]) == 1
    assert "--write" in capsys.readouterr().err
    target = tmp_path / "new.md"
    assert cli.main(["claims", results, "--write", str(target), "--json", str(tmp_path / "c.json")]) == 0
    assert target.read_text() == written.read_text()
    content = json.loads((tmp_path / "c.json").read_text())
    grounds = {(g["split"], g["recogniser"]): g["gradients"]["exact"] for g in content["grounds"]}
    assert [claim["claim"] for claim in grounds["human", "ds2"]] == list(range(1, 16))


@pytest.mark.parametrize("content", [None, b"\xd0"])
@pytest.mark.parametrize("command", [["claims", "results/human"], ["report-table"]])
def test_a_page_that_is_no_text_is_named(
    command: list[str],
    content: bytes | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    page = tmp_path / "page.md"
    if content is not None:
        page.write_bytes(content)
    assert cli.main([*command, "--check", str(page)]) == 2
    assert f"{page} is not a readable page" in capsys.readouterr().err


def test_a_page_shows_both_gradients_where_there_are_both() -> None:
    runs = papers_runs()
    block = config("MG-MDNF", "l2 1.5")
    block["model"]["wrapper_kwargs"] = {"gradient": "published"}  # ART's own attack on such an estimator
    runs.append(run("MG-MDNF", "l2 1.5", ten(80.0, 31), config=block))
    grounds = tables(runs)
    text = page(judge_all(grounds), {ground: without_run(table) for ground, table in grounds.items()})
    assert "Verdicts by the exact gradient: holds 15." in text
    assert "Verdicts by the published gradient: does not hold 1, not measured 11." in text
    assert re.search(r"MG, l2 1.5 less MG-MDNF, l2 1.5: 84.\d - 80.\d = 4.\d \[\S+, \S+\], 10 utterances", text)


def test_the_cells_are_those_of_the_papers_tables() -> None:
    assert len(set(CELLS)) == len(CELLS)
    numbers = paper()["tables"]
    there = {
        (row, column)
        for table in numbers.values()
        for row, values in table["rows"].items()
        for column, value in zip(table["columns"], values, strict=True)
        if value is not None
    }
    assert len(CELLS) == len(there) + 2  # 250 and 500 iterations have no number
    for system, threat in CELLS:
        name = f"{SYSTEMS[system]}_{THREATS[threat]}"
        assert (CONFIGS / f"{name}.json").is_file() or (CONFIGS / "librispeech" / f"{name}.json").is_file()


def test_cells_without_a_run_are_named_once() -> None:
    runs = [run(*cell, [10.0] * 2) for cell in CELLS]
    (table,) = tables(runs).values()
    assert without_run(table) == []
    block = config("RS", "l2 1.5")
    block["model"]["wrapper_kwargs"] = {"gradient": "published"}
    some = [run("MG-MDNF", "l2 1.5", [10.0] * 2), run("RS", "l2 1.5", [10.0] * 2, config=block)]
    grounds = tables(some)
    missing = {ground: without_run(table) for ground, table in grounds.items()}
    (cells,) = missing.values()
    assert cells == [cell for cell in CELLS if cell not in (("MG-MDNF", "l2 1.5"), ("RS", "l2 1.5"))]
    text = page(judge_all(grounds), missing)
    assert "Verdicts by the exact gradient: not measured 15." in text
    assert "| claim |" not in text
    assert "- **human, recogniser ds2**, 55 of 57, all but: RS, l2 1.5; MG-MDNF, l2 1.5\n" in text
    runs = [run(*cell, [10.0] * 2) for cell in CELLS[3:]]
    grounds = tables(runs)
    text = page(judge_all(grounds), {ground: without_run(table) for ground, table in grounds.items()})
    named = "; ".join(", ".join(cell) for cell in CELLS[:3])
    assert f"- **human, recogniser ds2**, 3 of 57: {named}\n" in text


def test_an_utterance_that_one_side_lacks_is_left_out_of_both() -> None:
    """Each side lacks another one: as many are left, and they are not each other's."""
    none, mg = run("none", "l2 1.5", [90.0, 80.0, 70.0, 60.0]), run("MG", "l2 1.5", [90.0, 80.0, 70.0, 60.0])
    first = tuple(replace(o, adversarial=None) if i == 1 else o for i, o in enumerate(none.outcomes))
    second = tuple(replace(o, adversarial=None) if i == 2 else o for i, o in enumerate(mg.outcomes))
    (table,) = tables([replace(none, outcomes=first), replace(mg, outcomes=second)]).values()
    (part,) = judge(table)[0].parts
    assert part.difference is not None
    assert (part.difference.utterances, part.difference.value) == (2, 0.0)


def test_the_gradient_is_the_attacks_own_or_that_of_the_estimator_it_asks() -> None:
    """Ours never asks for the estimator's, ART's has none of its own: what else is written changes nothing."""
    ours, arts_by_ours = ("mg_mdnf_pgd_l2_ours.json", "librispeech/mg_mdnf_cw_art.json")
    for block, asks in (
        (config("MG-MDNF", "l2 1.5"), True),
        (json.loads((CONFIGS / ours).read_text()), False),
        (json.loads((CONFIGS / arts_by_ours).read_text()), True),
    ):
        block["model"]["wrapper_kwargs"] = {"gradient": PUBLISHED}
        found = run("MG-MDNF", "l2 1.5", [10.0], config=block)
        placed = role_of(found)
        assert placed is not None
        assert placed[0].gradient == (PUBLISHED if asks else EXACT)
        assert ("published gradient" in threat_of(found).label) is asks
