"""Attacks tried on the audited utterances: what each makes of them, and what the recogniser makes of that."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from armory_mdnf.asr.preprocessing import Chain, Defense
from armory_mdnf.attacks import PGD, RandomNoise
from armory_mdnf.attacks.evasion import make_geometry
from armory_mdnf.attacks.geometry import Geometry
from armory_mdnf.attacks.gradient import LossGradient
from armory_mdnf.attacks.pgd import Batch, Descent, mean_losses
from armory_mdnf.attacks.recognizer import Purpose
from armory_mdnf.audio import checks, ragged
from armory_mdnf.audio.noise import Key
from armory_mdnf.audit.views import View
from armory_mdnf.errors import OptionError, TranscriptError, quoted
from armory_mdnf.metrics.wer import WordCounts, count_words, pool

# What the noise of an evaluation is for, unlike any purpose of an attack; and that of the last word on the worst case,
# which was chosen by the former.
EVALUATION, FRESH = 0xA0D1, 0xA0D2
OWN = "own"

ART_PGD = "art.attacks.evasion.projected_gradient_descent."  # a name: ART's package of attacks takes long to import
ART_NORMS = {2: "l2", "inf": "linf", np.inf: "linf"}


@dataclass(frozen=True)
class Plan:
    """An attack: the options of :class:`armory_mdnf.attacks.PGD`, a multiple of its bound, and one of its step."""

    norm: str
    eps: float | None
    snr_db: float | None
    step: float | None
    step_fraction: float
    iterations: int
    draws: int = 1
    fresh: bool = True
    published: bool = False
    random_start: bool = False
    restarts: int = 1
    keep: str = "last"
    selection_draws: int = 1
    seed: int = 0
    bound_times: float = 1.0
    step_times: float = 1.0

    @classmethod
    def of(cls, attack: Any, iterations: int | None = None) -> Plan:
        """That of an untargeted PGD, this package's or ART's. Raises :class:`OptionError` for another attack.

        An audit attacks by this package's PGD, which takes ART's steps. What derives from one may do something else,
        which the audit would not.
        """
        if type(attack).__module__.startswith(ART_PGD):
            attack = _from_art(attack)
        if type(attack) is not PGD or attack.targeted:
            name = type(attack).__name__
            found = f"a targeted {name}" if getattr(attack, "targeted", False) else name
            if isinstance(attack, PGD) and type(attack) is not PGD:
                found += ", which may do something else than the PGD that it derives from"
            raise OptionError(f"expected an untargeted PGD to audit, found {found}")
        if attack.max_iter < 1:
            raise OptionError(f"expected at least one iteration to audit, found max_iter {quoted(attack.max_iter)}")
        if attack.eps == 0:
            raise OptionError(f"expected a bound above 0 to audit, found eps {quoted(attack.eps)}")
        return cls(
            norm=attack.norm,
            eps=attack.eps,
            snr_db=attack.snr_db,
            step=attack.eps_step,
            step_fraction=0.2 if attack.step_fraction is None else attack.step_fraction,
            iterations=attack.max_iter if iterations is None else min(iterations, attack.max_iter),
            draws=attack.eot_draws,
            fresh=attack.eot_fresh,
            published=attack.gradient == "published",
            random_start=attack.random_start,
            restarts=attack.restarts,
            keep=attack.keep,
            selection_draws=attack.selection_draws,
            seed=attack.seed,
        )

    def geometry(self) -> Geometry:
        """The ball, its radius ``bound_times`` the option's."""
        eps = None if self.eps is None else self.eps * self.bound_times
        snr_db = None if self.snr_db is None else self.snr_db - 20 * math.log10(self.bound_times)
        return make_geometry(self.norm, eps, snr_db)

    def descent(self, watch: Callable[[int, int, Tensor], None] | None = None) -> Descent:
        """The attack itself."""
        return Descent(
            self.geometry(),
            LossGradient(self.draws, self.fresh, self.published),
            self.iterations,
            step=None if self.step is None else self.step * self.bound_times * self.step_times,
            step_fraction=self.step_fraction * self.step_times,
            random_start=self.random_start,
            restarts=self.restarts,
            keep=self.keep,
            selection_draws=self.selection_draws,
            seed=self.seed,
            watch=watch,
        )


