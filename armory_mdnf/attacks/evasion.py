"""The attacks as ART's ``EvasionAttack``: options checked, audio of any kind in, the same kind out.

Only this module of the attacks knows NumPy and ART.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import InitVar, dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.estimators.estimator import BaseEstimator
from torch import Tensor
from tqdm import tqdm

from armory_mdnf.attacks.carlini_wagner import ShrinkingBound
from armory_mdnf.attacks.geometry import L2, SNR, Geometry, Linf
from armory_mdnf.attacks.gradient import LossGradient
from armory_mdnf.attacks.pgd import Batch, Descent
from armory_mdnf.attacks.recognizer import AttackedRecognizer, Purpose
from armory_mdnf.audio import checks, ragged
from armory_mdnf.audio.noise import normal, stream
from armory_mdnf.errors import AttackError, AudioError, OptionError, TranscriptError, choices, quoted, refuse_unknown
from armory_mdnf.options import (
    FLAG,
    GRADIENTS,
    POSITIVE,
    all_or_none,
    as_whole,
    check_option,
    check_options,
    count,
    one_of,
    option,
    or_null,
)

NORMS = ("l2", "linf", "snr")
KEEP = ("last", "best")
BATCH_SECONDS = 64.0


class _OptionNames:
    """``attack_params`` as ART wants them: those of its own, and the fields of an attack that is a dataclass."""

    def __get__(self, attack: Any, kind: Any) -> list[str]:
        own = fields(kind) if is_dataclass(kind) else ()
        return [*EvasionAttack.attack_params, *(field.name for field in own)]


class RecognizerAttack(EvasionAttack):
    """What the attacks share: batches of similar lengths, labels, and the way to and from the caller's kind.

    Those here are dataclasses of their options, which they check when they are made or changed. ``on_progress`` is
    called with the share that is done of what :meth:`generate` was given, where :meth:`attack` says so by :meth:`tell`.
    """

    _estimator_requirements = (BaseEstimator,)
    attack_params = _OptionNames()

    def __init__(self, estimator: Any, targeted: bool, batch_seconds: float, seed: int, verbose: bool) -> None:
        if not isinstance(estimator, AttackedRecognizer):
            raise OptionError(
                f"expected an estimator with losses and transcribe, such as RecognizerEstimator, got "
                f"{type(estimator).__name__}: for others there are ART's own attacks"
            )
        super().__init__(estimator=estimator)
        check_option("targeted", targeted, FLAG)
        check_option("verbose", verbose, FLAG)
        check_option("batch_seconds", batch_seconds, POSITIVE)
        check_option("seed", seed, count(0))
        self._targeted = targeted
        self.batch_seconds = float(batch_seconds)
        self.seed = seed
        self.verbose = verbose
        self.count = 0
        self.on_progress: Callable[[float], None] | None = None
        self._part = (0.0, 1.0)  # of the given utterances that were attacked before, and that are in the batch

    def __post_init__(self, estimator: Any) -> None:
        """How an attack that is a dataclass begins."""
        RecognizerAttack.__init__(self, estimator, self.targeted, self.batch_seconds, self.seed, self.verbose)
        self._check_params()

    def set_params(self, **params: Any) -> None:
        """Change options by name: all, or none and :class:`OptionError` where one is unknown or refused."""
        refuse_unknown(params, self.attack_params, type(self).__name__)
        with all_or_none(self):
            super().set_params(**params)

    @abstractmethod
    def attack(self, batch: Batch) -> Tensor:
        """Adversarial audio (N, T) of a padded batch."""

    def tell(self, share: float) -> None:
        """Say how much of a batch's attack is done, from 0 to 1."""
        if self.on_progress is not None:
            before, part = self._part
            self.on_progress(before + part * share)

    @property
    def rows(self) -> int:
        """Rows of the recogniser's batch that one utterance takes: the draws of an attack that has ``eot_draws``."""
        return getattr(self, "eot_draws", 1) if self.estimator.stochastic else 1

    def generate(self, x: Any, y: Any = None, indices: Sequence[int] | None = None, **kwargs: Any) -> Any:
        """Adversarial audio, of the kind, shape and dtype of ``x``.

        ``x``: what :func:`armory_mdnf.audio.checks.as_waveforms` takes, in [-1, 1]. ``y``: a transcript for each
        utterance: the target of a targeted attack, the label otherwise, by default what the recogniser understands.
        ``indices``: a whole number for each utterance, which with the seeds fixes all its draws; by default the running
        count of the utterances that this attack has seen.
        Raises :class:`AudioError`, :class:`TranscriptError`, :class:`OptionError` for what cannot be attacked.
        """
        if kwargs:
            raise OptionError(f"unknown option of generate {quoted(sorted(kwargs)[0])}, expected x, y, indices")
        waveforms = checks.as_waveforms(x, min_samples=self.estimator.min_samples)
        loud = [i for i, u in enumerate(waveforms) if self.estimator.clip_values is not None and np.abs(u).max() > 1]
        if loud:
            raise AudioError(f"utterance {loud[0]}: expected clean samples in [-1, 1] to attack; scale the audio")
        indices = self._indices(indices, len(waveforms))
        if y is None and self.targeted:
            raise TranscriptError("expected a target transcript for each utterance, got None")
        targets = None if y is None else self.estimator.encode(y, len(waveforms))
        self.estimator.check([len(u) for u in waveforms], targets)
        results: list[np.ndarray] = [np.empty(0)] * len(waveforms)
        attacked = 0
        bar = tqdm(total=len(waveforms), unit="utterance", disable=not self.verbose)
        for chunk in self._chunks([len(u) for u in waveforms]):
            tensors = [torch.tensor(waveforms[i], device=self.estimator.device) for i in chunk]
            audio, lengths = ragged.pad(tensors)
            numbers = [indices[i] for i in chunk]
            chosen = self._labels(audio, lengths, numbers) if targets is None else [targets[i] for i in chunk]
            self._part = (attacked / len(waveforms), len(chunk) / len(waveforms))
            x_adv = self.attack(Batch(audio, lengths, chosen, numbers))
            checks.check_batch(x_adv, audio.shape, type(self).__name__, AttackError)
            for i, u in zip(chunk, ragged.unpad(x_adv, lengths), strict=True):
                results[i] = u.detach().cpu().numpy()
            attacked += len(chunk)
            bar.update(len(chunk))
        bar.close()
        return checks.restore(results, x, waveforms)

    def _labels(self, audio: Tensor, lengths: Tensor, indices: Sequence[int]) -> list[list[int]]:
        """The recogniser's own transcripts, so that the attack does not learn the reference from its label."""
        texts = self.estimator.transcribe(audio, lengths, [(i, Purpose.LABEL) for i in indices])
        return self.estimator.encode(texts, len(texts))

    def count_from(self, index: int) -> None:
        """Draw for the next utterance as for number ``index`` of those that are attacked without ``indices``."""
        self.count = index

    def _indices(self, indices: Sequence[int] | None, n: int) -> list[int]:
        if indices is None:
            self.count += n
            return list(range(self.count - n, self.count))
        try:
            given = [as_whole(i) for i in indices]
        except TypeError:  # one number, for instance
            given = []
        numbers = [i for i in given if i is not None and i >= 0]
        if not len(numbers) == len(given) == n:
            raise OptionError(f"expected {n} indices, whole numbers >= 0, one per utterance, got {quoted(indices)}")
        return numbers

    def _chunks(self, sizes: Sequence[int]) -> Iterator[list[int]]:
        """Utterances by length, in batches that hold at most ``batch_seconds``, padding and draws included."""
        room = self.batch_seconds * self.estimator.sample_rate / self.rows
        return ragged.by_length(sizes, room)


