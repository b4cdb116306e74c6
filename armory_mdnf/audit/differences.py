"""The check of the gradient itself: that it is there and right, by finite differences of the loss, and that it lasts.

A gradient may be right and lead nowhere: it is shattered where an attack's step goes past all that it says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from armory_mdnf.attacks.pgd import Batch
from armory_mdnf.attacks.recognizer import Purpose
from armory_mdnf.audio import ragged
from armory_mdnf.audio.noise import Key, normal, stream
from armory_mdnf.audit.findings import FAIL, PASS, SKIP, VERDICTS, WARN, Finding
from armory_mdnf.audit.trials import Trials
from armory_mdnf.errors import AttackError

NAME = "gradient"
# Steps in parts of the bound. A GAN vocoder bends the loss within a thousandth of it: then shorter ones are tried too.
STEPS, SHORTER = (0.1, 0.01, 0.001), (1e-4, 1e-5)
# How far a loss is looked for that moves where its gradient is zero, in parts of the bound: rounding takes long steps.
REACH = 0.5
# Random directions per utterance, and what counts as agreement.
DIRECTIONS = 4
AGREE, DIFFER = 0.95, 0.8
# Cosine with the gradient an attack's step away, below which following it leads nowhere.
INCOHERENT = 0.1
# Halvings of the way to the attacked audio, and how far what is heard may jump in what is left, in parts of the bound.
HALVINGS, JUMP = 18, 0.1
# Shares of components of the gradient that are zero, from which there is something to look into, or nothing to follow.
FEW_ZEROS, MANY_ZEROS = 0.1, 0.9

NOTHING = (
    "Look for rounding, thresholds and estimate_gradient in the defence; attack with the identity as its backward pass "
    "(check 6) and with noise, and trust no result of this gradient."
)
ANOTHER = (
    "The gradient is not that of what is evaluated. Look for an estimate_gradient or a backward pass that "
    "approximates, and for noise that is drawn anew in it; attack past it (check 6)."
)
SHATTERED = (
    "The slope holds over far less than an attack's step: the gradient may be shattered, and an attack that follows it "
    "says little. Attack with its mean over neighbours of the audio, a step away at random, and with audio made on the "
    "recogniser without what bends the loss."
)
JUMPS = (
    "Look for noise that the audio itself seeds, and for decisions: the gradient knows of neither. Noise has to come "
    "from the streams that defend() is given, of a class that says stochastic = True; audit it so."
)


@dataclass(frozen=True)
class Agreement:
    """How differences of the loss, by steps of a part of the bound, agree with what the gradient says of them.

    ``along``: how many times as fast the loss rises along the gradient, in the utterance where that is farthest from 1.
    ``across``: the cosine of both in random directions, over all utterances.
    """

    step: float
    along: float
    across: float

    @property
    def least(self) -> float:
        """The worse of the two; 1 is perfect."""
        return min(1 - abs(1 - self.along), self.across)


def check_gradient(trials: Trials) -> Finding:
    """The gradient exists and is right, at a random place in the ball and at the attacked audio, at fixed noise."""
    batch = trials.batch
    inside = ragged.mask(batch.lengths, batch.x.shape[1])
    loud = (batch.x.abs() >= 1) & inside
    saturated = float(loud.sum()) / float(inside.sum()) if trials.white_box.clip_values is not None else 0.0
    places = {"random": lambda: _inside(trials), "attacked": lambda: replace(batch, x=trials.own().audio)}
    found: dict[str, Finding] = {}
    for name, place in places.items():
        try:
            found[name] = _at(trials, place())
        except AttackError as error:
            found[name] = Finding(NAME, FAIL, f"there is none to follow: {error}", {}, NOTHING)
        if found[name].evidence.get("non_finite_share", 1):  # no attack is made of such a one
            break
    worse = max(found.values(), key=lambda at: VERDICTS.index(at.verdict))
    where = {"random": "At a random place", "attacked": "At the attacked audio"}
    statement = " ".join(f"{where[name]} {at.statement}." for name, at in found.items())
    evidence: dict[str, Any] = {"saturated_share": saturated} | {name: at.evidence for name, at in found.items()}
    if not trials.defended or worse.verdict not in (PASS, WARN):
        return Finding(NAME, worse.verdict, statement, evidence, worse.advice)
    evidence["jump_in_parts_of_the_bound"] = jump = _jump(trials)
    if jump <= JUMP:
        return Finding(NAME, worse.verdict, statement, evidence, worse.advice)
    statement += f" On the way there what is heard jumps, by {jump:.2g} times the bound, where the audio hardly moves."
    return Finding(NAME, WARN, statement, evidence, " ".join(filter(None, (JUMPS, worse.advice))))


def _inside(trials: Trials) -> Batch:
    """The utterances at a random place in the ball: where no loss is at its least, as it may be at a clean one."""
    batch, geometry = trials.batch, trials.plan.geometry()
    streams = [stream(trials.plan.seed, index, 0) for index in batch.indices]
    x = batch.x + 0.5 * geometry.random_start(batch.lengths, geometry.radius(batch.x), streams)
    return replace(batch, x=trials.white_box.clipped(x))


def _at(trials: Trials, place: Batch) -> Finding:
    """What is found at one place; the statement is what follows the place's name."""
    bounds = _bounds(trials)
    gradient = trials.gradient(place.x, _keys(place))
    inside = ragged.mask(place.lengths, place.x.shape[1])
    zeros = [float(share) for share in ((gradient == 0) & inside).sum(1) / place.lengths]
    size = int(inside.sum())
    evidence: dict[str, Any] = {
        "zero_share": int(((gradient == 0) & inside).sum()) / size,
        "largest_zero_share": max(zeros),
        "non_finite_share": int((~gradient.isfinite() & inside).sum()) / size,
    }
    if evidence["non_finite_share"]:
        return Finding(NAME, FAIL, "the gradient has components that are not finite", evidence, NOTHING)
    if not any(bounds):
        return Finding(NAME, SKIP, "there is nothing to see: the bound leaves every utterance as it is", evidence)
    blind = [
        i
        for i, (share, bound) in enumerate(zip(zeros, bounds, strict=True))
        if share > MANY_ZEROS and bound and _moves(trials, place, gradient, i, bound)
    ]
    evidence["utterances_without_gradient"] = len(blind)
    if blind or not any(bound and gradient[i].any() for i, bound in enumerate(bounds)):
        of = f"in {len(blind)} of {len(zeros)} utterances, whose loss changes all the same" if blind else "everywhere"
        statement = f"the gradient is zero, or nearly, {of}: an attack has nothing to follow"
        return Finding(NAME, FAIL, statement, evidence, NOTHING)
    tried = _differences(trials, place, gradient, bounds)
    if not tried:
        return Finding(NAME, SKIP, "there is nothing to see: no sample can be told from one a step away", evidence)
    measured = max(tried, key=lambda one: one.least)
    coherence = _coherence(trials, place, gradient)
    evidence |= {
        "along": measured.along,
        "across": measured.across,
        "step_in_parts_of_the_bound": measured.step,
        "coherence": coherence,
    }
    statement = (
        f"the loss rises {measured.along:.2f} times as fast along the gradient as it says, in the worst utterance, and "
        f"differences in random directions have cosine {measured.across:.2f} with what it says of them"
    )
    if measured.least < DIFFER:
        return Finding(NAME, FAIL, statement, evidence, ANOTHER)
    if measured.step in SHORTER:
        statement += f", by steps of {measured.step:g} of the bound: over longer ones, as an attack takes, it bends"
    if coherence < INCOHERENT:
        statement += f"; the gradient an attack's step away has cosine {coherence:.2f} with it"
    advice = []
    if coherence < INCOHERENT or all(one.least < DIFFER for one in tried if one.step in STEPS):
        advice.append(SHATTERED)
    if measured.least < AGREE:
        advice.append(
            "The gradient is nearly right: rounding, kinks, or a small part that is left out of the backward pass."
        )
    if max(zeros) > FEW_ZEROS:
        advice.append("Some samples cannot be attacked: see whether they are silence, or cut off by a floor.")
    return Finding(NAME, WARN if advice else PASS, statement, evidence, " ".join(advice))


