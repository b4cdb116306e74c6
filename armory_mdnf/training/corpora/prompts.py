"""The US English prompts of Debian's asterisk-core-sounds-en-g722: real speech of one professional speaker.

Recorded by Allison Smith (http://www.theivrvoice.com), CC BY-SA 3.0; see the corpus card.
"""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from armory_mdnf.data.text import normalise
from armory_mdnf.errors import AudioError, BundleError

SAMPLE_RATE_HZ = 16_000
AUDIO_DIR = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
TRANSCRIPTS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
INSTALL_HINT = "apt-get install asterisk-core-sounds-en-g722 asterisk-core-sounds-en ffmpeg"
SPEAKER = "allison"
EDGE_SILENCE_S = 0.15
SILENCE_DB = -50.0  # below the recording's peak

# Recordings whose words cannot be told from the transcript alone.
EXCLUDED = {
    "demo-instruct": "how 28.8, 1234, 4242, 8500 and IAX are read is not in the transcript",
    "demo-moreinfo": "how the web address and the abbreviations are read is not in the transcript",
    "demo-thanks": "how PBX is read is not in the transcript",
    "spy-dahdi": "an acronym read as a word or letter by letter",
    "spy-h323": "an acronym with a number",
    "spy-iax": "an acronym read as a word or letter by letter",
    "spy-iax2": "an acronym read as a word or letter by letter",
    "spy-mgcp": "an acronym read as a word or letter by letter",
    "spy-sip": "an acronym read as a word or letter by letter",
    "spy-zap": "an acronym read as a word or letter by letter",
    "spy-unistim": "a product name with an unclear reading",
    "tt-monkeys": "no speech",
}

# Transcripts that are not what is written in the package: misspellings, and one spelling for one spoken word.
FIXES = {
    "exclaimation": "exclamation",
    "umute": "unmute",
    "represenatives": "representatives",
    "Un-indentified": "unidentified",
    "witheld": "withheld",
    "fourtieth": "fortieth",
    "thru": "through",
    "xray": "x ray",
    "touchtone": "touch tone",
    "voice mail": "voicemail",
    "mail box": "mailbox",
    "A.M.": "a m",
    "P.M.": "p m",
    "PBX": "p b x",
    "USB": "u s b",
    "de-activated": "deactivated",
    "De-activated": "deactivated",
    "re-record": "rerecord",
    "re-enter": "reenter",
    "3D": "three d",
}


@dataclass(frozen=True)
class Prompt:
    """One recording: its name in the package, its words, and 16 kHz float32 samples (T,)."""

    id: str
    transcript: str
    audio: npt.NDArray[np.float32]

    @property
    def duration_s(self) -> float:
        return len(self.audio) / SAMPLE_RATE_HZ


def fix(text: str) -> str:
    """Apply the table of corrections to a transcript as it is written in the package."""
    for wrong, right in FIXES.items():
        text = text.replace(wrong, right)
    return text


def parse_transcripts(text: str) -> dict[str, str]:
    """Read ``name: words`` lines; ``;`` starts a comment line. Transcripts come back normalised, some empty."""
    transcripts = {}
    for line in text.splitlines():
        name, colon, words = line.partition(":")
        if colon and not line.startswith(";"):
            transcripts[name.strip()] = normalise(fix(words))
    return transcripts


def decode_g722(path: Path) -> npt.NDArray[np.float32]:
    """Decode a raw G.722 file to 16 kHz float32 (T,) with ffmpeg. Raises :class:`AudioError` if it cannot."""
    command = ["ffmpeg", "-nostdin", "-v", "error", "-f", "g722", "-i", str(path)]
    command += ["-f", "s16le", "-ac", "1", "-ar", str(SAMPLE_RATE_HZ), "-"]
    try:
        done = subprocess.run(command, capture_output=True, check=True)
    except FileNotFoundError as error:
        raise AudioError(f"ffmpeg is not installed; {INSTALL_HINT}") from error
    except subprocess.CalledProcessError as error:
        raise AudioError(f"{path}: ffmpeg cannot decode it: {error.stderr.decode(errors='replace').strip()}") from error
    return np.frombuffer(done.stdout, dtype="<i2").astype(np.float32) / np.float32(32768)


def trim(x: npt.NDArray[np.float32], edge_s: float = EDGE_SILENCE_S) -> npt.NDArray[np.float32]:
    """Shorten the silence at both ends to ``edge_s``. Silence is 10 ms frames 50 dB or more below the loudest frame."""
    hop = SAMPLE_RATE_HZ // 100
    frames = x[: len(x) // hop * hop].reshape(-1, hop)
    level = np.sqrt((frames.astype(np.float64) ** 2).mean(axis=1)) if len(frames) else np.zeros(0)
    loud = np.flatnonzero(level > level.max(initial=0.0) * 10 ** (SILENCE_DB / 20))
    if len(loud) == 0:
        return x
    edge = round(edge_s * SAMPLE_RATE_HZ)
    return x[max(0, loud[0] * hop - edge) : (loud[-1] + 1) * hop + edge]


def read_prompts(audio_dir: Path = AUDIO_DIR, transcripts: Path = TRANSCRIPTS) -> Iterator[Prompt]:
    """Every prompt with speech whose transcript is certain, in the order of the names, at the recorded level.

    Raises :class:`BundleError` if the Debian packages are not installed.
    """
    if not audio_dir.is_dir() or not transcripts.is_file():
        raise BundleError(f"the prompts are not installed (no {audio_dir} or {transcripts}); {INSTALL_HINT}")
    with gzip.open(transcripts, "rt", encoding="utf-8") as f:
        words = parse_transcripts(f.read())
    for name in sorted(words):
        path = audio_dir / f"{name}.g722"
        if words[name] and name not in EXCLUDED and path.is_file():
            yield Prompt(name, words[name], trim(decode_g722(path)))
