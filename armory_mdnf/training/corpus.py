"""Build the corpora: the aligned training recordings, the synthetic training speech, and the bundled splits.

    armory-mdnf train corpus --data-dir DIR [--hours 9] [--write-splits]

It needs these Debian packages, and pocketsphinx (the ``train`` extra):

    apt-get install asterisk-core-sounds-en-g722 asterisk-core-sounds-en ffmpeg flite espeak-ng \\
        festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts

The splits that ship with the package are frozen. ``--write-splits`` writes them again, the human ones and all
sentences and voices exactly the same; other versions of the synthesisers may change synthetic samples.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from armory_mdnf.data.bundled import CORPORA, PARTS, Utterance, corpora_folder, load_split
from armory_mdnf.errors import BundleError
from armory_mdnf.training.cards import human_card, synthetic_card
from armory_mdnf.training.corpus_files import write_text
from armory_mdnf.training.human_corpus import read_train_transcripts, write_human_splits, write_human_train
from armory_mdnf.training.prompts import read_prompts
from armory_mdnf.training.splits import Splits, choose
from armory_mdnf.training.synthesis import split_sentences, write_synthetic_splits, write_synthetic_train


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

    Raises :class:`BundleError` if the recordings at hand do not give the bundled choice of training recordings.
    """
    transcripts = read_train_transcripts(corpora_folder() / "human")
    if not (data_dir / "human" / "train.jsonl").is_file():
        prompts = list(read_prompts())
        splits = choose(prompts)
        found = {p.id: p.transcript for p in prompts}
        if {name: found[name] for name in splits.train} != transcripts:
            raise BundleError(
                "the installed prompts do not give the bundled split; expected version 1.6.1 of the packages"
            )
        write_human_train(data_dir / "human", prompts, splits)
    write_synthetic_train(
        data_dir / "synthetic", list(transcripts.values()), held_out_sentences(), hours, processes=processes
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The ``corpus`` recipe."""
    parser = argparse.ArgumentParser(prog="armory-mdnf train corpus", description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=Path("training_runs"), help="where training data goes")
    parser.add_argument("--hours", type=float, default=9.0, help="hours of synthetic speech (default 9)")
    parser.add_argument("--processes", type=int, default=2, help="synthesis processes (default 2)")
    parser.add_argument("--write-splits", action="store_true", help="write the bundled splits and cards again first")
    args = parser.parse_args(argv)
    if args.write_splits:
        write_splits(corpora_folder())
    build(args.data_dir, args.hours, args.processes)
    return 0
