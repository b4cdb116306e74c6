"""The attacks: against ART's and Armory's, a closed form, their bounds, single runs, and what they refuse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import CarliniWagnerASR, FastGradientMethod, ProjectedGradientDescent
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from conftest import ragged_array, speechlike, tiny_recognizer
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.attacks import PGD, CarliniWagner, RandomNoise
from armory_mdnf.attacks.carlini_wagner import ShrinkingBound
from armory_mdnf.attacks.geometry import L2, SNR, Geometry, Linf
from armory_mdnf.attacks.gradient import LossGradient
from armory_mdnf.attacks.pgd import Batch, Descent, mean_losses, understood_as_target
from armory_mdnf.attacks.recognizer import Purpose
from armory_mdnf.audio import ragged
from armory_mdnf.audio.files import read_audio
from armory_mdnf.data.bundled import load_split
from armory_mdnf.defenses import MDNF, MelResynth, RandomizedSmoothing
from armory_mdnf.errors import ArmoryMdnfError, AttackError, AudioError, OptionError, TranscriptError


def estimator(*defences: Any) -> RecognizerEstimator:
    return RecognizerEstimator(tiny_recognizer(), preprocessing_defences=list(defences) or None, device_type="cpu")


@pytest.fixture(scope="module")
def plain() -> RecognizerEstimator:
    return estimator()


def apart(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> float:
    """How far two attacked utterances lie apart, in parts of what the attack changed in ``x``.

    Another noise draw, step or bound gives about 1. Rounding gives some 1e-5, until it turns a gradient at a kink, or a
    sign next to zero: which of them turn hangs on the processor, and each step after that adds to it.
    """
    return float(np.linalg.norm(a - b) / np.linalg.norm(b - x))


class Linear:
    """Loss ``w . x``, w noisy by the key if ``noise`` is set; hears "A" where the loss is above ``above``."""

    clip_values: Any = None
    device = torch.device("cpu")
    sample_rate = 16000
    min_samples = 2

    def __init__(self, w: Tensor, noise: float = 0.0, above: float = torch.inf) -> None:
        self.w, self.noise, self.above = w, noise, above
        self.stochastic = noise > 0
        self.keys: list[tuple[int, ...]] = []

    def encode(self, transcripts: Any, n: int) -> list[list[int]]:
        return [[ord(c) for c in text] for text in transcripts]

    def check(self, sizes: Any, targets: Any = None) -> None:
        pass

    def is_heard(self, transcript: str, target: Sequence[int]) -> bool:
        return transcript.split() == "".join(map(chr, target)).split()

    def losses(self, x: Tensor, lengths: Tensor, targets: Any, keys: Sequence[tuple[int, ...]]) -> Tensor:
        self.keys += list(keys)
        w = self.w[: x.shape[1]].expand_as(x)
        if self.noise:
            rows = [torch.randn(x.shape[1], generator=torch.Generator().manual_seed(hash(k))) for k in keys]
            w = w + self.noise * torch.stack(rows)
        return (ragged.zero_beyond(w, lengths) * x).sum(1)

    def gradients(self, x: Tensor, lengths: Tensor, targets: Any, keys: Sequence[tuple[int, ...]]) -> Tensor:
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(self.losses(leaf, lengths, targets, keys).sum(), leaf)[0]

    def transcribe(self, x: Tensor, lengths: Tensor, keys: Any) -> list[str]:
        return ["A" if s > self.above else "B" for s in self.losses(x, lengths, None, keys)]


def linear_batch(n: int = 3) -> tuple[Linear, Batch]:
    torch.manual_seed(0)
    x, lengths = ragged.pad([0.3 * torch.randn(size) for size in (400, 250, 333)[:n]])
    return Linear(torch.randn(400)), Batch(x, lengths, [[1]] * n, list(range(n)))


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("geometry", [L2(0.7), Linf(0.02), SNR(25.0)])
def test_the_best_perturbation_of_a_linear_loss_is_reached(
    geometry: Geometry, random_start: bool, targeted: bool
) -> None:
    model, batch = linear_batch()
    descent = Descent(geometry, LossGradient(), 20, targeted=targeted, random_start=random_start)
    gain = model.losses(descent(model, batch) - batch.x, batch.lengths, None, [])
    rows = ragged.unpad(model.w.expand_as(batch.x), batch.lengths)
    radius = geometry.radius(batch.x)
    dual = torch.stack([row.abs().sum() if isinstance(geometry, Linf) else row.norm() for row in rows])
    best = radius * dual * (-1 if targeted else 1)
    assert bool((gain / best > 0.99).all())
    assert bool((gain / best < 1 + 1e-5).all())


def test_an_snr_bound_is_in_decibels_of_each_utterances_own_power() -> None:
    model, batch = linear_batch()
    x = batch.x * torch.tensor([[1.0], [0.1], [3.0]])
    delta = Descent(SNR(20.0), LossGradient(), 10, step_fraction=0.5)(
        model, Batch(x, batch.lengths, batch.targets, [0, 1, 2])
    )
    snr_db = 10 * torch.log10(x.pow(2).sum(1) / (delta - x).pow(2).sum(1))
    assert snr_db.tolist() == pytest.approx([20.0] * 3, abs=1e-3)


@pytest.mark.parametrize(("norm", "art_norm", "eps"), [("l2", 2, 0.5), ("linf", np.inf, 0.01)])
@pytest.mark.parametrize("targeted", [False, True])
def test_iterates_equal_those_of_art(norm: str, art_norm: float, eps: float, targeted: bool) -> None:
    model = RecognizerEstimator("ds2_base", device_type="cpu")
    utterances = sorted(load_split("human", "dev"), key=lambda u: u.duration_s)[:2]
    y = ["PRESS ONE", "HELLO"] if targeted else None
    # Norms are summed in another order, and every step amplifies the last bits: few steps, but out of the ball.
    options = {"eps": eps, "eps_step": eps / 2, "max_iter": 3, "targeted": targeted}
    ours = PGD(model, norm=norm, **options)
    art = ProjectedGradientDescent(model, norm=art_norm, batch_size=1, verbose=False, **options)
    for i, utterance in enumerate(utterances):
        x = read_audio(utterance.path)[0][None]
        label = None if y is None else np.array([y[i]])
        a, b = ours.generate(x, label), art.generate(x, label)
        assert a.dtype == b.dtype == np.float32
        assert np.abs(b - x).max() > eps / 100
        assert apart(a, b, x) < 0.02


def test_one_step_is_arts_fast_gradient_method(plain: RecognizerEstimator) -> None:
    x = speechlike(6401)[None]
    a = PGD(plain, norm="linf", eps=0.01, step_fraction=1.0, max_iter=1).generate(x)
    assert apart(a, FastGradientMethod(plain, eps=0.01).generate(x, plain.predict(x)), x) < 0.02


@pytest.mark.armory
@pytest.mark.parametrize("snr_db", [10.0, 30.0])
def test_the_snr_attack_equals_armorys(snr_db: float, plain: RecognizerEstimator) -> None:
    armory = pytest.importorskip("armory.art_experimental.attacks.snr_pgd", reason="Armory is not installed")
    x = speechlike(6401)[None]
    theirs = armory.SNR_PGD_Numpy(plain, norm="snr_db", eps=snr_db, eps_step=0.5, max_iter=5, verbose=False)
    ours = PGD(plain, norm="snr", snr_db=snr_db, step_fraction=0.5, max_iter=5)
    assert apart(ours.generate(x), theirs.generate(x), x) < 0.02


def test_carlini_wagner_equals_arts(plain: RecognizerEstimator, utterances: list[np.ndarray]) -> None:
    y = plain.predict(ragged_array(utterances))[[2, 0, 1]]  # one another's: some within reach, so bounds shrink
    options = {"eps": 0.02, "learning_rate": 2e-3, "max_iter": 40, "num_iter_decrease_eps": 5}
    for i, u in enumerate(utterances):
        ours, theirs = CarliniWagner(plain, **options), CarliniWagnerASR(plain, batch_size=1, **options)
        x, label = u[None], y[i : i + 1]
        assert apart(ours.generate(x, label), theirs.generate(x, label), x) < 0.02


def test_carlini_wagner_keeps_the_quietest_success() -> None:
    model, batch = linear_batch()
    model.above = float(model.losses(batch.x, batch.lengths, None, []).max()) - 6.0
    # The loss falls along the attack, so what is heard turns from A to the target B.
    targets = [[ord("B")]] * 3
    attack = ShrinkingBound(eps=0.05, step=2e-3, max_iter=100)
    attacked = attack(model, Batch(batch.x, batch.lengths, targets, batch.indices))
    largest = (attacked - batch.x).abs().amax(1)
    excess = model.losses(batch.x, batch.lengths, None, []) - model.above
    needed = excess.clamp(min=0) / torch.stack([model.w[:n].abs().sum() for n in batch.lengths])
    assert bool((largest >= needed - 1e-6).all())
    assert bool((largest <= needed / 0.8 + 0.004).all())
    assert model.transcribe(attacked, batch.lengths, [(0, 0)] * 3) == ["B"] * 3


ATTACKS = [
    {"norm": "l2", "eps": 0.5, "max_iter": 4},
    {"norm": "linf", "eps": 0.01, "max_iter": 2, "keep": "best"},
    {"norm": "snr", "snr_db": 20.0, "max_iter": 4, "random_start": True, "restarts": 2},
    {"norm": "l2", "eps": 0.5, "max_iter": 3, "eot_draws": 2, "keep": "best", "selection_draws": 2},
]


@pytest.mark.parametrize("defended", [False, True])
@pytest.mark.parametrize("options", ATTACKS, ids=lambda o: "-".join(map(str, o.values())))
def test_a_ragged_batch_of_eight_gives_what_single_runs_give(options: dict, defended: bool, melgan: Any) -> None:
    model = estimator(*([MDNF(melgan, 5.0, None, seed=3, device_type="cpu")] if defended else []))
    utterances = [speechlike(n, seed=n) for n in (3333, 4000, 3900, 5200, 4444, 3500, 4801, 4100)]
    y = ["AB"] * 8  # own predictions may differ in the last bit of a probability
    together = PGD(model, **options).generate(ragged_array(utterances), y, indices=range(8))
    distances = [
        apart(together[i], PGD(model, **options).generate(u, y[:1], indices=[i]), u) for i, u in enumerate(utterances)
    ]
    assert max(distances) < 0.2
    assert np.median(distances) < 0.02


def test_batches_and_order_do_not_matter(melgan: Any) -> None:
    model = estimator(MDNF(melgan, 5.0, None, seed=3, device_type="cpu"))
    utterances = [speechlike(n, seed=n) for n in (3333, 4000, 3900)]
    options = {"norm": "l2", "eps": 0.5, "max_iter": 3}
    a = PGD(model, **options).generate(utterances, ["AB"] * 3, indices=[7, 8, 9])
    b = PGD(model, batch_seconds=0.01, **options).generate(utterances[::-1], ["AB"] * 3, indices=[9, 8, 7])
    for left, right, x in zip(a, b[::-1], utterances, strict=True):
        assert apart(left, right, x) < 0.2


@pytest.mark.parametrize("batch_seconds", [0.01, 64.0])
@pytest.mark.parametrize(
    ("kind", "options", "steps"),
    [
        (PGD, {"eps": 0.5, "max_iter": 2}, 2),
        (PGD, {"eps": 0.5, "max_iter": 2, "random_start": True, "restarts": 2}, 4),
        (CarliniWagner, {"max_iter": 3}, 3),
    ],
)
def test_an_attack_tells_how_far_it_is(
    kind: Any, options: dict[str, Any], steps: int, batch_seconds: float, plain: RecognizerEstimator
) -> None:
    attack = kind(plain, batch_seconds=batch_seconds, **options)
    shares: list[float] = []
    attack.on_progress = shares.append
    attack.generate([speechlike(3333), speechlike(4000)], ["AB"] * 2)
    number = steps * (2 if batch_seconds < 1 else 1)  # in two batches or in one
    assert shares == pytest.approx([(i + 1) / number for i in range(number)])


def test_other_indices_and_seeds_give_other_draws(melgan: Any) -> None:
    x = [speechlike(3333)]

    def run(seed: int, index: int) -> np.ndarray:
        model = estimator(MDNF(melgan, 20.0, None, seed=seed, device_type="cpu"))
        return PGD(model, eps=0.5, max_iter=2).generate(x, ["AB"], indices=[index])[0]

    first = run(1, 1)
    np.testing.assert_array_equal(first, run(1, 1))
    assert np.abs(first - run(1, 2)).max() > 1e-3
    assert np.abs(first - run(2, 1)).max() > 1e-3


def test_without_indices_utterances_are_counted(melgan: Any) -> None:
    model = estimator(MDNF(melgan, 20.0, None, seed=1, device_type="cpu"))
    attack, x = PGD(model, eps=0.5, max_iter=2), [speechlike(3333)]
    first, second = attack.generate(x, ["AB"])[0], attack.generate(x, ["AB"])[0]
    fresh = PGD(model, eps=0.5, max_iter=2)
    np.testing.assert_array_equal(second, fresh.generate(x, ["AB"], indices=[1])[0])
    assert np.abs(first - second).max() > 1e-3


class OthersNoise(PreprocessorPyTorch):
    """Draws noise of its own, as a preprocessor of ART's may."""

    def __init__(self) -> None:
        super().__init__(is_fitted=True, apply_fit=False, apply_predict=True, device_type="cpu")
        self.calls = 0

    def forward(self, x: Any, y: Any = None) -> Any:
        self.calls += 1
        return x + 0.01 * torch.randn_like(x), y


