"""Checks of the gradient itself: that it is right, that draws agree on it, and what the published one is worth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from armory_mdnf.attacks.pgd import Batch
from armory_mdnf.attacks.recognizer import Purpose
from armory_mdnf.audio import ragged
from armory_mdnf.audio.noise import normal, stream
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

# Finite differences: steps in parts of the radius, random directions per utterance, and what counts as agreement.
# In parts of the radius. A GAN vocoder bends the loss within a thousandth of it: then shorter ones are tried too.
STEPS, SHORTER = (0.1, 0.01, 0.001), (1e-4, 1e-5)
DIRECTIONS = 4
AGREE, DIFFER = 0.95, 0.8
# Shares of components of the gradient that are zero, from which there is something to look into, or nothing to follow.
FEW_ZEROS, MANY_ZEROS = 0.1, 0.9
# Draws behind the cosines, and the largest mean that an attack can afford (EOT 20 of the paper's grid).
DRAWS = 4
PLACES = ("clean", "attacked")
AFFORDABLE = 20
STABLE = 0.5


def check_gradient(trials: Trials) -> Finding:
    """The gradient exists and is right: finite differences at fixed noise; zero, non-finite, saturated components."""
    batch = trials.batch
    keys = [(index, Purpose.ATTACK, 0, 0, 0) for index in batch.indices]
    radius = trials.plan.geometry().radius(batch.x)
    gradient = trials.gradient(_inside(trials).x, keys)
    inside = ragged.mask(batch.lengths, batch.x.shape[1])
    size = int(inside.sum())
    zero = int(((gradient == 0) & inside).sum()) / size
    broken = int((~gradient.isfinite() & inside).sum()) / size
    saturated = int(((batch.x.abs() >= 1) & inside).sum()) / size if trials.white_box.clip_values is not None else 0.0
    evidence: dict[str, Any] = {"zero_share": zero, "non_finite_share": broken, "saturated_share": saturated}
    if broken or zero > MANY_ZEROS:
        what = "has components that are not finite" if broken else "is zero in most of its components"
        advice = (
            "Look for rounding, thresholds and estimate_gradient in the defence; attack with the identity as its "
            "backward pass (check 6) and with noise, and trust no result of this gradient."
        )
        return Finding("gradient", FAIL, f"The gradient {what}: an attack has nothing to follow.", evidence, advice)
    along, across = _finite_differences(trials, gradient, radius)
    evidence |= {"along": along, "across": across}
    low = min(1 - abs(1 - along), across)
    verdict = PASS if low >= AGREE else WARN if low >= DIFFER else FAIL
    statement = (
        f"Along the gradient the loss rises {along:.2f} times as fast as it says; in random directions, differences of "
        f"the loss and what it says of them have cosine {across:.2f}."
    )
    advice = {
        PASS: "",
        WARN: "The gradient is nearly right: rounding, kinks, or a small part that is left out of the backward pass.",
        FAIL: (
            "The gradient is not that of what is evaluated. Look for an estimate_gradient or a backward pass that "
            "approximates, and for noise that is drawn anew in it; attack past it (check 6)."
        ),
    }[verdict]
    if verdict == PASS and zero > FEW_ZEROS:
        verdict, advice = WARN, "Some samples cannot be attacked: see whether they are silence, or cut off by a floor."
    return Finding("gradient", verdict, statement, evidence, advice)


def check_draws(trials: Trials) -> Finding:
    """What draws of the noise have in common: cosines of their gradients, and the draws that a stable mean takes."""
    name = "draws"
    if (silent := _without_noise(trials, name, "Nothing in front of the recogniser draws noise.")) is not None:
        return silent
    found = {where: _agreement(_draws(trials, where)) for where in PLACES}
    # Most of an attack's steps are taken where it ends up; clean audio is one step, at which the loss may be flat.
    cosine = found["attacked"]["cosine"]
    needed = draws_for(cosine)
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


def mean_cosine(cosine: float, draws: int) -> float:
    """Cosine of two independent means of so many draws, where single draws have ``cosine``."""
    return draws * cosine / (1 + (draws - 1) * cosine)


def _inside(trials: Trials) -> Batch:
    """The utterances at a random place in the ball: where no loss is at its least, as it may be at a clean one."""
    batch, geometry = trials.batch, trials.plan.geometry()
    streams = [stream(trials.plan.seed, index, 0) for index in batch.indices]
    x = batch.x + 0.5 * geometry.random_start(batch.lengths, geometry.radius(batch.x), streams)
    return replace(batch, x=x if trials.white_box.clip_values is None else x.clamp(-1, 1))


def _finite_differences(trials: Trials, gradient: Tensor, radius: Tensor) -> tuple[float, float]:
    """How many times as fast the loss rises along the gradient, and the cosine of differences in random directions.

    The former is the median over the utterances. Each with the step that serves it best: too long a one bends, too
    short a one drowns in rounding, and which is which hangs on the recogniser.
    """
    place = _inside(trials)
    rates: list[float] = []
    cosines: list[float] = []
    for step in (*STEPS, *SHORTER):
        if step in SHORTER and rates and min(max(cosines), max(1 - abs(1 - rate) for rate in rates)) >= AGREE:
            break
        ratios, found, said = [], [], []
        for i, n in enumerate(place.lengths.tolist()):
            own = gradient[i, :n]
            norm = own.norm()
            if float(norm) == 0 or float(radius[i]) == 0:
                continue
            noise = normal([stream(k, place.indices[i], 1) for k in range(DIRECTIONS)], [n] * DIRECTIONS, own)
            directions = torch.cat([own[None] / norm, noise / noise.norm(dim=1, keepdim=True)])
            h = float(radius[i]) * step
            key = (place.indices[i], Purpose.ATTACK, 0, 0, 0)
            differences = trials.differences(i, place.x[i, :n], h * directions, key).double() / (2 * h)
            expected = (directions.double() @ own.double()) / norm.double()
            ratios.append(float(differences[0] / norm))
            found.append((differences[1:] / norm).double())
            said.append(expected[1:])
        if ratios:
            rates.append(float(np.nan_to_num(np.median(ratios), posinf=0.0, neginf=0.0)))
            cosines.append(float(np.nan_to_num(_cosine(torch.cat(found), torch.cat(said)))))
    if not rates:
        return 0.0, 0.0
    return min(rates, key=lambda rate: abs(rate - 1)), max(cosines)


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

    ``gradients`` (K, N, T). The signal-to-noise ratio is the power of the common part over that of the rest, of the
    mean over 1, 5 and 20 draws, as the cosine predicts it; None where it is not positive.
    """
    number = len(gradients)
    cosine = _mean_cosine([(gradients[a], gradients[b]) for a in range(number) for b in range(a)])
    half = number // 2
    halves = []
    for first in itertools.combinations(range(1, number), half - 1):
        rest = [k for k in range(1, number) if k not in first]
        halves.append((gradients[[0, *first]].mean(0), gradients[rest].mean(0)))
    return {
        "cosine": cosine,
        f"cosine_of_means_of_{half}": _mean_cosine(halves),
        f"predicted_of_means_of_{half}": mean_cosine(cosine, half),
        "snr_db_of_means": {str(k): _snr_db(cosine, k) for k in (1, 5, 20)},
    }


def _snr_db(cosine: float, draws: int) -> float | None:
    return 10 * math.log10(draws * cosine / (1 - cosine)) if 0 < cosine < 1 else None


def _published_cosine(trials: Trials, where: str) -> float:
    exact, published = (_draws(trials, where, back) for back in (False, True))
    return _mean_cosine(list(zip(exact, published, strict=True)))


def _mean_cosine(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Mean over pairs of (N, T), and over their rows."""
    return float(torch.stack([functional.cosine_similarity(a.double(), b.double(), dim=1) for a, b in pairs]).mean())


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(functional.cosine_similarity(a, b, dim=0))
