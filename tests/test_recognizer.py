"""Alphabet, features, network, CTC and decoding."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import speechlike, tiny_recognizer
from hypothesis import given
from hypothesis import strategies as st

from armory_mdnf.asr.alphabet import ENGLISH, Alphabet
from armory_mdnf.asr.ctc import check_targets, ctc_loss, frames_needed
from armory_mdnf.asr.decoding import greedy_decode
from armory_mdnf.asr.deepspeech2.features import LogSpectrogram
from armory_mdnf.asr.deepspeech2.model import DeepSpeech2Config
from armory_mdnf.audio import ragged
from armory_mdnf.errors import AudioError, OptionError, TranscriptError

LENGTHS = [16000, 9000, 12345]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return ragged.pad([torch.from_numpy(speechlike(n, n)) for n in LENGTHS])


@given(st.text(ENGLISH[1:]))
def test_alphabet_decodes_what_it_encodes(text: str) -> None:
    assert Alphabet().decode(Alphabet().encode(text)) == text


@pytest.mark.parametrize(
    ("text", "hint"), [("hello", "upper case"), ("A_B", "CTC blank"), ("É", "not in the alphabet")]
)
def test_alphabet_refuses_unknown_characters(text: str, hint: str) -> None:
    with pytest.raises(TranscriptError, match=hint):
        Alphabet().encode(text)


@pytest.mark.parametrize("labels", ["", "_", "_AA"])
def test_alphabet_refuses_labels_that_are_none(labels: str) -> None:
    with pytest.raises(OptionError):
        Alphabet(labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stride_s": 0.0}, "stride_s to be a finite number above 0"),
        ({"stride_s": 1e-5}, "stride_s of 1 samples or more, got 0 at 16000 Hz"),
        ({"window_s": 1e-4}, "window_s of 2 samples or more, got 1"),
        ({"window_s": "long"}, "window_s to be a finite number"),
        ({"bidirectional": "no"}, "bidirectional to be true or false, got 'no'"),
    ],
)
def test_sizes_that_no_deepspeech2_can_have_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        DeepSpeech2Config(**changes)


def test_greedy_decoding_merges_repeats_and_drops_blanks() -> None:
    classes = torch.tensor([[3, 3, 0, 3, 28, 0, 4, 4], [5, 0, 0, 6, 7, 7, 7, 7]])
    scores = torch.nn.functional.one_hot(classes, 29).float()
    assert greedy_decode(scores, torch.tensor([8, 3]), Alphabet()) == ["BB C", "D"]


def test_spectrogram_of_a_tone_peaks_at_its_bin_and_is_normalised() -> None:
    t = torch.arange(16000) / 16000
    spectrogram, frames = LogSpectrogram()(torch.sin(2 * math.pi * 1000 * t)[None], torch.tensor([16000]))
    assert spectrogram.shape == (1, 1, 161, 101)
    assert frames.tolist() == [101]
    assert (spectrogram[0, 0, :, 20:80].argmax(0) == 20).all()  # 1000 Hz / 50 Hz a bin
    assert abs(float(spectrogram.mean())) < 1e-5
    assert abs(float(spectrogram.std()) - 1) < 1e-4


def test_silence_gives_zeros_and_a_finite_gradient() -> None:
    x = torch.zeros(1, 4000, requires_grad=True)
    recognizer = tiny_recognizer()
    logits, frames = recognizer(x, torch.tensor([4000]))
    (gradient,) = torch.autograd.grad(ctc_loss(logits, frames, [[1, 2]]).sum(), x)
    assert torch.isfinite(logits).all()
    assert torch.isfinite(gradient).all()


def test_features_refuse_what_is_too_short() -> None:
    with pytest.raises(AudioError, match="at least 161 samples at 16000 Hz"):
        LogSpectrogram()(torch.zeros(1, 160), torch.tensor([160]))


@pytest.mark.parametrize(
    "changes",
    [{}, {"rnn_type": "gru"}, {"bidirectional": False, "lookahead_context": 7}, {"hidden_layers": 1}],
    ids=["lstm", "gru", "lookahead", "one layer"],
)
def test_a_batch_gives_what_single_utterances_give(changes: dict) -> None:
    recognizer = tiny_recognizer(**changes)
    x, lengths = batch()
    logits, frames = recognizer(x, lengths)
    assert frames.tolist() == recognizer.out_frames(lengths).tolist()
    for row, n, f in zip(logits, LENGTHS, frames.tolist(), strict=True):
        single, _ = recognizer(torch.from_numpy(speechlike(n, n))[None], torch.tensor([n]))
        torch.testing.assert_close(row[:f], single[0], atol=2e-5, rtol=1e-4)


def test_ctc_loss_sums_the_paths() -> None:
    # Two frames, target "x": paths x-, -x, xx.
    logits = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0))
    p = logits[0].softmax(-1)
    expected = -torch.log(p[0, 1] * p[1, 0] + p[0, 0] * p[1, 1] + p[0, 1] * p[1, 1])
    torch.testing.assert_close(ctc_loss(logits, torch.tensor([2]), [[1]])[0], expected)


def test_ctc_loss_of_no_characters_is_the_likelihood_of_blanks() -> None:
    logits = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))
    expected = -logits[0].log_softmax(-1)[:, 0].sum()
    torch.testing.assert_close(ctc_loss(logits, torch.tensor([4]), [[]])[0], expected)


@given(st.lists(st.integers(1, 3), max_size=12))
def test_frames_needed_is_where_the_likelihood_begins(target: list[int]) -> None:
    needed = frames_needed(target)
    logits = torch.zeros(1, max(needed, 1), 4)
    assert torch.isfinite(ctc_loss(logits, torch.tensor([max(needed, 1)]), [target])).all()
    if needed > 1:
        with pytest.raises(TranscriptError, match=f"needs {needed} frames"):
            check_targets([needed - 1], [target])


def test_targets_and_utterances_must_be_as_many() -> None:
    with pytest.raises(TranscriptError, match="expected 2 transcripts"):
        check_targets([10, 10], [[1]])


@pytest.mark.parametrize(
    "values", [{"rnn_type": "lsmt"}, {"hidden_size": 0}, {"hidden_layers": 1.5}, {"hiden_size": 3}], ids=str
)
def test_configurations_that_are_none_are_refused(values: dict) -> None:
    with pytest.raises(OptionError):
        DeepSpeech2Config.from_dict(values)


@pytest.mark.parametrize("rate_hz", [16000, 22050, 11025, 8000])
def test_frames_are_those_of_the_spectrogram(rate_hz: int) -> None:
    """At 22050 Hz a window of 20 ms has 441 samples: half of it, rounded down, is reflected at each end."""
    front_end = LogSpectrogram(rate_hz)
    for samples in range(1000, 1000 + 2 * front_end.hop):
        spectrogram, frames = front_end(torch.zeros(1, samples), torch.tensor([samples]))
        assert spectrogram.shape[-1] == int(frames)