@pytest.mark.parametrize("geometry", [L2(1.0), SNR(20.0)])
@pytest.mark.parametrize("scale", [1e-43, 1e-38, 1e-24, 1e-10, 1.0, 1e10, 1e20, 1e37])
def test_a_step_has_length_1_however_small_or_large_the_gradient(geometry: Geometry, scale: float) -> None:
    gradient = torch.randn(2, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = geometry.direction((gradient * scale).float()).double()
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2, dtype=torch.float64), rtol=1e-5, atol=0)
    # A gradient at the end of the range has a digit or two left.
    expected = gradient / gradient.norm(dim=1, keepdim=True)
    assert bool(((found * expected).sum(1) > (0.99 if scale < 1e-40 else 1 - 1e-5)).all())
    assert not geometry.direction(torch.zeros(1, 4)).any()


def test_eot_is_the_mean_gradient_of_its_draws(melgan: Any) -> None:
    model = estimator(MDNF(melgan, 20.0, None, seed=1, device_type="cpu"))
    x, lengths = ragged.pad([torch.from_numpy(speechlike(n)) for n in (3333, 4000)])
    targets = model.encode(["AB", "C"], 2)

    def gradient(draws: int, step: tuple[int, int], fresh: bool = True) -> Tensor:
        return LossGradient(draws, fresh)(model, x, lengths, targets, [4, 5], step)

    mean = torch.zeros_like(x)
    for draw in range(3):
        leaf = x.clone().requires_grad_()
        keys = [(i, 3, 0, 9, draw) for i in (4, 5)]
        mean += torch.autograd.grad(model.losses(leaf, lengths, targets, keys).sum(), leaf)[0] / 3
    torch.testing.assert_close(gradient(3, (0, 9)), mean, rtol=1e-3, atol=1e-4 * float(mean.abs().max()))
    assert not torch.allclose(gradient(3, (0, 9)), gradient(3, (0, 8)), rtol=0.05)
    torch.testing.assert_close(gradient(3, (0, 9), fresh=False), gradient(3, (0, 8), fresh=False))


