"""Planted maskers, each flagged by the check that should; and what is sound, which passes all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from art.defences.preprocessor.preprocessor import Preprocessor, PreprocessorPyTorch
from conftest import speechlike, tiny_recognizer
from torch import Tensor, nn

from armory_mdnf.asr.contract import CTCRecognizer
from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.audio.noise import normal, stream
from armory_mdnf.audit.checks import CHECKS, Options, audit
from armory_mdnf.audit.findings import FAIL, PASS, SKIP, WARN, Finding
from armory_mdnf.audit.trials import Plan, Trials
from armory_mdnf.defenses import MDNF, RandomizedSmoothing
from armory_mdnf.defenses.base import WaveformDefense

# Ten, by fewer of which no difference fails, and of several words each, which LowPass leaves as they are.
AUDIO = [speechlike(3600 + 100 * k, seed=seed) for k, seed in enumerate((0, 2, 5, 6, 8, 9, 11, 15, 26, 28))]
PLAN = Plan(norm="l2", eps=0.3, snr_db=None, step=None, step_fraction=0.2, iterations=4)
PLACES = ("random", "attacked")
TAPS = torch.tensor([0.05, 0.9, 0.05])


def talkative() -> Any:
    """A random recogniser whose transcripts have several words: its favourite letter is the space."""
    recognizer = tiny_recognizer()
    rows = recognizer.network.fc[0].module[1].weight.data
    space, letter = (recognizer.alphabet.encode(c)[0] for c in " G")
    rows[[space, letter]] = rows[[letter, space]].clone()
    return recognizer


def findings(
    *defences: Any, only: Sequence[str] = tuple(CHECKS), plan: Plan = PLAN, recognizer: Any = None
) -> dict[str, Finding]:
    """Those of a recogniser whose references are what it hears undefended, so that only defence and attack cost."""
    recognizer = talkative() if recognizer is None else recognizer
    plain = RecognizerEstimator(recognizer, device_type="cpu")
    references = [str(text) for text in plain.predict(AUDIO)]
    estimator = RecognizerEstimator(recognizer, preprocessing_defences=list(defences) or None, device_type="cpu")
    trials = Trials.of(estimator, AUDIO, references, list(range(len(AUDIO))), plan, use_label=True)
    return {found.check: found for found in audit(trials, Options((1, 5), plan.iterations), only)}


class _Foreign(PreprocessorPyTorch):
    """A preprocessor as anybody writes one, on a tensor (N, T)."""

    def __init__(self) -> None:
        super().__init__(device_type="cpu", is_fitted=True, apply_fit=False, apply_predict=True)

    def forward(self, x: Tensor, y: Any = None) -> tuple[Tensor, Any]:
        raise NotImplementedError


def smooth(x: Tensor) -> Tensor:
    return nn.functional.conv1d(x[:, None], TAPS[None, None], padding="same")[:, 0]


class LowPass(WaveformDefense):
    """A smooth filter: sound."""

    def __init__(self) -> None:
        super().__init__(0, False, True, "cpu")

    def defend(self, x: Tensor, lengths: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        return smooth(x)


class LowPassThroughArt(_Foreign):
    """The same, as a preprocessor that knows nothing of this package."""

    def forward(self, x: Tensor, y: Any = None) -> tuple[Tensor, Any]:
        return smooth(x), y


class Quantised(_Foreign):
    """Rounds: its gradient is zero."""

    def forward(self, x: Tensor, y: Any = None) -> tuple[Tensor, Any]:
        return torch.round(x * 128) / 128, y


class Liar(Preprocessor):
    """A low-pass filter that gives noise for a gradient."""

    def __init__(self) -> None:
        super().__init__(is_fitted=True, apply_fit=False, apply_predict=True)

    def __call__(self, x: Any, y: Any = None) -> tuple[Any, Any]:
        return np.stack([np.convolve(u, TAPS.numpy(), mode="same") for u in x]), y

    def estimate_gradient(self, x: Any, grad: Any) -> Any:
        return np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)


class _Thinning(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return x * there

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad[0] * ctx.saved_tensors[0], None, None


def thin(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Nothing of half of the samples, twice the others."""
    return 2.0 * (torch.rand(x.shape, generator=generator) < 0.5)