@dataclass(eq=False, repr=False)
class PGD(RecognizerAttack):
    """Projected gradient descent, untargeted or targeted, under an l2, an l-infinity or an SNR bound.

    ``norm`` and its bound: "l2" or "linf" with ``eps`` in full-scale samples, "snr" with ``snr_db`` in decibels of
    power. The step is ``eps_step`` in full-scale samples, or ``step_fraction`` of the radius (default 0.2).
    ``max_iter=1`` with "linf" and ``step_fraction=1`` is FGSM.
    ``eot_draws``: draws of the defences' noise whose mean gradient is followed, anew at each step unless ``eot_fresh``
    is False. ``gradient``: "exact", or "published", which takes the loss at one draw and pulls its gradient back
    through another, as the authors' files do; with EOT, the mean of so many pairs. The estimator's option of that name
    is for others' attacks, which ask it for the gradient: these do not.
    ``random_start`` and ``restarts``, ``keep`` ("last" or "best" iterate), ``selection_draws`` and
    ``stop_on_success`` (targeted only): :class:`armory_mdnf.attacks.pgd.Descent`.
    ``batch_seconds``: audio of a batch whose gradient is computed at once, padding and its draws included, but not what
    a recogniser fills it up with, as Whisper does to 30 s an utterance; what needs no gradient, such as
    ``selection_draws``, may be more. A GPU holds all of it at once; a CPU takes parts of it in turn, side by side where
    it has cores. ``seed``: of the random starts; the defences have their own.

    Raises :class:`OptionError` for options outside their range or that contradict each other.
    """

    estimator: InitVar[Any] = field()
    norm: str = option("l2", one_of(NORMS))
    eps: float | None = None
    snr_db: float | None = None
    eps_step: float | None = option(None, or_null(POSITIVE))
    step_fraction: float | None = option(None, or_null(POSITIVE))
    max_iter: int = option(100, count(0))
    targeted: bool = option(False, FLAG)
    random_start: bool = option(False, FLAG)
    restarts: int = option(1, count(1))
    keep: str = option("last", one_of(KEEP))
    eot_draws: int = option(1, count(1))
    eot_fresh: bool = option(True, FLAG)
    selection_draws: int = option(1, count(1))
    stop_on_success: bool = option(False, FLAG)
    batch_seconds: float = option(BATCH_SECONDS, POSITIVE)
    seed: int = option(0, count(0))
    verbose: bool = option(False, FLAG)
    gradient: str = option("exact", one_of(GRADIENTS))

    def _check_params(self) -> None:
        check_options(self)
        self._geometry()
        if self.eps_step is not None and self.step_fraction is not None:
            raise OptionError("expected eps_step or step_fraction, got both")
        if self.restarts > 1 and not self.random_start:
            raise OptionError("expected random_start with more than one restart: they would all be the same")
        if self.stop_on_success and not self.targeted:
            raise OptionError("expected targeted with stop_on_success: an untargeted attack has no success to stop at")

    def _geometry(self) -> Geometry:
        return make_geometry(self.norm, self.eps, self.snr_db)

    def attack(self, batch: Batch) -> Tensor:
        descent = Descent(
            self._geometry(),
            LossGradient(self.eot_draws, self.eot_fresh, self.gradient == "published"),
            self.max_iter,
            step=self.eps_step,
            step_fraction=0.2 if self.step_fraction is None else self.step_fraction,
            targeted=self.targeted,
            random_start=self.random_start,
            restarts=self.restarts,
            keep=self.keep,
            selection_draws=self.selection_draws,
            stop_on_success=self.stop_on_success,
            seed=self.seed,
            watch=lambda restart, steps, _: self.tell((restart + steps / self.max_iter) / self.restarts),
        )
        return descent(self.estimator, batch)


