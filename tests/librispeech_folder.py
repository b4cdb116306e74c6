"""LibriSpeech for tests: a small made-up one, and the real recordings beside the project where there are some."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import speechlike

from armory_mdnf.audio.files import write_flac

REAL = Path(__file__).resolve().parents[2] / "shared" / "librispeech" / "LibriSpeech"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no LibriSpeech in ../shared/librispeech")

TEXTS = {
    "84-121-0000": "MISTER QUILTER IS THE APOSTLE",
    "84-121-0001": "DON'T GO",
    "84-122-0000": "HE TELLS US",
    "7-5-0000": "LINNELL'S PICTURES",
    "61-70-0003": "NOR IS HE",
}


def make_librispeech(root: Path, split: str = "test-clean", seconds: float = 1.2) -> Path:
    """A LibriSpeech with one split of five utterances by three speakers. Returns the folder of the splits."""
    for i, (name, text) in enumerate(TEXTS.items()):
        speaker, chapter, _ = name.split("-")
        folder = root / split / speaker / chapter
        folder.mkdir(parents=True, exist_ok=True)
        write_flac(folder / f"{name}.flac", speechlike(int(16000 * seconds) + 100 * i, i), 16000)
        with (folder / f"{speaker}-{chapter}.trans.txt").open("a") as file:
            file.write(f"{name} {text}\n")
    return root
