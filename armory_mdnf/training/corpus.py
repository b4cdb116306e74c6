"""Build the corpora: the aligned training recordings, the synthetic training speech, and the bundled splits.

    armory-mdnf train corpus --data-dir DIR [--hours 9] [--write-splits]

It needs these Debian packages, and pocketsphinx (the ``train`` extra):

    apt-get install asterisk-core-sounds-en-g722 asterisk-core-sounds-en ffmpeg flite espeak-ng \\
        festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts

A command that was stopped goes on when it is started again: aligned recordings (once all are) and shards stay, if the
sentences and the packages are the same.

The splits that ship with the package are frozen. ``--write-splits`` writes them again, the human ones and all
sentences and voices exactly the same; other versions of the synthesisers may change synthetic samples.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path

from armory_mdnf.data.bundled import CORPORA, PARTS, Utterance, corpora_folder, load_split
from armory_mdnf.errors import BundleError
from armory_mdnf.files.atomic import ensure_writable_folder, storing, write_text
from armory_mdnf.files.provenance import made_of, of_values
from armory_mdnf.options import number, whole
from armory_mdnf.training.corpora.cards import human_card, synthetic_card
from armory_mdnf.training.corpora.human import read_train_transcripts, write_human_splits, write_human_train
from armory_mdnf.training.corpora.prompts import read_prompts
from armory_mdnf.training.corpora.splits import Splits, choose
from armory_mdnf.training.corpora.synthesis import (
    SENTENCES_SEED,
    split_sentences,
    write_synthetic_splits,
    write_synthetic_train,
)
from armory_mdnf.training.options import Parser, program, typed
from armory_mdnf.training.state import claimed

PROMPT_PACKAGES = ("asterisk-core-sounds-en-g722", "asterisk-core-sounds-en", "ffmpeg")
SPEECH_PACKAGES = ("flite", "espeak-ng", "festival", "festvox-kallpc16k", "festvox-kdlpc16k", "festvox-us-slt-hts")


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of Debian packages, which are what is installed of them; ``none`` where Debian knows of none."""
    found = dict.fromkeys(packages, "none")
    command = ["dpkg-query", "--show", "--showformat", "${Package} ${Version}\n", *packages]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return found
    return found | dict(line.split(" ", 1) for line in listed.splitlines() if not line.endswith(" "))


def held_out_sentences(folder: Path | None = None) -> list[str]:
    """Every sentence of the evaluation and dev splits: what training must not hear."""
    human = [u.transcript for part in PARTS for u in load_split("human", part, folder)]
    return sorted({*human, *split_sentences()})


def write_splits(folder: Path) -> None:
    """Write all bundled splits and their cards under ``folder``."""
    prompts = list(read_prompts())
    splits = choose(prompts)
    write_human_splits(folder / "human", prompts, splits)
    write_synthetic_splits(folder / "synthetic")
    write_cards(folder, splits)


def write_cards(folder: Path, splits: Splits) -> None:
    """Write ``CARD.md`` of both corpora from what is on disk."""
    parts: dict[str, dict[str, Sequence[Utterance]]] = {
        corpus: {part: load_split(corpus, part, folder) for part in PARTS} for corpus in CORPORA
    }
    sentences = len(set(read_train_transcripts(folder / "human").values()))
    write_text(folder / "human" / "CARD.md", human_card(parts["human"], splits, sentences))
    write_text(folder / "synthetic" / "CARD.md", synthetic_card(parts["synthetic"]))


def build(data_dir: Path, hours: float, processes: int = 2) -> None:
    """Write ``human/train.jsonl`` and ``synthetic/*.jsonl`` with their audio under ``data_dir``.

    What is there already is kept, if it is made of the same. Raises :class:`BundleError` if it is not, or if the
    recordings at hand do not give the bundled choice of training recordings, :class:`StorageError` if the disk fails.
    """
    with storing(lambda: f"what is whole in {data_dir} is safe; start the same command again to go on"):
        _build(data_dir, hours, processes)


def _build(data_dir: Path, hours: float, processes: int) -> None:
    transcripts = read_train_transcripts(corpora_folder() / "human")
    held_out = held_out_sentences()
    advice = "delete that folder, or choose another --data-dir"
    installed = {d.metadata["Name"]: d.version for d in distributions(name="pocketsphinx")}
    packages = versions(PROMPT_PACKAGES) | {"pocketsphinx": installed.get("pocketsphinx", "none")}
    human = made_of(transcripts=of_values(transcripts.items()), packages=packages)
    spoken = made_of(
        transcripts=of_values(transcripts.values()),
        held_out=of_values(held_out),
        seed=SENTENCES_SEED,
        packages=versions(SPEECH_PACKAGES),
    )
    with (
        claimed(data_dir / "human", human, "*.jsonl", advice),
        claimed(data_dir / "synthetic", spoken, "*.jsonl", advice),
    ):
        if not (data_dir / "human" / "train.jsonl").is_file():
            prompts = list(read_prompts())
            splits = choose(prompts)
            found = {p.id: p.transcript for p in prompts}
            if {name: found[name] for name in splits.train} != transcripts:
                raise BundleError(
                    "the installed prompts do not give the bundled split; expected version 1.6.1 of the packages"
                )
            write_human_train(data_dir / "human", prompts, splits)
        write_synthetic_train(data_dir / "synthetic", list(transcripts.values()), held_out, hours, processes=processes)


def main(argv: Sequence[str] | None = None) -> int:
    """The ``corpus`` recipe."""
    parser = Parser("corpus", __doc__)
    add = parser.add_argument
    parser.add_data_dir()
    hours = typed(number(0, 10_000, above=True), float)
    add("--hours", type=hours, default=9.0, metavar="H", help="hours of synthetic speech, at least (default: 9)")
    add("--processes", type=typed(whole(1, 1024), int), default=2, metavar="N", help="that synthesise (default: 2)")
    add("--write-splits", action="store_true", help="write the bundled splits and cards again first (default: no)")
    args = parser.parse_args(argv)
    for name in CORPORA:
        ensure_writable_folder(args.data_dir / name)
        if args.write_splits:
            ensure_writable_folder(corpora_folder() / name)
    if args.write_splits:
        with storing(lambda: f"each file of {corpora_folder()} is the old one or the new one; start again"):
            write_splits(corpora_folder())
    build(args.data_dir, args.hours, args.processes)
    return 0


if __name__ == "__main__":
    raise SystemExit(program(main))
