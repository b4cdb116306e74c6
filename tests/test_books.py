"""Sentences of novels for training: read from R's package, free of what is evaluated on."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from armory_mdnf.errors import BundleError
from armory_mdnf.training import books
from armory_mdnf.training.corpora.synthesis import TRAIN_SHARES

NOVEL = [
    "EMMA",
    "",
    "CHAPTER I",
    "",
    "Mr. Knightley had never been there. It's a",
    "truth indeed; so _much_ for that day, and gone",
    "",
]
MORE = ["“I shall be happy to tell you,” said she: but 3 of them", "", "Anne—the dear Anne—walked home with him"]


def lazy_load(path: Path, *novels: list[str]) -> Path:
    """Vectors of strings as R's lazy-load database keeps them."""
    packed = b""
    for lines in novels:
        data = b"X\n" + struct.pack(">III", 3, 0x00040201, 16) + struct.pack(">II", 0x10, len(lines))
        for line in lines:
            text = line.encode()
            data += struct.pack(">II", 0x00040009 if line.isascii() else 0x00008009, len(text)) + text
        packed += struct.pack(">I", len(data)) + zlib.compress(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed)
    return path


def test_novels_are_read_line_by_line(tmp_path: Path) -> None:
    lazy_load(tmp_path / "usr" / "janeaustenr" / "data" / "Rdata.rdb", NOVEL, MORE)
    assert books.novels(tmp_path) == "\n".join(NOVEL) + "\n\n" + "\n".join(MORE)


def test_plain_texts_are_read_after_the_novels(tmp_path: Path) -> None:
    lazy_load(tmp_path / "usr" / "janeaustenr" / "data" / "Rdata.rdb", MORE)
    (tmp_path / "whale").mkdir()
    (tmp_path / "whale" / "2.txt").write_text("Call me Ishmael, if you will.")
    (tmp_path / "whale" / "1.txt").write_bytes(b"Loomings \xff.")  # not quite UTF-8
    texts = ["\n".join(MORE), "Loomings \N{REPLACEMENT CHARACTER}.", "Call me Ishmael, if you will."]
    assert books.novels(tmp_path) == "\n\n".join(texts)


@pytest.mark.parametrize("keep", [3, 20, 60])
def test_a_damaged_package_is_named(tmp_path: Path, keep: int) -> None:
    path = lazy_load(tmp_path / "janeaustenr" / "data" / "Rdata.rdb", NOVEL)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BundleError, match=r"Rdata\.rdb"):
        books.novels(tmp_path)


def test_a_folder_without_novels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"expected janeaustenr/data/Rdata\.rdb"):
        books.novels(tmp_path)


def test_a_neural_voice_takes_its_share_of_the_others() -> None:
    assert books.shares(0.0) == TRAIN_SHARES
    mixed = books.shares(0.4)
    assert mixed.pop(books.NEURAL) == 0.4
    assert mixed == {voice: (1 - 0.4) * share for voice, share in TRAIN_SHARES.items()}


def test_sentences_are_words_of_the_alphabet_and_nothing_else() -> None:
    found = books.sentences("\n".join([*NOVEL, *MORE]))
    assert found == [
        "MISTER KNIGHTLEY HAD NEVER BEEN THERE",
        "IT'S A TRUTH INDEED",
        "I SHALL BE HAPPY TO TELL YOU SAID SHE",
        "ANNE THE DEAR ANNE WALKED HOME WITH HIM",
    ]  # not the heading, nor what has a digit, an underscore, or fewer than four words


def test_five_words_of_what_is_held_out_are_not_said() -> None:
    candidates = ["I SHALL BE HAPPY TO TELL YOU", "SHE WAS HAPPY TO TELL", "NO SUCH THING"]
    assert books.allowed(candidates, ["AND I SHALL BE HAPPY TO GO"]) == candidates[1:]
    assert books.allowed(candidates, ["NO SUCH THING"]) == candidates[:2]
