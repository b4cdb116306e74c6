"""Reading and writing audio files: exact for 16 bits, and clear about what is wrong."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from armory_mdnf.audio.files import read_audio, write_flac
from armory_mdnf.errors import AudioError


@settings(max_examples=25, deadline=None)
@given(pcm=arrays(np.int16, st.integers(1, 3000)))
def test_sixteen_bit_samples_survive_exactly(tmp_path_factory, pcm):
    path = tmp_path_factory.mktemp("audio") / "x.flac"
    write_flac(path, pcm.astype(np.float32) / 32768, 16000)
    x, rate = read_audio(path)
    assert rate == 16000
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x * 32768, pcm)


def test_full_scale_is_not_wrapped(tmp_path):
    write_flac(tmp_path / "x.flac", np.array([1.0, -1.0, 0.0]), 16000)
    np.testing.assert_allclose(read_audio(tmp_path / "x.flac")[0], [32767 / 32768, -1, 0])


def test_missing_file_is_named(tmp_path):
    with pytest.raises(AudioError, match=r"no audio file at .*gone\.flac"):
        read_audio(tmp_path / "gone.flac")


def test_corrupt_file_is_named(tmp_path):
    (tmp_path / "noise.flac").write_bytes(b"fLaC" + bytes(range(200)))
    with pytest.raises(AudioError, match=r"noise\.flac is not a readable audio file"):
        read_audio(tmp_path / "noise.flac")


def test_stereo_is_refused(tmp_path):
    soundfile.write(tmp_path / "two.wav", np.zeros((100, 2)), 16000)
    with pytest.raises(AudioError, match=r"expected one channel, found 2"):
        read_audio(tmp_path / "two.wav")


def test_empty_recording_is_refused(tmp_path):
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16000)
    with pytest.raises(AudioError, match="no samples"):
        read_audio(tmp_path / "none.wav")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 50), np.float32), r"shape \(T,\)"),
        (np.zeros(0, np.float32), "T > 0"),
        (np.zeros(50, np.int16), "float samples"),
        (np.array([0.0, np.nan]), "finite"),
        (np.array([0.0, 300.0]), "peak of 300"),
    ],
)
def test_what_cannot_be_written_exactly_is_refused(tmp_path, x, message):
    with pytest.raises(AudioError, match=message):
        write_flac(tmp_path / "x.flac", x, 16000)
    assert not list(tmp_path.iterdir())
