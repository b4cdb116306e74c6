"""What the audit makes of differences: few utterances, few iterations, and what equal attacks come to by chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from audit_trials import PLAN, smoothing, trials

from armory_mdnf.audit import gradients, strength
from armory_mdnf.audit.findings import (
    COMPARISONS,
    FAIL,
    PASS,
    SKIP,
    VERDICTS,
    WARN,
    Finding,
    gain_of,
    judge_gain,
    judge_wins,
    worst,
)
from armory_mdnf.audit.trials import OWN, Attempt, Trials
from armory_mdnf.metrics import intervals
from armory_mdnf.metrics.intervals import FEWEST, Interval
from armory_mdnf.metrics.wer import WordCounts

WORDS = 20  # of each reference
VARIED = [f"step x {times:g}, {start} start" for times in strength.STEPS for start in ("its", "another")]
TRIED = [OWN, *VARIED, "identity backward", "from no defence", "without its noise", strength.ANOTHER_SEED]


def attempt(errors: Sequence[int], losses: Sequence[float] | None = None) -> Attempt:
    """An attempt at utterances of so many words, with so many errors each."""
    of_each = [0.0] * len(errors) if losses is None else list(losses)
    counts = tuple(WordCounts.of(n, WORDS) for n in errors)
    return Attempt(torch.zeros(len(errors), 1), counts, torch.tensor(of_each))


# Arithmetic.


def test_verdicts_have_an_order_and_gains_a_threshold() -> None:
    assert worst([PASS, SKIP, WARN]) == WARN
    assert worst([SKIP, PASS]) == PASS
    assert worst([]) == SKIP
    assert [worst([v, FAIL]) for v in VERDICTS] == [FAIL] * 4
    assert judge_gain(Interval(0.02, 0.01, 0.03, FEWEST)) == FAIL
    assert judge_gain(Interval(0.2, 0.0, 0.4, FEWEST)) == WARN
    assert judge_gain(Interval(0.04, -0.1, 0.2, FEWEST)) == PASS
    assert judge_gain(Interval(0.2, None, None, 1)) == WARN


def test_few_utterances_and_intervals_of_no_width_are_a_warning_at_most() -> None:
    assert judge_gain(Interval(0.02, 0.01, 0.03, FEWEST - 1)) == WARN
    for utterances in (2, 5, FEWEST, 50):  # of six words each, one more of them wrong in every utterance
        gain = gain_of([WordCounts.of(3, 6)] * utterances, [WordCounts.of(2, 6)] * utterances)
        assert (gain.low, gain.high) == pytest.approx((1 / 6, 1 / 6))
        assert judge_gain(gain) == WARN


def test_losses_are_judged_by_their_signs() -> None:
    assert judge_wins(FEWEST, FEWEST) == FAIL
    assert judge_wins(FEWEST - 1, FEWEST - 1) == WARN
    assert judge_wins(FEWEST - 1, FEWEST) == PASS
    assert [judge_wins(wins, 50) for wins in (25, 35, 36, 40, 50)] == [PASS, PASS, FAIL, FAIL, FAIL]
    assert judge_wins(14, 16) == PASS
    assert judge_wins(15, 16) == FAIL


# Chance.


@pytest.mark.parametrize("utterances", [2, 3, FEWEST, 16])
def test_equal_attacks_fail_few_audits(utterances: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most one in twenty of those that judge as many differences as an audit, some of them the best of six."""
    monkeypatch.setattr(intervals, "RESAMPLES", 499)
    chance, words = np.random.default_rng(0), COMPARISONS - 3  # three are of losses

    def audited() -> str:
        rates = chance.uniform(0.5, 0.95, utterances)
        own, *others = ([WordCounts.of(int(n), 24) for n in chance.binomial(24, rates)] for _ in range(1 + words))
        steps = max(others[:5], key=lambda counts: sum(n.errors for n in counts))
        return worst([judge_gain(gain_of(counts, own)) for counts in (steps, *others[5:])])

    audits = 100 if utterances >= FEWEST else 20
    assert [audited() for _ in range(audits)].count(FAIL) <= audits * (0.05 if utterances >= FEWEST else 0)


@pytest.mark.parametrize("utterances", [2, 4, FEWEST, 50])
def test_equal_losses_fail_few_audits(utterances: int) -> None:
    """Of the three ways past a defence, whose losses are as high as the white box's but for luck."""
    audits, chance = 4000, np.random.default_rng(0)
    losses = chance.lognormal(sigma=0.5, size=(audits, 4, utterances))
    wins = (losses[:, 1:] > strength.HIGHER * losses[:, :1]).sum(2)
    failed = np.isin(wins, [k for k in range(utterances + 1) if judge_wins(k, utterances) == FAIL]).any(1)
    assert failed.mean() <= 0.025


def test_losses_that_are_higher_are_found_by_many_utterances() -> None:
    chance = np.random.default_rng(0)
    own, other = np.exp(chance.normal(scale=0.5, size=(2, 200, 50)))
    wins = (1.65 * other > strength.HIGHER * own).sum(1)
    assert np.mean([judge_wins(int(k), 50) == FAIL for k in wins]) > 0.4


# Checks.


