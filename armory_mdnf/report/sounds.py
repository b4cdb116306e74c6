"""What a page has of the sound of an utterance; computing it is :mod:`armory_mdnf.report.listening`'s."""

from __future__ import annotations

import base64
from dataclasses import dataclass


@dataclass(frozen=True)
class Sound:
    """A signal for the page: its name, what to know of it, and its MP3 and its spectrogram's PNG as data addresses."""

    name: str
    note: str
    audio: str
    picture: str


@dataclass(frozen=True)
class Heard:
    """The signals of one utterance of a run, and what was understood when they were computed.

    ``file``: the recording, where it is one of somebody's own.
    """

    position: int
    sounds: tuple[Sound, ...]
    transcripts: tuple[str, str]
    file: str = ""


def data_address(kind: str, content: bytes) -> str:
    """Bytes as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
