"""The attacks as ART's ``EvasionAttack``: options checked, audio of any kind in, the same kind out.

Only this module of the attacks knows NumPy and ART.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.estimators.estimator import BaseEstimator
from torch import Tensor
from tqdm import tqdm

from armory_mdnf.attacks.carlini_wagner import ShrinkingBound
from armory_mdnf.attacks.geometry import L2, LARGEST, SNR, Geometry, Linf
from armory_mdnf.attacks.gradient import LossGradient
from armory_mdnf.attacks.pgd import Batch, Descent
from armory_mdnf.attacks.recognizer import AttackedRecognizer, Purpose
from armory_mdnf.audio import checks, ragged
from armory_mdnf.audio.noise import normal, stream
from armory_mdnf.errors import AttackError, AudioError, OptionError, TranscriptError, choices, quoted

NORMS = ("l2", "linf", "snr")
KEEP = ("last", "best")
GRADIENTS = ("exact", "published")


class RecognizerAttack(EvasionAttack):
    """What the attacks share: batches of similar lengths, labels, and the way to and from the caller's kind."""

    _estimator_requirements = (BaseEstimator,)

    def __init__(self, estimator: Any, targeted: bool, batch_seconds: float, seed: int, verbose: bool) -> None:
        if not isinstance(estimator, AttackedRecognizer):
            raise OptionError(
                f"expected an estimator with losses and transcribe, such as RecognizerEstimator, got "
                f"{type(estimator).__name__}: for others there are ART's own attacks"
            )
        super().__init__(estimator=estimator)
        for name, value in (("targeted", targeted), ("verbose", verbose)):
            check_flag(name, value)
        check_positive("batch_seconds", batch_seconds)
        check_count("seed", seed, least=0)
        self._targeted = targeted
        self.batch_seconds = float(batch_seconds)
        self.seed = seed
        self.verbose = verbose
        self.count = 0

    @abstractmethod
    def attack(self, batch: Batch) -> Tensor:
        """Adversarial audio (N, T) of a padded batch."""

    @property
    def rows(self) -> int:
        """Rows of the recogniser's batch that one utterance takes."""
        return 1

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
        results: list[np.ndarray] = [np.empty(0)] * len(waveforms)
        bar = tqdm(total=len(waveforms), unit="utterance", disable=not self.verbose)
        for chunk in self._chunks([len(u) for u in waveforms]):
            tensors = [torch.tensor(waveforms[i], device=self.estimator.device) for i in chunk]
            audio, lengths = ragged.pad(tensors)
            numbers = [indices[i] for i in chunk]
            chosen = self._labels(audio, lengths, numbers) if targets is None else [targets[i] for i in chunk]
            x_adv = self.attack(Batch(audio, lengths, chosen, numbers))
            checks.check_batch(x_adv, audio.shape, type(self).__name__, AttackError)
            for i, u in zip(chunk, ragged.unpad(x_adv, lengths), strict=True):
                results[i] = u.cpu().numpy()
            bar.update(len(chunk))
        bar.close()
        return checks.restore(results, x)

    def _labels(self, audio: Tensor, lengths: Tensor, indices: Sequence[int]) -> list[list[int]]:
        """The recogniser's own transcripts, so that the attack does not learn the reference from its label."""
        texts = self.estimator.transcribe(audio, lengths, [(i, Purpose.LABEL) for i in indices])
        return self.estimator.encode(texts, len(texts))

    def _indices(self, indices: Sequence[int] | None, n: int) -> list[int]:
        if indices is None:
            self.count += n
            return list(range(self.count - n, self.count))
        if len(indices) != n or any(isinstance(i, bool) or int(i) != i or i < 0 for i in indices):
            raise OptionError(f"expected {n} indices, whole numbers >= 0, one per utterance, got {quoted(indices)}")
        return [int(i) for i in indices]

    def _chunks(self, sizes: Sequence[int]) -> Iterator[list[int]]:
        """Utterances by length, in batches that hold at most ``batch_seconds``, padding and draws included."""
        room = self.batch_seconds * self.estimator.sample_rate / self.rows
        return ragged.by_length(sizes, room)


