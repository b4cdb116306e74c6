"""LibriSpeech as OpenSLR packs it: ``SPLIT/SPEAKER/CHAPTER/*.flac`` beside the words in ``*.trans.txt``.

The same recordings as Ogg Opus (``*.opus``) are read too.

The folder is the one that the environment variable ``ARMORY_MDNF_LIBRISPEECH`` names, else ``LibriSpeech`` in Armory's
folder of data sets (``dataset_dir`` of ``~/.armory/config.json``, ``/armory/datasets`` in its containers, which see no
environment variables). Nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from armory_mdnf.audio.files import UNKNOWN
from armory_mdnf.data.bundled import Utterance
from armory_mdnf.errors import ArmoryMdnfWarning, AudioError, BundleError, OptionError, choices, quoted
from armory_mdnf.files.provenance import sha256_of
from armory_mdnf.locations import armory_folders

SAMPLE_RATE_HZ = 16000
VARIABLE = "ARMORY_MDNF_LIBRISPEECH"
FOLDER = "LibriSpeech"
SOURCE = "https://www.openslr.org/12"
SPLITS = {
    "dev-clean": 2703,
    "dev-other": 2864,
    "test-clean": 2620,
    "test-other": 2939,
    "train-clean-100": 28539,
    "train-clean-360": 104014,
    "train-other-500": 148688,
}
"""The splits and how many utterances each has when it is complete."""

NO_MD5 = "0" * 32
"""What a FLAC file has in place of the MD5 of its audio if its encoder did not say."""
SUFFIXES = (".flac", ".opus")
WORDS = re.compile(r"[A-Z']+( [A-Z']+)*")


@dataclass(frozen=True)
class FlacHeader:
    """What a FLAC file says of itself: rate, channels, samples and bits per channel, MD5 of the decoded audio."""

    sample_rate_hz: int
    channels: int
    samples: int
    bits: int
    md5: str


def split_name(name: str) -> str | None:
    """OpenSLR's name of a split, also for the spellings of TensorFlow (``test_clean``, ``train_clean100``); or None."""
    bare = re.sub("[-_]", "", name)
    return next((split for split in SPLITS if split.replace("-", "") == bare), None)


def find_root(given: str | os.PathLike[str] | None = None) -> Path:
    """The folder that holds the splits: ``given`` or the one found as this module says.

    Raises :class:`BundleError` naming where it was looked for, and where to get the data.
    """
    named = given if given is not None else os.environ.get(VARIABLE) or None
    places = [Path(named)] if named is not None else [folder / FOLDER for folder in armory_folders("datasets")]
    for place in places:
        for folder in (place, place / FOLDER):
            if any((folder / split).is_dir() for split in SPLITS):
                return folder
    looked = " and ".join(str(place) for place in places)
    raise BundleError(
        f"no LibriSpeech in {looked}: expected a folder with {', '.join(SPLITS)} or some of them; "
        f"unpack the splits from {SOURCE} into {places[0]}, or set {VARIABLE} to the folder that has them"
    )


