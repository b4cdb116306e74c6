"""Spectrograms as small PNG files, without a drawing library."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

N_FFT = 512
ROWS = 96  # of a picture
COLUMNS = 480  # at most
SHADES = 16  # 4 bits a pixel
FLOOR_DB, CEILING_DB = -80.0, 0.0
"""The one scale of every spectrogram of a page: decibels of a bin's power, 0 for a full-scale sine."""

# From dark to light with a steady rise in luminance, so that it reads in grey too.
STOPS = (
    (0, 0, 4),
    (40, 11, 84),
    (101, 21, 110),
    (159, 42, 99),
    (212, 72, 66),
    (245, 125, 21),
    (250, 193, 39),
    (252, 255, 164),
)


def spectrogram_db(x: npt.NDArray[np.floating], rate_hz: int) -> Matrix:
    """Power in decibels of a full-scale sine's, low frequencies first. Shape: (T,) -> (ROWS, columns)."""
    import torch  # which a page without sound has no need of

    hop = max(rate_hz // 100, -(-len(x) // COLUMNS))
    window = torch.hann_window(N_FFT, dtype=torch.float64)
    padded = torch.nn.functional.pad(torch.from_numpy(np.asarray(x, np.float64)), (N_FFT // 2, N_FFT // 2))
    frames = torch.stft(padded, N_FFT, hop, window=window, center=False, return_complex=True).abs().square()
    power = frames / (window.sum() / 2) ** 2
    bins = torch.nn.functional.adaptive_avg_pool1d(power.T[None], ROWS)[0].T
    return (10 * torch.log10(bins.clamp(min=1e-12))).numpy()


def picture(decibels: Matrix) -> bytes:
    """A PNG of a spectrogram, high frequencies on top, on the scale of this module. Shape: (rows, columns)."""
    share = (np.clip(decibels, FLOOR_DB, CEILING_DB) - FLOOR_DB) / (CEILING_DB - FLOOR_DB)
    return png(np.rint(share * (SHADES - 1)).astype(np.uint8)[::-1], palette())


def palette() -> npt.NDArray[np.uint8]:
    """The colours of the shades. Shape: (SHADES, 3)."""
    places = np.linspace(0, len(STOPS) - 1, SHADES)
    stops = np.array(STOPS, np.float64)
    columns = [np.interp(places, np.arange(len(STOPS)), stops[:, c]) for c in range(3)]
    return np.rint(np.stack(columns, 1)).astype(np.uint8)


def png(shades: npt.NDArray[np.uint8], colours: npt.NDArray[np.uint8]) -> bytes:
    """A PNG of 4 bits per pixel with a palette. Shape: shades (rows, columns) below 16, colours (16, 3)."""
    rows, columns = shades.shape
    even = np.pad(shades, ((0, 0), (0, columns % 2)))
    packed = (even[:, ::2] << 4 | even[:, 1::2]).astype(np.uint8)
    lines = b"".join(b"\0" + line.tobytes() for line in packed)
    header = struct.pack(">IIBBBBB", columns, rows, 4, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", colours.tobytes()), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