class PGD(RecognizerAttack):
    """Projected gradient descent, untargeted or targeted, under an l2, an l-infinity or an SNR bound.

    ``norm`` and its bound: "l2" or "linf" with ``eps`` in full-scale samples, "snr" with ``snr_db`` in decibels of
    power. The step is ``eps_step`` in full-scale samples, or ``step_fraction`` of the radius (default 0.2).
    ``max_iter=1`` with "linf" and ``step_fraction=1`` is FGSM.
    ``eot_draws``: draws of the defences' noise whose mean gradient is followed, anew at each step unless ``eot_fresh``
    is False. ``gradient``: "exact", or "published", which takes the loss at one draw and pulls its gradient back
    through another, as the authors' files do; with EOT, the mean of so many pairs.
    ``random_start`` and ``restarts``, ``keep`` ("last" or "best" iterate), ``selection_draws`` and
    ``stop_on_success`` (targeted only): :class:`armory_mdnf.attacks.pgd.Descent`.
    ``batch_seconds``: audio of a batch, padding and draws included. A GPU holds all of it at once; a CPU takes parts of
    it in turn, side by side where it has cores. ``seed``: of the random starts; the defences have their own.

    Raises :class:`OptionError` for options outside their range or that contradict each other.
    """

    attack_params: ClassVar[list[str]] = [
        *EvasionAttack.attack_params,
        *("norm", "eps", "snr_db", "eps_step", "step_fraction", "max_iter", "targeted", "random_start", "restarts"),
        *("keep", "eot_draws", "eot_fresh", "selection_draws", "stop_on_success", "batch_seconds", "seed", "verbose"),
        "gradient",
    ]

    def __init__(
        self,
        estimator: Any,
        norm: str = "l2",
        eps: float | None = None,
        snr_db: float | None = None,
        eps_step: float | None = None,
        step_fraction: float | None = None,
        max_iter: int = 100,
        targeted: bool = False,
        random_start: bool = False,
        restarts: int = 1,
        keep: str = "last",
        eot_draws: int = 1,
        eot_fresh: bool = True,
        selection_draws: int = 1,
        stop_on_success: bool = False,
        batch_seconds: float = 64.0,
        seed: int = 0,
        verbose: bool = False,
        gradient: str = "exact",
    ) -> None:
        super().__init__(estimator, targeted, batch_seconds, seed, verbose)
        self.gradient = gradient
        self.norm = norm
        self.eps = eps
        self.snr_db = snr_db
        self.eps_step = eps_step
        self.step_fraction = step_fraction
        self.max_iter = max_iter
        self.random_start = random_start
        self.restarts = restarts
        self.keep = keep
        self.eot_draws = eot_draws
        self.eot_fresh = eot_fresh
        self.selection_draws = selection_draws
        self.stop_on_success = stop_on_success
        self._check_params()

    def _check_params(self) -> None:
        self._geometry()
        if self.eps_step is not None and self.step_fraction is not None:
            raise OptionError("expected eps_step or step_fraction, got both")
        for name in ("eps_step", "step_fraction"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        for name, least in (("max_iter", 0), ("restarts", 1), ("eot_draws", 1), ("selection_draws", 1)):
            check_count(name, getattr(self, name), least)
        for name in ("random_start", "eot_fresh", "stop_on_success"):
            check_flag(name, getattr(self, name))
        if self.restarts > 1 and not self.random_start:
            raise OptionError("expected random_start with more than one restart: they would all be the same")
        if self.gradient not in GRADIENTS:
            raise OptionError(choices(self.gradient, GRADIENTS, "gradient"))
        if self.keep not in KEEP:
            raise OptionError(choices(self.keep, KEEP, "keep"))
        if self.stop_on_success and not self.targeted:
            raise OptionError("expected targeted with stop_on_success: an untargeted attack has no success to stop at")

    def _geometry(self) -> Geometry:
        return make_geometry(self.norm, self.eps, self.snr_db)

    @property
    def rows(self) -> int:
        return self.eot_draws if self.estimator.stochastic else 1

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
        )
        return descent(self.estimator, batch)