@dataclass(eq=False, repr=False)
class CarliniWagner(RecognizerAttack):
    """Carlini and Wagner's targeted attack on CTC: :class:`armory_mdnf.attacks.carlini_wagner.ShrinkingBound`.

    ``eps`` and ``learning_rate`` (the step) in full-scale samples. Every ``num_iter_decrease_eps`` iterations the bound
    of an utterance that is understood as its target shrinks by ``decrease_factor_eps``. The defaults are the paper's;
    option names are those of ART's ``CarliniWagnerASR``. ``eot_draws`` and ``gradient`` as those of :class:`PGD`: the
    mean of several draws of the defences' noise, and the published gradient. ``targeted`` is for Armory, which asks for
    it, and must be True. Raises :class:`OptionError` for options outside their range.
    """

    estimator: InitVar[Any] = field()
    eps: float = option(0.01, POSITIVE)
    learning_rate: float = option(1e-4, POSITIVE)
    max_iter: int = option(400, count(0))
    decrease_factor_eps: float = option(0.8, POSITIVE)
    num_iter_decrease_eps: int = option(10, count(1))
    targeted: bool = option(True, FLAG)
    eot_draws: int = option(1, count(1))
    batch_seconds: float = option(BATCH_SECONDS, POSITIVE)
    seed: int = option(0, count(0))
    verbose: bool = option(False, FLAG)
    gradient: str = option("exact", one_of(GRADIENTS))

    def _check_params(self) -> None:
        check_options(self)
        if not self.targeted:
            raise OptionError("expected targeted to be true: this attack has no untargeted form")
        if self.decrease_factor_eps >= 1:
            raise OptionError(f"expected decrease_factor_eps below 1, got {quoted(self.decrease_factor_eps)}")

    def attack(self, batch: Batch) -> Tensor:
        shrinking = ShrinkingBound(
            self.eps,
            self.learning_rate,
            self.max_iter,
            self.decrease_factor_eps,
            self.num_iter_decrease_eps,
            LossGradient(self.eot_draws, published=self.gradient == "published"),
            lambda steps: self.tell(steps / self.max_iter),
        )
        return shrinking(self.estimator, batch)