def _coherence(trials: Trials, place: Batch, gradient: Tensor) -> float:
    """Mean cosine of the gradient with those at random places a step of the attack away, at the same noise.

    Over :data:`DIRECTIONS` and the utterances that have a gradient. Inside an l-infinity step samples move by unlike
    amounts: by the same, up or down, a wave of a fitting length would be met at two phases alone.
    """
    plan, geometry = trials.plan, trials.plan.geometry()
    radius = geometry.radius(trials.batch.x)
    step = radius * plan.step_fraction if plan.step is None else torch.full_like(radius, plan.step)
    told = gradient.any(dim=1) & (radius > 0)
    cosines = []
    for k in range(DIRECTIONS):
        x = place.x + geometry.random_start(place.lengths, step, [stream(k, index, 3) for index in place.indices])
        there = trials.gradient(trials.white_box.clipped(x), _keys(place))
        cosines.append(functional.cosine_similarity(_scaled(gradient[told]), _scaled(there[told]), dim=1))
    return float(torch.cat(cosines).mean())


def _scaled(gradients: Tensor) -> Tensor:
    """Gradients with a largest component of 1, which cosines resolve whatever their size; zero where not finite."""
    finite = gradients.double().nan_to_num(0, 0, 0)
    return finite / finite.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)


def _jump(trials: Trials) -> float:
    """How far what is heard still moves when the way from the clean to the attacked audio is halved again and again.

    At fixed noise, in parts of the bound, in the utterance where that is farthest. Of both halves the one is kept in
    which what is heard moves the more: in a continuous function, however steep, next to nothing is left of it.
    """
    keys = _keys(trials.batch)
    ends = [trials.batch.x, trials.own().audio]
    heard = [trials.heard(end, keys) for end in ends]
    for _ in range(HALVINGS):
        middle = (ends[0] + ends[1]) / 2
        between = trials.heard(middle, keys)
        first = ((between - heard[0]).norm(dim=1) > (heard[1] - between).norm(dim=1))[:, None]
        ends = [torch.where(first, ends[0], middle), torch.where(first, middle, ends[1])]
        heard = [torch.where(first, heard[0], between), torch.where(first, between, heard[1])]
    moved = (heard[1] - heard[0]).norm(dim=1).tolist()
    return max(move / bound for move, bound in zip(moved, _bounds(trials), strict=True) if bound)


