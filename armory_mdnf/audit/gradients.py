"""Checks of what draws of the noise do to the gradient: how far they agree, and what the published one is worth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from armory_mdnf.attacks.recognizer import Purpose
from armory_mdnf.audit.findings import (
    FAIL,
    NOTABLE,
    PASS,
    SKIP,
    WARN,
    Finding,
    gain_of,
    judge_gain,
    of_part,
    points,
    worst,
)
from armory_mdnf.audit.trials import Trials
from armory_mdnf.errors import AttackError

# Draws behind the cosines, and the largest mean that an attack can afford (EOT 20 of the paper's grid).
DRAWS, HALF = 4, 2
PLACES = ("clean", "attacked")
AFFORDABLE = 20
STABLE = 0.5


def check_draws(trials: Trials) -> Finding:
    """What draws of the noise have in common: cosines of their gradients, and the draws that a stable mean takes."""
    name = "draws"
    if (silent := _without_noise(trials, name, "Nothing in front of the recogniser draws noise.")) is not None:
        return silent
    found = {where: _agreement(_draws(trials, where)) for where in PLACES}
    # Most of an attack's steps are taken where it ends up; clean audio is one step, at which the loss may be flat.
    cosine = found["attacked"]["cosine"]
    needed = draws_needed(found["attacked"])
    evidence: dict[str, Any] = {**found, "draws_of_the_attack": trials.plan.draws, "draws_for_half": needed}
    said = "no number of draws makes" if needed is None else "one draw makes" if needed == 1 else f"{needed} draws make"
    statement = (
        f"Gradients of two draws have cosine {found['clean']['cosine']:.2f} at the clean audio and {cosine:.2f} at the "
        f"attacked; there {said} two independent means reach {STABLE:g}, and the attack takes {trials.plan.draws}."
    )
    if needed is not None and needed <= trials.plan.draws:
        return Finding(name, PASS, statement, evidence)
    if needed is not None and needed <= AFFORDABLE:
        return Finding(name, WARN, statement, evidence, f"Attack with the mean of {needed} draws or more (eot_draws).")
    advice = (
        "One draw's gradient says next to nothing of another's: no affordable mean has a stable direction. Take as "
        "many draws and iterations as can be had, and call the result an upper bound of the defence's worth."
    )
    return Finding(name, FAIL, statement, evidence, advice)


def check_published(trials: Trials, asked: int) -> Finding:
    """The published gradient, of two draws, against the exact one: their cosine, and what each attack reaches.

    ``asked``: the configuration's iterations, of which the audit may take fewer.
    """
    name = "published"
    if (silent := _without_noise(trials, name, "Without noise the published gradient is the exact one.")) is not None:
        return silent
    found = {where: _published_cosine(trials, where) for where in PLACES}
    plan, own = trials.plan, trials.own()
    other = trials.attack("exact" if plan.published else "published", replace(plan, published=not plan.published))
    exact, published = (other, own) if plan.published else (own, other)
    gain = gain_of(exact.counts, published.counts)
    evidence = {
        "cosine": found,
        "exact_wer": round(100 * exact.rate, 2),
        "published_wer": round(100 * published.rate, 2),
        "exact_less_published": points(gain),
    }
    statement = (
        f"The published gradient has cosine {min(found.values()):.2f} with the exact one; its attack reaches a word "
        f"error rate of {100 * published.rate:.1f} %, the exact one's {100 * exact.rate:.1f} %."
    )
    if plan.published:
        verdict = worst([judge_gain(gain), PASS if min(found.values()) >= STABLE else WARN])
        verdict = of_part(verdict, plan.iterations, asked)
        advice = "This configuration attacks with the published gradient: report the exact one's result beside it."
        return Finding(name, verdict, statement, evidence, "" if verdict == PASS else advice)
    verdict = of_part(judge_gain(gain_of(published.counts, exact.counts)), plan.iterations, asked)
    if verdict != PASS:
        advice = "The published gradient attacks better than the exact one: try more draws and smaller steps."
        return Finding(name, verdict, statement, evidence, advice)
    weaker = min(found.values()) < STABLE or gain.value >= NOTABLE
    advice = "What withstands the published gradient may not withstand this one: compare no results across the two."
    return Finding(name, WARN if weaker else PASS, statement, evidence, advice if weaker else "")


def _without_noise(trials: Trials, name: str, why: str) -> Finding | None:
    """What a check of noise finds where there is none, or where a defence hides that it draws some; else None."""
    if trials.undeclared is not None:
        statement = f"{trials.undeclared} draws noise without saying so: set stochastic = True."
        advice = "Until then an attack takes one draw, whatever eot_draws asks for, and one transcript judges it."
        return Finding(name, FAIL, statement, {}, advice)
    return None if trials.stochastic else Finding(name, SKIP, why, {})


def draws_for(cosine: float, target: float = STABLE) -> int | None:
    """Draws whose independent means have cosine ``target``, where single draws have ``cosine``; None if none do.

    Gradients that are a common part plus independent noise have means of K draws with cosine K c / (1 + (K - 1) c).
    """
    if cosine <= 0:
        return None
    return max(1, math.ceil(round(target * (1 - cosine) / (cosine * (1 - target)), 6)))


def draws_needed(agreement: dict[str, Any]) -> int | None:
    """Draws whose independent means have cosine one half, by :func:`_agreement` at a place; None if none do.

    By the cosine of single draws, and by that of means where it says less: draws of unlike power, of which the largest
    alone makes the mean, gain less by averaging than the former says.
    """
    found = [draws_for(agreement["cosine"]), draws_for(agreement[f"cosine_by_means_of_{HALF}"])]
    if found[0] == 1:  # as measured: nothing is said of means
        return 1
    numbers = [number for number in found if number is not None]
    return max(numbers) if len(numbers) == len(found) else None


def draw_cosine(of_means: float, draws: int) -> float:
    """Cosine of single draws, where two independent means of so many have ``of_means``: of :func:`mean_cosine`."""
    return of_means / (draws - (draws - 1) * of_means)


def mean_cosine(cosine: float, draws: int) -> float:
    """Cosine of two independent means of so many draws, where single draws have ``cosine``."""
    return draws * cosine / (1 + (draws - 1) * cosine)


def _draws(trials: Trials, where: str, back: bool = False) -> Tensor:
    """Exact gradients at the clean or the attacked audio, at :data:`DRAWS` draws; with ``back`` the published ones.

    Those take the loss at another draw, and pull it back through these. Shape: (K, N, T). Raises :class:`AttackError`
    for one that is not finite.
    """
    if (where, back) not in trials.gradients:
        found = []
        x = trials.own().audio if where == "attacked" else trials.batch.x
        for draw in range(DRAWS):
            keys = trials.keys(Purpose.ATTACK, draw)
            pair = (trials.keys(Purpose.BACKWARD, draw), keys) if back else (keys,)
            found.append(trials.gradient(x, *pair))
        stacked = torch.stack(found)
        if not stacked.isfinite().all():
            raise AttackError(f"the loss gradient is not finite at some draws of the noise, at the {where} audio")
        trials.gradients[where, back] = stacked
    return trials.gradients[where, back]


def _agreement(gradients: Tensor) -> dict[str, Any]:
    """Mean cosine over pairs of draws and utterances, the same of means of half the draws, and signal to noise.

    ``gradients`` (:data:`DRAWS`, N, T). The signal-to-noise ratio is the power of the common part over that of the
    rest, of the mean over 1, 5 and 20 draws, as the lesser of the two cosines predicts it; None where it is not
    positive.
    """
    cosine = _mean_cosine([(gradients[a], gradients[b]) for a in range(DRAWS) for b in range(a)])
    halves = []
    for first in itertools.combinations(range(1, DRAWS), HALF - 1):
        rest = [k for k in range(1, DRAWS) if k not in first]
        halves.append((gradients[[0, *first]].mean(0), gradients[rest].mean(0)))
    of_means = _mean_cosine(halves)
    by_means = draw_cosine(of_means, HALF)
    return {
        "cosine": cosine,
        f"cosine_of_means_of_{HALF}": of_means,
        f"predicted_of_means_of_{HALF}": mean_cosine(cosine, HALF),
        f"cosine_by_means_of_{HALF}": by_means,
        "snr_db_of_means": {str(k): _snr_db(min(cosine, by_means), k) for k in (1, 5, 20)},
    }


def _snr_db(cosine: float, draws: int) -> float | None:
    return 10 * math.log10(draws * cosine / (1 - cosine)) if 0 < cosine < 1 else None


def _published_cosine(trials: Trials, where: str) -> float:
    exact, published = (_draws(trials, where, back) for back in (False, True))
    return _mean_cosine(list(zip(exact, published, strict=True)))


def _mean_cosine(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Mean over pairs of (N, T), and over their rows."""
    return float(torch.stack([functional.cosine_similarity(a.double(), b.double(), dim=1) for a, b in pairs]).mean())
