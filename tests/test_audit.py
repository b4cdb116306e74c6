"""The audit's parts: its arithmetic, the attacks that it tries, and what it says."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_numpy import (
    ProjectedGradientDescentNumpy,
)
from art.defences.preprocessor.preprocessor import Preprocessor
from audit_trials import AUDIO, INDICES, PLAN, REFERENCES, estimator, smoothing, trials

from armory_mdnf.attacks import PGD, CarliniWagner, RandomNoise
from armory_mdnf.attacks.recognizer import Purpose
from armory_mdnf.audit import strength
from armory_mdnf.audit.checks import Options, audit
from armory_mdnf.audit.command import default_draws
from armory_mdnf.audit.differences import check_gradient
from armory_mdnf.audit.findings import FAIL, PASS, SKIP, WARN, Finding
from armory_mdnf.audit.gradients import (
    _agreement,
    _draws,
    check_draws,
    check_published,
    draw_cosine,
    draws_for,
    draws_needed,
    mean_cosine,
)
from armory_mdnf.audit.report import block, verdict
from armory_mdnf.audit.strength import check_headline
from armory_mdnf.audit.trials import EVALUATION, FRESH, OWN, Plan, Trials
from armory_mdnf.audit.views import View
from armory_mdnf.defenses.base import WaveformDefense
from armory_mdnf.errors import AttackError, OptionError, TranscriptError

# Arithmetic.


def test_draws_of_a_mean_that_is_stable() -> None:
    assert draws_for(0.5) == draws_for(0.9) == 1
    assert draws_for(0.05) == 19
    assert draws_for(0.1) == 9
    assert draws_for(0.0) is draws_for(-0.2) is None
    for cosine in (0.02, 0.11, 0.3, 0.49):
        needed = draws_for(cosine)
        assert needed is not None
        assert mean_cosine(cosine, needed) >= 0.5 - 1e-9 > mean_cosine(cosine, needed - 1)


def test_cosines_are_those_of_a_common_part_under_independent_noise() -> None:
    """A signal of power 1 and noise of power 4: draws have cosine 1/5, means of two 1/3, a power ratio of 1/4."""
    torch.manual_seed(0)
    size = 40000
    draws = torch.randn(1, 2, size) + 2 * torch.randn(4, 2, size)
    found = _agreement(draws)
    assert found["cosine"] == pytest.approx(0.2, abs=0.02)
    assert found["cosine_of_means_of_2"] == pytest.approx(1 / 3, abs=0.02)
    assert found["predicted_of_means_of_2"] == pytest.approx(1 / 3, abs=0.02)
    assert found["snr_db_of_means"]["1"] == pytest.approx(10 * np.log10(1 / 4), abs=0.5)
    assert found["snr_db_of_means"]["20"] == pytest.approx(10 * np.log10(20 / 4), abs=0.5)
    assert found["cosine_by_means_of_2"] == pytest.approx(0.2, abs=0.02)
    for cosine in (-0.05, 0.02, 0.3, 1.0):
        assert draw_cosine(mean_cosine(cosine, 2), 2) == pytest.approx(cosine)


def test_draws_of_unlike_power_take_more_of_them() -> None:
    """The largest alone makes a mean: it gains less than the cosine of single draws says, which knows no power."""
    torch.manual_seed(0)
    draws = torch.randn(1, 2, 40000) + 2 * torch.randn(4, 2, 40000)
    alike = _agreement(draws)
    draws[0] *= 10
    unlike = _agreement(draws)
    assert unlike["cosine"] == pytest.approx(alike["cosine"])
    few, many = draws_needed(alike), draws_needed(unlike)
    assert few in (4, 5)
    assert many is not None
    assert many > few
    assert unlike["snr_db_of_means"]["5"] < alike["snr_db_of_means"]["5"]


def test_draws_that_averaging_brings_no_closer_are_never_enough() -> None:
    assert draws_needed({"cosine": 0.2, "cosine_by_means_of_2": -0.01}) is None
    assert draws_needed({"cosine": -0.2, "cosine_by_means_of_2": 0.1}) is None
    assert draws_needed({"cosine": 0.2, "cosine_by_means_of_2": 0.1}) == 9
    assert draws_needed({"cosine": 0.5, "cosine_by_means_of_2": 0.4}) == 1  # as measured


# Attacks.


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "l2", "eps": 0.4, "eps_step": 0.1},
        {"norm": "linf", "eps": 0.01, "step_fraction": 0.3},
        {"norm": "snr", "snr_db": 20.0, "random_start": True, "seed": 4},
        {"norm": "l2", "eps": 0.4, "eot_draws": 2, "gradient": "published"},
    ],
)
def test_its_own_attack_is_that_of_the_configuration(options: dict[str, Any]) -> None:
    model = estimator(smoothing())
    attack = PGD(model, max_iter=3, **options)
    tried = Trials.of(model, AUDIO, REFERENCES, INDICES, Plan.of(attack))
    expected = attack.generate(AUDIO, indices=INDICES)
    for i, u in enumerate(expected):
        np.testing.assert_allclose(tried.own().audio[i, : len(u)], u, atol=1e-3 * np.abs(u - AUDIO[i]).max())


def test_snapshots_are_attacks_of_fewer_steps() -> None:
    tried = trials(plan=replace(PLAN, iterations=6))
    tried.own()
    assert sorted(tried.snapshots) == [1, 2, 3, 4, 6]
    for steps, audio in tried.snapshots.items():
        alone = trials(plan=replace(PLAN, iterations=steps)).own().audio
        torch.testing.assert_close(audio, alone, rtol=0, atol=1e-3 * float((alone - tried.batch.x).abs().max()))


@pytest.mark.parametrize(("choice", "better"), [({"restarts": 2}, 1), ({"keep": "best"}, -1)])
def test_what_an_attack_chooses_in_the_end_is_no_gain_of_its_iterations(
    choice: dict[str, Any], better: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The curve is that of an attack that has nothing to choose among; here the last start, or the first iterate."""
    scores = itertools.count(0, better)
    monkeypatch.setattr(
        "armory_mdnf.attacks.pgd.mean_losses", lambda whole, batch, draws: batch.x.new_full((3,), float(next(scores)))
    )
    plan = replace(PLAN, random_start=True)
    plain, choosing = trials(plan=plan), trials(plan=replace(plan, **choice))
    curves = [strength.check_convergence(tried, (1,), 100).evidence["iterations"] for tried in (plain, choosing)]
    assert not torch.equal(choosing.own().audio, plain.own().audio)
    assert sorted(curves[1]) == ["1", "2", "3"]
    for steps, row in curves[0].items():
        assert curves[1][steps]["loss"] == pytest.approx(row["loss"], rel=1e-4)