def _from_art(attack: Any) -> PGD:
    """This package's PGD with the steps of ART's. Raises :class:`OptionError` naming an option of ART's alone."""
    inner = getattr(attack, "_attack", attack)  # the momentum's decay is kept there alone
    for name, expected, fits in (
        ("norm", "2 or inf", inner.norm in ART_NORMS),
        ("eps", "one number", isinstance(inner.eps, (int, float))),
        ("num_random_init", "0", inner.num_random_init == 0),
        ("decay", "None", inner.decay is None),
        ("random_eps", "False", not inner.random_eps),
    ):
        if not fits:
            found = quoted(getattr(inner, name))
            raise OptionError(f"expected {name} {expected} in a PGD of ART's to audit, found {found}")
    return PGD(
        inner.estimator,
        norm=ART_NORMS[inner.norm],
        eps=float(inner.eps),
        eps_step=float(inner.eps_step),
        max_iter=inner.max_iter,
        targeted=inner.targeted,
        gradient=getattr(inner.estimator, "gradient", "exact"),
    )


@dataclass(frozen=True)
class Attempt:
    """Audio that was tried: the words that it costs per utterance, summed over the evaluation's draws, and its loss.

    ``audio`` (N, T). ``within``: inside the configuration's bound. ``losses`` (N,) in nats, the mean over as many draws
    of the evaluation's own.
    """

    audio: Tensor
    counts: tuple[WordCounts, ...]
    losses: Tensor
    within: bool = True

    @property
    def rate(self) -> float:
        """Word error rate as a fraction."""
        return pool(self.counts).rate or 0.0


