"""The corpora that ship with the package: recordings of a human voice, and synthetic voices."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from armory_mdnf.errors import BundleError, OptionError, choices, quoted
from armory_mdnf.files.json_lines import objects
from armory_mdnf.files.provenance import sha256_of

CORPORA = ("human", "synthetic")
PARTS = ("eval", "dev")
FIELDS = {"id": str, "file": str, "transcript": str, "voice": str, "duration_s": float, "sha256": str, "source": str}


@dataclass(frozen=True)
class Utterance:
    """One recording: 16 kHz mono audio at ``path``, its words in the recogniser's alphabet, and who speaks.

    ``problem`` says why it cannot be used; empty where nothing is wrong with it so far. One that is to be ``converted``
    is of any format, rate and number of channels.
    """

    id: str
    path: Path
    transcript: str
    voice: str
    duration_s: float
    problem: str = ""
    converted: bool = False


def corpora_folder() -> Path:
    """Where the bundled corpora lie."""
    return Path(str(resources.files("armory_mdnf"))) / "data" / "corpora"


def load_split(name: str, split: str, folder: Path | None = None, *, strict: bool = True) -> list[Utterance]:
    """The utterances of a split, in their fixed order; every file's checksum is verified.

    ``name`` is ``human`` or ``synthetic``, ``split`` is ``eval`` or ``dev``; ``folder`` holds the corpora and is the
    package's own by default. ``strict`` False gives damaged recordings too, with their ``problem``.
    Raises :class:`OptionError` for an unknown name, :class:`BundleError` naming the file if one is missing, damaged,
    or not what the manifest says.
    """
    if name not in CORPORA:
        raise OptionError(choices(name, CORPORA, "corpus"))
    if split not in PARTS:
        raise OptionError(choices(split, PARTS, "split"))
    home = (folder or corpora_folder()) / name / split
    utterances = []
    for line in read_manifest(home / "manifest.jsonl"):
        path = home / line["file"]
        problem = _difference(path, line["sha256"])
        if problem and strict:
            raise BundleError(problem)
        utterances.append(Utterance(line["id"], path, line["transcript"], line["voice"], line["duration_s"], problem))
    return utterances


def read_manifest(path: Path) -> list[dict[str, Any]]:
    """Read a manifest: one JSON object per line with the fields of ``FIELDS``. Raises :class:`BundleError`."""
    if not path.is_file():
        raise BundleError(f"no manifest at {path}")
    lines = []
    for where, line in objects(path.read_bytes(), path):
        if set(line) != set(FIELDS):
            raise BundleError(f"{where}: expected an object with the fields {', '.join(FIELDS)}")
        for field, kind in FIELDS.items():
            if not isinstance(line[field], kind):
                raise BundleError(f"{where}: expected {field} of type {kind.__name__}, found {quoted(line[field])}")
        if Path(line["file"]).name != line["file"]:
            raise BundleError(f"{where}: expected a plain file name, found {quoted(line['file'])}")
        lines.append(line)
    if not lines:
        raise BundleError(f"{path} lists no utterances")
    return lines


def _difference(path: Path, sha256: str) -> str:
    """In what a file differs from its line of the manifest; empty if in nothing."""
    if not path.is_file():
        return f"{path} is in the manifest but not there; an incomplete clone or installation?"
    found = sha256_of(path)
    return "" if found == sha256 else f"{path}: expected sha256 {sha256}, found {found}; it is damaged or was changed"