class Redrawn(WaveformDefense):
    """Drops samples at random, and others in the backward pass."""

    stochastic = True

    def __init__(self, redrawn: bool = True) -> None:
        super().__init__(0, False, True, "cpu")
        self.redrawn = redrawn

    def defend(self, x: Tensor, lengths: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        there, back = (torch.stack([thin(row, s) for row, s in zip(x, streams, strict=True)]) for _ in range(2))
        return _Thinning.apply(x, there, back if self.redrawn else there)


class RedrawnThroughArt(_Foreign):
    """The same, as a preprocessor that draws from torch's own generator."""

    def forward(self, x: Tensor, y: Any = None) -> tuple[Tensor, Any]:
        return x * thin(x), y

    def estimate_forward(self, x: Tensor, y: Any = None) -> Tensor:
        return x * thin(x)


@pytest.mark.parametrize("defences", [[], [LowPass()]], ids=["none", "low-pass"])
def test_what_is_sound_passes(defences: list[Any]) -> None:
    found = findings(*defences, plan=replace(PLAN, iterations=8))
    assert tuple(found) == tuple(CHECKS)
    assert {name: f.statement for name, f in found.items() if f.verdict not in (PASS, SKIP)} == {}
    assert [name for name, f in found.items() if f.verdict == SKIP] == (
        ["draws", "published"] if defences else ["draws", "published", "adaptive"]
    )


def test_a_sound_preprocessor_of_others_has_the_right_gradient() -> None:
    (found,) = findings(LowPassThroughArt(), only=["gradient"]).values()
    assert found.verdict == PASS
    for place in PLACES:
        assert found.evidence[place]["along"] == pytest.approx(1, abs=0.02)
        assert found.evidence[place]["step_in_parts_of_the_bound"] >= 1e-3


def test_rounding_has_no_gradient_and_falls_to_an_identity() -> None:
    found = findings(Quantised(), only=["gradient", "budget", "adaptive"])
    assert {name: f.verdict for name, f in found.items()} == dict.fromkeys(("gradient", "budget", "adaptive"), FAIL)
    assert found["gradient"].evidence["random"]["zero_share"] == 1
    assert found["adaptive"].evidence["identity backward"]["wer"] > found["adaptive"].evidence["own_wer"] + 50
    assert "masked" in found["adaptive"].advice


def test_a_lie_in_estimate_gradient_is_found_by_differences_and_by_attacks_past_it() -> None:
    found = findings(Liar(), only=["gradient", "adaptive"])
    assert {name: f.verdict for name, f in found.items()} == {"gradient": FAIL, "adaptive": FAIL}
    assert abs(found["gradient"].evidence["random"]["along"]) < 0.3


@pytest.mark.parametrize("defence", [Redrawn(), RedrawnThroughArt()], ids=["ours", "theirs"])
def test_noise_redrawn_in_the_backward_pass_is_found_by_differences(defence: Any) -> None:
    (found,) = findings(defence, only=["gradient"]).values()
    assert found.verdict == FAIL
    assert found.evidence["random"]["along"] < 0.8


def test_the_same_noise_in_both_passes_is_no_lie_but_needs_many_draws() -> None:
    found = findings(Redrawn(redrawn=False), only=["gradient", "draws"])
    gradient, draws = found["gradient"].evidence["random"], found["draws"].evidence
    assert gradient["along"] == pytest.approx(1, abs=0.05)
    assert gradient["across"] > 0.95
    assert found["draws"].verdict in (WARN, FAIL)
    assert draws["draws_for_half"] is None or draws["draws_for_half"] > 1


class Undeclared(Redrawn):
    """Draws noise, and its class says that it draws none."""

    stochastic = False


@pytest.mark.parametrize("before", [[], [RandomizedSmoothing(20.0, 1, device_type="cpu")]], ids=["alone", "behind"])
def test_noise_that_a_defence_hides_is_found(before: list[Any]) -> None:
    found = findings(*before, Undeclared(redrawn=False), only=["draws", "published"])
    for finding in found.values():
        assert finding.verdict == FAIL
        assert finding.statement == "Undeclared draws noise without saying so: set stochastic = True."


class Wavy(WaveformDefense):
    """Bends within a thousandth of the attack's bound, but rises on the whole: an attack's steps follow it."""

    WAVES = 3e5

    def __init__(self) -> None:
        super().__init__(0, False, True, "cpu")

    def defend(self, x: Tensor, lengths: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        return x + 0.9 * torch.sin(self.WAVES * x) / self.WAVES


def test_a_loss_that_bends_early_is_a_warning_though_its_gradient_leads_somewhere() -> None:
    """The slope is 1 + 0.9 cos: two phases have its mean in common, a power of 1 of 1 + 0.9 ** 2 / 2."""
    found = findings(Wavy(), only=["gradient"])["gradient"]
    assert found.verdict == WARN
    for place in PLACES:
        assert found.evidence[place]["step_in_parts_of_the_bound"] < 1e-3
        assert found.evidence[place]["coherence"] > 0.5
    assert found.statement.count("over longer ones, as an attack takes, it bends") == 2
    assert "an attack's step away" not in found.statement
    assert "may be shattered" in found.advice


class Shattered(CTCRecognizer):
    """Bends as well, inaudibly, and slopes 1 + 15 cos: less than a hundredth of its power is common to two places."""

    def __init__(self, length: float) -> None:
        super().__init__()
        self.inner, self.length = talkative(), length
        self.sample_rate_hz, self.min_samples = self.inner.sample_rate_hz, self.inner.min_samples
        self.alphabet = self.inner.alphabet

    def out_frames(self, lengths: Tensor) -> Tensor:
        return self.inner.out_frames(lengths)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner(x + 15 * self.length * torch.sin(x / self.length), lengths)


@pytest.mark.parametrize("norm", [{}, {"norm": "linf", "eps": 0.005}], ids=["l2", "linf"])
@pytest.mark.parametrize("length", [5e-6, 5e-5])
def test_a_smoothly_shattered_gradient_is_found(length: float, norm: dict[str, Any]) -> None:
    """In a recogniser of one's own, in front of which nothing stands; by the shorter steps, and a step away."""
    (found,) = findings(only=["gradient"], plan=replace(PLAN, **norm), recognizer=Shattered(length)).values()
    assert found.verdict == WARN, found.evidence
    for place in PLACES:
        assert found.evidence[place]["along"] == pytest.approx(1, abs=0.05)
        assert abs(found.evidence[place]["coherence"]) < 0.1
    assert found.statement.count("the gradient an attack's step away has cosine") == 2
    assert "may be shattered" in found.advice


class SeededByAudio(WaveformDefense):
    """White noise that repeats for the same audio, and is drawn anew at each step of an attack."""

    def __init__(self) -> None:
        super().__init__(0, False, True, "cpu")

    def defend(self, x: Tensor, lengths: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        sizes = lengths.tolist()
        levels = [int(1e4 * float(row[:n].abs().mean())) for row, n in zip(x.detach(), sizes, strict=True)]
        return x + 0.02 * normal([stream(0, level) for level in levels], sizes, x, width=x.shape[1])


def test_noise_that_the_audio_seeds_is_found() -> None:
    """Two draws of 0.02 differ by 0.02 sqrt(2 n), at least 5.6 times the bound of 0.3."""
    found = findings(SeededByAudio(), only=["gradient", "draws"])
    assert found["draws"].verdict == SKIP  # asked twice of the same audio, it says the same
    assert found["gradient"].verdict == WARN
    assert found["gradient"].evidence["jump_in_parts_of_the_bound"] == pytest.approx(6, abs=0.6)
    assert "where the audio hardly moves" in found["gradient"].statement
    assert found["gradient"].advice.startswith("Look for noise that the audio itself seeds")


@pytest.mark.parametrize("norm", [{}, {"norm": "linf", "eps": 0.005}], ids=["l2", "linf"])
@pytest.mark.parametrize("vocoder", ["", "melgan", "hifigan"])
def test_the_defences_of_this_package_have_the_right_gradient(
    vocoder: str, norm: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    defence = (
        MDNF(request.getfixturevalue(vocoder), 40.0, None, device_type="cpu")
        if vocoder
        else RandomizedSmoothing(15.0, 2, device_type="cpu")
    )
    found = findings(defence, only=["gradient"], plan=replace(PLAN, **norm))["gradient"]
    assert found.verdict == PASS, found.evidence
    assert found.evidence["jump_in_parts_of_the_bound"] < 0.01
    assert min(found.evidence[place]["coherence"] for place in PLACES) > 0.3


class _Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        return grad[0] / 2


class InPart(WaveformDefense):
    """Does something to the three longest of ten utterances alone."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(0, False, True, "cpu")
        self.change = change

    def defend(self, x: Tensor, lengths: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        rows = [self.change(row) if n > len(AUDIO[6]) else row for row, n in zip(x, lengths.tolist(), strict=True)]
        return torch.stack(rows)


def test_a_few_utterances_without_gradient_are_found() -> None:
    found = findings(InPart(lambda row: torch.round(row * 128) / 128), only=["gradient"])["gradient"]
    assert found.verdict == FAIL
    assert found.evidence["random"]["zero_share"] < 0.5
    assert found.evidence["random"]["utterances_without_gradient"] == 3
    assert "in 3 of 10 utterances, whose loss changes all the same" in found.statement


def test_a_few_utterances_that_are_not_heard_have_no_gradient_to_find() -> None:
    """Nothing is hidden, but an attack is as good as not made on them."""
    found = findings(InPart(torch.zeros_like), only=["gradient"])["gradient"]
    assert found.verdict == WARN
    assert found.evidence["random"]["largest_zero_share"] == 1
    assert found.evidence["random"]["utterances_without_gradient"] == 0


def test_a_few_gradients_of_the_wrong_length_are_found() -> None:
    found = findings(InPart(_Halved.apply), only=["gradient"])["gradient"]
    assert found.verdict == FAIL
    assert found.evidence["random"]["along"] == pytest.approx(2, abs=0.1)


class Detached(WaveformDefense):
    """Has no gradient beyond a part of the bound; everywhere with a part of -1."""

    def __init__(self, part: float) -> None:
        super().__init__(0, False, True, "cpu")
        self.part = part
        self.clean = {len(u): torch.tensor(u) for u in AUDIO}

    def defend(self, x: Tensor, lengths: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        change = [(row[:n] - self.clean[n]).norm() for row, n in zip(x.detach(), lengths.tolist(), strict=True)]
        far = torch.stack(change) > self.part * float(PLAN.eps or 0)
        return x.detach() if far.all() and self.part < 0 else torch.where(far[:, None], x.detach(), x)


def test_a_gradient_that_ends_where_the_attack_goes_is_found() -> None:
    found = findings(Detached(0.6), only=["gradient"])["gradient"]
    assert found.verdict == FAIL
    assert found.evidence["random"]["utterances_without_gradient"] == 0
    assert found.evidence["random"]["along"] == pytest.approx(1, abs=0.05)
    assert found.evidence["attacked"]["utterances_without_gradient"] == len(AUDIO)


def test_a_defence_that_passes_no_gradient_on_is_found() -> None:
    found = findings(Detached(-1), only=["gradient", "convergence"])
    assert [f.verdict for f in found.values()] == [FAIL, FAIL]
    assert found["gradient"].statement.startswith(
        "At a random place there is none to follow: no gradient reaches the audio"
    )
    assert found["convergence"].statement.startswith("The attack broke down: no gradient reaches the audio")