def test_eot_asks_a_deterministic_chain_once(melgan: Any) -> None:
    model = estimator(MelResynth(melgan, device_type="cpu"))
    assert not model.stochastic
    assert PGD(model, eps=0.5, eot_draws=5).rows == 1
    assert PGD(estimator(RandomizedSmoothing(device_type="cpu")), eps=0.5, eot_draws=5).rows == 5


def test_eot_averages_over_the_noise_of_others_preprocessors() -> None:
    """Nobody can ask them whether they draw any."""
    noisy = OthersNoise()
    PGD(estimator(noisy), eps=0.5, max_iter=1, eot_draws=5).generate([speechlike(3333)], ["AB"])
    assert noisy.calls == 5


def test_the_best_iterate_is_chosen_on_draws_of_its_own() -> None:
    model, batch = linear_batch()
    model.noise, model.stochastic = 3.0, True
    Descent(L2(0.5), LossGradient(), 3, keep="best", selection_draws=4)(model, batch)
    attack, selection = ({k for k in model.keys if k[1] == purpose} for purpose in (3, 4))
    assert attack
    assert len(selection) == 3 * 4
    assert not attack & selection


def test_the_best_iterate_is_not_worse_than_the_last() -> None:
    """A step of twice the radius oscillates, so that the last iterate of an even number of steps is a bad one."""
    model, batch = linear_batch()
    noisy = Linear(model.w, noise=4.0)
    last, best = (Descent(L2(0.5), LossGradient(), 9, 2.0, keep=keep)(noisy, batch) for keep in ("last", "best"))
    scores = [mean_losses(noisy, Batch(x, batch.lengths, batch.targets, [0, 1, 2]), 1) for x in (last, best)]
    assert bool((scores[1] >= scores[0]).all())
    assert bool((scores[1] > scores[0]).any())


