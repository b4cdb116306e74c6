"""The ART estimator: batches, one graph with one draw, refusals, and ART's own attacks."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
from art.attacks.evasion import CarliniWagnerASR, FastGradientMethod, ProjectedGradientDescent
from art.defences.preprocessor.preprocessor import Preprocessor
from art.preprocessing.audio import LFilterPyTorch
from conftest import ragged_array, speechlike, tiny_recognizer

from armory_mdnf.asr.alphabet import Alphabet
from armory_mdnf.asr.contract import CTCRecognizer
from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.audio import ragged
from armory_mdnf.defenses import MDNF, MelResynth, RandomizedSmoothing
from armory_mdnf.errors import AudioError, OptionError, TranscriptError

CPU = {"device_type": "cpu"}
TEXTS = ["THE CAT", "IT'S", "A"]


@pytest.fixture(params=["none", "mg", "mdnf", "mdnf_wg", "rs", "rs+mdnf"])
def defended(request, recognizer, melgan, pwg):
    defenses = {
        "none": lambda: None,
        "mg": lambda: MelResynth(melgan, **CPU),
        "mdnf": lambda: [MDNF(melgan, 10, None, **CPU)],
        "mdnf_wg": lambda: [MDNF(pwg, curve=None, normalize="frame", **CPU)],
        "rs": lambda: [RandomizedSmoothing(15, 3, **CPU)],
        "rs+mdnf": lambda: [RandomizedSmoothing(20, 2, seed=1, **CPU), MDNF(melgan, 10, None, seed=2, **CPU)],
    }[request.param]()
    return RecognizerEstimator(recognizer, defenses, **CPU)


@pytest.fixture
def plain(recognizer):
    return RecognizerEstimator(recognizer, **CPU)


def rewind(estimator):
    for defense in estimator.preprocessing_defences or []:
        defense.rewind()


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def test_a_defence_of_another_sample_rate_is_refused(recognizer, plain, melgan):
    words = (
        "MelResynth is for audio at 8000 Hz, and the recogniser hears 16000 Hz: give the defence sample_rate_hz=16000"
    )
    defence = MelResynth(melgan, sample_rate_hz=8000, **CPU)
    with pytest.raises(OptionError, match=words):
        RecognizerEstimator(recognizer, defence, **CPU)
    with pytest.raises(OptionError, match=words):
        plain.set_params(preprocessing_defences=[defence])
    assert not plain.preprocessing_defences


# Predictions.


def test_transcripts_come_in_every_kind(plain, utterances):
    expected = plain.predict(ragged_array(utterances))
    assert expected.shape == (3,)
    assert len(set(expected)) == 3
    assert plain.predict(utterances).tolist() == expected.tolist()
    x = utterances[0]
    for value in (x, x[None], x.astype(np.float64), torch.tensor(x), ragged_array([x])):
        assert plain.predict(value).tolist() == [expected[0]]
    assert plain.predict(np.stack([x, x])).tolist() == [expected[0]] * 2


def test_probabilities_are_zero_beyond_the_frames(plain, utterances):
    probabilities, frames = plain.predict(ragged_array(utterances), transcription_output=False)
    assert probabilities.shape == (3, frames.max(), 29)
    assert probabilities.dtype == np.float32
    assert np.issubdtype(frames.dtype, np.integer)
    for row, n in zip(probabilities, frames, strict=True):
        np.testing.assert_allclose(row[:n].sum(-1), 1, atol=1e-5)
        assert not row[n:].any()


@pytest.mark.parametrize("batch_size", [1, 2, 128])
def test_predictions_do_not_depend_on_the_batch(defended, utterances, batch_size):
    expected, frames = defended.predict(ragged_array(utterances), transcription_output=False)
    rewind(defended)
    found, _ = defended.predict(ragged_array(utterances), batch_size, transcription_output=False)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    rewind(defended)
    for row, n, u in zip(expected, frames, utterances, strict=True):
        alone, _ = defended.predict(u, transcription_output=False)
        np.testing.assert_allclose(alone[0], row[:n], atol=1e-4)


def test_probabilities_are_averaged_over_the_passes(recognizer, utterances):
    x = utterances[0]
    several = RecognizerEstimator(recognizer, RandomizedSmoothing(5, passes=4, **CPU), **CPU)
    single = RecognizerEstimator(recognizer, RandomizedSmoothing(5, passes=1, **CPU), **CPU)
    found, _ = several.predict(x, transcription_output=False)
    passes = [single.predict(x, transcription_output=False)[0] for _ in range(4)]
    np.testing.assert_allclose(found, np.mean(passes, axis=0), atol=1e-5)
    assert not np.allclose(passes[0], passes[1], atol=1e-3)


def test_each_pass_of_a_keyed_evaluation_draws_anew(recognizer, utterances):
    smoothing = RandomizedSmoothing(5, passes=4, **CPU)
    several = RecognizerEstimator(recognizer, smoothing, **CPU)
    found, _ = several.predict(utterances[0], transcription_output=False, keys=[(3, 7)])
    x, lengths = torch.from_numpy(utterances[0])[None], torch.tensor([len(utterances[0])])
    plain = RecognizerEstimator(recognizer, **CPU)
    heard = [smoothing.transform(x, lengths, smoothing.draw(1, [(3, 7, p)])).numpy() for p in range(4)]
    passes = [plain.predict(u, transcription_output=False)[0] for u in heard]
    np.testing.assert_allclose(found, np.mean(passes, axis=0), atol=1e-5)
    assert not np.allclose(passes[0], passes[1], atol=1e-3)


def test_a_defense_switched_off_is_left_out(recognizer, plain, utterances):
    off = RecognizerEstimator(recognizer, RandomizedSmoothing(0, apply_predict=False, **CPU), **CPU)
    assert off.predict(utterances).tolist() == plain.predict(utterances).tolist()


# Gradients.


def test_ragged_gradients_are_those_one_by_one(defended, utterances):
    together = defended.loss_gradient(ragged_array(utterances), TEXTS)
    rewind(defended)
    in_turn = defended.loss_gradient(ragged_array(utterances), TEXTS, batch_mode=False)
    rewind(defended)
    for u, text, a, b in zip(utterances, TEXTS, together, in_turn, strict=True):
        alone = defended.loss_gradient(u[None], [text])[0]
        # A mel bin near the logarithm's floor makes much of a rounding error in the spectrum behind a defence.
        assert relative(a, alone) < 1e-3
        assert relative(b, alone) < 1e-3


def test_gradients_are_of_the_callers_kind(plain, utterances):
    x = utterances[1]
    expected = plain.loss_gradient(x[None], ["A"])[0]
    for value in (x, x[None], x.astype(np.float64), torch.tensor(x), torch.tensor(x)[None].double()):
        found = plain.loss_gradient(value, np.array(["A"]))
        assert type(found) is type(value)
        assert found.shape == value.shape
        assert found.dtype == value.dtype
        np.testing.assert_allclose(np.asarray(found).reshape(-1), expected, rtol=1e-5)
    mixed = ragged_array([x, x.astype(np.float64)])
    assert [g.dtype for g in plain.loss_gradient(mixed, ["A", "A"])] == [np.float32, np.float64]


def test_the_gradient_is_that_of_one_graph_with_one_draw(defended, utterances):
    """Directional derivative of the whole chain in float64, at the noise that the gradient saw."""
    defended = copy.deepcopy(defended)
    defended.model.double()
    for defense in defended.preprocessing_defences or []:
        if isinstance(defense, MelResynth):
            defense.vocoder.double()
    rng = torch.Generator().manual_seed(0)
    x, lengths = ragged.pad([torch.tensor(u, dtype=torch.float64) for u in utterances[1:]])
    direction = ragged.zero_beyond(torch.randn(x.shape, generator=rng, dtype=x.dtype), lengths)

    def loss(x):
        rewind(defended)
        return defended.compute_loss_and_decoded_output(x, ["BE", "AT"], real_lengths=lengths.numpy())[0]

    x.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x), x)
    step = 1e-8
    with torch.no_grad():
        numeric = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(numeric), rel=1e-3)

    rewind(defended)
    public = defended.loss_gradient(ragged_array(utterances[1:]), ["BE", "AT"])
    for ours, theirs in zip(public, ragged.unpad(gradient, lengths), strict=True):
        assert relative(ours, theirs.numpy()) < 1e-4


def test_losses_match_and_step_uphill(defended, utterances):
    x = ragged_array(utterances)
    losses = defended.compute_loss(x, TEXTS)
    assert losses.shape == (3,)
    rewind(defended)
    assert defended.compute_loss(x, TEXTS, "sum") == pytest.approx(losses.sum(), rel=1e-5)
    rewind(defended)
    assert defended.compute_loss(x, TEXTS, "mean") == pytest.approx(losses.mean(), rel=1e-5)
    rewind(defended)
    batch, lengths = ragged.pad([torch.tensor(u) for u in utterances])
    loss, decoded = defended.compute_loss_and_decoded_output(batch, np.array(TEXTS), real_lengths=lengths.numpy())
    assert float(loss) == pytest.approx(losses.sum(), rel=1e-5)
    assert decoded.shape == (3,)
    rewind(defended)
    gradients = defended.loss_gradient(x, TEXTS)
    rewind(defended)
    moved = defended.compute_loss(x + 1e-4 * ragged_array([g / np.linalg.norm(g) for g in gradients]), TEXTS)
    assert (moved > losses).all()


def test_silence_has_finite_gradients(defended):
    x = np.zeros((2, 4000), dtype=np.float32)
    assert np.isfinite(defended.loss_gradient(x, ["A", "B"])).all()
    assert np.isfinite(defended.compute_loss(x, ["A", "B"])).all()


def test_only_the_audio_gets_a_gradient(recognizer, melgan, utterances):
    recognizer.requires_grad_(True)
    estimator = RecognizerEstimator(recognizer, MDNF(melgan, 10, None, **CPU), **CPU)
    x = torch.tensor(utterances[0])[None].requires_grad_()
    estimator.compute_loss_and_decoded_output(x, ["A"])[0].backward()
    assert x.grad is not None
    weights = [*recognizer.parameters(), *melgan.parameters()]
    assert not any(p.requires_grad or p.grad is not None for p in weights)


def test_modes_and_running_statistics_are_left_alone(plain, utterances):
    state = copy.deepcopy(plain.model.state_dict())
    expected = plain.loss_gradient(utterances[:1], ["A"])[0]
    plain.to_training_mode()
    plain.set_batchnorm(train=False)
    modes = [m.training for m in plain.model.modules()]
    assert True in modes
    assert False in modes
    np.testing.assert_array_equal(plain.loss_gradient(utterances[:1], ["A"])[0], expected)
    plain.predict(utterances)
    with pytest.raises(TranscriptError):
        plain.loss_gradient(utterances[:1], ["A" * 500])
    assert [m.training for m in plain.model.modules()] == modes
    for key, value in plain.model.state_dict().items():
        assert torch.equal(value, state[key])


class Recurrent(CTCRecognizer):
    """Somebody's recogniser, whose recurrent layers drop out by themselves."""

    sample_rate_hz, min_samples, exact_batches = 16000, 400, False

    def __init__(self):
        super().__init__()
        self.alphabet = Alphabet()
        self.layers = torch.nn.LSTM(160, 16, num_layers=2, dropout=0.5, batch_first=True)
        self.head = torch.nn.Linear(16, len(self.alphabet))

    def out_frames(self, lengths):
        return lengths // 160

    def forward(self, x, lengths):
        frames = x[:, : x.shape[1] // 160 * 160].unflatten(1, (-1, 160))
        return self.head(self.layers(frames)[0]), self.out_frames(lengths)


@pytest.mark.parametrize("training", [False, True])
def test_recurrent_layers_drop_nothing_out_of_an_evaluation(utterances, training):
    model = Recurrent().train(training)
    estimator = RecognizerEstimator(model, **CPU)
    first, second = (estimator.loss_gradient(utterances[:1], ["AB"])[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    x, lengths = ragged.pad([torch.tensor(utterances[0])])
    with torch.enable_grad():
        loss = estimator.losses(x, lengths, estimator.encode(["AB"], 1), [(0, 0)])
    np.testing.assert_allclose(loss.detach().numpy(), estimator.compute_loss(utterances[:1], ["AB"]), rtol=1e-5)
    assert model.layers.dropout == 0.5
    assert model.layers.training == training


# Other people's preprocessors.


def test_a_torch_preprocessor_runs_in_the_graph(recognizer, plain, utterances):
    """Armory's audio channel: an echo, before the defences."""
    taps = np.zeros(9)
    taps[0], taps[8] = 1, 0.5
    echo = LFilterPyTorch(numerator_coef=taps, denominator_coef=np.eye(9)[0], device_type="cpu")
    estimator = RecognizerEstimator(recognizer, [echo], **CPU)
    filtered = [np.convolve(u, taps)[: len(u)].astype(np.float32) for u in utterances]
    expected = plain.compute_loss(filtered, TEXTS)
    np.testing.assert_allclose(estimator.compute_loss(utterances, TEXTS), expected, rtol=1e-4)
    found = estimator.loss_gradient(utterances, TEXTS)
    for ours, inner in zip(found, plain.loss_gradient(filtered, TEXTS), strict=True):
        expected = np.convolve(inner[::-1], taps)[: len(inner)][::-1]
        assert relative(ours, expected) < 1e-3


class Third(Preprocessor):
    """Knows only NumPy; its own estimate of the gradient is recognisably not the true one."""

    def __call__(self, x, y=None):
        assert x.dtype == np.float32
        assert x.shape[0] == 1
        return ragged_array([u / 3 for u in x]), y

    def estimate_gradient(self, x, grad):
        return ragged_array([7 * g for g in grad])


def test_a_numpy_preprocessor_brings_its_own_gradient(recognizer, plain, utterances):
    estimator = RecognizerEstimator(recognizer, [Third()], **CPU)
    scaled = [u / 3 for u in utterances]
    assert estimator.predict(utterances).tolist() == plain.predict(scaled).tolist()
    found = estimator.loss_gradient(utterances, TEXTS)
    for ours, inner in zip(found, plain.loss_gradient(scaled, TEXTS), strict=True):
        assert relative(ours, 7 * inner) < 1e-4


def test_a_standardisation_tuple_is_applied(recognizer, plain, utterances):
    estimator = RecognizerEstimator(recognizer, preprocessing=(0.0, 2.0), **CPU)
    assert estimator.predict(utterances).tolist() == plain.predict([u / 2 for u in utterances]).tolist()


# ART's attacks.


@pytest.mark.parametrize("kind", ["row", "batch", "ragged"])
def test_pgd_l2(defended, utterances, kind):
    rows = {"row": utterances[0][None], "batch": np.stack([u[:3000] for u in utterances])}
    x = rows.get(kind, ragged_array(utterances))
    attack = ProjectedGradientDescent(defended, norm=2, eps=0.5, eps_step=0.2, max_iter=3, batch_size=2, verbose=False)
    adversarial = attack.generate(x.copy())
    assert adversarial.shape == x.shape
    for a, b in zip(adversarial, x, strict=True):
        distance = np.linalg.norm(a.astype(np.float64) - b)
        assert 0.1 < distance <= 0.5 * (1 + 1e-4)
    rewind(defended)
    labels = defended.predict(x)
    rewind(defended)
    before = defended.compute_loss(x, labels, "sum")
    rewind(defended)
    assert defended.compute_loss(adversarial, labels, "sum") > before


def test_fast_gradient_method(plain, utterances):
    x = utterances[0][None]
    adversarial = FastGradientMethod(plain, norm=np.inf, eps=0.01, eps_step=0.01).generate(x)
    assert np.abs(adversarial - x).max() == pytest.approx(0.01, rel=1e-3)
    labels = plain.predict(x)
    assert plain.compute_loss(adversarial, labels) > plain.compute_loss(x, labels)


def test_carlini_wagner(plain, utterances):
    x, y = np.stack([u[:3000] for u in utterances]), np.array(["A", "B", "C"])
    attack = CarliniWagnerASR(plain, eps=0.01, learning_rate=1e-3, max_iter=3, num_iter_decrease_eps=2)
    adversarial = attack.generate(x, y)
    assert 0 < np.abs(adversarial - x).max() <= 0.01 + 1e-6
    assert plain.compute_loss(adversarial, y, "sum") < plain.compute_loss(x, y, "sum")


# Options and refusals.


def test_options_can_be_replaced(plain, utterances):
    before, _ = plain.predict(utterances[0], transcription_output=False)
    plain.set_params(preprocessing_defences=[RandomizedSmoothing(0, **CPU)])
    assert plain.get_params()["preprocessing_defences"][0].snr_db == 0
    after, _ = plain.predict(utterances[0], transcription_output=False)
    assert not np.allclose(before, after, atol=1e-3)
    with pytest.raises(OptionError, match=r"unknown option.*did you mean 'preprocessing_defences'"):
        plain.set_params(preprocessing_defenses=[])
    with pytest.raises(OptionError, match="device_type is fixed"):
        plain.set_params(device_type="gpu")


def test_a_refused_option_leaves_the_estimator_as_it_was(plain):
    with pytest.raises(OptionError, match="gradient"):
        plain.set_params(gradient="other")
    assert plain.gradient == "exact"


def test_another_model_is_not_known_by_the_first_ones_name():
    estimator = RecognizerEstimator("ds2_base", device_type="cpu")
    assert estimator.file_checksums()
    estimator.set_params(model=tiny_recognizer())
    assert estimator.file_checksums() == {}


def test_what_art_asks_an_estimator(plain):
    assert plain.sample_rate == 16000
    assert plain.device.type == "cpu"
    assert plain.input_shape == (None,)
    assert plain.clip_values.tolist() == [-1, 1]
    with pytest.raises(NotImplementedError, match=r"armory_mdnf\.training"):
        plain.fit(None, None)
    with pytest.raises(NotImplementedError):
        plain.get_activations(None, 0, 1)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["A", "b"], "'b'.*upper case"),
        (["A", "É"], "'É'"),
        (["A", "_"], "blank"),
        (["A", "A" * 60], "transcript 1 has 60 characters and needs 119 frames"),
        (["A"], "expected a sequence of 2 transcripts.*got 1"),
        ("AB", "expected a sequence of 2 transcripts.*got 'AB'"),
        (None, "expected a sequence of 2 transcripts.*got None"),
        ([1, 2], "expected a transcript as a string, got int"),
    ],
)
def test_transcripts_that_would_give_no_loss_are_refused(plain, utterances, y, message):
    x = ragged_array(utterances[:2])
    one_by_one = functools.partial(plain.loss_gradient, batch_mode=False)
    for call in (plain.loss_gradient, one_by_one, plain.compute_loss):
        with pytest.raises(TranscriptError, match=message):
            call(x, y)