def test_batches_do_not_matter() -> None:
    whole, parts = trials(smoothing()), trials(smoothing(), batch_seconds=0.01)
    change = whole.own().audio - whole.batch.x
    torch.testing.assert_close(parts.own().audio, whole.own().audio, rtol=0, atol=1e-3 * float(change.abs().max()))
    torch.testing.assert_close(parts.own().losses, whole.own().losses, rtol=1e-3, atol=1e-3)
    for back in (False, True):
        expected = _draws(whole, "clean", back)
        torch.testing.assert_close(
            _draws(parts, "clean", back), expected, rtol=0, atol=1e-3 * float(expected.abs().max())
        )
    found, expected = (check_gradient(tried).evidence for tried in (parts, whole))
    for where in ("random", "attacked"):
        for name in ("along", "across"):
            assert found[where][name] == pytest.approx(expected[where][name], abs=0.02)


def test_no_check_of_the_gradient_takes_more_at_once_than_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the longest utterance fit; three utterances do not, nor does one with all its directions."""
    bound, taken = 2 * 5200 / 16000, []

    def watched(name: str) -> None:
        real = getattr(View, name)

        def watch(self: View, x: torch.Tensor, *args: Any) -> Any:
            taken.append(x.numel() / 16000)
            return real(self, x, *args)

        monkeypatch.setattr(View, name, watch)

    for name in ("losses", "gradients"):
        watched(name)
    tried = trials(smoothing(), batch_seconds=bound, evaluation_draws=2)
    check_gradient(tried)
    check_draws(tried)
    check_published(tried, tried.plan.iterations)
    assert max(taken) == pytest.approx(bound)


def test_multiples_of_a_bound_and_of_a_step() -> None:
    x = torch.from_numpy(AUDIO[0])[None]
    loud = replace(PLAN, norm="snr", eps=None, snr_db=20.0, bound_times=10.0)
    assert float(loud.geometry().radius(x)) == pytest.approx(float(x.norm()), rel=1e-5)
    assert float(replace(PLAN, bound_times=2.0).geometry().radius(x)) == pytest.approx(0.8)
    assert replace(PLAN, bound_times=2.0, step_times=3.0).descent().step == pytest.approx(0.6)
    relative = replace(PLAN, step=None, bound_times=2.0, step_times=3.0).descent()
    assert relative.step is None
    assert relative.step_fraction == pytest.approx(0.6)


def test_arts_attack_has_the_gradient_of_its_estimator() -> None:
    for gradient in ("exact", "published"):
        model = estimator()
        model.gradient = gradient
        attack = ProjectedGradientDescent(model, norm=2, eps=1.0, eps_step=0.2, max_iter=3)
        assert Plan.of(attack).published == (gradient == "published")


@pytest.mark.parametrize("way", [ProjectedGradientDescent, ProjectedGradientDescentNumpy])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 0.9}, "expected decay None in a PGD of ART's to audit, found 0.9"),
        ({"random_eps": True}, "expected random_eps False in a PGD of ART's to audit, found True"),
        ({"norm": 1}, "expected norm 2 or inf in a PGD of ART's to audit, found 1"),
        ({"num_random_init": 2}, "expected num_random_init 0 in a PGD of ART's to audit, found 2"),
        ({"eps": np.array([1.0]), "eps_step": np.array([0.2])}, "expected eps one number in a PGD"),
    ],
)
def test_an_option_of_arts_attack_that_is_not_audited_is_refused_by_name(
    way: Any, options: dict[str, Any], message: str
) -> None:
    plain = {"norm": 2, "eps": 1.0, "eps_step": 0.2, "max_iter": 3, "verbose": False}
    with pytest.raises(OptionError, match=f"^{re.escape(message)}"):
        Plan.of(way(estimator(), **plain | options))


def test_what_is_no_untargeted_pgd_is_refused() -> None:
    model = estimator()
    for attack in (CarliniWagner(model), RandomNoise(model, eps=1.0), PGD(model, eps=1.0, targeted=True)):
        with pytest.raises(OptionError, match=f"expected an untargeted PGD to audit, found.*{type(attack).__name__}"):
            Plan.of(attack)
    with pytest.raises(OptionError, match="at least one iteration"):
        Plan.of(PGD(model, eps=1.0, max_iter=0))
    assert Plan.of(PGD(model, eps=1.0, max_iter=9), 4).iterations == 4
    assert Plan.of(PGD(model, eps=1.0, max_iter=9), 40).iterations == 9


class _Mine(PGD):
    """Does what it likes."""

    def attack(self, batch: Any) -> Any:
        return batch.x


def test_what_derives_from_a_pgd_is_not_audited_as_one() -> None:
    with pytest.raises(OptionError, match="found _Mine, which may do something else than the PGD"):
        Plan.of(_Mine(estimator(), eps=1.0))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_bound_of_zero_is_refused(norm: str) -> None:
    with pytest.raises(OptionError, match=r"expected a bound above 0 to audit, found eps 0\.0"):
        Plan.of(PGD(estimator(), norm=norm, eps=0.0))


def test_references_without_a_word_are_refused() -> None:
    with pytest.raises(TranscriptError, match="expected references with at least one word, got 3 without"):
        Trials.of(estimator(), AUDIO, ["", " ", ""], INDICES, PLAN)
    assert Trials.of(estimator(), AUDIO, ["", " ", "A"], INDICES, PLAN).benign().rate > 0


def test_a_bound_that_leaves_the_audio_as_it_is_says_nothing_of_the_gradient() -> None:
    """Silence under a bound of its own power, and a bound that no sample resolves."""
    silence, loud = replace(PLAN, norm="snr", eps=None, snr_db=20.0), replace(PLAN, eps=1e-30)
    for audio, plan in (([0 * u for u in AUDIO], silence), ([0.5 + 0 * u for u in AUDIO], loud)):
        found = check_gradient(Trials.of(estimator(), audio, REFERENCES, INDICES, plan))
        assert found.verdict == SKIP, found.statement
        assert found.statement.count("there is nothing to see") == 2


def test_the_worst_case_is_per_utterance_and_inside_the_bound() -> None:
    tried = trials()
    own, benign = tried.own(), tried.benign()
    beyond = tried.attack("beyond", replace(PLAN, bound_times=10.0))
    found = check_headline(tried)
    assert found.evidence["attempts"] == 2
    chosen = found.evidence["by_utterance"]
    assert set(chosen.values()) <= {OWN, "benign"}
    expected = sum(max(a.errors, b.errors) for a, b in zip(own.counts, benign.counts, strict=True))
    assert found.evidence["worst_case"]["value"] == pytest.approx(100 * expected / 5, abs=0.01)  # of five words
    assert not beyond.within


def test_no_draw_that_judges_has_been_seen_by_an_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by its gradients nor by its choice among iterates and restarts."""
    seen: set[Any] = set()

    def watch(self: View, name: str, x: torch.Tensor, *args: Any) -> Any:
        seen.update(key for keys in args for key in keys if isinstance(key, tuple))
        return real[name](self, x, *args)

    real = {name: getattr(View, name) for name in ("losses", "gradients", "transcribe")}
    for name in real:
        monkeypatch.setattr(View, name, lambda self, x, *args, name=name: watch(self, name, x, *args))
    plan = replace(PLAN, keep="best", selection_draws=3, random_start=True, restarts=2)
    tried = trials(smoothing(), plan=plan)
    audio, _ = tried.run(tried.plan)
    by_attack = set(seen)
    assert {key[1] for key in by_attack} >= {Purpose.ATTACK, Purpose.SELECTION}
    for purpose in (EVALUATION, FRESH):
        seen.clear()
        tried.judge(audio, purpose=purpose)
        assert len(seen) == len(AUDIO) * tried.evaluation_draws
        assert not seen & by_attack
        by_attack |= seen


