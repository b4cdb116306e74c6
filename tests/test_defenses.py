"""Defences: what they keep, how strong their noise is, and their gradients."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from conftest import MELGAN, RECIPE, ragged_array, speechlike

from armory_mdnf.audio import noise, ragged
from armory_mdnf.audio.mel import MelRecipe
from armory_mdnf.defenses import MDNF, MelResynth, RandomizedSmoothing, WaveformDefense
from armory_mdnf.errors import ArmoryMdnfWarning, AudioError, OptionError
from armory_mdnf.vocoders import Vocoder, make_vocoder, save_vocoder

CPU = {"device_type": "cpu"}
DEFENSES = ["mg", "wg", "mdnf", "mdnf_frame", "mdnf_none", "mdnf_wg", "rs"]


@pytest.fixture(params=DEFENSES)
def defense(request, melgan, pwg):
    curve = np.linspace(1, 0.1, 20)
    made = {
        "mg": lambda: MelResynth(melgan, **CPU),
        "wg": lambda: MelResynth(pwg, **CPU),
        "mdnf": lambda: MDNF(melgan, 20, None, **CPU),
        "mdnf_frame": lambda: MDNF(melgan, curve=None, normalize="frame", **CPU),
        "mdnf_none": lambda: MDNF(melgan, 0.3, None, normalize="none", **CPU),
        "mdnf_wg": lambda: MDNF(pwg, 20, None, **CPU),
        "rs": lambda: RandomizedSmoothing(15, passes=1, **CPU),
    }[request.param]()
    if isinstance(made, MDNF):
        made.curve = torch.tensor(curve, dtype=torch.float32)
    return made


def test_length_dtype_and_kind_are_kept(defense, utterances):
    x = utterances[1]
    for value in (x, x.astype(np.float64), x[None], np.stack([x, -x]), torch.tensor(x), torch.tensor(x)[None].double()):
        out, y = defense(value, ["A"])
        assert type(out) is type(value)
        assert out.shape == value.shape
        assert out.dtype == value.dtype
        assert y == ["A"]
    out, _ = defense(ragged_array(utterances))
    assert out.dtype == object
    assert [u.shape for u in out] == [u.shape for u in utterances]


@pytest.mark.parametrize("samples", [2, 63, 64, 65, 128, 129, 640, 703])
def test_short_utterances_are_padded_and_cropped(defense, samples):
    out, _ = defense(speechlike(samples))
    assert out.shape == (samples,)
    assert np.isfinite(out).all()


def test_an_utterance_does_not_depend_on_its_batch(defense, utterances):
    together, _ = defense(ragged_array(utterances))
    defense.rewind()
    for expected, u in zip(together, utterances, strict=True):
        alone, _ = defense(u)
        np.testing.assert_allclose(alone, expected, atol=2e-5 * np.abs(expected).max())


def test_silence_is_finite_with_finite_gradients(defense):
    x = torch.zeros(2, 1000, requires_grad=True)
    out = defense.transform(x, torch.tensor([1000, 700]))
    assert bool(out.isfinite().all())
    assert not out[1, 700:].any()
    (gradient,) = torch.autograd.grad(out.square().sum() + out.sum(), x)
    assert bool(gradient.isfinite().all())


def test_the_seed_fixes_the_output(defense, utterances):
    first, second = defense(utterances[0])[0], defense(utterances[0])[0]
    defense.rewind()
    np.testing.assert_array_equal(defense(utterances[0])[0], first)
    defense.reseed(0)
    np.testing.assert_array_equal(defense(utterances[0])[0], first)
    defense.reseed(1)
    other = defense(utterances[0])[0]
    assert np.array_equal(first, second) is not defense.stochastic
    assert np.array_equal(first, other) is not defense.stochastic


def test_gradient_matches_finite_differences(defense, utterances):
    """Directional derivative at fixed noise, in float64."""
    if isinstance(defense, MelResynth):
        defense.vocoder.double()
    rng = torch.Generator().manual_seed(0)
    x, lengths = ragged.pad([torch.tensor(u, dtype=torch.float64) for u in (utterances[1][:900], utterances[2][:701])])
    direction = ragged.zero_beyond(torch.randn(x.shape, generator=rng, dtype=x.dtype), lengths)
    weight = torch.randn(x.shape, generator=rng, dtype=x.dtype)

    def value(x: torch.Tensor) -> torch.Tensor:
        defense.rewind()
        return (defense.transform(x, lengths) * weight).sum()

    x.requires_grad_()
    (gradient,) = torch.autograd.grad(value(x), x)
    step = 1e-7
    with torch.no_grad():
        numeric = (value(x + step * direction) - value(x - step * direction)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(numeric), rel=1e-4)
    assert not gradient[1, 701:].any()


def test_estimate_gradient_uses_the_noise_of_the_call_before(defense, utterances):
    x = ragged_array(utterances[1:])
    outer = ragged_array([speechlike(len(u), seed=9) for u in x])
    defense(utterances[0])
    defense(x)
    count = defense.noise.count
    found = defense.estimate_gradient(x, outer)
    assert defense.noise.count == count

    batch, lengths = ragged.pad([torch.tensor(u) for u in x])
    batch.requires_grad_()
    defense.rewind(1)
    out = defense.transform(batch, lengths)
    (expected,) = torch.autograd.grad(out, batch, ragged.pad([torch.tensor(g) for g in outer])[0])
    for ours, theirs in zip(found, ragged.unpad(expected, lengths), strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-6)


def test_estimate_forward_replays_and_then_goes_on(utterances):
    defense = RandomizedSmoothing(passes=1, **CPU)
    x = torch.tensor(utterances[0])
    first = defense.forward(x)[0]
    torch.testing.assert_close(defense.estimate_forward(x), first)
    torch.testing.assert_close(defense.estimate_forward(x), first)
    assert not torch.equal(defense.forward(x)[0], first)


def test_a_copy_is_independent(defense, utterances):
    twin = copy.deepcopy(defense)
    np.testing.assert_array_equal(defense(utterances[1])[0], twin(utterances[1])[0])
    assert (defense.noise.count, twin.noise.count) == (1, 1)
    twin.rewind()
    assert defense.noise.count == 1


# The strength of MDNF's noise.


@pytest.fixture
def log_mel(melgan, utterances):
    return melgan.mel(*ragged.pad([torch.tensor(u) for u in utterances]))


def mel_noise(defense, log_mel):
    values, frames = log_mel
    return defense.mel_noise(values, frames, defense.draw(len(frames)))


@pytest.mark.parametrize("scales", ["std", "variance"])
def test_utterance_noise_has_the_level_as_its_norm(melgan, log_mel, scales):
    n = mel_noise(MDNF(melgan, 7.5, None, "utterance", scales, **CPU), log_mel)
    torch.testing.assert_close(n.norm(dim=(1, 2)), torch.full((3,), 7.5))
    for row, frames in zip(n, log_mel[1].tolist(), strict=True):
        assert not row[:, frames:].any()
        assert row[:, frames - 1].any()


def test_frame_noise_has_the_level_as_its_ratio(melgan, log_mel):
    n = mel_noise(MDNF(melgan, 0.05, None, "frame", **CPU), log_mel)
    for row, mel, frames in zip(n, *log_mel, strict=True):
        ratio = row.norm(dim=0)[:frames] / mel.norm(dim=0)[:frames]
        torch.testing.assert_close(ratio, torch.full((int(frames),), 0.05))
        assert not row[:, frames:].any()


@pytest.mark.parametrize("normalize", ["utterance", "frame"])
def test_the_size_of_a_curve_counts_for_nothing_where_the_noise_is_normalised(melgan, log_mel, normalize):
    defense = MDNF(melgan, 0.5, None, normalize, **CPU)
    found = []
    for largest in (1, 1e-30):
        defense.rewind()
        defense.curve = largest * torch.linspace(1, 0, 20)
        found.append(mel_noise(defense, log_mel))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(("scales", "power"), [("std", 1.0), ("variance", 0.5)])
def test_plain_noise_follows_the_curve(melgan, scales, power):
    defense = MDNF(melgan, 0.5, None, "none", scales, **CPU)
    defense.curve = torch.linspace(1, 0, 20)
    n = defense.mel_noise(torch.zeros(1, 20, 20000), torch.tensor([20000]), defense.draw(1))
    torch.testing.assert_close(n.std(dim=2)[0], 0.5 * defense.curve**power, rtol=0.03, atol=1e-6)


def test_level_zero_is_resynthesis(melgan, pwg, utterances):
    for vocoder in (melgan, pwg):
        plain, _ = MelResynth(vocoder, **CPU)(utterances[0])
        np.testing.assert_array_equal(MDNF(vocoder, 0, None, **CPU)(utterances[0])[0], plain)


def test_noise_levels_default_to_the_published_ones(melgan):
    assert MDNF(melgan, curve=None, **CPU).noise_level == 20
    assert MDNF(melgan, curve=None, normalize="frame", **CPU).noise_level == 0.05
    with pytest.raises(OptionError, match="expected a noise_level"):
        MDNF(melgan, curve=None, normalize="none", **CPU)


# Randomised smoothing.


@pytest.mark.parametrize("snr_db", [0, 15, 30])
def test_smoothing_noise_has_its_snr(snr_db):
    x, lengths = ragged.pad([torch.tensor(speechlike(n, seed=3)) for n in (60000, 40000)])
    added = RandomizedSmoothing(snr_db, **CPU).transform(x, lengths) - x
    for row, clean, n in zip(added, x, lengths, strict=True):
        assert float(10 * torch.log10(clean[:n].square().mean() / row[:n].square().mean())) == pytest.approx(
            snr_db, abs=0.1
        )
        assert not row[n:].any()


def test_smoothing_takes_a_batch_wider_than_its_utterances():
    x, lengths = torch.zeros(2, 1000), torch.tensor([600, 500])
    x[:, :500] = 0.1
    found = [RandomizedSmoothing(**CPU).transform(x[:, :width], lengths) for width in (600, 1000)]
    assert torch.equal(found[0], found[1][:, :600])
    assert not found[1][:, 600:].any()


def test_options_are_handed_on_by_a_defence_of_ones_own():
    class Louder(RandomizedSmoothing):
        def __init__(self, gain=1.0, **options):
            super().__init__(**options)
            self.gain = gain

    assert Louder(gain=2.0, snr_db=3.0, **CPU).snr_db == 3
    with pytest.raises(OptionError, match="did you mean 'snr_db'"):
        Louder(snrdb=3.0)


def test_smoothing_leaves_silence_alone():
    assert not RandomizedSmoothing(passes=1, **CPU)(np.zeros(800))[0].any()


def test_smoothing_warns_once_that_it_degrades(utterances):
    defense = RandomizedSmoothing(passes=5, **CPU)
    with pytest.warns(ArmoryMdnfWarning, match="asks for 5 averaged passes.*degrades to one pass"):
        defense(utterances[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        defense.forward(torch.tensor(utterances[0]))
        defense.transform(torch.zeros(1, 100), torch.tensor([100]))


# Sample rates.


@pytest.mark.parametrize("resample_rate_hz", [None, 22000])
def test_a_vocoder_of_another_rate(resample_rate_hz, utterances):
    recipe = MelRecipe(22050, 256, 64, 256, 20, 0.0, 11025.0, "melgan")
    vocoder = make_vocoder("melgan", recipe, MELGAN)
    defense = MelResynth(vocoder, resample_rate_hz=resample_rate_hz, **CPU)
    assert defense.resample_rate_hz == (resample_rate_hz or 22050)
    together, _ = defense(ragged_array(utterances))
    for out, u in zip(together, utterances, strict=True):
        assert out.shape == u.shape
        np.testing.assert_allclose(out, defense(u)[0], atol=1e-6)


def test_melgan_framing_reaches_the_end():
    """floor(T / hop) frames would leave a tail of silence; it is covered by padding."""
    recipe = MelRecipe(16000, 256, 64, 256, 20, 0.0, 8000.0, "melgan")
    vocoder = make_vocoder("melgan", recipe, MELGAN)
    vocoder.synthesize = lambda log_mel, frames, noise: torch.ones(1, int(frames) * 64)
    assert MelResynth(vocoder, **CPU)(speechlike(64 * 20 + 63))[0].all()


def test_a_vocoder_of_ones_own_is_not_trained(utterances):
    class Fresh(Vocoder):
        """As a class of layers is made: in training mode, its weights asking for gradients."""

        kind = "fresh"
        needs_noise = False
        min_frames = 1

        def __init__(self):
            layers = torch.nn.BatchNorm1d(20), torch.nn.Conv1d(20, RECIPE.hop, 3, padding=1), torch.nn.Dropout(0.5)
            super().__init__(RECIPE, torch.nn.Sequential(*layers), {})

        def generate(self, log_mel, noise):
            return self.generator(log_mel).transpose(1, 2).reshape(len(log_mel), 1, -1)

    defense = MelResynth(Fresh(), **CPU)
    before = copy.deepcopy(defense.vocoder.state_dict())
    together, _ = defense(ragged_array(utterances))
    for expected, u in zip(together, utterances, strict=True):
        alone = defense(u)[0]
        np.testing.assert_allclose(alone, expected, atol=1e-5 * np.abs(expected).max())
        np.testing.assert_array_equal(defense(u)[0], alone)
    defense.estimate_gradient(utterances[0], np.ones_like(utterances[0]))
    assert not any(p.requires_grad or p.grad is not None for p in defense.vocoder.parameters())
    assert all(torch.equal(value, before[key]) for key, value in defense.vocoder.state_dict().items())


# Vocoders by path, shared.


def test_vocoders_are_loaded_once_a_process(tmp_path, melgan, utterances):
    path = tmp_path / "tiny.safetensors"
    save_vocoder(path, melgan)
    one, two = MelResynth(path, **CPU), MDNF(str(path), 0, None, **CPU)
    assert one.vocoder is two.vocoder
    np.testing.assert_array_equal(one(utterances[0])[0], MelResynth(melgan, **CPU)(utterances[0])[0])
    melgan.generator.melgan[1].bias += 0.5
    save_vocoder(path, melgan)
    assert MelResynth(path, **CPU).vocoder is not one.vocoder


def test_a_vocoder_that_was_loaded_in_inference_mode_has_gradients(tmp_path, melgan, utterances):
    path = tmp_path / "tiny.safetensors"
    save_vocoder(path, melgan)
    with torch.inference_mode():
        MelResynth(path, **CPU)(utterances[0])
    found = MelResynth(path, **CPU)
    expected = MelResynth(melgan, **CPU).estimate_gradient(utterances[0], np.ones_like(utterances[0]))
    np.testing.assert_array_equal(found.estimate_gradient(utterances[0], np.ones_like(utterances[0])), expected)


# Refusals.

REFUSED = [
    (lambda v: MDNF(v, nois_level=3), "unknown option of MDNF 'nois_level'.*did you mean 'noise_level'"),
    (lambda v: MelResynth(v, noise_level=3), "unknown option of MelResynth 'noise_level'"),
    (lambda v: RandomizedSmoothing(snr=15), "unknown option of RandomizedSmoothing 'snr'.*did you mean 'snr_db'"),
    (lambda v: MDNF(v, curve=None, normalize="frames"), "unknown normalize 'frames'.*did you mean 'frame'"),
    (lambda v: MDNF(v, curve=None, curve_scales="var"), "unknown curve_scales 'var'"),
    (lambda v: MDNF(v, -1, None), "noise_level.*>= 0, got -1"),
    (lambda v: MDNF(v, float("nan"), None), "noise_level.*got nan"),
    (lambda v: MDNF(v, "20", None), "noise_level.*got '20'"),
    (lambda v: MDNF(v, True, None), "noise_level.*got True"),
    (lambda v: MelResynth(v, sample_rate_hz=0), "sample_rate_hz to be a whole number of hertz from 1000.*got 0"),
    (lambda v: MelResynth(v, sample_rate_hz=None), "sample_rate_hz.*got None"),
    (lambda v: MelResynth(v, resample_rate_hz=22.05e3), "resample_rate_hz.*got 22050.0"),
    (lambda v: MelResynth(v, device_type="gpus"), "unknown device_type 'gpus'.*did you mean 'gpu'"),
    (lambda v: MelResynth(v, seed=-1), "seed"),
    (lambda v: RandomizedSmoothing(float("inf")), "snr_db to be a number of decibels from -300 to 300, got inf"),
    (lambda v: RandomizedSmoothing(None), "snr_db.*got None"),
    (lambda v: RandomizedSmoothing(passes=0), "passes to be a whole number from 1 to 1000, got 0"),
    (lambda v: RandomizedSmoothing(passes=2.5), "passes.*got 2.5"),
    (lambda v: RandomizedSmoothing(passes=10**200), "passes.*got a whole number of 665 bits"),
    (lambda v: RandomizedSmoothing(-1e29), "snr_db.*got -1e"),
    (lambda v: MDNF(v, 10**200, None), "noise_level.*got a whole number of 665 bits"),
    (lambda v: MelResynth(v, resample_rate_hz=10**9), "resample_rate_hz.*got 1000000000"),
    (lambda v: MelResynth(v, resample_rate_hz=21999), "a larger common divisor, got 16000 and 21999"),
    (lambda v: MelResynth(None), "expected vocoder to be a name, a path or a vocoder, got None"),
    (lambda v: MelResynth(v, apply_predict="no"), "expected apply_predict to be true or false, got 'no'"),
    (lambda v: MelResynth(v, apply_fit=0), "expected apply_fit to be true or false, got 0"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_bad_options_are_refused(melgan, make, message):
    with pytest.raises(OptionError, match=message):
        make(melgan)


def test_bad_batches_are_refused(defense, utterances):
    x = torch.zeros(2, 800)
    with pytest.raises(AudioError, match=r"expected float audio \(N, T\)"):
        defense.transform(x[0], torch.tensor([800]))
    with pytest.raises(AudioError, match="int16"):
        defense.transform(x.short(), torch.tensor([800, 800]))
    with pytest.raises(OptionError, match="expected 2 noise streams, one per utterance, got 1"):
        defense.transform(x, torch.tensor([800, 800]), defense.draw(1))
    with pytest.raises(AudioError, match="divide int16 by 32768"):
        defense(np.zeros(800, dtype=np.int16))
    with pytest.raises(AudioError, match=r"expected gradients of lengths \[6401\], got \[6400\]"):
        defense.estimate_gradient(utterances[0], utterances[0][:6400])


def test_draws_do_not_hang_on_the_default_dtype():
    x = speechlike(4000)[None]
    smoothed = RandomizedSmoothing(passes=1, seed=0)(x)[0]
    torch.set_default_dtype(torch.float64)
    try:
        again = RandomizedSmoothing(passes=1, seed=0)(x)[0]
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_allclose(again, smoothed, rtol=0, atol=1e-6)  # the noise's scale may round otherwise


def test_a_view_of_negative_strides_is_heard_as_its_copy():
    """Such as scipy's filtfilt returns."""
    x = speechlike(4000)[None, ::-1]
    smoothing, again = (RandomizedSmoothing(passes=1, seed=0) for _ in range(2))
    np.testing.assert_array_equal(smoothing(x)[0], again(x.copy())[0])