def test_an_empty_transcript_and_bytes_are_taken(plain, utterances):
    losses = plain.compute_loss(utterances, ["", b"AB", np.str_("AB")])
    assert np.isfinite(losses).all()
    assert losses[1] == pytest.approx(plain.compute_loss(utterances[1:2], ["AB"])[0], rel=1e-5)


def test_bad_audio_is_refused(plain, utterances):
    with pytest.raises(AudioError, match="utterance 1: expected at least 161 samples, got 100"):
        plain.predict(ragged_array([utterances[0], utterances[1][:100]]))
    with pytest.raises(AudioError, match="divide int16 by 32768"):
        plain.predict((utterances[0] * 32768).astype(np.int16))
    with pytest.raises(AudioError, match="expected 1 real_lengths from 161 to the 400 samples given"):
        plain.compute_loss_and_decoded_output(torch.zeros(1, 400), ["A"], real_lengths=[500])


def test_bad_options_are_refused(recognizer, plain, utterances):
    with pytest.raises(OptionError, match=r"expected clip_values \(-1, 1\) or None"):
        RecognizerEstimator(recognizer, clip_values=(0, 1), **CPU)
    assert RecognizerEstimator(recognizer, clip_values=None, **CPU).clip_values is None
    with pytest.raises(OptionError, match="unknown device_type 'cuda'"):
        RecognizerEstimator(recognizer, device_type="cuda")
    with pytest.raises(OptionError, match="expected batch_size >= 1, got 0"):
        plain.predict(utterances, batch_size=0)
    with pytest.raises(OptionError, match=r"unknown reduction 'summ'.*did you mean 'sum'"):
        plain.compute_loss(utterances, TEXTS, "summ")


def test_a_saved_estimator_comes_back(tmp_path, plain, utterances):
    plain.save("tiny", str(tmp_path))
    again = RecognizerEstimator(tmp_path / "tiny.safetensors", **CPU)
    assert again.predict(utterances).tolist() == plain.predict(utterances).tolist()


@pytest.mark.parametrize("changes", [{"rnn_type": "gru"}, {"bidirectional": False}, {"hidden_layers": 1}])
def test_other_networks(changes):
    estimator = RecognizerEstimator(tiny_recognizer(**changes), **CPU)
    x = [speechlike(4000, 1), speechlike(2777, 2)]
    together = estimator.loss_gradient(ragged_array(x), ["A", "B"])
    for u, text, gradient in zip(x, ["A", "B"], together, strict=True):
        assert relative(gradient, estimator.loss_gradient(u, [text])) < 1e-4


def test_the_older_name_is_the_same_class() -> None:
    from armory_mdnf.asr import estimator

    assert estimator.DeepSpeech2Estimator is RecognizerEstimator