def test_a_defence_that_averages_its_passes_has_had_its_draws() -> None:
    assert trials().evaluations == 1
    assert trials(smoothing(), evaluation_draws=3).evaluations == 2


# The whole.


def test_an_attack_that_breaks_down_fails_its_check(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = trials()

    def broken() -> None:
        raise AttackError("the loss gradient of utterance 7 is not finite at step 0")

    monkeypatch.setattr(tried, "own", broken)
    (found,) = audit(tried, Options(), ["convergence"])
    assert found.verdict == FAIL
    assert "utterance 7 is not finite" in found.statement
    with pytest.raises(OptionError, match="unknown check 'heading'"):
        list(audit(tried, Options(), ["heading"]))


def test_a_gradient_that_is_not_finite_at_some_draws_fails_its_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = trials(smoothing())
    real, calls = tried.gradient, itertools.count(1)
    monkeypatch.setattr(tried, "gradient", lambda *given: real(*given) * (np.nan if next(calls) % 2 else 1))
    for found in audit(tried, Options(), ["draws", "published"]):
        assert found.verdict == FAIL
        assert found.statement == (
            "The attack broke down: the loss gradient is not finite at some draws of the noise, at the clean audio."
        )


def test_the_worst_of_one_attack_is_no_worst_case() -> None:
    (found,) = audit(trials(), Options(), ["headline"])
    assert (found.verdict, found.statement) == (SKIP, "No other attack was tried.")
    assert [f.verdict for f in audit(trials(), Options(), ["steps", "headline"])][1] in (PASS, WARN)


class _Loud(WaveformDefense):
    """Divides by zero where the audio is louder than it was clean."""

    def __init__(self) -> None:
        super().__init__(0, False, True, "cpu")

    def defend(self, x: torch.Tensor, lengths: torch.Tensor, streams: Any) -> torch.Tensor:
        loud = x.abs().amax(1, keepdim=True) > max(float(np.abs(u).max()) for u in AUDIO) + 1e-6
        return x / (~loud)


class _LoudThroughArt(Preprocessor):
    """Gives a sample less there."""

    def __init__(self) -> None:
        super().__init__(is_fitted=True, apply_fit=False, apply_predict=True)

    def __call__(self, x: Any, y: Any = None) -> tuple[Any, Any]:
        return (x if np.abs(x).max() <= max(float(np.abs(u).max()) for u in AUDIO) + 1e-6 else x[:, 1:]), y


@pytest.mark.parametrize(
    ("defence", "problem"),
    [(_Loud(), "_Loud: expected finite samples, got"), (_LoudThroughArt(), "_LoudThroughArt: expected 5200 samples")],
)
def test_a_defence_that_breaks_down_fails_its_checks_and_the_others_are_made(defence: Any, problem: str) -> None:
    tried = trials(defence, plan=replace(PLAN, eps=20.0, step=10.0))
    found = {f.check: f for f in audit(tried, Options(), ["convergence", "draws", "adaptive", "headline"])}
    assert {name: f.verdict for name, f in found.items()} == {
        "draws": SKIP,
        **dict.fromkeys(("convergence", "adaptive", "headline"), FAIL),
    }
    assert found["convergence"].statement.startswith(f"The defended recogniser broke down: {problem}")


def test_the_text_has_verdicts_evidence_and_advice() -> None:
    found = [
        Finding(
            "draws", WARN, "Two draws differ.", {"gain_of_two": {"value": 1.5, "low": -1.0, "high": 3.0}}, "Average."
        ),
        Finding("published", SKIP, "No noise.", {}),
        Finding("budget", PASS, "It bites.", {"falls": {}, "ceiling_wer": 99.5, "way": None}),
    ]
    said = "\n".join([*(block(k, one) for k, one in enumerate(found, 1)), verdict(found)])
    for part in (
        "1. draws: WARN. Two draws differ.",
        "gain of two: 1.5 [-1, 3]",
        "To do: Average.",
        "2. published: SKIP. No noise.",
        "falls: none",
        "ceiling wer: 99.5",
        "way: none",
        "Verdict: WARN (1 warn, 1 pass)",
    ):
        assert part in said
    assert max(map(len, said.splitlines())) <= 100


@pytest.mark.parametrize("draws", [(1,), (1, 2)])
def test_fewer_draws_than_its_own_are_no_verdict_on_more(draws: tuple[int, ...]) -> None:
    found = strength.check_convergence(trials(smoothing(), plan=replace(PLAN, draws=2, iterations=1)), draws, 1)
    assert found.verdict == SKIP
    assert found.statement == "Whether more draws than its 2 gain was not tried."
    assert "--draws" in found.advice
    assert "gain_of_most_draws" not in found.evidence
    assert set(found.evidence["draws"]) == {"1", "2"}


def test_more_draws_than_its_own_are_compared_with_them() -> None:
    found = strength.check_convergence(trials(smoothing(), plan=replace(PLAN, draws=2, iterations=1)), (1, 4), 1)
    assert found.verdict in (PASS, WARN, FAIL)
    assert found.statement.startswith("From 2 to 4 draws it changes by")


def test_by_default_more_draws_than_its_own_are_tried() -> None:
    assert [default_draws(own) for own in (1, 2, 5, 20)] == [(1, 5), (1, 5), (1, 10), (1, 40)]
