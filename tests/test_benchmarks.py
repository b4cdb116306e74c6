"""What the benchmark compares must compute the same thing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MELGAN, RECIPE, speechlike, tiny_recognizer

from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.asr.huggingface.whisper import Whisper
from armory_mdnf.asr.whisper.ctc import WhisperCTC, WhisperCTCConfig
from armory_mdnf.attacks import PGD
from armory_mdnf.attacks.gradient import LossGradient
from armory_mdnf.defenses import MDNF, MelResynth
from armory_mdnf.errors import BundleError, ResultsError
from armory_mdnf.evaluation.devices import compared
from armory_mdnf.evaluation.records import read_record, write_record
from armory_mdnf.vocoders import make_vocoder
from benchmarks import attack, bars, devices, subjects
from benchmarks.baselines import ArtStyleEstimator, bare_resynthesis, bare_step
from benchmarks.processes import Workers
from benchmarks.subjects import DECODER, EPS, WHISPER, estimator
from benchmarks.timing import Timing, interleaved

ROOT = Path(__file__).parents[1]
X = speechlike(6400)


@pytest.mark.parametrize("kind", ["none", "melgan", "mdnf without noise"])
def test_the_bare_step_is_our_gradient(kind: str, melgan: Any) -> None:
    made = {"none": [], "melgan": [MelResynth(melgan, device_type="cpu")]}
    defences = made.get(kind, [MDNF(melgan, 0.0, None, device_type="cpu")])
    ours = RecognizerEstimator(tiny_recognizer(), preprocessing_defences=defences or None, device_type="cpu")
    bare = None
    if defences:
        bare = bare_resynthesis(melgan, *([defences[0].curve, 0.0] if isinstance(defences[0], MDNF) else []))
    step = bare_step(ours.model.eval(), torch.from_numpy(X)[None], ours.encode(["AB C"], 1)[0], bare)
    expected = ours.loss_gradient(X[None], ["AB C"])
    np.testing.assert_allclose(step().numpy(), expected, atol=1e-3 * np.abs(expected).max())


def test_the_bare_step_through_whispers_encoder_is_our_gradient() -> None:
    config = WhisperCTCConfig(n_mels=16, d_model=24, layers=2, heads=2, ffn=32)
    torch.manual_seed(4)
    ours = RecognizerEstimator(WhisperCTC(config), device_type="cpu")
    step = bare_step(ours.model.eval(), torch.from_numpy(X)[None], ours.encode(["AB C"], 1)[0])
    expected = ours.loss_gradient(X[None], ["AB C"])
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(step().numpy(), expected, atol=1e-3 * np.abs(expected).max())


def test_the_bare_step_through_a_vocoder_of_another_rate_is_our_gradient() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        recipe = replace(RECIPE, sample_rate_hz=22050, framing="melgan", f_max_hz=11025.0)
        vocoder = make_vocoder("melgan", recipe, MELGAN).requires_grad_(False)
    for parameter in vocoder.generator.parameters():  # its own start gives a whisper that depends on nothing
        parameter.data.mul_(0.1) if parameter.dim() == 1 else torch.nn.init.kaiming_normal_(parameter).mul_(0.7)
    ours = RecognizerEstimator(
        tiny_recognizer(), preprocessing_defences=[MelResynth(vocoder, device_type="cpu")], device_type="cpu"
    )
    x = X[:6307]  # no whole number of frames
    step = bare_step(
        ours.model.eval(), torch.from_numpy(x)[None], ours.encode(["AB C"], 1)[0], bare_resynthesis(vocoder)
    )
    expected = ours.loss_gradient(x[None], ["AB C"])
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(step().numpy(), expected, atol=1e-3 * np.abs(expected).max())


def test_the_bare_step_through_whispers_decoder_is_our_gradient(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 40, "num_mel_bins": 8}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 3)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        config = transformers.WhisperConfig(**sizes, **heads, **tokens, max_source_positions=50)
        model = transformers.WhisperForConditionalGeneration(config).eval().requires_grad_(False)
    recognizer = Whisper(model, None, [1, 2]).eval()
    x, target = torch.from_numpy(X)[None], [5, 9, 30]
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(recognizer.losses(leaf, torch.tensor([len(X)]), [target]).sum(), leaf)
    found = bare_step(recognizer, x, target)()
    assert expected.abs().max() > 0
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-3 * float(expected.abs().max()))


def test_what_is_not_here_is_skipped_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("none", f"{WHISPER}, HG-MDNF", DECODER)
    monkeypatch.setattr(attack, "RECOGNIZERS", names[:2])
    monkeypatch.setattr(subjects, "PLACES", ("hf:nobody/nothing", "no/folder"))
    monkeypatch.setattr(attack, "speech", lambda seconds: X)
    real = attack.estimator

    def found(name: str) -> Any:
        if "HG" in name:
            raise BundleError("vocoder: not installed")
        return real(name)

    monkeypatch.setattr(attack, "estimator", found)
    rows = attack.step_ratios(rounds=1)
    assert [bars.judge(row) for row in rows][1:] == ["skipped", "skipped"]
    assert rows[0]["ratio"] > 0
    assert rows[1]["skipped"] == "vocoder: not installed"
    assert "no weights at hf:nobody/nothing or no/folder" in rows[2]["skipped"]


@pytest.mark.slow
def test_processes_attack_as_one_does() -> None:
    model = estimator("MG-MDNF")
    audio, texts = [X, X[:4000], X[:5000]], ["AB C", "A", "B"]
    with Workers("MG-MDNF", processes=2) as workers:
        found = workers.generate(audio, texts, steps=2)
        gradient = workers.mean_gradient(X, "AB C", draws=3)
    expected = PGD(model, norm="l2", eps=EPS, max_iter=2).generate(audio, texts, indices=range(3))
    for ours, theirs in zip(expected, found, strict=True):
        np.testing.assert_allclose(theirs, ours, atol=1e-2 * np.abs(ours).max())
    mean = LossGradient(3)(
        model, torch.from_numpy(X)[None], torch.tensor([len(X)]), model.encode(["AB C"], 1), [0], (0, 0)
    )
    np.testing.assert_allclose(gradient, mean[0].numpy(), atol=1e-3 * float(mean.abs().max()))


def test_bars() -> None:
    assert bars.holds(1.05, "<= 1.05")
    assert not bars.holds(1.06, "<= 1.05")
    assert bars.holds(4.0, ">= 4")
    assert not bars.holds(3.9, ">= 4")
    assert [bars.holds(r, "0.8 to 1.2") for r in (0.79, 0.8, 1.2, 1.21)] == [False, True, True, False]
    with pytest.raises(ValueError, match="expected a bar"):
        bars.holds(1.0, "cheap")
    told = attack.row("s", "none", Timing((2.0,)), Timing((1.0,)), "b", "")
    assert bars.judge(told) == "no bar"
    assert bars.table({"rows": [told, told | {"bar": "<= 3"}]}).endswith("2 rows: 1 held, 1 no bar")


def test_a_missed_bar_is_an_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    ratios = [1.0]
    part = lambda rounds: [attack.row("s", "none", Timing((r,)), Timing((1.0,)), "b", "<= 1.05") for r in ratios]  # noqa: E731
    for name in attack.PARTS:
        monkeypatch.setitem(attack.PARTS, name, part)
    assert attack.main(["--out", str(tmp_path / "a.json")]) == 0
    n = len(attack.PARTS)
    assert f"{n} rows: {n} held" in capsys.readouterr().out
    assert attack.main(["--out", str(tmp_path / "b.json"), "--parts", "peers", "growth"]) == 0
    assert "2 rows: 2 held" in capsys.readouterr().out
    ratios.append(1.1)
    assert attack.main(["--out", str(tmp_path / "a.json")]) == 1
    out = capsys.readouterr().out
    assert f"{2 * n} rows: {n} held, {n} MISSED" in out
    assert "| <= 1.05 | MISSED |" in out
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert bars.missed(rows) == n


@pytest.mark.parametrize("name", ["gpu_cell", "gpu_cell_500"])
def test_what_a_cell_took_on_a_gpu_is_what_was_measured(name: str) -> None:
    cell = json.loads((ROOT / "results" / "bench" / f"{name}.json").read_text())["utterances"]
    audio_s = sum(u["audio_s"] for u in cell)
    took_s = sum(u["attack_s"] + u["inference_s"] for u in cell)
    said = f"took {took_s:.1f} s for {len(cell)} utterances of {audio_s:.0f} s together, {took_s / audio_s:.2f} s for"
    assert said in " ".join((ROOT / "docs" / "scale.md").read_text().split())


def test_what_processes_give_is_what_was_measured() -> None:
    rows = json.loads((ROOT / "results" / "bench" / "by_processes.json").read_text())["rows"]
    thread, processes, behind, defended, eot = (row["ratio"] for row in rows)
    said = (
        f"two of them take {processes:.2f} of one process's time undefended and {defended:.2f} behind MG-MDNF, for the "
        f"five draws of EOT {eot:.2f}. One thread alone takes {thread:.2f} and {behind:.2f} times as long as two, so "
        f"that two processes cannot take less than half of that, {thread / 2:.2f} and {behind / 2:.2f}"
    )
    assert said in " ".join((ROOT / "docs" / "configurations.md").read_text(encoding="utf-8").split())


def test_what_a_cpus_ways_give_is_what_was_measured() -> None:
    rows = json.loads((ROOT / "results" / "bench" / "cpu_ways.json").read_text())["rows"]
    ratios = [f"{row['ratio']:.2f}" for row in rows]
    said = "takes {} of the plain way's time undefended, {} behind MG, {} behind WG and {} behind HG-MDNF"
    assert said.format(*ratios) in " ".join((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split())


def test_the_bare_attack_on_whisper_ctc_is_ours() -> None:
    model, x = estimator(WHISPER), X[None]
    assert model.weights_name == WHISPER  # its own weights, not random ones
    ours = PGD(model, norm="l2", eps=EPS, max_iter=attack.STEPS).generate(x, ["AB C"], indices=[0])
    found = attack.bare_pgd(WHISPER, X, "AB C")().numpy()
    np.testing.assert_allclose(found - x, ours - x, atol=1e-2 * np.abs(ours - x).max())


def test_the_bare_noise_has_mdnfs_norm(melgan: Any) -> None:
    """Through a generator that gives its input back the noise can be seen."""
    seen = []
    melgan.generator.forward = lambda mel: seen.append(mel) or mel.mean(1, keepdim=True).repeat_interleave(64, 2)
    x, curve = torch.from_numpy(X)[None], torch.linspace(0.1, 1, 20)
    bare_resynthesis(melgan)(x)
    bare_resynthesis(melgan, curve, 7.0)(x)
    assert float((seen[1] - seen[0]).norm()) == pytest.approx(7.0, rel=1e-4)


def test_arts_way_gives_our_gradient_and_leaves_the_weights_as_they_were() -> None:
    theirs = ArtStyleEstimator(tiny_recognizer(), device_type="cpu")
    expected = RecognizerEstimator(tiny_recognizer(), device_type="cpu").loss_gradient(X[None], ["AB C"])
    found = theirs.loss_gradient(X[None], np.array(["AB C"]))
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    assert not any(p.requires_grad or p.grad is not None for p in theirs.model.parameters())


def test_candidates_take_turns() -> None:
    order: list[str] = []
    times = interleaved({name: lambda name=name: order.append(name) for name in "ab"}, rounds=3)
    assert order == list("abbaabba")
    assert {name: len(t.seconds) for name, t in times.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    assert Timing((1.0, 4.0, 9.0)).ratio(Timing((1.0, 2.0, 3.0))) == (2.0, 1.0, 3.0)


def test_asr_attacks_takes_the_same_steps() -> None:
    pytest.importorskip("asr_attacks", reason="asr-attacks is not installed: pip install armory-mdnf[dev]")
    (ours, art) = attack.peers(rounds=1)
    assert ours["share of samples that differ"] == 0
    # Rounding turns the sign of gradients next to zero.
    assert art["share of samples that differ"] < 0.01


def test_the_table_has_a_line_a_row(tmp_path: Any) -> None:
    one = attack.row("step", "none", Timing((2.0,)), Timing((1.0,)), "bare", "<= 1.05")
    missing = {"what": "step", "defence": "HG", "bar": "<= 1.05", "skipped": "no weights"}
    lines = bars.table({"rows": [json.loads(json.dumps(one)), missing]}).splitlines()
    assert lines[2] == "| step | none | 2.000 | 2.00 | 2.00 to 2.00 | bare | <= 1.05 | MISSED |"
    assert lines[3] == "| step | HG | - | - |  | no weights | <= 1.05 | skipped |"
    assert lines[-1] == "2 rows: 1 MISSED, 1 skipped"


def test_a_constant_and_a_slope_are_found_and_so_is_what_bends() -> None:
    straight = attack.straight_line("none", [0.02 + 0.01 * s for s in attack.LENGTHS_S])
    assert straight["constant seconds"] == pytest.approx(0.02)
    assert (straight["seconds"], straight["ratio"]) == (pytest.approx(0.01), pytest.approx(1))
    bent = attack.straight_line("none", [0.001 * s**2 for s in attack.LENGTHS_S])
    assert abs(bent["ratio"] - 1) > 0.2


def test_what_another_device_moves_is_told_utterance_by_utterance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = read_record(ROOT / "results" / "human" / "hg_pgd_l2_ours.json")
    assert gpu.device == "cuda"
    first, second, *_ = gpu.outcomes
    changed = (first, replace(second, adversarial=second.reference))
    cpu = replace(gpu, device="cpu", outcomes=changed)
    found = compared(gpu, cpu)
    assert [len(set(row["adversarial"])) for row in found["utterances"]] == [1, 2]
    words = len(second.reference.split())
    assert found["utterances"][1]["words"] == words
    assert found["utterances"][1]["errors"][1] == 0 < found["utterances"][1]["errors"][0]
    assert found["difference"]["value"] > 0
    files = [tmp_path / f"{run.device}.json" for run in (gpu, cpu)]
    for file, run in zip(files, (gpu, cpu), strict=True):
        write_record(file, run)
    assert devices.main([*map(str, files), "--out", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text()) == found
    assert capsys.readouterr().out.startswith("2 utterances, ")
    for other in (gpu, replace(cpu, weights={**gpu.weights, "ds2_hg": "another"})):
        with pytest.raises(ResultsError, match=r"two devices|no runs of one configuration"):
            compared(gpu, other)
    elsewhere = replace(cpu, elsewhere={str(first.id): "cuda"})
    assert [row["id"] for row in compared(gpu, elsewhere)["utterances"]] == [second.id]
    (beside,) = compared(gpu, cpu, [replace(cpu, name="another")])["beside"]
    assert (beside["configuration"], beside["difference"]["value"], beside["difference"]["utterances"]) == (
        "another",
        0,
        2,
    )
    with pytest.raises(ResultsError, match="expected a run on cpu, found one on cuda"):
        compared(gpu, cpu, [gpu])