@dataclass
class Trials:
    """The audited utterances, every attempt at them, and the gradients that checks share: each made once.

    ``estimator``: an :class:`armory_mdnf.asr.estimator.RecognizerEstimator`. ``batch_seconds``: audio of a batch.
    """

    estimator: Any
    batch: Batch
    references: Sequence[str]
    plan: Plan
    evaluation_draws: int = 3
    batch_seconds: float = 32.0
    seed: int = 0
    attempts: dict[str, Attempt] = field(default_factory=dict)
    snapshots: dict[int, Tensor] = field(default_factory=dict)
    gradients: dict[tuple[str, bool], Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.white_box = View(self.estimator, seed=self.seed)
        if not self.white_box.keyed:
            self.white_box.stochastic |= self._draws_noise(self.white_box)

    @classmethod
    def of(
        cls,
        estimator: Any,
        audio: Sequence[np.ndarray],
        references: Sequence[str],
        indices: Sequence[int],
        plan: Plan,
        use_label: bool = False,
        **options: Any,
    ) -> Trials:
        """Trials of utterances (T,), with labels as a run has them: the recogniser's own, or the references.

        Raises :class:`armory_mdnf.errors.AudioError` for audio that cannot be attacked, :class:`TranscriptError` for
        references without a word, by which nothing can be judged.
        """
        if not any(reference.split() for reference in references):
            raise TranscriptError(f"expected references with at least one word, got {len(references)} without")
        waveforms = checks.as_waveforms(audio, min_samples=estimator.min_samples)
        x, lengths = ragged.pad([torch.tensor(u, device=estimator.device) for u in waveforms])
        batch = Batch(x, lengths, [[]] * len(audio), list(indices))
        trials = cls(estimator, batch, list(references), plan, **options)
        texts = trials.references
        if not use_label:
            texts = trials.transcribe(x, [(index, Purpose.LABEL) for index in indices])
        trials.batch = replace(batch, targets=estimator.encode(texts, len(texts)))
        return trials

    @property
    def stochastic(self) -> bool:
        """Whether two evaluations of the defended recogniser differ."""
        return self.white_box.stochastic

    @cached_property
    def undeclared(self) -> str | None:
        """Class of a defence that draws noise and says that it draws none, which attacks and evaluations believe."""
        for operation in self.white_box.chain.operations:
            silent = isinstance(operation, Defense) and not operation.stochastic
            if silent and self._draws_noise(View(self.estimator, Chain([operation]), self.seed)):
                return type(operation).__name__
        return None

    @property
    def defended(self) -> bool:
        """Whether there is anything in front of the recogniser."""
        return bool(self.white_box.chain.operations)

    @property
    def evaluations(self) -> int:
        """Transcripts that judge an utterance: a defence that averages its passes has had these draws already."""
        return -(-self.evaluation_draws // self.white_box.chain.num_passes) if self.stochastic else 1

    def keys(self, purpose: int, draw: int) -> list[Key]:
        """A key per utterance."""
        return [(index, purpose, draw) for index in self.batch.indices]

    def own(self) -> Attempt:
        """The configuration's attack.

        :attr:`snapshots` then has its first start's audio after 1, 2, 4, ..., half and all of its steps.
        """
        if OWN not in self.attempts:
            steps = self.plan.iterations
            powers = {1 << k for k in range(steps.bit_length()) if 1 << k < steps}
            chosen, self.snapshots = self.run(self.plan, at=sorted(powers | {steps // 2, steps} - {0}))
            self.attempts[OWN] = self.judge(chosen)
        return self.attempts[OWN]

    def benign(self) -> Attempt:
        """No attack."""
        return self.add("benign", lambda: self.batch.x)

    def attack(self, name: str, plan: Plan, view: View | None = None) -> Attempt:
        """Audio of an attack on what ``view`` shows, by default all, as the whole hears it."""
        return self.add(name, lambda: self.run(plan, view)[0], within=plan.bound_times <= 1)

    def add(self, name: str, make: Callable[[], Tensor], within: bool = True) -> Attempt:
        """An attempt by name, made if it is not there yet."""
        if name not in self.attempts:
            self.attempts[name] = self.judge(make(), within)
        return self.attempts[name]

    def run(self, plan: Plan, view: View | None = None, at: Sequence[int] = ()) -> tuple[Tensor, dict[int, Tensor]]:
        """Audio (N, T) that an attack chooses in the end, and its first start's after the numbers of steps ``at``."""
        view = self.white_box if view is None else view
        chosen = torch.zeros_like(self.batch.x)
        found = {steps: torch.zeros_like(self.batch.x) for steps in at}
        for rows in self._chunks(plan.draws if view.stochastic else 1):
            part = self.batch.rows(rows)
            width = part.x.shape[1]

            def watch(restart: int, steps: int, x_adv: Tensor, rows: list[int] = rows, width: int = width) -> None:
                if restart == 0 and steps in found:
                    found[steps][rows, :width] = x_adv

            chosen[rows, :width] = plan.descent(watch)(view, part)
        return chosen, found

    def noise(self) -> Tensor:
        """White noise as large as the attack may be. Shape: (N, T)."""
        plan = self.plan
        control = RandomNoise(self.estimator, plan.norm, plan.eps, plan.snr_db, seed=plan.seed)
        return control.attack(self.batch)

    def judge(self, audio: Tensor, within: bool = True, purpose: int = EVALUATION) -> Attempt:
        """What the defended recogniser makes of audio (N, T)."""
        sums = [WordCounts()] * len(self.references)
        for draw in range(self.evaluations):
            texts = self.transcribe(audio, self.keys(purpose, draw))
            sums = [
                known + count_words(expected, text)
                for known, expected, text in zip(sums, self.references, texts, strict=True)
            ]
        return Attempt(audio, tuple(sums), self._losses(audio, purpose), within)

    def transcribe(self, audio: Tensor, keys: Sequence[Key]) -> list[str]:
        """Transcripts of audio (N, T), with the noise that N keys fix."""
        found = [""] * len(audio)
        for rows in self._chunks(self.white_box.chain.num_passes):
            part = replace(self.batch, x=audio).rows(rows)
            texts = self.white_box.transcribe(part.x, part.lengths, [keys[i] for i in rows])
            for i, text in zip(rows, texts, strict=True):
                found[i] = text
        return found

    def gradient(self, audio: Tensor, *keys: Sequence[Key]) -> Tensor:
        """The white box's gradients at audio (N, T), with the noise that N keys fix; with N more the published ones."""

        def ask(part: Batch, rows: Sequence[int]) -> Tensor:
            chosen = [[of_all[i] for i in rows] for of_all in keys]
            return self.white_box.gradients(part.x, part.lengths, part.targets, *chosen)

        return self._in_chunks(audio, ask)

    def heard(self, audio: Tensor, keys: Sequence[Key]) -> Tensor:
        """What the recogniser hears of audio (N, T), with the noise that N keys fix. Shape: (N, T)."""
        return self._in_chunks(
            audio, lambda part, rows: self.white_box.heard(part.x, part.lengths, [keys[i] for i in rows])
        )

    def _in_chunks(self, audio: Tensor, ask: Callable[[Batch, Sequence[int]], Tensor]) -> Tensor:
        """What is asked of parts of audio (N, T), which have these rows, put together: (N, T)."""
        found = torch.zeros_like(audio)
        for rows in self._chunks(1):
            part = replace(self.batch, x=audio).rows(rows)
            found[rows, : part.x.shape[1]] = ask(part, rows)
        return found

    def around(self, i: int, x: Tensor, steps: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        """Utterance ``i``'s losses at x + step and at x - step, at the noise of one key, and how far these are apart.

        Shape: x (n,), steps (K, n) -> (2, K), (K, n), of double precision: the distance is that of the samples as they
        are, which a short step rounds. Both sides of a step are of one batch, whose rounding they share.
        """
        n = x.shape[0]
        losses, moved = [], []
        for part in steps.split(max(1, int(self._room / (2 * n)))):
            k = len(part)
            rows, lengths = torch.cat([x + part, x - part]).to(x), self.batch.lengths[i].repeat(2 * k)
            with torch.no_grad():
                found = self.white_box.losses(rows, lengths, [self.batch.targets[i]] * (2 * k), [key] * (2 * k))
            losses.append(found.double().unflatten(0, (2, k)))
            moved.append(rows[:k].double() - rows[k:].double())
        return torch.cat(losses, 1), torch.cat(moved)

    def _draws_noise(self, view: View) -> bool:
        """Whether what the recogniser hears of clean audio differs between two draws by more than rounding does.

        A GPU may add in another order each time: that takes fewer than half of a float's digits.
        """
        for rows in self._chunks(1):
            part = self.batch.rows(rows)
            one, other = (
                view.heard(part.x, part.lengths, [(index, EVALUATION, draw) for index in part.indices])
                for draw in (0, 1)
            )
            rounding = torch.finfo(one.dtype).eps ** 0.5 * float(one.abs().max())
            if not torch.allclose(one, other, rtol=0, atol=rounding):
                return True
        return False

    def _losses(self, audio: Tensor, purpose: int) -> Tensor:
        draws = self.evaluation_draws
        found = audio.new_zeros(len(audio))
        for rows in self._chunks(draws if self.stochastic else 1):
            part = replace(self.batch, x=audio).rows(rows)
            found[rows] = mean_losses(self.white_box, part, draws, purpose)
        return found

    def _chunks(self, draws: int) -> list[list[int]]:
        # In their order: a batch of all utterances is the batch as it is.
        return [sorted(rows) for rows in ragged.by_length(self.batch.lengths.tolist(), self._room / draws)]

    @property
    def _room(self) -> float:
        """Samples of a batch."""
        return self.batch_seconds * self.white_box.sample_rate
