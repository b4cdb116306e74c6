"""Checks of the attack: that it has converged, that its bound bites, and that no other attack does better."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from armory_mdnf.audio.noise import normal, stream
from armory_mdnf.audit import views
from armory_mdnf.audit.findings import (
    FAIL,
    PASS,
    SKIP,
    VERDICTS,
    WARN,
    Finding,
    gain_of,
    judge_gain,
    judge_wins,
    of_part,
    points,
    worst,
)
from armory_mdnf.audit.trials import FRESH, OWN, Attempt, Trials
from armory_mdnf.audit.views import View
from armory_mdnf.metrics.intervals import ROUNDING, Interval, wer_interval

# Multiples of the bound and of the step. The largest bound has to bring the recogniser down, whatever defends it.
BOUNDS = (0.5, 2.0, 10.0)
STEPS = (0.5, 1.0, 2.0)
ANOTHER_SEED = "another seed"
# Of the ceiling, or of what the attack does, as a fraction.
NEARLY, HARDLY = 0.95, 0.5
FAR_LESS = 0.5
# How many times the loss of the white box another's must be in an utterance to win there.
HIGHER = 1.1


def check_convergence(trials: Trials, draws: Sequence[int], asked: int) -> Finding:
    """Word error rate and loss against iterations, and against the draws of the mean gradient.

    ``draws``: of EOT attacks to try beside the configuration's own; a verdict on them takes one with more than that.
    ``asked``: the configuration's iterations, of which the audit may take fewer.
    """
    plan = trials.plan
    own = trials.own()
    # The first start alone: what restarts or the choice of an iterate gain, more iterations need not.
    curve = {steps: own if torch.equal(x, own.audio) else trials.judge(x) for steps, x in trials.snapshots.items()}
    steps = sorted(curve)
    evidence: dict[str, Any] = {"iterations": {str(k): _row(curve[k]) for k in steps}, "iterations_asked": asked}
    verdicts, said, advice = [], [], []
    if len(steps) > 1:
        last, before = plan.iterations, plan.iterations // 2
        gain = gain_of(curve[last].counts, curve[before].counts)
        evidence["gain_of_last_doubling"] = points(gain)
        verdict = judge_gain(gain)
        verdicts.append(of_part(verdict, last, asked))
        said.append(f"from {before} to {last} iterations the word error rate changes by {100 * gain.value:+.1f} points")
        if verdict != PASS:
            advice.append("take more iterations" + (" (--iterations)" if last < asked else ""))
    tried = {plan.draws: own}
    if trials.stochastic:
        for k in draws:
            tried[k] = own if k == plan.draws else trials.attack(f"{k} draws", replace(plan, draws=k))
        evidence["draws"] = {str(k): _row(tried[k]) for k in sorted(tried)}
    most = max(tried)
    if most > plan.draws:
        gain = gain_of(tried[most].counts, own.counts)
        evidence["gain_of_most_draws"] = points(gain)
        verdicts.append(of_part(judge_gain(gain), plan.iterations, asked))
        said.append(f"from {plan.draws} to {most} draws it changes by {100 * gain.value:+.1f} points")
        if verdicts[-1] != PASS:
            advice.append(f"attack with the mean of {most} draws or more")
    elif trials.stochastic:
        said.append(f"whether more draws than its {plan.draws} gain was not tried")
        advice.append(f"give --draws a number above {plan.draws}")
    statement = _sentences(said) or "One iteration of one draw: nothing to compare."
    return Finding("convergence", worst(verdicts), statement, evidence, _sentences(advice))


def check_budget(trials: Trials, asked: int) -> Finding:
    """Word error rate against the bound, which rises to the ceiling; and white noise as large as the attack.

    ``asked``: the configuration's iterations, of which the audit may take fewer.
    """
    plan, own, benign = trials.plan, trials.own(), trials.benign()
    tried: dict[float, Attempt] = {0.0: benign, 1.0: own}
    for times in BOUNDS:
        tried[times] = trials.attack(f"bound x {times:g}", replace(plan, bound_times=times))
    noise = trials.add("noise", trials.noise)
    ceiling = _ceiling(trials)
    order = sorted(tried)
    falls = {
        f"{low:g} to {high:g}": gain_of(tried[low].counts, tried[high].counts)
        for low, high in itertools.pairwise(order)
    }
    by_noise = gain_of(noise.counts, own.counts)
    evidence: dict[str, Any] = {
        "bound": {f"{times:g}": _row(tried[times]) for times in order},
        "falls": {name: points(fall) for name, fall in falls.items() if fall.value > 0},
        "noise_wer": _percent(noise.rate),
        "noise_less_own": points(by_noise),
        "ceiling_wer": _percent(ceiling),
    }
    top = tried[order[-1]].rate
    effect = own.rate - benign.rate
    hardly = effect <= 0 or noise.rate - benign.rate > FAR_LESS * effect
    verdicts = [worst([judge_gain(fall) for fall in falls.values()])]
    advice = []
    if verdicts[0] != PASS:
        advice.append("a larger bound does less: the attack loses its way, so try other steps and starts (check 7)")
    verdicts.append(PASS if top >= NEARLY * ceiling else WARN if top >= HARDLY * ceiling else FAIL)
    if verdicts[-1] != PASS:
        advice.append(
            f"at {order[-1]:g} times the bound the recogniser still understands: take more iterations, and if they do "
            "not bring it down its gradient is masked"
        )
    verdicts.append(worst([judge_gain(by_noise), WARN if hardly else PASS]))
    if verdicts[-1] != PASS:
        advice.append("white noise of this size does nearly as much: what was measured is robustness to noise")
    verdict = of_part(worst(verdicts), plan.iterations, asked)
    if verdict != PASS and plan.iterations < asked:
        advice.append("first take all iterations (--iterations)")
    statement = (
        f"The word error rate is {100 * benign.rate:.1f} % without an attack, {100 * noise.rate:.1f} under white "
        f"noise, {100 * own.rate:.1f} under the attack, {100 * top:.1f} at {order[-1]:g} times its bound."
    )
    return Finding("budget", verdict, statement, evidence, _sentences(advice))


def check_adaptive(trials: Trials, asked: int) -> Finding:
    """Attacks past the defence: its backward pass as the identity, and audio made for other recognisers.

    They are held against the best that the white box does with any of its steps and starts: a gradient that does as
    well with another step is not masked. ``asked``: the configuration's iterations, of which the audit may take fewer,
    which favours attacks without noise, for they converge in fewer.
    """
    name = "adaptive"
    if not trials.defended:
        return Finding(name, SKIP, "Nothing stands in front of the recogniser.", {})
    plan, own, varied = trials.plan, trials.own(), _steps_and_starts(trials).values()
    in_words, in_loss = max(varied, key=lambda attempt: attempt.rate), max(varied, key=_loss)
    ways: dict[str, View | None] = {
        "identity backward": views.straight_through(trials.white_box),
        "from no defence": views.undefended(trials.white_box),
    }
    if trials.stochastic:
        ways["without its noise"] = views.without_noise(trials.white_box)
        ways[ANOTHER_SEED] = views.reseeded(trials.white_box)
    gains: dict[str, Interval] = {}
    judged: dict[str, str] = {}
    white_box = {"wer": _percent(in_words.rate), "loss": _row(in_loss)["loss"]}
    evidence: dict[str, Any] = {"own_wer": _percent(own.rate), "best_white_box": white_box}
    for way, view in ways.items():
        if view is None:
            evidence[way] = None
            continue
        attempt = trials.attack(way, plan, view)
        if way == ANOTHER_SEED:  # the same attack once more: it tells how much of a difference is chance
            evidence[way] = _row(attempt) | {"gain": points(gain_of(attempt.counts, own.counts))}
            continue
        gains[way] = gain_of(attempt.counts, in_words.counts)
        # The loss is what an attack climbs, and tells more than the words of a few utterances.
        wins = int((attempt.losses > HIGHER * in_loss.losses).sum())
        evidence[way] = _row(attempt) | {"gain": points(gains[way]), "wins": wins}
        judged[way] = worst([judge_gain(gains[way]), judge_wins(wins, len(own.counts))])
    verdict = of_part(worst(list(judged.values())), plan.iterations, asked)
    best = max(judged, key=lambda way: (VERDICTS.index(judged[way]), gains[way].value, _loss(trials.attempts[way])))
    reached = trials.attempts[best]
    statement = (
        f"The best of the white box's steps and starts reaches {100 * in_words.rate:.1f} % and a mean loss of "
        f"{_loss(in_loss):.1f}; of those that go past the defence the best, {best}, {100 * reached.rate:.1f} % and "
        f"{_loss(reached):.1f}."
    )
    if verdict == PASS:
        return Finding(name, verdict, statement, evidence)
    advice = f"An attack that knows less does better ({best}): report the better one. "
    if verdict == FAIL:
        advice += "The gradient is masked."
    elif plan.iterations < asked:
        advice += "With all iterations (--iterations) the white box may catch up."
    else:
        advice += "It may be chance: more utterances (--utterances) tell."
    return Finding(name, verdict, statement, evidence, advice)


def check_steps(trials: Trials, asked: int) -> Finding:
    """Other steps and another start change the word error rate by less than its interval.

    ``asked``: the configuration's iterations, of which the audit may take fewer.
    """
    plan, own, rows = trials.plan, trials.own(), _steps_and_starts(trials)
    interval = wer_interval(own.counts)
    rates = [attempt.rate for attempt in rows.values()]
    width = None if interval.low is None or interval.high is None else interval.high - interval.low
    if width is not None and width <= ROUNDING:  # utterances that came out alike, by which nothing can be measured
        width = None
    best = max(rows, key=lambda name: rows[name].rate)
    gain = gain_of(rows[best].counts, own.counts)
    evidence = {
        "tried": {name: _row(attempt) for name, attempt in rows.items()},
        "spread": _percent(max(rates) - min(rates)),
        "width_of_interval": None if width is None else _percent(width),
        "gain_of_best": points(gain),
    }
    verdict = of_part(judge_gain(gain), plan.iterations, asked)
    if width is not None and max(rates) - own.rate > width:
        verdict = worst([verdict, WARN])
    statement = (
        f"Over {len(rows)} pairs of step and start the word error rate runs from {100 * min(rates):.1f} to "
        f"{100 * max(rates):.1f} %; the attack's own is {100 * own.rate:.1f} %."
    )
    advice = f"The result depends on the step or the start: attack with the best of them ({best}), or with restarts."
    if plan.iterations < asked:
        advice += " With all iterations (--iterations) the steps may do alike."
    return Finding("steps", verdict, statement, evidence, "" if verdict == PASS else advice)


def check_headline(trials: Trials) -> Finding:
    """The worst that anything tried does to each utterance, inside the bound, next to the attack's own.

    Which attempt is the worst is chosen by the draws that judged it; what it does is told by others.
    """
    own = trials.own()
    within = {name: attempt for name, attempt in trials.attempts.items() if attempt.within}
    if within.keys() == {OWN}:
        more = "Make other checks before it, steps at least (--only steps,headline)."
        return Finding("headline", SKIP, "No other attack was tried.", {}, more)
    chosen = [
        max(within, key=lambda name: (within[name].counts[i].errors, name == OWN)) for i in range(len(own.counts))
    ]
    audio = torch.stack([within[name].audio[i] for i, name in enumerate(chosen)])
    found = trials.judge(audio, purpose=FRESH)
    alone = trials.judge(own.audio, purpose=FRESH)
    worst_case, reached = wer_interval(found.counts), wer_interval(alone.counts)
    gain = gain_of(found.counts, alone.counts)
    evidence = {
        "worst_case": points(worst_case),
        "own": points(reached),
        "gain": points(gain),
        "attempts": len(within),
        "by_utterance": {str(index): name for index, name in zip(trials.batch.indices, chosen, strict=True)},
    }
    statement = (
        f"The worst of {len(within)} attempts per utterance has a word error rate of {worst_case.percent()} %; the "
        f"configuration's attack has {reached.percent()} %."
    )
    # Paired, by the same rule as elsewhere: the fewer the utterances, the wider the intervals of either alone. Never a
    # failure, for the worst of many is nearly always worse.
    verdict = PASS if judge_gain(gain) == PASS else WARN
    advice = "The configuration understates what an attacker reaches: report the worst case as the defence's result."
    return Finding("headline", verdict, statement, evidence, "" if verdict == PASS else advice)


def _steps_and_starts(trials: Trials) -> dict[str, Attempt]:
    """The configuration's attack with each of :data:`STEPS` from its start and from another; itself among them."""
    plan, rows = trials.plan, {}
    # The second start of an attack that starts at random is another random one.
    starts = {"its start": plan, "another start": replace(plan, random_start=True, seed=plan.seed + plan.random_start)}
    for start, placed in starts.items():
        for times in STEPS:
            name, varied = f"step x {times:g}, {start}", replace(placed, step_times=times)
            rows[name] = trials.own() if varied == plan else trials.attack(name, varied)
    return rows


def _ceiling(trials: Trials) -> float:
    """Word error rate, at most 1, where noise of each utterance's own power stands in its place."""
    batch = trials.batch
    streams = [stream(trials.plan.seed, index, 2) for index in batch.indices]
    noise = normal(streams, batch.lengths.tolist(), batch.x)
    silent = torch.finfo(noise.dtype).tiny
    noise = noise * (batch.x.norm(dim=1) / noise.norm(dim=1).clamp(min=silent))[:, None]
    return min(1.0, trials.judge(trials.white_box.clipped(noise)).rate)


def _row(attempt: Attempt) -> dict[str, Any]:
    loss = _loss(attempt)
    return {"wer": _percent(attempt.rate), "loss": round(loss, 4) if math.isfinite(loss) else None}


def _loss(attempt: Attempt) -> float:
    return float(attempt.losses.mean())


def _percent(rate: float) -> float:
    return round(100 * rate, 2)


def _sentences(parts: Sequence[str]) -> str:
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in parts)
