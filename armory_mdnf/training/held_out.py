"""Data that training must not hear: the splits that evaluate, and the speakers that are held out for choices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from armory_mdnf.data.librispeech import SPLITS, find_root, split_name
from armory_mdnf.errors import BundleError, OptionError, quoted
from armory_mdnf.files.strict_json import read_json
from armory_mdnf.training.state import MADE_OF

LEFT_OUT = "held_out_speakers"
"""Where shards say in what they are made of which speakers they left out."""


def is_training_split(name: str, held_out_speakers: Sequence[str] = (), where: str | None = None) -> bool:
    """Whether it is a split of LibriSpeech. Raises :class:`OptionError` if nothing may be learned from that one.

    A dev split may be, where some of its speakers are held out for choices. ``where`` is for the words.
    """
    split = split_name(name)
    if split is not None and not split.startswith("train") and not (split.startswith("dev") and held_out_speakers):
        hint = "" if split.startswith("test") else ", unless held_out_speakers keeps some of its speakers for choices"
        raise OptionError(f"{where or name}: expected a training split, this one is for evaluation{hint}")
    return split is not None


def check_speakers(held_out_speakers: Sequence[str], folder: Path | None = None) -> None:
    """Raise :class:`OptionError` for a speaker that no split of LibriSpeech at hand has: a mistyped one is learned."""
    if held_out_speakers:
        root = find_root(folder)
        there = {path.name for split in SPLITS if (root / split).is_dir() for path in (root / split).iterdir()}
        refuse_missing([speaker for speaker in held_out_speakers if speaker not in there], f"split in {root}")


def refuse_missing(speakers: Sequence[str], place: str) -> None:
    """Raise :class:`OptionError` naming held-out speakers that no ``place`` has, if there are such."""
    if speakers:
        raise OptionError(f"held_out_speakers: no {place} has a speaker {', '.join(map(quoted, speakers))}")


def check_left_out(folder: Path, held_out_speakers: Sequence[str]) -> None:
    """Raise :class:`BundleError` if shards of a split of LibriSpeech may have a speaker that is to be held out."""
    path = folder / f"{MADE_OF}.json"
    if not held_out_speakers or not path.exists():
        return
    made = read_json(path)
    if not isinstance(made, dict) or split_name(str(made.get("source"))) is None:
        return
    left_out = made.get(LEFT_OUT) or []
    if missing := [speaker for speaker in held_out_speakers if speaker not in left_out]:
        found = f"found {', '.join(map(str, left_out)) or 'none'} left out"
        raise BundleError(
            f"{path}: expected shards without the held-out speakers {', '.join(missing)}, {found}; make them again "
            "with --held-out-speakers"
        )
