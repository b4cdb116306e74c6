"""``armory-mdnf data check``: what there is of LibriSpeech in a folder, what is missing or cannot be used."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from armory_mdnf import console
from armory_mdnf.data.bundled import Utterance
from armory_mdnf.data.librispeech import (
    SAMPLE_RATE_HZ,
    SPLITS,
    VARIABLE,
    archive,
    chapters,
    find_root,
    read_chapter,
)
from armory_mdnf.data.sample import add_sample
from armory_mdnf.errors import AudioError

SHOWN = 5  # problems of one split that are listed
MIN_SAMPLES = 400  # 25 ms: the longest window of a recogniser
FRAME = 320  # samples per frame of characters


@dataclass(frozen=True)
class Report:
    """A split: its sound utterances, their speakers and hours, those of them without words, and what is wrong.

    ``problems``: a sentence on whatever is missing or damaged; ``too_short``: on each sound utterance that is too short
    for a recogniser or for its transcript.
    """

    name: str
    utterances: int
    speakers: int
    hours: float
    without_words: int
    problems: tuple[str, ...]
    too_short: tuple[str, ...] = ()

    @property
    def missing(self) -> int:
        """How many utterances the complete split has beside these."""
        return max(0, SPLITS[self.name] - self.utterances)

    @property
    def usable(self) -> bool:
        """Whether an evaluation can take all that is there: nothing damaged, too short or without words."""
        return self.utterances > 0 and not (self.problems or self.too_short or self.without_words)


def check_split(root: Path, name: str, decode: bool = False) -> Report:
    """Look at a split, at the whole audio if ``decode``."""
    utterances: list[Utterance] = []
    problems: list[str] = []
    for chapter in chapters(root / name):
        sound, damaged, strays = read_chapter(chapter, transcribed=False)
        utterances += sound
        problems += [u.problem for u in (*strays, *damaged)]
    if decode:
        problems += list(_damaged(utterances, name))
    return Report(
        name,
        len(utterances),
        len({u.voice for u in utterances}),
        sum(u.duration_s for u in utterances) / 3600,
        sum(not u.transcript for u in utterances),
        tuple(problems),
        tuple(sentence for u in utterances if (sentence := too_short(u))),
    )


def too_short(u: Utterance) -> str:
    """For what an utterance is too short, the recognisers or its transcript; empty for one that is not."""
    samples = round(u.duration_s * SAMPLE_RATE_HZ)
    if samples < MIN_SAMPLES:
        return f"{u.id} is too short: expected at least {MIN_SAMPLES} samples, found {samples} in {u.path}"
    frames = samples // FRAME
    needed = len(u.transcript) + sum(a == b for a, b in pairwise(u.transcript))  # a blank between equal characters
    if needed > frames:
        return (
            f"{u.id} is too short for its transcript, whose {len(u.transcript)} characters need {needed} frames of "
            f"{1000 * FRAME // SAMPLE_RATE_HZ} ms: found {frames} in {u.path}"
        )
    return ""


def describe(reports: list[Report]) -> str:
    """A table of the splits that are there, what is wrong with them, and where to get the others."""
    lines = [f"{'split':<16}{'utterances':>18}{'speakers':>10}{'hours':>8}  state"]
    for r in reports:
        state = [f"{r.missing} missing"] if r.missing else []
        state += [f"{r.without_words} without transcripts"] if r.without_words else []
        state += [f"{len(r.problems)} damaged"] if r.problems else []
        state += [f"{len(r.too_short)} too short"] if r.too_short else []
        count = f"{r.utterances} of {SPLITS[r.name]}"
        lines.append(f"{r.name:<16}{count:>18}{r.speakers:>10}{r.hours:>8.1f}  {', '.join(state) or 'complete'}")
    for r in reports:
        for sentences in (r.problems, r.too_short):
            lines += [f"{r.name}: {sentence}" for sentence in sentences[:SHOWN]]
            if len(sentences) > SHOWN:
                lines.append(f"{r.name}: and {len(sentences) - SHOWN} more")
    absent = [name for name in SPLITS if name not in {r.name for r in reports}]
    wanted = [r.name for r in reports if r.missing or not r.usable] + absent
    lines += [f"get {archive(name)}{'' if name in absent else ' (again)'}" for name in wanted]
    return "\n".join(lines)


def add_data_command(commands: Any) -> None:
    """Add the command to an argument parser's sub-commands."""
    data = commands.add_parser("data", help="look at a local LibriSpeech, or write some bundled recordings")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check",
        help="say what is there, what is missing or unusable, and where to get it",
        **console.example("armory-mdnf data check LibriSpeech --split test-clean"),
    )
    check.add_argument("path", nargs="?", type=Path, help=f"(default: ${VARIABLE}, or LibriSpeech in Armory's folder)")
    check.add_argument("--split", choices=list(SPLITS), help="only this split, which must be there")
    check.add_argument(
        "--decode", action="store_true", help="decode every file, compare the MD5 of FLAC: an hour takes 10 s"
    )
    console.add_json(check)
    check.set_defaults(run=_check)
    add_sample(actions)


def _check(args: argparse.Namespace) -> int:
    """Exit code 0 if what is there can be evaluated on, 1 if not."""
    root = find_root(args.path)
    names = [name for name in SPLITS if args.split in (None, name)]
    reports = [check_split(root, name, args.decode) for name in names if (root / name).is_dir()]
    if args.json:
        splits = [asdict(r) | {"missing": r.missing, "usable": r.usable} for r in reports]
        console.print_json({"root": str(root), "splits": splits})
    else:
        console.say(f"{root}\n{describe(reports)}")
    return 0 if reports and all(r.usable for r in reports) else 1


def _damaged(utterances: list[Utterance], name: str) -> Iterator[str]:
    from tqdm import tqdm

    from armory_mdnf.data.selection import read_samples

    for u in tqdm(utterances, desc=name, unit="utterance", disable=not sys.stderr.isatty()):
        try:
            found = len(read_samples(u))
        except AudioError as error:
            yield str(error)
            continue
        if found != round(u.duration_s * SAMPLE_RATE_HZ):
            yield f"{u.path}: expected {round(u.duration_s * SAMPLE_RATE_HZ)} samples, decoded {found}"
