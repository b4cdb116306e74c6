"""Recordings of any format and rate, and their pieces."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import speechlike
from hypothesis import given, settings
from hypothesis import strategies as st

from armory_mdnf.audio import recordings
from armory_mdnf.audio.files import COUNTED, read_audio
from armory_mdnf.errors import AudioError, OptionError

RATE_HZ = 16000


def tone(seconds: float, rate_hz: int, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(0.5, RATE_HZ), tone(0.5, RATE_HZ, 700)
    soundfile.write(tmp_path / "s.wav", np.stack([left, right], 1), RATE_HZ, subtype="FLOAT")
    np.testing.assert_allclose(
        recordings.read_recording(tmp_path / "s.wav", RATE_HZ), (left + right) / 2, rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("rate_hz", [8000, 22050, 44100, 48000])
def test_any_rate_is_the_same_sound(rate_hz: int, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "t.flac", tone(1, rate_hz), rate_hz)
    found = recordings.read_recording(tmp_path / "t.flac", RATE_HZ)
    assert len(found) == RATE_HZ
    middle = slice(1000, -1000)
    np.testing.assert_allclose(found[middle], tone(1, RATE_HZ)[middle], rtol=0, atol=5e-3)


@pytest.mark.parametrize("suffix", sorted(recordings.SUBTYPES))
def test_what_is_written_is_read_again(suffix: str, tmp_path: Path) -> None:
    x = tone(1, RATE_HZ)
    path = tmp_path / f"x{suffix}"
    recordings.write_recording(path, x, RATE_HZ)
    found = recordings.fitted(recordings.read_recording(path, RATE_HZ), len(x))
    if recordings.SUBTYPES[suffix] == "PCM_24":
        np.testing.assert_allclose(found, x, rtol=0, atol=2.0**-23)
    else:
        assert np.corrcoef(found, x)[0, 1] > 0.9
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("no audio")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), RATE_HZ)
    soundfile.write(tmp_path / "loud.wav", 6 * tone(0.1, RATE_HZ), RATE_HZ, subtype="FLOAT")
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan, np.float32), RATE_HZ, subtype="FLOAT")
    for name, why in (
        ("none.wav", "no audio file at"),
        ("a.wav", "is not audio that can be read"),
        ("empty.wav", "found no samples"),
        ("loud.wav", "found a peak of 3"),
        ("nan.wav", "found NaN or infinity"),
    ):
        with pytest.raises(AudioError, match=why) as caught:
            recordings.read_recording(tmp_path / name, RATE_HZ)
        assert name in str(caught.value)


def readers(path: Path) -> list[Callable[[], object]]:
    """Whatever reads recordings."""
    content = io.BytesIO(path.read_bytes())
    return [
        lambda: read_audio(path),
        lambda: recordings.read_recording(path, RATE_HZ),
        lambda: recordings.read_recording(content, RATE_HZ, path.name),
    ]


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_an_mp3_that_ends_before_it_says_is_refused(share: float, tmp_path: Path) -> None:
    path = tmp_path / "x.mp3"
    soundfile.write(path, tone(2, RATE_HZ), RATE_HZ)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert soundfile.info(path).frames == 2 * RATE_HZ  # as its header says
    for read in readers(path):
        with pytest.raises(
            AudioError, match=rf"x\.mp3: expected {2 * RATE_HZ} samples, .* decoded \d+ \(truncated\?\)"
        ):
            read()


def test_an_mp3_that_does_not_say_its_length_is_read(tmp_path: Path) -> None:
    """libsndfile guesses it from the size of the file, which need not be that of whole frames."""
    path = tmp_path / "x.mp3"
    soundfile.write(path, tone(2, RATE_HZ), RATE_HZ, bitrate_mode="CONSTANT", compression_level=0.5)
    content = path.read_bytes()
    assert COUNTED.search(content[:200])
    path.write_bytes(content[content.index(content[:2], 200) : -50])  # without the first frame, which says it
    assert soundfile.info(path).frames > len(soundfile.read(path)[0])
    for read in readers(path):
        read()


@pytest.mark.parametrize(("end", "options"), [("wav", {"subtype": "GSM610"}), ("flac", {})])
def test_a_length_that_is_not_known_is_refused(end: str, options: dict[str, str], tmp_path: Path) -> None:
    """Of some codecs, and of FLAC that was written into a pipe."""
    path = tmp_path / f"x.{end}"
    soundfile.write(path, tone(1, RATE_HZ), RATE_HZ, **options)
    if end == "flac":
        content = bytearray(path.read_bytes())
        content[21] &= 0xF0  # the 36 bits of the number of samples
        content[22:26] = bytes(4)
        path.write_bytes(content)
    for read in readers(path):
        with pytest.raises(AudioError, match=rf"x\.{end} is not"):
            read()


def test_what_a_lossy_decoder_overshoots_is_cut(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", 2.4 * tone(0.1, RATE_HZ), RATE_HZ, subtype="FLOAT")
    found = recordings.read_recording(tmp_path / "x.wav", RATE_HZ)
    np.testing.assert_array_equal(found, np.clip(2.4 * tone(0.1, RATE_HZ), -1, 1))


def test_formats_and_rates_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"unknown format of x\.m4a"):
        recordings.check_format(tmp_path / "x.m4a")
    with pytest.raises(OptionError, match=r"cannot write .*x\.opus at 11000 Hz"):
        recordings.write_recording(tmp_path / "x.opus", tone(0.1, 11000), 11000)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=30)
@given(st.integers(1, 200 * 100), st.floats(6, 30), st.integers(0, 5))
def test_pieces_cover_a_recording_and_are_short_enough(samples: int, longest_s: float, seed: int) -> None:
    rate_hz = 100
    x = np.random.default_rng(seed).standard_normal(samples).astype(np.float32)
    bounds = recordings.pieces(x, rate_hz, longest_s)
    assert bounds[0][0] == 0
    assert bounds[-1][1] == samples
    assert all(a[1] == b[0] for a, b in pairwise(bounds))
    assert all(0 < end - start <= longest_s * rate_hz + 1 for start, end in bounds)
    cut = recordings.split_like(x, [x[a:b] for a, b in bounds])
    np.testing.assert_array_equal(recordings.join(cut), x)


def test_cuts_are_where_it_is_quiet() -> None:
    x = speechlike(9 * RATE_HZ)
    x[70000:71000] = 0  # in the second around the middle
    (_, cut), _ = recordings.pieces(x, RATE_HZ, 8.0)
    assert 70000 <= cut <= 71000


def test_pieces_too_short_to_choose_a_cut_in() -> None:
    with pytest.raises(OptionError, match="at least 6 s, got 3"):
        recordings.pieces(np.zeros(10, np.float32), RATE_HZ, 3)
