"""transformers shows no bars and no advice while it works for this package, and is as it was afterwards."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="the hf extra is not installed")

from huggingface_models import save_ctc, save_whisper
from transformers.utils import logging as transformers_logging

from armory_mdnf.asr.huggingface.quiet import quiet

SCRIPT = """
import logging, sys
import torch
from armory_mdnf.asr.checkpoints import load_recognizer
for folder in sys.argv[1:]:
    recognizer = load_recognizer(folder)
    x, lengths = torch.zeros(1, 8000), torch.tensor([8000])
    recognizer.losses(x, lengths, [recognizer.encode("A")])
    recognizer.transcripts(x, lengths)
logging.getLogger("another.library").warning("another library")
from transformers import AutoModel
logging.getLogger("transformers").warning("told as before")
AutoModel.from_pretrained(sys.argv[1], local_files_only=True)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("quiet")
    return [save_whisper(root / "whisper", multilingual=True), save_ctc(root / "wav2vec2", "wav2vec2")]


@pytest.mark.slow
def test_nothing_is_printed_and_everything_is_as_it_was(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.delenv(name, raising=False)
    command = [sys.executable, "-c", SCRIPT, *map(str, folders)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert run.stdout == ""
    ours, theirs = run.stderr.split("[transformers] told as before\n")
    assert ours == "another library\n"
    assert "Loading weights" in theirs  # so transformers does print where nobody silences it


@pytest.mark.slow
def test_who_asks_for_its_words_gets_them(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "warning")
    command = [sys.executable, "-c", SCRIPT, str(folders[0])]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert "suppress_tokens" in run.stderr.split("another library")[0]


def state() -> tuple[int, bool]:
    return logging.getLogger("transformers").level, transformers_logging.is_progress_bar_enabled()


def test_blocks_that_overlap_restore_what_the_first_one_found() -> None:
    before = state()
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with quiet():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with quiet():
        thread.start()
        assert inside.wait(60)
        within = state()
    assert state() == within == (max(before[0], logging.ERROR), False)
    leave.set()
    thread.join(60)
    assert state() == before


def test_an_error_of_the_block_leaves_nothing_silenced() -> None:
    before = state()
    with pytest.raises(KeyError), quiet():
        raise KeyError("inside")
    assert state() == before