def test_restarts_keep_the_best_of_them() -> None:
    model, batch = linear_batch()
    options = {"geometry": L2(0.5), "gradient": LossGradient(), "max_iter": 1, "step": 0.05, "random_start": True}
    one, many = (Descent(**options, restarts=n)(model, batch) for n in (1, 6))  # type: ignore[arg-type]
    loss = [model.losses(x, batch.lengths, None, []) for x in (one, many)]
    assert bool((loss[1] >= loss[0]).all())
    assert bool((loss[1] > loss[0]).any())


def test_a_targeted_attack_stops_where_it_succeeds() -> None:
    model, batch = linear_batch()
    start = model.losses(batch.x, batch.lengths, None, [])
    model.above = float(start.median()) - 0.5  # one is there already after a step, others later
    batch = Batch(batch.x, batch.lengths, [[ord("B")]] * 3, batch.indices)
    options = {"geometry": L2(2.0), "gradient": LossGradient(), "max_iter": 50, "step": 0.02, "targeted": True}
    stopped = Descent(**options, stop_on_success=True)(model, batch)  # type: ignore[arg-type]
    assert model.transcribe(stopped, batch.lengths, [(0, 0)] * 3) == ["B"] * 3
    sizes = (stopped - batch.x).norm(dim=1)
    needed = (start - model.above).clamp(min=0) / torch.stack([model.w[:n].norm() for n in batch.lengths])
    assert bool((sizes <= needed + 0.02 + 1e-4).all())
    assert bool((sizes >= needed - 1e-4).all())