def load_split(
    split: str, folder: str | os.PathLike[str] | None = None, *, transcribed: bool = True, strict: bool = True
) -> list[Utterance]:
    """The utterances of a split, in a fixed order.

    The order is that of the SHA-256 of their names, so that the first N are a sample of the speakers and chapters. An
    incomplete split keeps that order, not the positions: that is warned of.

    ``transcribed`` False takes recordings without transcripts too, with empty ones. ``strict`` False gives utterances
    that are missing, damaged or without transcripts too, at their places and with their ``problem``. Only the headers
    are read.
    Raises :class:`OptionError` for an unknown split, :class:`BundleError` naming the first file that is missing,
    damaged, or not what the layout says.
    """
    name = split_name(split)
    if name is None:
        raise OptionError(choices(split, SPLITS, "split of LibriSpeech"))
    root = find_root(folder)
    if not (root / name).is_dir():
        there = ", ".join(s for s in SPLITS if (root / s).is_dir())
        raise BundleError(f"no {name} in {root}, which has {there}; get {archive(name)} and unpack it there")
    utterances: list[Utterance] = []
    strays: list[str] = []
    for chapter in chapters(root / name):
        found, damaged, others = read_chapter(chapter, transcribed)
        problems = [u.problem for u in (*others, *damaged)]
        if problems and strict:
            more = f" (and {len(problems) - 1} more there)" if len(problems) > 1 else ""
            raise BundleError(f"{problems[0]}{more}; `armory-mdnf data check {root}` lists all")
        utterances += [*found, *damaged]
        strays += [u.problem for u in others]
    if strays:
        more = f" (and {len(strays) - 1} more; `armory-mdnf data check {root}` lists all)" if len(strays) > 1 else ""
        warnings.warn(f"{strays[0]}{more}", ArmoryMdnfWarning, stacklevel=2)
    if not utterances:
        raise BundleError(f"{root / name} has no recordings; get {archive(name)}")
    if len(utterances) != SPLITS[name]:
        warnings.warn(
            f"{root / name} has {len(utterances)} of the {SPLITS[name]} utterances of {name}: positions are other than "
            "in the whole split",
            ArmoryMdnfWarning,
            stacklevel=2,
        )
    return sorted(utterances, key=lambda u: hashlib.sha256(u.id.encode()).digest())


def archive(split: str) -> str:
    """Address of a split."""
    return f"https://www.openslr.org/resources/12/{split}.tar.gz"


def chapters(folder: Path) -> list[Path]:
    """The chapters below the folder of a split: those of numbered speakers with numbers of their own."""
    speakers = [path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir()]
    found = [path for speaker in speakers for path in speaker.iterdir() if path.name.isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: (int(path.parent.name), int(path.name)))


def listing_of(chapter: Path) -> Path:
    """The list of a chapter's transcripts."""
    return chapter / f"{chapter.parent.name}-{chapter.name}.trans.txt"


def read_chapter(folder: Path, transcribed: bool = True) -> tuple[list[Utterance], list[Utterance], list[Utterance]]:
    """The sound utterances of a chapter, those with a ``problem``, and strays.

    A stray is a recording or a line that has the name of no utterance; its ``problem`` says so.
    """
    speaker = folder.parent.name
    stem = f"{speaker}-{folder.name}"
    words: dict[str, str] = {}
    refused: dict[str, str] = {}
    sentences: list[str] = []
    listing = listing_of(folder)
    if listing.is_file():
        words, refused, sentences = read_transcripts(listing, stem)
    place = f"{speaker}/{folder.name}"
    strays = [
        Utterance(f"{place}/{listing.name}, {number}", listing, "", speaker, 0.0, sentence)
        for number, sentence in enumerate(sentences, 1)
    ]
    sound: list[Utterance] = []
    damaged: list[Utterance] = []
    audio = {path.stem: path for path in recordings(folder.iterdir())}
    for name in sorted(audio.keys() | words.keys() | refused.keys()):
        path = audio.get(name, folder / f"{name}{SUFFIXES[0]}")
        problem, duration_s = refused.get(name, ""), 0.0
        if name not in audio:
            problem = problem or f"{listing} names {name}, of which there is neither {' nor '.join(SUFFIXES)}"
        elif not _names(stem, name):
            problem = f"{path}: expected a name such as {stem}-0000{path.suffix}"
            strays.append(Utterance(f"{place}/{name}", path, "", speaker, 0.0, problem))
            continue
        elif not problem and name not in words and transcribed:
            problem = (
                f"{path} has no transcript in {listing.name}"
                if listing.is_file()
                else f"{path}: expected the transcripts {listing.name}, found none"
            )
        else:
            try:
                duration_s = _samples(path) / SAMPLE_RATE_HZ
            except AudioError as error:
                problem = problem or str(error)
        found = Utterance(name, path, words.get(name, ""), speaker, duration_s, problem)
        (damaged if problem else sound).append(found)
    return sound, damaged, strays


def recordings(paths: Iterable[Path]) -> list[Path]:
    """Those of the paths that end as recordings do, sorted; of one that is there as FLAC and as Opus the FLAC alone."""
    there = list(paths)
    found = {path.with_suffix(""): path for end in reversed(SUFFIXES) for path in there if path.suffix == end}
    return sorted(found.values())


