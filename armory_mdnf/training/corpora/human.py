"""The human corpus: evaluation and dev splits, and the aligned recordings that are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from armory_mdnf.audio.files import write_flac
from armory_mdnf.errors import BundleError
from armory_mdnf.files.atomic import write_text
from armory_mdnf.files.json_lines import write_lines
from armory_mdnf.training.alignment import Aligner, cut
from armory_mdnf.training.corpora.files import SAMPLE_RATE_HZ, Entry, write_split
from armory_mdnf.training.corpora.prompts import SPEAKER, Prompt
from armory_mdnf.training.corpora.splits import Splits

PACKAGE = "asterisk-core-sounds-en-g722"
TRAIN_TRANSCRIPTS = "train_transcripts.txt"


def write_human_splits(folder: Path, prompts: Sequence[Prompt], splits: Splits) -> None:
    """Write ``eval`` and ``dev`` under ``folder``, and the names and words of the training recordings."""
    by_id = {p.id: p for p in prompts}
    for part, ids in (("eval", splits.eval), ("dev", splits.dev)):
        entries = [Entry(i, by_id[i].transcript, SPEAKER, f"{PACKAGE}: {i}.g722", by_id[i].audio) for i in ids]
        write_split(folder / part, entries)
    lines = [f"{i}\t{by_id[i].transcript}\n" for i in splits.train]
    write_text(folder / TRAIN_TRANSCRIPTS, "".join(lines))


def read_train_transcripts(folder: Path) -> dict[str, str]:
    """Names and words of the training recordings, as :func:`write_human_splits` wrote them."""
    path = folder / TRAIN_TRANSCRIPTS
    if not path.is_file():
        raise BundleError(f"no list of training transcripts at {path}")
    lines = (line.partition("\t") for line in path.read_text(encoding="utf-8").splitlines())
    return {name: words for name, _, words in lines}


def write_human_train(folder: Path, prompts: Sequence[Prompt], splits: Splits) -> None:
    """Align the training recordings, cut the long ones, and write FLAC files and ``train.jsonl`` under ``folder``."""
    aligner = Aligner()
    by_id = {p.id: p for p in prompts}
    lines = []
    for name in tqdm(splits.train, desc="aligning", unit="recording"):
        prompt = by_id[name]
        for piece in cut(prompt, aligner.align(prompt.audio, prompt.transcript)):
            file = f"{piece.id.replace('/', '_')}.flac"
            write_flac(folder / file, piece.audio, SAMPLE_RATE_HZ)
            lines.append(
                {
                    "id": piece.id,
                    "file": file,
                    "transcript": piece.transcript,
                    "duration_s": round(piece.duration_s, 4),
                    "words": [list(word) for word in piece.words] if piece.words else None,
                }
            )
    write_lines(folder / "train.jsonl", lines)
