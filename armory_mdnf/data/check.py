"""``armory-mdnf data check``: what there is of LibriSpeech in a folder, what is missing or damaged."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from armory_mdnf.data.bundled import Utterance
from armory_mdnf.data.librispeech import SPLITS, VARIABLE, archive, chapters, find_root, flac_header, read_chapter

SHOWN = 5  # problems of one split that are listed


@dataclass(frozen=True)
class Report:
    """A split: its sound utterances, their speakers and hours, those of them without words, and what is wrong."""

    name: str
    utterances: int
    speakers: int
    hours: float
    without_words: int
    problems: tuple[str, ...]

    @property
    def missing(self) -> int:
        """How many utterances the complete split has beside these."""
        return max(0, SPLITS[self.name] - self.utterances)

    @property
    def usable(self) -> bool:
        """Whether an evaluation can read it: nothing damaged, nothing without words. It may be incomplete."""
        return self.utterances > 0 and not self.problems and not self.without_words


def check_split(root: Path, name: str, decode: bool = False) -> Report:
    """Look at a split, at the whole audio if ``decode``."""
    utterances: list[Utterance] = []
    problems: list[str] = []
    for chapter in chapters(root / name):
        found, wrong = read_chapter(chapter, transcribed=False)
        utterances += found
        problems += wrong
    if decode:
        problems += list(_damaged(utterances, name))
    return Report(
        name,
        len(utterances),
        len({u.voice for u in utterances}),
        sum(u.duration_s for u in utterances) / 3600,
        sum(not u.transcript for u in utterances),
        tuple(problems),
    )


def describe(reports: list[Report]) -> str:
    """A table of the splits that are there, what is wrong with them, and where to get the others."""
    lines = [f"{'split':<16}{'utterances':>18}{'speakers':>10}{'hours':>8}  state"]
    for r in reports:
        state = [f"{r.missing} missing"] if r.missing else []
        state += [f"{r.without_words} without transcripts"] if r.without_words else []
        state += [f"{len(r.problems)} damaged"] if r.problems else []
        count = f"{r.utterances} of {SPLITS[r.name]}"
        lines.append(f"{r.name:<16}{count:>18}{r.speakers:>10}{r.hours:>8.1f}  {', '.join(state) or 'complete'}")
    for r in reports:
        lines += [f"{r.name}: {problem}" for problem in r.problems[:SHOWN]]
        if len(r.problems) > SHOWN:
            lines.append(f"{r.name}: and {len(r.problems) - SHOWN} more")
    absent = [name for name in SPLITS if name not in {r.name for r in reports}]
    wanted = [r.name for r in reports if r.missing or not r.usable] + absent
    lines += [f"get {archive(name)}{'' if name in absent else ' (again)'}" for name in wanted]
    return "\n".join(lines)


def add_data_command(commands: Any) -> None:
    """Add the command to an argument parser's sub-commands."""
    data = commands.add_parser("data", help="look at a local LibriSpeech")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="say what is there, what is missing or damaged, and where to get it")
    check.add_argument("path", nargs="?", type=Path, help=f"(default: ${VARIABLE}, or LibriSpeech in Armory's folder)")
    check.add_argument("--split", choices=list(SPLITS), help="only this split, which must be there")
    check.add_argument(
        "--decode", action="store_true", help="decode every file and compare its MD5: an hour takes 10 s"
    )
    check.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> int:
    """Exit code 0 if what is there can be evaluated on, 1 if not."""
    root = find_root(args.path)
    names = [name for name in SPLITS if args.split in (None, name)]
    reports = [check_split(root, name, args.decode) for name in names if (root / name).is_dir()]
    print(f"{root}\n{describe(reports)}")
    return 0 if reports and all(r.usable for r in reports) else 1


def _damaged(utterances: list[Utterance], name: str) -> Iterator[str]:
    import soundfile
    from tqdm import tqdm

    for u in tqdm(utterances, desc=name, unit="utterance", disable=not sys.stderr.isatty()):
        expected = flac_header(u.path).md5
        try:
            samples, _ = soundfile.read(str(u.path), dtype="int16")
        except soundfile.LibsndfileError as error:
            yield f"{u.path} is not a readable audio file (truncated or corrupt?): {error}"
            continue
        found = hashlib.md5(samples.astype("<i2").tobytes(), usedforsecurity=False).hexdigest()
        if found != expected and int(expected, 16):  # zero: the encoder did not say
            yield f"{u.path}: expected audio of MD5 {expected}, decoded {found}"
