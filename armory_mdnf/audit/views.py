"""The recogniser behind its defences as an attack may see it: whole, without them, or past them.

A view is made of the whole, whose seed it has, and draws every noise by keys. Defences of this package do so anyway;
for others, which draw from the global generators, those are seeded by the key before each evaluation, and utterances
are taken one at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from armory_mdnf.asr.pipeline import Pipeline
from armory_mdnf.asr.preprocessing import Chain, Draws
from armory_mdnf.audio import ragged
from armory_mdnf.audio.noise import Key, NoiseSource
from armory_mdnf.defenses import MDNF, RandomizedSmoothing
from armory_mdnf.defenses.base import WaveformDefense
from armory_mdnf.options import MAX_SNR_DB
from armory_mdnf.runner.generators import seeded


class View:
    """An :class:`armory_mdnf.attacks.recognizer.AttackedRecognizer`: an estimator's recogniser behind a chain.

    Both compute in the dtype of the recogniser's weights, as in the estimator; what comes out has that of the audio.
    ``chain``: by default the estimator's own. ``seed`` changes what the global generators get.
    """

    def __init__(self, estimator: Any, chain: Chain | None = None, seed: int = 0) -> None:
        self.estimator = estimator
        self.chain = Chain(estimator.preprocessing_operations) if chain is None else chain
        self.pipeline = Pipeline(estimator.model, self.chain)
        self.dtype = next((p.dtype for p in estimator.model.parameters()), torch.float32)
        self.seed = seed
        self.stochastic = self.chain.stochastic
        self.clip_values = estimator.clip_values
        self.device = estimator.device
        self.sample_rate = estimator.sample_rate
        self.min_samples = estimator.min_samples

    @property
    def keyed(self) -> bool:
        """Whether all noise is drawn by keys, so that utterances can be taken together."""
        return self.chain.independent

    def encode(self, transcripts: Any, n: int) -> list[list[int]]:
        """Classes of ``n`` transcripts."""
        return list(self.estimator.encode(transcripts, n))

    def check(self, sizes: Sequence[int], targets: Sequence[Sequence[int]] | None = None) -> None:
        """Raise for utterances that cannot be attacked, or cannot hold their targets."""
        self.estimator.check(sizes, targets)

    def is_heard(self, transcript: str, target: Sequence[int]) -> bool:
        """Whether a transcript is what a target stands for, white space apart."""
        return bool(self.estimator.is_heard(transcript, target))

    def clipped(self, x: Tensor) -> Tensor:
        """The audio, clipped where the estimator clips attacks."""
        return x if self.clip_values is None else x.clamp(-1, 1)

    def losses(self, x: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]], keys: Sequence[Key]) -> Tensor:
        """Shape: x (N, T), zero beyond lengths (N,), N targets, N keys -> (N,), differentiable in x."""
        if self.keyed:
            return self.pipeline.losses(x.to(self.dtype), lengths, targets, self._draws(keys)).to(x)
        return torch.cat(self._one_by_one(self.pipeline.losses, x, lengths, _alone(keys), targets)).to(x)

    def gradients(
        self,
        x: Tensor,
        lengths: Tensor,
        targets: Sequence[Sequence[int]],
        keys: Sequence[Key],
        back_keys: Sequence[Key] | None = None,
    ) -> Tensor:
        """Gradient of each utterance's own loss. Shape: x (N, T), lengths (N,), N targets, N keys -> (N, T).

        With ``back_keys`` the published one. A defence that draws from the global generators goes on drawing there.
        """
        if self.keyed:
            back = None if back_keys is None else self._draws(back_keys)
            return self.pipeline.gradients(x.to(self.dtype), lengths, targets, self._draws(keys), back).to(x)
        result = torch.zeros_like(x)
        for row, found in zip(
            result, self._one_by_one(self.pipeline.gradients, x, lengths, _alone(keys), targets, back_keys), strict=True
        ):
            row[: found.shape[1]] = found[0]
        return result

    def transcribe(self, x: Tensor, lengths: Tensor, keys: Sequence[Key]) -> list[str]:
        """Shape: x (N, T), lengths (N,), N keys -> N transcripts."""
        with torch.no_grad():
            if self.keyed:
                return self.pipeline.transcripts(x.to(self.dtype), lengths, self._draws(self._of_passes(keys)))
            passes = [self._of_passes([key]) for key in keys]
            return [text for (text,) in self._one_by_one(self.pipeline.transcripts, x, lengths, passes)]

    def heard(self, x: Tensor, lengths: Tensor, keys: Sequence[Key]) -> Tensor:
        """What the recogniser hears. Shape: x (N, T), lengths (N,), N keys -> (N, T)."""
        with torch.no_grad():
            if self.keyed:
                return self.chain(x.to(self.dtype), lengths, self._draws(keys))[0].to(x)
            heard = [found[0][0] for found in self._one_by_one(self.chain, x, lengths, _alone(keys))]
            return ragged.pad(heard)[0].to(x)

    def _draws(self, keys: Sequence[Key]) -> Draws:
        return self.chain.draw(len(keys), keys)

    def _of_passes(self, keys: Sequence[Key]) -> list[Key]:
        return [(*key, p) for key in keys for p in range(self.chain.num_passes)]

    def _one_by_one(
        self,
        function: Callable[..., Any],
        x: Tensor,
        lengths: Tensor,
        keys: Sequence[list[Key]],
        targets: Sequence[Sequence[int]] | None = None,
        back_keys: Sequence[Key] | None = None,
    ) -> list[Any]:
        """The function's result for each utterance, which has one key, or one per pass."""
        found = []
        for i, n in enumerate(lengths.tolist()):
            more: list[Any] = [] if targets is None else [[targets[i]]]
            more.append(self._draws(keys[i]))
            if back_keys is not None:
                more.append(self._draws([back_keys[i]]))
            with seeded(self.seed, *keys[i][0]):
                found.append(function(x[i : i + 1, :n].to(self.dtype), lengths[i : i + 1], *more))
        return found


