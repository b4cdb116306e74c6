"""Where each word of a recording lies, by forced alignment with pocketsphinx and its bundled US English model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from armory_mdnf.training.corpora.prompts import SAMPLE_RATE_HZ, Prompt

MAX_PIECE_S = 8.0
MIN_PAUSE_S = 0.12
EDGE_S = 0.15
FRAME_S = 0.01

# Words of the prompts that the bundled dictionary lacks, in its phone set.
PRONUNCIATIONS = {
    "administrators": "AH D M IH N AH S T R EY T ER Z",
    "backtick": "B AE K T IH K",
    "blacklist": "B L AE K L IH S T",
    "blacklisted": "B L AE K L IH S T IH D",
    "bluetooth": "B L UW T UW TH",
    "callee": "K AO L IY",
    "caret": "K EH R AH T",
    "digium": "D IH JH IY AH M",
    "filename": "F AY L N EY M",
    "forevermore": "F ER EH V ER M AO R",
    "kilobit": "K IH L AH B IH T",
    "latency": "L EY T AH N S IY",
    "lowercase": "L OW ER K EY S",
    "mailbox": "M EY L B AA K S",
    "niner": "N AY N ER",
    "playback": "P L EY B AE K",
    "prepend": "P R IY P EH N D",
    "prepending": "P R IY P EH N D IH NG",
    "rerecord": "R IY R IH K AO R D",
    "reenter": "R IY EH N T ER",
    "reentered": "R IY EH N T ER D",
    "semicolon": "S EH M IY K OW L AH N",
    "telemarketers": "T EH L AH M AA R K AH T ER Z",
    "truncating": "T R AH NG K EY T IH NG",
    "unavailable": "AH N AH V EY L AH B AH L",
    "undelete": "AH N D IH L IY T",
    "undeleted": "AH N D IH L IY T IH D",
    "unmute": "AH N M Y UW T",
    "unmuted": "AH N M Y UW T IH D",
    "uppercase": "AH P ER K EY S",
    "voicemail": "V OY S M EY L",
    "waldo's": "W AO L D OW Z",
}

Word = tuple[str, float, float]  # upper-case word, start and end in s


@dataclass(frozen=True)
class Aligned:
    """A recording, or a piece of one, with the place of its words; ``words`` is None where alignment failed."""

    id: str
    transcript: str
    audio: npt.NDArray[np.float32]
    words: tuple[Word, ...] | None

    @property
    def duration_s(self) -> float:
        return len(self.audio) / SAMPLE_RATE_HZ


class Aligner:
    """Aligns transcripts with recordings. Needs the ``train`` extra (pocketsphinx)."""

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder = Decoder(
            lm=None, samprate=SAMPLE_RATE_HZ, loglevel="FATAL", beam=1e-80, wbeam=1e-60, pbeam=1e-80
        )
        for word, phones in PRONUNCIATIONS.items():
            if self._decoder.lookup_word(word) is None:
                self._decoder.add_word(word, phones, update=False)

    def missing_words(self, transcript: str) -> list[str]:
        """The words of a transcript that have no pronunciation."""
        return [w for w in transcript.split() if self._decoder.lookup_word(w.lower()) is None]

    def align(self, audio: npt.NDArray[np.float32], transcript: str) -> tuple[Word, ...] | None:
        """Start and end of each word in 16 kHz audio (T,), or None if a word is unknown or nothing fits."""
        if not transcript or self.missing_words(transcript):
            return None
        decoder = self._decoder
        decoder.reinit_feat()  # forget the previous recording's cepstral mean
        decoder.set_align_text(transcript.lower())
        pcm = np.clip(np.round(audio * 32768), -32768, 32767).astype("<i2").tobytes()
        decoder.start_utt()
        decoder.process_raw(pcm, full_utt=True)
        decoder.end_utt()
        if decoder.hyp() is None:
            return None
        words = []
        for segment in decoder.seg():
            word = segment.word.split("(")[0].upper()
            if word.startswith(("<", "[")):  # silence and noise
                continue
            words.append((word, round(segment.start_frame * FRAME_S, 2), round((segment.end_frame + 1) * FRAME_S, 2)))
        return tuple(words) if [w for w, _, _ in words] == transcript.split() else None


def cut_points(words: Sequence[Word], duration_s: float, max_s: float = MAX_PIECE_S) -> list[int] | None:
    """Indices of the words before which to cut, so that no piece is longer than ``max_s``, at the longest pauses.

    Returns None if some stretch has no pause of at least 0.12 s to cut at.
    """

    def length(first: int, last: int) -> float:
        start = max(0.0, words[first][1] - EDGE_S) if first else 0.0
        end = words[last][2] + EDGE_S if last < len(words) - 1 else duration_s
        return end - start

    def split(first: int, last: int) -> list[int] | None:
        if length(first, last) <= max_s:
            return []
        pauses = [(words[i][1] - words[i - 1][2], i) for i in range(first + 1, last + 1)]
        for pause, i in sorted(pauses, reverse=True):
            if pause < MIN_PAUSE_S:
                return None
            left, right = split(first, i - 1), split(i, last)
            if left is not None and right is not None:
                return [*left, i, *right]
        return None

    return split(0, len(words) - 1)


def cut(prompt: Prompt, words: tuple[Word, ...] | None, max_s: float = MAX_PIECE_S) -> list[Aligned]:
    """Cut a recording longer than ``max_s`` at its pauses. It stays whole if it is short or cannot be cut."""
    whole = Aligned(prompt.id, prompt.transcript, prompt.audio, words)
    if words is None or prompt.duration_s <= max_s:
        return [whole]
    cuts = cut_points(words, prompt.duration_s, max_s)
    if not cuts:
        return [whole]
    pieces = []
    bounds = [0, *cuts, len(words)]
    for number, (first, beyond) in enumerate(pairwise(bounds)):
        # the edge never reaches past the middle of the pause, so that no neighbour's sound comes along
        start = max(words[first][1] - EDGE_S, (words[first][1] + words[first - 1][2]) / 2) if first else 0.0
        end = prompt.duration_s
        if beyond < len(words):
            end = min(words[beyond - 1][2] + EDGE_S, (words[beyond][1] + words[beyond - 1][2]) / 2)
        part = words[first:beyond]
        audio = prompt.audio[round(start * SAMPLE_RATE_HZ) : round(end * SAMPLE_RATE_HZ)]
        shifted = tuple((w, round(a - start, 2), round(b - start, 2)) for w, a, b in part)
        pieces.append(Aligned(f"{prompt.id}-{number}", " ".join(w for w, _, _ in part), audio, shifted))
    return pieces