def read_transcripts(path: Path, stem: str) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """A list of transcripts, whose utterances are ``stem`` and four digits.

    Words by utterance, what is wrong with those of others, and the lines that are of no utterance. A name of another
    form is a problem, not a path: no line reaches a file outside the chapter.
    """
    words: dict[str, str] = {}
    refused: dict[str, str] = {}
    strays = []
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        return {}, {}, [f"{path} is not a readable list of transcripts: {error}"]
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, *spoken = line.split()
        text = " ".join(spoken)
        where = f"{path}, line {number}"
        if not _names(stem, name):
            strays.append(f"{where}: expected {stem}-0000 (or so) and its words, found {quoted(line)}")
        elif name in words or name in refused:
            refused[name] = f"{where}: {name} is there twice"
            words.pop(name, None)
        elif not WORDS.fullmatch(text):
            refused[name] = f"{where}: expected {stem}-0000 (or so) and its words, found {quoted(line)}"
        else:
            words[name] = text
    return words, refused, strays


def flac_header(path: Path) -> FlacHeader:
    """Read the stream information of a FLAC file, which is its first 42 bytes. Raises :class:`AudioError`.

    libsndfile would look for the end of the file too, which takes minutes over a training split.
    """
    try:
        with path.open("rb") as file:
            head = file.read(42)
    except OSError as error:
        raise AudioError(f"{path} cannot be read: {error}") from error
    if len(head) < 42 or head[:4] != b"fLaC" or head[4] & 0x7F:
        raise AudioError(f"{path} is not a FLAC file (truncated or corrupt?)")
    # 20 bits of rate, 3 of channels - 1, 5 of bits - 1, 36 of samples
    packed = int.from_bytes(head[18:26], "big")
    channels, bits = (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1
    return FlacHeader(packed >> 44, channels, packed & (1 << 36) - 1, bits, head[26:42].hex())


def audio_checksum(path: Path) -> str:
    """A checksum of a recording: the MD5 that a FLAC file has of its audio, if it has, else SHA-256 of the file.

    A file that is called .flac and has no header of FLAC's at its beginning is another file, perhaps of audio too.
    Raises :class:`AudioError` if the file cannot be read.
    """
    if path.suffix == ".flac":
        with contextlib.suppress(AudioError):
            if (md5 := flac_header(path).md5).strip("0"):  # zeros: the encoder left it out
                return md5
    try:
        return sha256_of(path)
    except OSError as error:
        raise AudioError(f"{path} cannot be read: {error}") from error


def _samples(path: Path) -> int:
    """Samples of a recording whose header is as LibriSpeech's, of FLAC or of the same audio as Ogg Opus."""
    if path.suffix == ".flac":
        return _checked_header(path).samples
    import soundfile

    try:
        info = soundfile.info(str(path))
    except (OSError, UnicodeError, soundfile.SoundFileError) as error:
        raise AudioError(f"{path} is not a readable audio file (truncated or corrupt?): {error}") from error
    if (info.samplerate, info.channels) != (SAMPLE_RATE_HZ, 1) or not 1 <= info.frames < UNKNOWN:
        raise AudioError(
            f"{path}: expected one channel at {SAMPLE_RATE_HZ} Hz, found {info.channels} at {info.samplerate} Hz, "
            f"{info.frames} samples"
        )
    return int(info.frames)


def _checked_header(path: Path) -> FlacHeader:
    header = flac_header(path)
    for what, found, expected in (
        ("Hz", header.sample_rate_hz, SAMPLE_RATE_HZ),
        ("channel(s)", header.channels, 1),
        ("bits per sample", header.bits, 16),
    ):
        if found != expected:
            raise AudioError(f"{path}: expected {expected} {what}, found {found}")
    if header.samples == 0:
        raise AudioError(f"{path}: expected audio, found no samples")
    return header


def _names(stem: str, name: str) -> bool:
    return re.fullmatch(rf"{re.escape(stem)}-[0-9]{{4}}", name) is not None