def _keys(place: Batch) -> list[Key]:
    return [(index, Purpose.ATTACK, 0, 0, 0) for index in place.indices]


def _bounds(trials: Trials) -> list[float]:
    """How long a step to each utterance's bound is, in all directions: an l-infinity ball's changes every sample."""
    radius = trials.plan.geometry().radius(trials.batch.x).double()
    if trials.plan.norm == "linf":
        radius = radius * trials.batch.lengths.sqrt()
    return [float(bound) for bound in radius]


def _random(place: Batch, i: int, like: Tensor) -> Tensor:
    """Random directions of utterance ``i``. Shape: like (n,) -> (:data:`DIRECTIONS`, n)."""
    return normal([stream(k, place.indices[i], 1) for k in range(DIRECTIONS)], [len(like)] * DIRECTIONS, like)


def _unit(directions: Tensor) -> Tensor:
    return functional.normalize(directions.double(), dim=1)


def _moves(trials: Trials, place: Batch, gradient: Tensor, i: int, bound: float) -> bool:
    """Whether the loss of utterance ``i`` moves by more than rounding where its gradient says that it does not."""
    n = int(place.lengths[i])
    steps = REACH * bound * _unit(_random(place, i, place.x[i, :n]) * (gradient[i, :n] == 0))
    losses, _ = trials.around(i, place.x[i, :n], steps, _keys(place)[i])
    # A GPU may add in another order each time: that takes fewer than half of a float's digits.
    rounding = torch.finfo(torch.float32).eps ** 0.5 * losses.abs().max()
    return not bool(((losses[0] - losses[1]).abs() <= rounding).all())


def _differences(trials: Trials, place: Batch, gradient: Tensor, bounds: list[float]) -> list[Agreement]:
    """The agreement by each step that is tried; by none where no step changes a sample.

    Too long a step bends, too short a one drowns in rounding, and which is which hangs on the recogniser.
    """
    tried: list[Agreement] = []
    for step in (*STEPS, *SHORTER):
        if step in SHORTER and any(one.least >= AGREE for one in tried):
            break
        rates, found, said = [], [], []
        for i, n in enumerate(place.lengths.tolist()):
            own = gradient[i, :n].double()
            if not bounds[i] or not own.any():  # one without gradient whose loss does not move either
                continue
            directions = _unit(torch.cat([own[None] / own.abs().max(), _random(place, i, own)]))
            losses, moved = trials.around(i, place.x[i, :n], bounds[i] * step * directions, _keys(place)[i])
            lengths = moved.norm(dim=1) * own.norm()
            if not lengths.all():
                continue
            changed, expected = (losses[0] - losses[1]) / lengths, moved @ own / lengths
            rates.append(_finite(changed[0] / expected[0]))
            found.append(changed[1:])
            said.append(expected[1:])
        if rates:
            across = _finite(functional.cosine_similarity(torch.cat(found), torch.cat(said), dim=0))
            tried.append(Agreement(step, max(rates, key=lambda rate: abs(rate - 1)), across))
    return tried


def _finite(value: Tensor) -> float:
    """A number of which nothing holds where it is none."""
    return float(value) if math.isfinite(float(value)) else 0.0