def test_blanks_around_a_target_count_for_nothing() -> None:
    model, batch = linear_batch()
    batch = Batch(batch.x, batch.lengths, [[ord("B")]] * 3, batch.indices)
    model.transcribe = lambda x, lengths, keys: ["B ", " B", "B B"]  # type: ignore[method-assign]
    assert understood_as_target(model, batch, (0,)) == [True, True, False]


def test_blanks_in_a_target_count_for_nothing(plain: RecognizerEstimator) -> None:
    for said in ("A B", " A  B ", "A B "):
        (target,) = plain.encode([said], 1)
        assert plain.is_heard("A B", target)
        assert plain.is_heard(" A B", target)
        assert not plain.is_heard("AB", target)


@pytest.mark.parametrize("geometry", [L2(0.5), Linf(0.01), SNR(20.0)])
def test_a_random_start_is_the_same_whatever_torchs_default_is(geometry: Geometry) -> None:
    x = torch.ones(2, 500)
    lengths, radius = torch.tensor([500, 300]), geometry.radius(x)

    def start() -> Tensor:
        return geometry.random_start(lengths, radius, [torch.Generator().manual_seed(i) for i in range(2)])

    first = start()
    try:
        torch.set_default_dtype(torch.float64)
        assert torch.equal(start(), first)
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_is_reached_is_not_attacked_again() -> None:
    model, batch = linear_batch()
    start = model.losses(batch.x, batch.lengths, None, [])
    model.above = float(start.median())  # below it, an utterance is understood as the target from the first step on
    batch = Batch(batch.x, batch.lengths, [[ord("B")]] * 3, batch.indices)
    options = {"geometry": L2(0.01), "gradient": LossGradient(), "max_iter": 1, "step": 0.001, "random_start": True}
    Descent(**options, targeted=True, stop_on_success=True, restarts=2)(model, batch)  # type: ignore[arg-type]
    attacked = [key[0] for key in model.keys if len(key) > 1 and key[1] == Purpose.ATTACK and key[2] == 1]
    assert attacked == [int(start.argmax())]