def _alone(keys: Sequence[Key]) -> list[list[Key]]:
    return [[key] for key in keys]


class _Identity(Chain):
    """A chain whose backward pass is the identity: what is heard is the chain's, its gradient that of the audio."""

    def __call__(self, x: Tensor, lengths: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            heard, heard_lengths = super().__call__(x, lengths, draws)
        return x + (heard - x).detach(), heard_lengths


def undefended(whole: View) -> View:
    """The recogniser alone."""
    return View(whole.estimator, Chain([]), whole.seed)


def straight_through(whole: View) -> View:
    """The defences with the identity as their backward pass (BPDA, Athalye et al. 2018)."""
    view = View(whole.estimator, _Identity(whole.chain.operations), whole.seed)
    view.stochastic = whole.stochastic
    return view


def reseeded(whole: View, by: int = 1) -> View:
    """The defences with other seeds."""
    operations = [copy.copy(operation) for operation in whole.chain.operations]
    for operation in operations:
        if isinstance(operation, WaveformDefense):
            operation.reseed(operation.noise.seed + by)
    view = View(whole.estimator, Chain(operations), whole.seed + by)
    view.stochastic = whole.stochastic
    return view


class _OneDraw(NoiseSource):
    """The same noise for an utterance whatever the step and the draw."""

    def streams(self, n: int, keys: Sequence[Key] | None = None, place: int = 0) -> list[torch.Generator]:
        return super().streams(n, None if keys is None else [(key[0], 0) for key in keys], place)


def without_noise(whole: View) -> View | None:
    """The defences with the noise that they add turned off; None where there is none to turn off.

    That of :class:`MDNF` and :class:`RandomizedSmoothing`, the latter at :data:`MAX_SNR_DB`. A vocoder that has to have
    noise gets the same at every draw. What others draw from the global generators goes on.
    """
    operations = [copy.copy(operation) for operation in whole.chain.operations]
    noisy = [operation for operation in operations if isinstance(operation, WaveformDefense) and operation.stochastic]
    for operation in noisy:
        operation.noise = _OneDraw(operation.noise.seed)
        if isinstance(operation, MDNF):
            operation.noise_level = 0.0
        elif isinstance(operation, RandomizedSmoothing):
            operation.snr_db = float(MAX_SNR_DB)
    if not noisy:
        return None
    view = View(whole.estimator, Chain(operations), whole.seed)
    # Several draws of nothing random would be the same rows over and over.
    left = [operation for operation in operations if operation not in noisy]
    view.stochastic = any(getattr(operation, "stochastic", whole.stochastic) for operation in left)
    return view
