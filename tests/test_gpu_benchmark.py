"""The GPU benchmark on a CPU: that it measures the attack's own step, counts it rightly, and says what went wrong."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.attacks.pgd import Batch
from armory_mdnf.attacks.recognizer import Purpose
from armory_mdnf.data.bundled import load_split
from armory_mdnf.errors import AttackError
from benchmarks import gpu, gpu_step

SIZES = ["--device", "cpu", "--hidden", "16", "--layers", "1", "--channels", "16", "--seconds", "0.5"]
QUICK = ["--rounds", "1", "--batches", "1", "2", "--utterances", "1", "--steps", "1"]
FLAGS = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
FOUND = {"benign WER": 0.125, "WER under attack": 0.5, "SNR, dB": 26.0, "problem": None}


def flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(scope="module")
def estimator() -> RecognizerEstimator:
    return gpu_step.build("cpu", hidden=16, layers=2, channels=16)


@pytest.fixture(scope="module")
def batch(estimator: RecognizerEstimator) -> Batch:
    return gpu_step.utterances(estimator, 2, 0.5)


def losses(estimator: RecognizerEstimator, batch: Batch) -> torch.Tensor:
    keys = [(i, Purpose.ATTACK, 0, 0, 0) for i in batch.indices]
    return estimator.losses(batch.x, batch.lengths, batch.targets, keys)


def test_the_whole_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shortest_first = sorted(load_split("human", "dev"), key=lambda u: u.duration_s)
    monkeypatch.setattr(gpu, "load_split", lambda *_: shortest_first)
    monkeypatch.setattr(gpu, "STEPS", 1)
    out = tmp_path / "bench" / "gpu.json"
    assert gpu.main(["--out", str(out), *SIZES, *QUICK]) == 0
    content = json.loads(out.read_text())
    assert [(r["precision"], r["batch"]) for r in content["rows"]] == [(p, n) for p in gpu.PRECISIONS for n in (1, 2)]
    for row in content["rows"]:
        seconds = row["batch"] / row["utterance-steps a second"]
        assert seconds == pytest.approx(row["ms a step"] / 1e3)
        assert row["TFLOP/s"] * 1e12 * seconds == pytest.approx(
            row["batch"] * sum(content["FLOPs of an utterance-step"].values())
        )
        assert row["share of peak"] is None
        assert row["problem"] is None
    assert [r["against batch 1"] for r in content["rows"] if r["batch"] == 1] == [1, 1, 1]
    for found in content["where the time goes"]:
        ms = found["ms by part"]
        assert sum(ms.values()) - ms["whole step"] == pytest.approx(ms["whole step"])
    outcomes = content["outcomes"]
    assert outcomes["TF32"] == outcomes["float32"], "there is no TF32 on a CPU"
    assert 20 < outcomes["float32"]["SNR, dB"] < 60
    assert flags() == FLAGS
    assert any("random weights" in note for note in content["notes"])
    printed = capsys.readouterr().out
    assert printed.count("| bfloat16 | 2 |") == 1 + 10


@pytest.mark.parametrize("name", gpu.PRECISIONS)
def test_the_parts_make_up_the_step(name: str, estimator: RecognizerEstimator, batch: Batch) -> None:
    with gpu_step.precision(name, *gpu_step.networks(estimator)) as computing:
        x = batch.x
        for function in gpu_step.parts(estimator, computing, batch).values():
            x = function(x)
        torch.testing.assert_close(x, losses(estimator, batch))


def test_bfloat16_is_what_computes(estimator: RecognizerEstimator, batch: Batch) -> None:
    expected = losses(estimator, batch)
    seen: dict[Any, Any] = {}
    with gpu_step.precision("bfloat16", *gpu_step.networks(estimator)) as (network, generator):
        for layer in (network.rnns[0].rnn, network.conv.seq_module[3], network.fc[0].module[1], generator.melgan[2]):
            layer.register_forward_hook(
                lambda layer, x, y: seen.update({layer: {x[0].dtype, (y[0] if type(y) is tuple else y).dtype}})
            )
        found = losses(estimator, batch)
        assert network.rnns[0].rnn.training, "cuDNN needs it for the backward pass"
        assert network.rnns[1].batch_norm.module.weight.dtype == torch.float32
    assert list(seen.values()) == [{torch.bfloat16}] * 4
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0)
    torch.testing.assert_close(losses(estimator, batch), expected, rtol=0, atol=0)


def test_flags_and_modules_come_back_after_an_error(estimator: RecognizerEstimator) -> None:
    seen = []

    def interrupted(name: str) -> None:
        with gpu_step.precision(name, *gpu_step.networks(estimator)):
            seen.append(flags())
            raise ZeroDivisionError

    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = True, False
    try:
        for name, expected in (("float32", (False, False)), ("TF32", (True, True)), ("bfloat16", (False, False))):
            with pytest.raises(ZeroDivisionError):
                interrupted(name)
            assert seen.pop() == expected
            assert flags() == (True, False)
            assert not any("forward" in vars(module) for module in gpu_step.networks(estimator))
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = FLAGS


def test_rows_are_different_speech(batch: Batch) -> None:
    assert batch.x.shape == (2, 8000)
    assert float(batch.x.std(1).min()) > 1e-3
    assert not torch.equal(batch.x[0], batch.x[1])
    assert all(batch.targets)


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv1d(3, 5, 7, stride=2), (2, 3, 27), 2 * (3 * 5 * 7) * 11),
        (nn.ConvTranspose1d(3, 5, 4, stride=2), (2, 3, 9), 2 * (3 * 5 * 4) * 9),
        (nn.Linear(6, 4), (2, 10, 6), 2 * (6 * 4) * 10),
    ],
)
def test_flops_of_a_layer(layer: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    """Of two rows, forward and backward to the input, nothing for the weights."""
    run = gpu_step.alone({"layer": layer.requires_grad_(False)}, torch.randn(shape))["layer"]
    assert gpu_step.flops_of(run) == 2 * 2 * expected


def test_flops_of_an_lstm(estimator: RecognizerEstimator) -> None:
    """In closed form, against the cells written down as products of matrices."""

    def direction(x: torch.Tensor, lstm: nn.LSTM) -> torch.Tensor:
        h, c, outputs = torch.zeros(1, lstm.hidden_size), torch.zeros(1, lstm.hidden_size), []
        for now in x:
            i, f, g, o = (now @ lstm.weight_ih_l0.T + h @ lstm.weight_hh_l0.T).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        return torch.stack(outputs)

    network, frames, counted = estimator.model.network, 5, 0
    for rnn in network.rnns:
        x = torch.randn(frames, 1, rnn.rnn.input_size)
        run = gpu_step.alone({"one": lambda x, rnn=rnn: direction(x, rnn.rnn)}, x)["one"]
        # The first state is zero and nobody wants its gradient, so the count lacks one product of the way back.
        counted += 2 * (gpu_step.flops_of(run) + 2 * rnn.rnn.weight_hh_l0.numel())
    assert gpu_step.lstm_flops(network, frames) == counted


def test_flops_of_a_step(estimator: RecognizerEstimator, batch: Batch) -> None:
    found = gpu_step.count_flops(estimator, batch)
    frames = int(estimator.model.out_frames(batch.lengths[:1]))
    assert found["linear layer, CTC"] == 4 * frames * 16 * 29
    assert found["LSTM"] == gpu_step.lstm_flops(estimator.model.network, frames)
    assert found["noise"] == 0
    assert min(found["vocoder"], found["convolutions"], found["resampling, log mel"]) > 0


def fails(error: Exception) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


def test_want_of_memory_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "peak", lambda name, device: 1e-3)
    runs = {1: lambda: None, 8: fails(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))}
    runs |= {16: fails(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")), 32: fails(RuntimeError("no\nkernel"))}
    rows = gpu.throughput("TF32", runs | {64: fails(AttackError("not finite"))}, 10**6, 3, "cpu")
    problems = [None, gpu.OUT_OF_MEMORY, gpu.OUT_OF_MEMORY, "RuntimeError: no", "AttackError: not finite"]
    assert [row["problem"] for row in rows] == problems
    assert rows[0]["share of peak"] == pytest.approx(1e3 * rows[0]["TFLOP/s"])
    rows = [row | {"WER and SNR stay the same": True} for row in rows]
    text = gpu.table({"rows": rows, "where the time goes": [], "outcomes": {}})
    assert "| TF32 | 8 | out of memory | - |" in text


def test_the_peak_of_an_unknown_card_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = []
    for card in ("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda card=card: card)
        peaks.append(gpu.peak("bfloat16", "cuda"))
    assert peaks == [989, None, None]


def test_kernels_are_named_with_their_times() -> None:
    a = torch.randn(300, 300)
    found = gpu.kernels(lambda: (a @ a).sin(), "cpu")
    assert {"aten::mm", "aten::sin"} <= set(found)
    assert list(found.values()) == sorted(found.values(), reverse=True)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"benign WER": 0.13, "SNR, dB": 26.09}, True),
        ({"benign WER": 0.15}, False),
        ({"WER under attack": 0.45}, False),
        ({"SNR, dB": 25.8}, False),
        ({"problem": "RuntimeError: no kernel"}, None),
    ],
)
def test_another_outcome_marks_a_precision(
    changes: dict[str, Any],
    expected: bool | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def outcome(name: str, args: argparse.Namespace) -> dict[str, Any]:
        found = FOUND | (changes if name == "bfloat16" else {})
        if found["problem"]:
            raise RuntimeError("no kernel")
        return {key: value for key, value in found.items() if key != "problem"}

    def measure(name: str, *_: object) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        row = {"precision": name, "batch": 1, "problem": None, "peak memory, GiB": None}
        return [
            row | dict.fromkeys(("utterance-steps a second", "against batch 1", "TFLOP/s", "share of peak"), 0.5)
        ], []

    monkeypatch.setattr(gpu, "measure", measure)
    monkeypatch.setattr(gpu, "outcome", outcome)
    monkeypatch.setattr(gpu, "count_flops", lambda *_: {})
    assert gpu.main(["--out", str(tmp_path / "gpu.json"), *SIZES, *QUICK]) == int(expected is None)
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [row["WER and SNR stay the same"] for row in rows] == [True, True, expected]
    verdict = {True: "yes", False: "NO", None: "not known"}[expected]
    assert f"| bfloat16 | 1 | 0.50 | 0.50 | 0.500 | 50.0% | - | {verdict} |" in capsys.readouterr().out


def test_a_missing_device_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path / "gpu.json")]) == 2
    assert "error: no CUDA device here: give --device cpu" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "value"),
    [("--rounds", "0"), ("--batches", "0"), ("--channels", "24"), ("--seconds", "0.1"), ("--hidden", "-1")],
)
def test_bad_options_are_refused(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([*SIZES, option, value]) == 2
    assert f"expected {option}" in capsys.readouterr().err