@dataclass(eq=False, repr=False)
class RandomNoise(RecognizerAttack):
    """White noise as large as an attack may be, whatever the recogniser says: the control of an attack.

    ``norm``, ``eps`` and ``snr_db`` as those of :class:`PGD`. Under "l2" and "snr" the noise is Gaussian and its norm
    is the radius; under "linf" every sample changes by the radius, up or down. Samples that would leave [-1, 1] end
    there, so that loud audio gets less. ``seed`` and the utterance's index fix
    it. ``targeted`` is for Armory, which asks for it, and must be False.
    Raises :class:`OptionError` for options outside their range.
    """

    estimator: InitVar[Any] = field()
    norm: str = option("l2", one_of(NORMS))
    eps: float | None = None
    snr_db: float | None = None
    targeted: bool = option(False, FLAG)
    batch_seconds: float = option(BATCH_SECONDS, POSITIVE)
    seed: int = option(0, count(0))
    verbose: bool = option(False, FLAG)

    def _check_params(self) -> None:
        check_options(self)
        if self.targeted:
            raise OptionError("expected targeted to be false: noise has no target")
        make_geometry(self.norm, self.eps, self.snr_db)

    def _labels(self, audio: Tensor, lengths: Tensor, indices: Sequence[int]) -> list[list[int]]:
        return [[] for _ in indices]  # noise follows no label

    def attack(self, batch: Batch) -> Tensor:
        geometry = make_geometry(self.norm, self.eps, self.snr_db)
        streams = [stream(self.seed, i, Purpose.CONTROL) for i in batch.indices]
        noise = normal(streams, batch.lengths.tolist(), batch.x)
        moved = batch.x + geometry.radius(batch.x)[:, None] * geometry.direction(noise)
        return moved if self.estimator.clip_values is None else moved.clamp(-1, 1)


def make_geometry(norm: str, eps: float | None, snr_db: float | None) -> Geometry:
    """The ball of a norm and its bound. Raises :class:`OptionError` for a bound that does not go with the norm."""
    if norm not in NORMS:
        raise OptionError(choices(norm, NORMS, "norm"))
    bound, other = ("snr_db", "eps") if norm == "snr" else ("eps", "snr_db")
    given = {"eps": eps, "snr_db": snr_db}
    if given[bound] is None or given[other] is not None:
        raise OptionError(
            f"expected {bound}, and no {other}, with norm {quoted(norm)}, got eps={quoted(eps)} and "
            f"snr_db={quoted(snr_db)}"
        )
    if norm == "snr":
        return SNR(snr_db)  # type: ignore[arg-type]
    return (L2 if norm == "l2" else Linf)(eps)  # type: ignore[arg-type]