class CarliniWagner(RecognizerAttack):
    """Carlini and Wagner's targeted attack on CTC: :class:`armory_mdnf.attacks.carlini_wagner.ShrinkingBound`.

    ``eps`` and ``learning_rate`` (the step) in full-scale samples. Every ``num_iter_decrease_eps`` iterations the bound
    of an utterance that is understood as its target shrinks by ``decrease_factor_eps``. The defaults are the paper's;
    option names are those of ART's ``CarliniWagnerASR``. ``targeted`` is for Armory, which asks for it, and must be
    True. Raises :class:`OptionError` for options outside their range.
    """

    attack_params: ClassVar[list[str]] = [
        *EvasionAttack.attack_params,
        *("eps", "learning_rate", "max_iter", "decrease_factor_eps", "num_iter_decrease_eps", "targeted"),
        *("batch_seconds", "seed", "verbose"),
    ]

    def __init__(
        self,
        estimator: Any,
        eps: float = 0.01,
        learning_rate: float = 1e-4,
        max_iter: int = 400,
        decrease_factor_eps: float = 0.8,
        num_iter_decrease_eps: int = 10,
        targeted: bool = True,
        batch_seconds: float = 64.0,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(estimator, targeted, batch_seconds, seed, verbose)
        self.eps = eps
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.decrease_factor_eps = decrease_factor_eps
        self.num_iter_decrease_eps = num_iter_decrease_eps
        self._check_params()

    def _check_params(self) -> None:
        if not self.targeted:
            raise OptionError("expected targeted to be true: this attack has no untargeted form")
        for name in ("eps", "learning_rate", "decrease_factor_eps"):
            check_positive(name, getattr(self, name))
        if self.decrease_factor_eps >= 1:
            raise OptionError(f"expected decrease_factor_eps below 1, got {quoted(self.decrease_factor_eps)}")
        check_count("max_iter", self.max_iter, least=0)
        check_count("num_iter_decrease_eps", self.num_iter_decrease_eps, least=1)

    def attack(self, batch: Batch) -> Tensor:
        shrinking = ShrinkingBound(
            self.eps, self.learning_rate, self.max_iter, self.decrease_factor_eps, self.num_iter_decrease_eps
        )
        return shrinking(self.estimator, batch)


class RandomNoise(RecognizerAttack):
    """White noise as large as an attack may be, whatever the recogniser says: the control of an attack.

    ``norm``, ``eps`` and ``snr_db`` as those of :class:`PGD`. Under "l2" and "snr" the noise is Gaussian and its norm
    is the radius; under "linf" every sample changes by the radius, up or down. ``seed`` and the utterance's index fix
    it. ``targeted`` is for Armory, which asks for it, and must be False.
    Raises :class:`OptionError` for options outside their range.
    """

    attack_params: ClassVar[list[str]] = [
        *EvasionAttack.attack_params,
        *("norm", "eps", "snr_db", "targeted", "batch_seconds", "seed", "verbose"),
    ]

    def __init__(
        self,
        estimator: Any,
        norm: str = "l2",
        eps: float | None = None,
        snr_db: float | None = None,
        targeted: bool = False,
        batch_seconds: float = 64.0,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        super().__init__(estimator, targeted, batch_seconds, seed, verbose)
        self.norm = norm
        self.eps = eps
        self.snr_db = snr_db
        self._check_params()

    def _check_params(self) -> None:
        if self.targeted:
            raise OptionError("expected targeted to be false: noise has no target")
        make_geometry(self.norm, self.eps, self.snr_db)

    def _labels(self, audio: Tensor, lengths: Tensor, indices: Sequence[int]) -> list[list[int]]:
        return [[] for _ in indices]  # noise follows no label

    def attack(self, batch: Batch) -> Tensor:
        geometry = make_geometry(self.norm, self.eps, self.snr_db)
        streams = [stream(self.seed, i) for i in batch.indices]
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


def check_flag(name: str, value: object) -> None:
    """Raise :class:`OptionError` unless true or false."""
    if not isinstance(value, bool):
        raise OptionError(f"expected {name} to be true or false, got {quoted(value)}")


def check_count(name: str, value: object, least: int) -> None:
    """Raise :class:`OptionError` unless a whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
        raise OptionError(f"expected {name} to be a whole number >= {least}, got {quoted(value)}")


def check_positive(name: str, value: object) -> None:
    """Raise :class:`OptionError` unless a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= LARGEST:
        raise OptionError(f"expected {name} to be a finite number > 0, got {quoted(value)}")