def test_a_target_that_does_not_fit_is_refused_before_anything_is_attacked(
    plain: RecognizerEstimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RecognizerEstimator, "gradients", lambda *args: pytest.fail("attacked"))
    x = [speechlike(16000), speechlike(8000), speechlike(4000)]
    attack = PGD(plain, eps=0.5, max_iter=1, targeted=True, batch_seconds=0.1)
    with pytest.raises(TranscriptError, match="transcript 0 has 300 characters"):
        attack.generate(x, ["A" * 300, "A", "A"])
    monkeypatch.setattr(type(plain.model), "max_samples", 10000)
    with pytest.raises(AudioError, match=r"utterance 0: 1\.0 s is too long"):
        attack.generate(x, ["A", "A", "A"])
    with pytest.raises(AudioError, match=r"utterance 1: 1\.0 s is too long"):
        plain.predict(x[::-1][1:])


def test_random_noise_is_not_the_defences() -> None:
    x = 0.1 * np.random.default_rng(0).standard_normal((2, 8000)).astype(np.float32)
    smoothing = RandomizedSmoothing(20.0, passes=1, device_type="cpu")
    perturbation = RandomNoise(estimator(smoothing), eps=1.0).generate(x) - x
    drawn = smoothing(x)[0] - x
    for a, b in zip(perturbation, drawn, strict=True):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.1


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([0.0, 1e-6, 1e-3, 0.1, 1.0]),
    bound=st.floats(1e-4, 3.0),
    fraction=st.floats(0.01, 5.0),
    norm=st.sampled_from(["l2", "linf", "snr"]),
    random_start=st.booleans(),
)
def test_bounds_hold(seed: int, scale: float, bound: float, fraction: float, norm: str, random_start: bool) -> None:
    rng = np.random.default_rng(seed)
    x = (scale * rng.uniform(-1, 1, 2000) * (rng.random(2000) > 0.2)).astype(np.float32)
    sizes = {"snr_db": 30 * bound - 20} if norm == "snr" else {"eps": bound}
    attack = PGD(PLAIN, norm=norm, step_fraction=fraction, max_iter=2, random_start=random_start, seed=seed, **sizes)
    delta = attack.generate(x, ["A"]).astype(np.float64) - x
    assert np.abs(x + delta).max() <= 1
    rounding = 1e-6 * max(1.0, np.sqrt(len(x)))
    if norm == "linf":
        assert np.abs(delta).max() <= bound + 1e-7
    else:
        radius = np.linalg.norm(x) * 10 ** (-sizes["snr_db"] / 20) if norm == "snr" else bound
        assert np.linalg.norm(delta) <= radius * (1 + 1e-5) + rounding * 0.1
        assert radius or not delta.any()