def test_noise_streams_do_not_touch_the_global_generator(defense, utterances):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    defense(utterances[1])
    assert torch.equal(torch.rand(1), expected)
    assert isinstance(defense.noise, noise.NoiseSource)


# A defence of somebody else.


class Made(WaveformDefense):
    """Gives what it is told to make of the audio."""

    def __init__(self, change, **options):
        super().__init__(**options)
        self.change = change

    def defend(self, x, lengths, streams):
        return self.change(x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[0], r"expected shape \(2, 800\), got \(800,\)"),  # would be broadcast: both heard as the first
        (lambda x: x[:, :-1], r"expected shape \(2, 800\), got \(2, 799\)"),
        (lambda x: (32768 * x).short(), "expected a tensor of float samples, got torch.int16"),
        (lambda x: x > 0, "expected a tensor of float samples, got torch.bool"),
        (lambda x: torch.complex(x, x), "expected a tensor of float samples, got torch.complex64"),
        (lambda x: x.detach().numpy(), "expected a tensor of float samples, got ndarray"),
        (lambda x: None, "expected a tensor of float samples, got NoneType"),
        (lambda x: (x, 1), "expected a tensor of float samples, got tuple"),
    ],
)
def test_what_a_defence_gives_is_checked(change, message):
    defence, x = Made(change, **CPU), speechlike(1600).reshape(2, 800)
    for call in (defence, lambda x: defence.forward(torch.from_numpy(x)), lambda x: defence.estimate_gradient(x, x)):
        with pytest.raises(AudioError, match=f"^Made.defend: {message}"):
            call(x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_defence_may_give_another_precision(dtype):
    x = speechlike(800)
    np.testing.assert_allclose(Made(lambda x: x.to(dtype), **CPU)(x)[0], x, atol=1e-3)


def test_a_defence_that_does_not_call_the_constructor_above_it_is_named():
    class Forgets(WaveformDefense):
        def __init__(self):
            self.depth = 8

        def defend(self, x, lengths, streams):
            return x

    with pytest.raises(OptionError, match=r"^Forgets: expected its __init__ to call super\(\).__init__"):
        Forgets()


# A vocoder of somebody else.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda wave: wave * torch.nan, "expected finite samples, got nan at sample 0"),
        (lambda wave: wave[:, :-64], r"expected shape \(1, 6464\), got \(1, 6400\)"),
        (lambda wave: wave[:, None], r"expected shape \(1, 6464\), got \(1, 1, 6464\)"),
        (lambda wave: wave.short(), "expected a tensor of float samples, got torch.int16"),
        (lambda wave: wave.numpy(), "expected a tensor of float samples, got ndarray"),
    ],
)
@pytest.mark.parametrize("kind", [MelResynth, MDNF])
def test_what_a_vocoder_makes_is_checked(melgan, utterances, change, message, kind):
    synthesize = melgan.synthesize
    melgan.synthesize = lambda *args: change(synthesize(*args))
    with pytest.raises(AudioError, match=f"^vocoder MelGAN: {message}"):
        kind(melgan, **CPU, **({"curve": None} if kind is MDNF else {}))(utterances[0])