@pytest.mark.parametrize(
    ("own", "noise", "whole", "part"),
    [
        ((18, 18, 18), (3, 2, 2), PASS, PASS),
        ((2, 2, 2), (3, 2, 2), WARN, WARN),  # a word more by noise, which may be chance
        ((2, 2, 2), (2, 2, 2), WARN, WARN),
        ((1, 2, 2), (0, 0, 0), WARN, WARN),  # both do less than nothing
        ((4, 4, 4), (14, 14, 14), WARN, WARN),  # by as much everywhere: nothing says how much elsewhere
        ((4, 4, 4), (15, 14, 13), FAIL, WARN),
    ],
)
def test_noise_that_clearly_does_more_than_the_attack_fails_the_budget(
    own: Sequence[int], noise: Sequence[int], whole: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else is amiss: it rises with the bound, to the ceiling. Each case is of four times as many utterances."""
    monkeypatch.setattr(strength, "_ceiling", lambda trials: 1.0)
    known = {"benign": (2, 2, 2), "noise": noise, OWN: own, "bound x 0.5": own}
    known |= {"bound x 2": (18, 18, 18), "bound x 10": (20, 20, 20)}
    tried = trials()
    tried.attempts |= {name: attempt([*errors] * 4) for name, errors in known.items()}
    for asked, expected in ((PLAN.iterations, whole), (PLAN.iterations + 1, part)):
        found = strength.check_budget(tried, asked)
        assert found.verdict == expected
        assert ("--iterations" in found.advice) is (expected != PASS and asked > PLAN.iterations)


@pytest.mark.parametrize(
    ("module", "iterations", "check", "published"),
    [
        (strength, 3, strength.check_steps, False),
        (strength, 3, strength.check_adaptive, False),
        (strength, 1, lambda tried, asked: strength.check_convergence(tried, (1, 4), asked), False),
        (gradients, 3, gradients.check_published, False),
        (gradients, 3, gradients.check_published, True),
    ],
    ids=["steps", "adaptive", "draws", "published better", "exact better"],
)
def test_what_may_make_up_for_iterations_is_a_warning(
    module: Any,
    iterations: int,
    check: Callable[[Trials, int], Finding],
    published: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Longer steps, a mean of more draws and attacks without noise get farther in a few iterations than in many."""
    monkeypatch.setattr(module, "judge_gain", lambda gain: FAIL)
    tried = trials(smoothing(), plan=replace(PLAN, iterations=iterations, published=published))
    whole, part = (check(tried, asked) for asked in (iterations, iterations + 1))
    assert (whole.verdict, part.verdict) == (FAIL, WARN)
    if module is strength and iterations > 1:
        assert "--iterations" in part.advice
        assert "--iterations" not in whole.advice


@pytest.mark.parametrize(
    ("better", "verdict"),
    [({}, FAIL), ({"step x 2, its start": (4, 13.0)}, PASS), ({"step x 1, another start": (2, 12.0)}, PASS)],
    ids=["none", "another step", "another start, in loss alone"],
)
def test_a_gradient_that_does_as_well_by_another_step_is_not_masked(
    better: dict[str, tuple[int, float]], verdict: str
) -> None:
    """Audio made on the undefended recogniser has 1.2 times the loss of the white box's own, in each of ten."""
    tried = trials(smoothing())
    known = dict.fromkeys(TRIED, (2, 10.0)) | {"from no defence": (2, 12.0)} | better
    tried.attempts |= {name: attempt([errors] * 10, [loss] * 10) for name, (errors, loss) in known.items()}
    found = strength.check_adaptive(tried, tried.plan.iterations)
    assert found.verdict == verdict
    assert found.evidence["from no defence"]["wins"] == (10 if verdict == FAIL else 0)
    assert strength.check_adaptive(tried, tried.plan.iterations + 1).verdict == (WARN if verdict == FAIL else PASS)


def test_nine_utterances_are_too_few_to_call_a_gradient_masked() -> None:
    tried = trials(smoothing())
    for utterances, expected in ((FEWEST - 1, WARN), (FEWEST, FAIL)):
        tried.attempts = {name: attempt([2] * utterances, [1.0] * utterances) for name in TRIED}
        tried.attempts["from no defence"] = attempt([2] * utterances, [1.2] * utterances)
        assert strength.check_adaptive(tried, PLAN.iterations).verdict == expected


def test_utterances_that_all_came_out_alike_measure_no_step() -> None:
    tried = trials()
    tried.attempts = {name: attempt([10] * 3) for name in TRIED}
    tried.attempts["step x 2, its start"] = attempt([10, 10, 11])
    found = strength.check_steps(tried, PLAN.iterations)
    assert found.evidence["gain_of_best"]["value"] == pytest.approx(100 / 60, abs=0.01)
    assert found.evidence["width_of_interval"] is None
    assert found.verdict == PASS


def test_the_headline_is_judged_by_its_paired_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten points in three utterances, whose intervals alone are far wider."""
    tried = trials()
    own, other = attempt((2, 18, 10)), attempt((4, 20, 12))
    tried.attempts |= {OWN: own, "other": other}
    judged = iter((other, own))
    monkeypatch.setattr(tried, "judge", lambda audio, purpose: next(judged))
    found = strength.check_headline(tried)
    assert found.evidence["gain"]["value"] == pytest.approx(10)
    assert found.verdict == WARN