PLAIN = estimator()


@pytest.mark.parametrize("kind", ["melgan", "pwg", "mdnf", "smoothing"])
def test_finite_differences_agree_with_the_gradient_at_fixed_noise(kind: str, melgan: Any, pwg: Any) -> None:
    """In double precision, along the gradient and along a random direction."""
    defence = {
        "melgan": lambda: MelResynth(melgan.double(), device_type="cpu"),
        "pwg": lambda: MelResynth(pwg.double(), device_type="cpu"),
        "mdnf": lambda: MDNF(melgan.double(), 5.0, None, device_type="cpu"),
        "smoothing": lambda: RandomizedSmoothing(device_type="cpu"),
    }[kind]()
    model = estimator(defence)
    model.model.double()
    x, lengths = ragged.pad([torch.from_numpy(speechlike(n)).double() for n in (3333, 4000)])
    targets, keys = model.encode(["AB", "C"], 2), [(0, 3, 0), (1, 3, 0)]
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model.losses(leaf, lengths, targets, keys).sum(), leaf)
    torch.manual_seed(0)
    for direction in (gradient / gradient.norm(), ragged.zero_beyond(torch.randn_like(x), lengths) / x.numel() ** 0.5):
        h = 1e-6
        with torch.no_grad():
            up, down = (model.losses(x + s * direction, lengths, targets, keys).sum() for s in (h, -h))
        expected = float((gradient * direction).sum())
        assert float((up - down) / (2 * h)) == pytest.approx(expected, rel=2e-3, abs=1e-4 * float(gradient.norm()))


def test_silence_has_nothing_to_give_under_an_snr_bound(plain: RecognizerEstimator) -> None:
    x = np.zeros(4000, dtype=np.float32)
    assert not PGD(plain, norm="snr", snr_db=20.0, max_iter=2).generate(x, ["A"]).any()


def test_kind_shape_and_dtype_come_back(plain: RecognizerEstimator) -> None:
    x = speechlike(4000)
    attack = PGD(plain, eps=0.1, max_iter=1)
    assert attack.generate(x).shape == (4000,)
    assert attack.generate(x[None].astype(np.float64)).dtype == np.float64
    assert [u.shape for u in attack.generate(ragged_array([x, x[:3000]]))] == [(4000,), (3000,)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("norm", "order", "eps"), [("l2", 2, 0.2), ("linf", np.inf, 0.01)])
def test_half_precision_is_not_rounded_past_the_bound(
    dtype: torch.dtype, norm: str, order: float, eps: float, plain: RecognizerEstimator
) -> None:
    x = torch.from_numpy(np.stack([speechlike(4000), speechlike(4000, 1)])).to(dtype)
    attack = PGD(plain, norm=norm, eps=eps, max_iter=3, step_fraction=1)
    kinds = [x, list(x), *([x.numpy(), list(x.numpy())] if dtype == torch.float16 else [])]
    for kind in kinds:
        found = attack.generate(kind, ["A", "A"], indices=[0, 1])
        changed = [torch.as_tensor(u).double() - v.double() for u, v in zip(found, x, strict=True)]
        assert {torch.as_tensor(u).dtype for u in found} == {dtype}
        sizes = [float(torch.linalg.vector_norm(d, order)) for d in changed]
        assert max(sizes) <= eps * (1 + 1e-6)  # that of float32, in which the attack keeps its bound
        assert min(sizes) > eps / 2


def test_no_iterations_change_nothing(plain: RecognizerEstimator) -> None:
    x = speechlike(4000)
    np.testing.assert_array_equal(PGD(plain, eps=0.1, max_iter=0).generate(x), x)


