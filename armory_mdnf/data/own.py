"""One's own recordings with their transcripts: a folder or a list in one of the usual layouts.

- a folder of audio with a text file beside each (``a.wav``, ``a.txt`` or ``a.lab``);
- a list: CSV or TSV with a header, or JSON lines, of which :data:`AUDIO` and :data:`TEXT` are the columns, paths from
  the list's folder; or a folder with one such list in it;
- a data set of Hugging Face's, as ``save_to_disk`` of ``datasets`` wrote it, with such columns;
- Kaldi's ``text`` and ``wav.scp`` in a folder; commands in ``wav.scp`` are refused;
- a split of LibriSpeech as OpenSLR packs it, below any folder.

Recordings are of any format and rate. Transcripts are brought into the recognisers' alphabet as
:func:`armory_mdnf.data.text.normalise` says. What is wrong with one utterance is its ``problem``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from armory_mdnf.audio.files import duration_s
from armory_mdnf.data.bundled import Utterance
from armory_mdnf.data.librispeech import SPLITS, chapters, listing_of, read_chapter
from armory_mdnf.data.paths import LISTS
from armory_mdnf.data.saved import UNREADABLE, SavedUtterance, audio_of, is_saved, open_saved, seconds_of
from armory_mdnf.data.text import normalise
from armory_mdnf.errors import AudioError, BundleError, TranscriptError, cause, quoted, shown
from armory_mdnf.files.strict_json import loads, readable
from armory_mdnf.files.texts import MAX_BYTES, read_text

AUDIO = ("audio", "file", "path", "wav", "audio_filepath", "filename", "file_name")
TEXT = ("text", "transcript", "transcription", "sentence", "words", "normalized_text")
NAMES = ("id", "utterance", "utt_id")
SPEAKERS = ("speaker", "speaker_id", "voice", "client_id")
TEXT_FILES = (".txt", ".lab")
SOUNDS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64")
MAX_TEXT_BYTES = 1 << 20  # of the transcript of one utterance


def load_own(path: str | os.PathLike[str], *, strict: bool = True) -> list[Utterance]:
    """The utterances of a folder or a list, in the order of their names; LibriSpeech in that of its own module.

    ``strict`` False gives those that cannot be used too, with their ``problem``. Only headers of audio are read.
    Raises :class:`BundleError` naming what was expected, and the first utterance that cannot be used.
    """
    place = Path(path)
    utterances = _find(place)
    if not utterances:
        raise BundleError(f"{shown(str(place), 200)}: found no utterances")
    wrong = [u for u in utterances if u.problem]
    if strict and wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise BundleError(f"{wrong[0].problem}{more}")
    return utterances


def _find(place: Path) -> list[Utterance]:
    name = shown(str(place), 200)
    if place.is_file():
        return _by_name(_list(place))
    if not place.is_dir():
        raise BundleError(f"no recordings at {name}: expected a folder, or a list ending in {', '.join(LISTS)}")
    if is_saved(place):
        return _by_name(_saved(place.resolve()))
    if (place / "wav.scp").is_file() or (place / "text").is_file():
        return _by_name(_kaldi(place))
    found = chapters(place)
    if any(listing_of(chapter).is_file() for chapter in found):  # other folders are called by numbers too, as 2021/05
        return _librispeech(place, found)
    if inner := [split for split in SPLITS if (place / split).is_dir()]:
        raise BundleError(f"{name} is a LibriSpeech: name one of its splits, as {shown(str(place / inner[0]), 200)}")
    lists = [path for path in sorted(place.iterdir()) if path.suffix.lower() in LISTS]
    if len(lists) > 1:
        raise BundleError(f"{name}: expected one list, found {', '.join(p.name for p in lists)}: name the one to use")
    if lists:
        return _by_name(_list(lists[0]))
    return _by_name(_beside(place))


def _by_name(utterances: Iterable[Utterance]) -> list[Utterance]:
    found: dict[str, Utterance] = {}
    for utterance in utterances:
        if utterance.id in found:
            raise BundleError(f"{shown(str(utterance.path), 200)}: the name {quoted(utterance.id)} is there twice")
        found[utterance.id] = utterance
    return [found[name] for name in sorted(found)]


def _utterance(name: str, path: Path, text: str, speaker: str = "") -> Utterance:
    """An utterance, with what is wrong with it."""
    problem, transcript, seconds = "", "", 0.0
    try:
        transcript = normalise(text)
        if not transcript:
            problem = f"{path}: expected a transcript with words"
    except TranscriptError as error:
        problem = f"{path}: {cause(error)}"
    try:
        there = path.is_file()
    except OSError:  # a name that is too long
        there = False
    if not there:
        problem = f"no audio file at {shown(str(path), 200)}"
    else:
        try:
            seconds = duration_s(str(path), str(path))
            problem = problem or ("" if seconds else f"{path} is empty: expected samples")
        except AudioError as error:
            problem = str(error)
        except UNREADABLE as error:
            problem = f"{path} is not audio that can be read: {cause(error)}"
    return Utterance(name, path, transcript, speaker, seconds, problem, converted=True)


def _sounds(folder: Path) -> list[Path]:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    sounds = [path for path in found if path.suffix.lower() in SOUNDS]
    # A text without a recording in one of these formats: what has its name is one in another, or cannot be read.
    lonely = {path.with_suffix("") for path in found if path.suffix in TEXT_FILES}
    lonely -= {path.with_suffix("") for path in sounds}
    others = [path for path in found if path.with_suffix("") in lonely and path.suffix not in TEXT_FILES]
    return sorted([*sounds, *others])


def _beside(folder: Path) -> Iterable[Utterance]:
    sounds = _sounds(folder)
    if not sounds:
        raise BundleError(
            f"{shown(str(folder), 200)}: expected recordings with a text file beside each, a list "
            f"({', '.join(LISTS)}), Kaldi's text and wav.scp, or a split of LibriSpeech, found none of these"
        )
    for path in sounds:
        name = readable(str(path.relative_to(folder).with_suffix("")))
        text = next((found for end in TEXT_FILES if (found := path.with_suffix(end)).is_file()), None)
        if text is None:
            wanted = " or ".join(path.with_suffix(end).name for end in TEXT_FILES)
            yield Utterance(name, path, "", "", 0.0, f"{path}: expected its transcript in {wanted}, found none", True)
            continue
        try:
            words = _lines(text, MAX_TEXT_BYTES)
        except BundleError as error:
            yield Utterance(name, path, "", "", 0.0, str(error), True)
        else:
            yield _utterance(name, path, words)


def _list(path: Path) -> Iterable[Utterance]:
    rows = list(_json_lines(path) if path.suffix.lower() == ".jsonl" else _table(path))
    columns = list(dict.fromkeys(key for _, row in rows for key in row))
    for known in (AUDIO, TEXT) if rows else ():
        _column(columns, known, str(path))
    for number, row in rows:
        where, audio = f"{path}, line {number}", ""
        try:
            audio = _value(row, AUDIO, where)
            text, problem = _value(row, TEXT, where), ""
        except BundleError as error:
            text, problem = "", str(error)
        name = next((str(row[key]) for key in NAMES if row.get(key)), _stem(audio) or f"line {number}")
        speaker = next((str(row[key]) for key in SPEAKERS if row.get(key)), "")
        if problem:
            yield Utterance(name, path.parent / audio if audio else path, "", speaker, 0.0, problem, True)
        else:
            yield _utterance(name, path.parent / audio, text, speaker)


def _stem(audio: str) -> str:
    path = Path(audio)
    return path.with_suffix("").as_posix() if path.name else audio


def _value(row: Mapping[str, Any], known: tuple[str, ...], where: str) -> str:
    key = next((key for key in known if row.get(key) is not None), None)
    if key is None:
        raise BundleError(f"{where}: expected a value for one of {', '.join(known)}, found none")
    if not isinstance(row[key], str):
        raise BundleError(f"{where}: expected {key} as text, found {quoted(row[key])}")
    return str(row[key])


def _json_lines(path: Path) -> Iterable[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(_lines(path).split("\n"), 1):
        if line.strip():
            row = loads(line, f"{path}, line {number}")
            if not isinstance(row, dict):
                raise BundleError(f"{path}, line {number}: expected an object, found {quoted(row)}")
            yield number, row


def _table(path: Path) -> Iterable[tuple[int, Mapping[str, Any]]]:
    kind = path.suffix.lower()
    if kind not in LISTS:
        raise BundleError(f"{shown(str(path), 200)}: expected a list ending in {', '.join(LISTS)}")
    text = io.StringIO(_lines(path), newline="")  # a quoted field may hold ends of lines
    # Most TSVs quote nothing: a quote is a character of its text, and two of them are taken off what others quoted.
    tabs: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if kind == ".tsv" else {}
    reader = csv.DictReader(text, strict=True, **tabs)
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if any(row.pop(None, ())):
                raise BundleError(f"{where}: more fields than the header: quote a text that has the delimiter")
            yield reader.line_num, {_bare(key, tabs).strip(): _bare(value, tabs) for key, value in row.items()}
    except csv.Error as error:
        raise BundleError(f"{path}, line {reader.reader.line_num}: {cause(error)}") from error


def _bare(value: Any, tabs: Mapping[str, Any]) -> Any:
    """A field of a TSV without the quotes around it."""
    wrapped = tabs and isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == '"'
    return value[1:-1].replace('""', '"') if wrapped else value


def _saved(folder: Path) -> Iterable[Utterance]:
    rows = open_saved(folder)
    where = shown(str(folder), 200)
    there = rows.column_names
    audio_column, text_column = (_column(there, known, where) for known in (AUDIO, TEXT))
    name_column, speaker_column = (next((key for key in known if key in there), None) for known in (NAMES, SPEAKERS))
    width = len(str(len(rows) - 1))
    for number in range(len(rows)):
        row, problem, transcript, seconds = rows[number], "", "", 0.0
        name = f"{number:0{width}}" if name_column is None else str(row[name_column])
        try:
            if not isinstance(text := row[text_column], str):
                raise TranscriptError(f"expected {text_column} as text, found {quoted(text)}")
            transcript = normalise(text)
            seconds = seconds_of(audio_of(row[audio_column], folder, number), f"{folder}, row {number}")
            problem = "" if transcript else f"{folder}, row {number}: expected a transcript with words"
        except AudioError as error:
            problem = str(error)
        except (TranscriptError, *UNREADABLE) as error:
            problem = f"{folder}, row {number}: {cause(error)}"
        speaker = "" if speaker_column is None else str(row[speaker_column])
        yield SavedUtterance(name, folder, transcript, speaker, seconds, problem, True, number, audio_column)


def _column(found: Iterable[str], known: tuple[str, ...], where: str) -> str:
    column = next((name for name in known if name in found), None)
    if column is None:
        raise BundleError(f"{where}: expected a column {', '.join(known)}, found {quoted(', '.join(found))}")
    return column


def _kaldi(folder: Path) -> Iterable[Utterance]:
    if (folder / "segments").is_file():
        raise BundleError(f"{folder / 'segments'}: parts of recordings are not read: cut them into files first")
    texts, sounds = (dict(_kaldi_lines(folder / name)) for name in ("text", "wav.scp"))
    for name in sorted(texts.keys() | sounds.keys()):
        if name not in sounds:
            yield Utterance(name, folder / name, "", "", 0.0, f"{folder / 'wav.scp'} lacks {quoted(name)}", True)
        elif sounds[name].endswith("|"):
            problem = f"{folder / 'wav.scp'}: {quoted(name)} is made by a command, and none is run: write it to a file"
            yield Utterance(name, folder / name, "", "", 0.0, problem, True)
        elif name not in texts:
            problem = f"{folder / 'text'} lacks {quoted(name)}"
            yield Utterance(name, folder / sounds[name], "", "", 0.0, problem, True)
        else:
            yield _utterance(name, folder / sounds[name], texts[name])


def _kaldi_lines(path: Path) -> Iterable[tuple[str, str]]:
    seen = set()
    for number, line in enumerate(_lines(path).split("\n"), 1):
        if line.strip():
            name, *rest = line.strip().split(None, 1)  # Kaldi parts them by any white space
            if name in seen:
                raise BundleError(f"{path}, line {number}: {quoted(name)} is there twice")
            seen.add(name)
            yield name, "".join(rest)


def _librispeech(place: Path, found: Iterable[Path]) -> list[Utterance]:
    """The utterances of the chapters, and after them, each with its problem, whatever else there is of recordings."""
    utterances: list[Utterance] = []
    strays: list[Utterance] = []
    for chapter in found:
        sound, damaged, others = read_chapter(chapter)
        utterances += [*sound, *damaged]
        strays += others
    known = {u.path.with_suffix("") for u in (*utterances, *strays)}
    for path in _sounds(place):
        if path.with_suffix("") not in known:
            name = readable(str(path.relative_to(place)))
            problem = f"{path}: expected a recording of LibriSpeech, SPEAKER/CHAPTER/SPEAKER-CHAPTER-0000.flac"
            strays.append(Utterance(name, path, "", "", 0.0, problem))
    return [*sorted(utterances, key=lambda u: hashlib.sha256(u.id.encode()).digest()), *strays]


def _lines(path: Path, most: int = MAX_BYTES) -> str:
    return read_text(path, "list or transcript", BundleError, "utf-8-sig", most)
