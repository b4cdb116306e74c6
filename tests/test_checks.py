"""What audio is taken, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import ragged_array

from armory_mdnf.audio.checks import as_waveforms, check_batch, check_made, restore
from armory_mdnf.errors import AudioError, OptionError

A, B = np.linspace(-0.5, 0.5, 400), np.linspace(0.3, -0.3, 300)

KINDS = {
    "one float32": A.astype(np.float32),
    "one float64": A,
    "one float16": A.astype(np.float16),
    "batch": np.stack([A, -A]).astype(np.float32),
    "batch of one": A[None],
    "batch of objects": np.stack([A, -A]).astype(object),
    "ragged": ragged_array([A, B.astype(np.float32)]),
    "ragged of one": ragged_array([A]),
    "objects inside": ragged_array([A.astype(object), B]),
    "list": [A.astype(np.float32), B],
    "tuple": (A, B),
    "list of tensors": [torch.tensor(A), torch.tensor(B)],
    "tensor": torch.tensor(A),
    "batch tensor": torch.tensor(np.stack([A, -A]), dtype=torch.float32),
}


@pytest.mark.parametrize("x", KINDS.values(), ids=KINDS.keys())
def test_every_kind_comes_back_as_it_was(x):
    waveforms = as_waveforms(x)
    assert all(u.dtype == np.float32 and u.ndim == 1 for u in waveforms)
    back = restore([2 * u for u in waveforms], x)
    if isinstance(x, torch.Tensor):
        assert back.dtype == x.dtype
        torch.testing.assert_close(back, 2 * x, atol=1e-6, rtol=0)
        return
    assert type(back) is (np.ndarray if isinstance(x, np.ndarray) else list)
    assert len(back) == len(x)
    if isinstance(x, np.ndarray):
        assert back.shape == x.shape
        assert back.dtype == x.dtype
    one = isinstance(x, np.ndarray) and x.ndim == 1 and x.dtype != object
    for ours, theirs in zip([back] if one else back, [x] if one else x, strict=True):
        assert isinstance(ours, torch.Tensor) == isinstance(theirs, torch.Tensor)
        np.testing.assert_allclose(
            np.asarray(ours, dtype=np.float64), 2 * np.asarray(theirs, dtype=np.float64), atol=1e-3
        )


def test_ragged_results_keep_each_dtype():
    x = ragged_array([A, B.astype(np.float32)])
    assert [u.dtype for u in restore(as_waveforms(x), x)] == [np.float64, np.float32]


def test_silence_and_saturation_pass():
    np.testing.assert_array_equal(as_waveforms(np.zeros(400))[0], np.zeros(400))
    saturated = np.clip(5 * A, -1, 1)
    np.testing.assert_allclose(as_waveforms(saturated)[0], saturated, rtol=1e-6)


REFUSED = {
    "empty": (np.zeros(0), "utterance 0: expected at least 2 samples, got 0"),
    "one sample": (np.zeros((3, 1)), "expected at least 2 samples, got 1"),
    "no utterance": (np.zeros((0, 400)), "at least one utterance"),
    "no utterance in a list": ([], "at least one utterance"),
    "int16": (np.zeros(400, dtype=np.int16), "int16; divide int16 by 32768"),
    "int16 as float": (32768 * A, "got a peak of 16384; did you pass int16 values as float"),
    "nan": (ragged_array([A, np.where(np.arange(300) == 7, np.nan, B)]), "utterance 1: .* nan at sample 7"),
    "infinite": (np.where(A > 0, np.inf, A), "utterance 0: expected finite samples, got inf at sample 200"),
    "stereo": (np.stack([A, A], 1), r"\(400, 2\): did you pass \(samples, channels\)"),
    "one channel": (A[:, None], r"did you pass \(samples, channels\)"),
    "stereo inside": (ragged_array([np.stack([A, A], 1)]), "utterance 0: .* average them first"),
    "three axes": (np.zeros((2, 1, 400)), "average the channels first"),
    "bool": (np.zeros(400, dtype=bool), "expected float samples, got bool"),
    "complex": (A.astype(complex), "expected float samples, got complex128"),
    "text": (np.array(["a", "b"]), "expected float samples"),
    "text inside": (ragged_array([np.array(["a", "b"], dtype=object)]), "expected numbers"),
    "numbers in a list": ([0.1, 0.2, 0.3], r"expected shape \(T,\)"),
    "none": (None, "got NoneType"),
}


@pytest.mark.parametrize(("x", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals_name_expected_and_found(x, message):
    with pytest.raises(AudioError, match=message):
        as_waveforms(x)


def test_a_given_minimum_is_named():
    with pytest.raises(AudioError, match="utterance 1: expected at least 350 samples, got 300"):
        as_waveforms([A, B], min_samples=350)


def test_a_given_rate_is_checked():
    assert len(as_waveforms(A, 16000)) == 1
    with pytest.raises(AudioError, match="expected audio at 16000 Hz, got 8000 Hz"):
        as_waveforms(A, 8000)


MADE = {
    "nan": (np.where(np.arange(400) == 7, np.nan, A), "expected finite samples, got nan at sample 7"),
    "infinite": (np.where(A > 0, np.inf, A), "expected finite samples, got inf at sample 200"),
    "short": (A[:-1], r"expected 400 samples for as many, got shape \(399,\)"),
    "two of them": (np.stack([A[:200], A[200:]]), r"expected 400 samples for as many, got shape \(2, 200\)"),
    "none": (np.zeros(0), r"expected 400 samples for as many, got shape \(0,\)"),
    "int16": (np.zeros(400, dtype=np.int16), "expected float samples, got int16"),
    "complex": (A.astype(complex), "expected float samples, got complex128"),
    "text": (np.array(["a"] * 400, dtype=object), "expected float samples, got"),
    "nothing": (None, r"expected 400 samples for as many, got shape \(\)"),
}


@pytest.mark.parametrize(("found", "message"), MADE.values(), ids=MADE.keys())
def test_what_others_make_is_refused_in_their_name(found, message):
    with pytest.raises(OptionError, match=f"^Theirs: {message}"):
        check_made(found, 400, "Theirs", OptionError)


@pytest.mark.parametrize("found", [A, A[None], A.astype(np.float32), A.astype(object), torch.tensor(A)])
def test_what_others_make_is_taken_as_floats(found):
    made = check_made(found, 400, "Theirs")
    assert made.shape == (400,)
    np.testing.assert_allclose(made, A, rtol=1e-6)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (torch.tensor([[0.0, 1.0], [2.0, torch.nan]]), "expected finite samples, got nan at sample 1"),
        (torch.zeros(2, 3), r"expected shape \(2, 2\), got \(2, 3\)"),
        (torch.zeros(2, 2, dtype=torch.int16), "expected a tensor of float samples, got torch.int16"),
        (np.zeros((2, 2)), "expected a tensor of float samples, got ndarray"),
    ],
)
def test_a_batch_that_others_make_is_refused_in_their_name(found, message):
    with pytest.raises(AudioError, match=f"^Theirs: {message}"):
        check_batch(found, (2, 2), "Theirs")
    check_batch(torch.zeros(2, 2, requires_grad=True), (2, 2), "Theirs")