REFUSED = [
    {"norm": "l3", "eps": 1.0},
    {"norm": "l2"},
    {"norm": "l2", "eps": 1.0, "snr_db": 20},
    {"norm": "snr", "eps": 20},
    {"eps": -1.0},
    {"eps": float("nan")},
    {"eps": True},
    {"norm": "snr", "snr_db": float("inf")},
    {"eps": 1.0, "eps_step": 0.1, "step_fraction": 0.2},
    {"eps": 1.0, "eps_step": 0.0},
    {"eps": 1.0, "max_iter": -1},
    {"eps": 1.0, "max_iter": 2.5},
    {"eps": 1.0, "restarts": 3},
    {"eps": 1.0, "keep": "first"},
    {"eps": 1.0, "eot_draws": 0},
    {"eps": 1.0, "stop_on_success": True},
    {"eps": 1.0, "targeted": 1},
    {"eps": 1.0, "batch_seconds": 0},
    {"eps": 1.0, "seed": -1},
]


@pytest.mark.parametrize("options", REFUSED, ids=str)
def test_options_refused(options: dict, plain: RecognizerEstimator) -> None:
    with pytest.raises(OptionError):
        PGD(plain, **options)


@pytest.mark.parametrize(
    "options", [{"targeted": False}, {"eps": 0}, {"decrease_factor_eps": 1.0}, {"num_iter_decrease_eps": 0}], ids=str
)
def test_options_that_carlini_wagner_refuses(options: dict, plain: RecognizerEstimator) -> None:
    with pytest.raises(OptionError):
        CarliniWagner(plain, **options)


NO_INDICES: list[Any] = [
    *(3, "1", ["a"], [None], [[1]], [True], [2.5], [float("nan")], [float("inf")]),
    *([np.array([1, 2])], [torch.tensor([1, 2])], torch.tensor(3), []),
]


@pytest.mark.parametrize(
    ("x", "y", "options", "error"),
    [
        (speechlike(4000), ["A" * 300], {}, TranscriptError),
        (speechlike(4000), ["a"], {}, TranscriptError),
        (speechlike(4000), ["A", "B"], {}, TranscriptError),
        (speechlike(4000) * 4, ["A"], {}, AudioError),
        (np.full(4000, np.nan, dtype=np.float32), ["A"], {}, AudioError),
        (speechlike(4000), ["A"], {"indices": [-1]}, OptionError),
        (speechlike(4000), ["A"], {"indices": [1, 2]}, OptionError),
        *((speechlike(4000), ["A"], {"indices": found}, OptionError) for found in NO_INDICES),
        (speechlike(4000), ["A"], {"mask": None}, OptionError),
    ],
)
def test_inputs_refused(x: np.ndarray, y: list[str], options: dict, error: type, plain: RecognizerEstimator) -> None:
    with pytest.raises(error):
        PGD(plain, eps=0.5, max_iter=1).generate(x, y, **options)


@pytest.mark.parametrize("index", [7, 7.0, np.int64(7), np.float32(7), torch.tensor(7)])
def test_an_index_is_a_whole_number_of_any_type(index: Any, plain: RecognizerEstimator) -> None:
    attack, x = RandomNoise(plain, eps=0.5), speechlike(4000)
    np.testing.assert_array_equal(attack.generate(x, indices=[index]), attack.generate(x, indices=[7]))


def test_a_targeted_attack_needs_targets(plain: RecognizerEstimator) -> None:
    with pytest.raises(TranscriptError, match="target"):
        PGD(plain, eps=0.5, targeted=True).generate(speechlike(4000))


def test_other_estimators_are_refused_by_name() -> None:
    from art.estimators.classification import BlackBoxClassifier

    other = BlackBoxClassifier(lambda x: x, (4,), 2)
    with pytest.raises(ArmoryMdnfError, match="BlackBoxClassifier"):
        PGD(other, eps=1.0)


def test_a_gradient_that_is_not_finite_names_its_utterance() -> None:
    model, batch = linear_batch()
    model.w[300] = torch.nan  # beyond the end of the second utterance
    with pytest.raises(AttackError, match=r"utterance 0 .* step 0"):
        Descent(L2(0.5), LossGradient(), 1)(model, batch)
