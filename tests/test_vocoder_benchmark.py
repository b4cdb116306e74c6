"""The benchmark of vocoders on a CPU: that it measures what an attack computes, and says what went wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from armory_mdnf.vocoders import Vocoder, save_vocoder
from benchmarks import vocoder_step


def test_a_row_a_batch(hifigan: Vocoder, pwg: Vocoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = []
    for name, vocoder in (("a", hifigan), ("b", pwg)):
        names.append(str(tmp_path / f"{name}.safetensors"))
        save_vocoder(names[-1], vocoder)
    out = tmp_path / "found" / "step.json"
    sizes = ["--device", "cpu", "--batches", "1", "3", "--seconds", "0.2", "--rounds", "1"]
    assert vocoder_step.main([*names, *sizes, "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(row["vocoder"], row["batch"], row["problem"]) for row in rows] == [
        (n, b, None) for n in names for b in (1, 3)
    ]
    assert all(row["ms an utterance"] > 0 and row["ms a step by kernel"] for row in rows)
    assert capsys.readouterr().out.count("\n") == 2 + 4


def test_a_step_is_of_utterances_of_several_lengths(hifigan: Vocoder) -> None:
    gradient = vocoder_step.step(hifigan.requires_grad_(False), 3, 0.5, "cpu")()
    lengths = gradient.abs().sum(1).ne(0).sum(1).tolist()
    longest = gradient.shape[-1]
    assert lengths == [longest, round(longest * 14 / 15), round(longest * 13 / 15)]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--device", "cpu", "--batches", "0"], "expected --rounds and --batches of at least 1"),
        (["--device", "cpu", "--seconds", "nan"], r"--seconds in (0, 60]"),
        (["--device", "cpu"], "nothing_such"),
    ],
)
def test_what_cannot_be_met_is_refused(
    words: list[str], found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vocoder_step.main(["nothing_such", *words, "--out", str(tmp_path / "x.json")]) == 2
    assert found in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert vocoder_step.main(["pwg"]) == 2
    assert "no CUDA device here: give --device cpu" in capsys.readouterr().err
