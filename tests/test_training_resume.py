"""Stored state belongs to what made it: a training, a folder or partial results of something else are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import speechlike, tiny_recognizer
from librispeech_folder import make_librispeech

from armory_mdnf import cli
from armory_mdnf.asr.checkpoints import load_bundle, save_recognizer
from armory_mdnf.audio.files import write_flac
from armory_mdnf.errors import BundleError, OptionError, StorageError
from armory_mdnf.files.locks import alone_in
from armory_mdnf.training import recognizer as training
from armory_mdnf.training.recipe import Recipe
from armory_mdnf.training.recognizer import train

pytestmark = pytest.mark.usefixtures("closes_files")

START = {"hidden_size": 16, "hidden_layers": 1, "conv_channels": 2}
RECIPE = Recipe(
    name="t",
    init="start.safetensors",
    sources={"human": (1, 1)},
    steps=2,
    seed=1,
    batch_seconds=4.0,
    warmup_steps=1,
)


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights to start from, and two recordings of the human corpus. Nothing is watched."""
    monkeypatch.setattr(training, "evaluate", lambda recognizer, chosen: {})
    save_recognizer(tmp_path / "start.safetensors", tiny_recognizer(**START), {})
    save_recognizer(tmp_path / "other.safetensors", tiny_recognizer(**START, labels="_AB "), {})
    write_recordings(tmp_path, ["HOLD ON", "PRESS ONE"])
    return tmp_path


def write_recordings(data_dir: Path, texts: list[str], seed: int = 0) -> None:
    lines = []
    for i, text in enumerate(texts):
        write_flac(data_dir / "human" / f"{i}.flac", speechlike(16000, seed + i), 16000)
        lines.append({"id": str(i), "file": f"{i}.flac", "transcript": text})
    (data_dir / "human" / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_bundle(path).network.state_dict()


@pytest.mark.parametrize(("option", "value"), [("dropout", 0.5), ("consistency", 0.3)])
def test_what_is_drawn_in_a_step_is_of_the_seed_and_the_step(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, option: str, value: float
) -> None:
    sizes = {"n_mels": 80, "d_model": 16, "layers": 1, "heads": 2, "ffn": 16}
    recipe = replace(RECIPE, init=None, kind="whisper_ctc", model=sizes, steps=3, **{option: value})
    train(recipe, data_dir, data_dir / "a.safetensors", every=1)
    (data_dir / "runs" / "t" / "checkpoint.pt").unlink()

    def stop(recognizer: object, chosen: object) -> dict[str, float]:
        if (data_dir / "runs" / "t" / "checkpoint.pt").exists():
            raise KeyboardInterrupt
        return {}

    with monkeypatch.context() as broken:
        broken.setattr(training, "evaluate", stop)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, data_dir, data_dir / "b.safetensors", every=1)
    torch.rand(7)
    train(recipe, data_dir, data_dir / "b.safetensors", every=1)
    one, other = weights(data_dir / "a.safetensors"), weights(data_dir / "b.safetensors")
    assert all(torch.equal(one[key], other[key]) for key in one)
    (data_dir / "runs" / "t" / "checkpoint.pt").unlink()
    train(replace(recipe, **{option: 0.0}), data_dir, data_dir / "c.safetensors", every=1)
    assert not all(torch.equal(one[key], value) for key, value in weights(data_dir / "c.safetensors").items())


def log_rows(data_dir: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (data_dir / "runs" / "t" / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


def killed(monkeypatch: pytest.MonkeyPatch, step: int, before: bool) -> None:
    """A run that is killed when it keeps a step, before that is on disk or after it."""
    save = training.save_state

    def stop(path: Path, state: dict[str, Any]) -> None:
        if state["step"] != step or not before:
            save(path, state)
        if state["step"] == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_state", stop)


def test_hours_and_time_are_those_of_the_whole_training(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, now = replace(RECIPE, steps=4), [1000.0]

    def saved(path: Path, state: dict[str, Any]) -> None:
        save(path, state)
        now[0] += 60
        if state["step"] == stop_at:
            raise KeyboardInterrupt

    save, stop_at = training.save_state, 0
    monkeypatch.setattr(training, "save_state", saved)
    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])
    train(recipe, data_dir, data_dir / "a.safetensors", every=1)
    hours = [row["audio_h"] for row in log_rows(data_dir)]
    assert len(set(hours)) == 4
    checkpoint = data_dir / "runs" / "t" / "checkpoint.pt"
    checkpoint.unlink()
    stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data_dir, data_dir / "a.safetensors", every=1)
    now[0] += 10_000  # nothing was at work
    older = {k: v for k, v in torch.load(checkpoint).items() if k not in ("audio_s", "elapsed_s")}
    train(recipe, data_dir, data_dir / "a.safetensors", every=1)
    assert [row["audio_h"] for row in log_rows(data_dir)] == hours
    assert [row["elapsed_s"] for row in log_rows(data_dir)] == [0, 60, 60, 120]
    torch.save(older, checkpoint)  # which does not say it
    train(recipe, data_dir, data_dir / "a.safetensors", every=1)
    assert [row["elapsed_s"] for row in log_rows(data_dir)] == [0, 60, 0, 60]


@pytest.mark.filterwarnings("ignore:.*positions are other than in the whole split")
def test_what_is_watched_is_decoded_once(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_librispeech(data_dir / "LibriSpeech", "dev-clean")
    recipe, read = replace(RECIPE, dev=["dev-clean"]), []
    real = training.read_samples
    monkeypatch.setattr(training, "read_samples", lambda utterance: read.append(utterance.id) or real(utterance))

    def decoded() -> int:
        read.clear()
        train(recipe, data_dir, data_dir / "a.safetensors", every=1)
        return len(read)

    assert [decoded(), decoded()] == [5, 0]
    write_flac(root / "dev-clean" / "7" / "5" / "7-5-0000.flac", speechlike(20000, 9), 16000)
    assert decoded() == 5
    checkpoint = data_dir / "runs" / "t" / "checkpoint.pt"
    torch.save({k: v for k, v in torch.load(checkpoint).items() if k != "heard"}, checkpoint)  # as older ones are
    assert decoded() == 5


@pytest.mark.parametrize("step", [1, 2])
def test_a_step_that_is_taken_again_is_logged_once(data_dir: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    recipe = replace(RECIPE, steps=3)
    with monkeypatch.context() as broken:
        killed(broken, step, before=True)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, data_dir, data_dir / "a.safetensors", every=1)
    assert [row["step"] for row in log_rows(data_dir)] == [1, 2][:step]
    with (data_dir / "runs" / "t" / "log.jsonl").open("a") as log:
        log.write('{"step": 1, "lo')  # half a line
    train(recipe, data_dir, data_dir / "a.safetensors", every=1)
    assert [row["step"] for row in log_rows(data_dir)] == [1, 2, 3]


def test_a_logged_loss_is_the_mean_of_the_steps_since_the_last_line(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, steps=4, precision="float32")
    train(recipe, data_dir, data_dir / "a.safetensors", every=1)
    losses = [row["loss"] for row in log_rows(data_dir)]
    (data_dir / "runs" / "t" / "checkpoint.pt").unlink()
    with monkeypatch.context() as broken:
        killed(broken, 1, before=False)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, data_dir, data_dir / "a.safetensors", every=1)
    train(recipe, data_dir, data_dir / "a.safetensors", every=4)
    assert [row["loss"] for row in log_rows(data_dir)] == pytest.approx([losses[0], sum(losses[1:]) / 3], abs=1e-3)


def test_layer_decay_is_refused_where_there_is_no_stack(data_dir: Path) -> None:
    with pytest.raises(
        OptionError, match=r"layer_decay: expected 1 for a deepspeech2, which has no stack .*, got 0\.8"
    ):
        train(replace(RECIPE, layer_decay=0.8), data_dir, data_dir / "a.safetensors")


def test_dropout_is_refused_where_nothing_can_be_left_out(data_dir: Path) -> None:
    with pytest.raises(OptionError, match="dropout: expected 0 for a deepspeech2"):
        train(replace(RECIPE, dropout=0.1), data_dir, data_dir / "a.safetensors")


def test_the_same_recipe_goes_on_and_another_is_refused_by_name(data_dir: Path) -> None:
    checkpoint = data_dir / "runs" / "t" / "checkpoint.pt"
    train(RECIPE, data_dir, data_dir / "a.safetensors", every=1)
    train(RECIPE, data_dir, data_dir / "again.safetensors", every=1)  # at its end already
    one, other = weights(data_dir / "a.safetensors"), weights(data_dir / "again.safetensors")
    assert all(torch.equal(one[key], other[key]) for key in one)
    before = checkpoint.read_bytes()
    others: dict[str, dict[str, Any]] = {
        "recipe.seed was 1 there, is 2 now": {"seed": 2},
        "recipe.learning_rate was 0.001 there, is 0.0001 now": {"learning_rate": 1e-4},
        "recipe.steps was 2 there, is 3 now": {"steps": 3},
        "recipe.augmentation was {} there, is absent now": {"augmentation": {"pink_share": 0.5}},
        "recipe.sources.human was [1, 1] there, is absent now": {"sources": {"joined": (1, 1)}},
        ": init was '": {"init": None, "model": START},
    }
    for message, change in others.items():
        with pytest.raises(BundleError) as caught:
            train(replace(RECIPE, **change), data_dir, data_dir / "b.safetensors", every=1)
        refusal = str(caught.value)
        assert f"{checkpoint} was made of something else" in refusal
        assert message in refusal
        assert refusal.endswith("begin in a new folder, or delete it to begin again")
    assert not (data_dir / "b.safetensors").exists()
    assert checkpoint.read_bytes() == before


def test_sources_in_another_order_are_refused(data_dir: Path) -> None:
    """By which a draw would fall on another one."""
    sources = {"human": (1, 1), "joined": (1, 1)}
    train(replace(RECIPE, sources=sources), data_dir, data_dir / "a.safetensors", every=1)
    other = replace(RECIPE, sources=dict(reversed(sources.items())))
    with pytest.raises(
        BundleError, match=r"source_order was \['human', 'joined'\] there, is \['joined', 'human'\] now"
    ):
        train(other, data_dir, data_dir / "a.safetensors", every=1)
    checkpoint = data_dir / "runs" / "t" / "checkpoint.pt"
    torch.save(
        {k: v for k, v in torch.load(checkpoint).items() if k != "source_order"}, checkpoint
    )  # as older ones are
    train(other, data_dir, data_dir / "a.safetensors", every=1)


def test_other_weights_or_recordings_under_the_same_name_are_refused(data_dir: Path) -> None:
    train(RECIPE, data_dir, data_dir / "a.safetensors", every=1)
    start = (data_dir / "start.safetensors").read_bytes()
    save_recognizer(data_dir / "start.safetensors", tiny_recognizer(**START), {"seed": 5})
    with pytest.raises(BundleError, match=r"checkpoint\.pt was made of something else: init was '"):
        train(RECIPE, data_dir, data_dir / "a.safetensors", every=1)
    (data_dir / "start.safetensors").write_bytes(start)
    for texts, seed in ((["HOLD ON", "PRESS TWO"], 0), (["HOLD ON", "PRESS ONE"], 7)):
        write_recordings(data_dir, texts, seed)
        with pytest.raises(BundleError, match=r"made of something else: recordings\.human was '"):
            train(RECIPE, data_dir, data_dir / "a.safetensors", every=1)


def test_another_version_and_another_number_of_processes_are_refused(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(RECIPE, data_dir, data_dir / "a.safetensors", every=1)
    with monkeypatch.context() as patch:
        patch.setattr("armory_mdnf.files.provenance.__version__", "0.0.1")
        with pytest.raises(BundleError, match=r"armory_mdnf was '.*' there, is '0\.0\.1' now"):
            train(RECIPE, data_dir, data_dir / "a.safetensors", every=1)
    monkeypatch.setattr(training.Workers, "join", lambda device: (training.Workers(0, 2), device))
    with pytest.raises(BundleError, match="processes was absent there, is 2 now"):
        train(RECIPE, data_dir, data_dir / "a.safetensors", every=1)


def damaged(state: dict[str, Any], change: str) -> dict[str, Any]:
    if change == "absent":
        return {k: v for k, v in state.items() if k != "made_of"}
    return state | {"step": "2"} if change == "step" else state | {"made_of": change}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("absent", "does not say what it was made of"),
        ("{}", "made of something else"),
        ("[]", "expected 'made_of' to be an object, found"),
        ("{", "'made_of' is not JSON"),
        ("step", "expected 'step' of type int, found '2'"),
    ],
)
def test_a_checkpoint_without_its_provenance_is_refused(data_dir: Path, change: str, message: str) -> None:
    """As those of version 0.1.0 were: nothing goes on with weights of unknown origin."""
    train(RECIPE, data_dir, data_dir / "a.safetensors", every=1)
    checkpoint = data_dir / "runs" / "t" / "checkpoint.pt"
    torch.save(damaged(torch.load(checkpoint, weights_only=True), change), checkpoint)
    with pytest.raises(BundleError, match=message):
        train(RECIPE, data_dir, data_dir / "a.safetensors", every=1)


class Malice:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("executed"),)


def test_a_damaged_checkpoint_is_named_and_nothing_in_it_is_run(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data_dir)
    checkpoint = data_dir / "runs" / "t" / "checkpoint.pt"
    train(RECIPE, data_dir, data_dir / "a.safetensors", every=1)
    whole = checkpoint.read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], whole[:100], b"", b"{}", bytes(1000), b"\x80\x02."):
        checkpoint.write_bytes(content)
        with pytest.raises(BundleError, match=r"checkpoint\.pt is not a readable checkpoint"):
            train(RECIPE, data_dir, data_dir / "a.safetensors", every=1)
    torch.save({"made_of": Malice()}, checkpoint)
    with pytest.raises(BundleError, match=r"checkpoint\.pt is not a readable checkpoint"):
        train(RECIPE, data_dir, data_dir / "a.safetensors", every=1)
    assert not Path("executed").exists()


def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.save

    def full(state: dict[str, Any], path: Path) -> None:
        if state["step"] == 2:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
        real(state, path)

    monkeypatch.setattr(torch, "save", full)
    checkpoint = data_dir / "runs" / "t" / "checkpoint.pt"
    with pytest.raises(StorageError) as caught:
        train(RECIPE, data_dir, data_dir / "a.safetensors", every=1)
    assert str(caught.value) == (
        f"{checkpoint} could not be written (is the disk full?); {checkpoint} is safe; "
        "start the same command again to go on from there"
    )
    monkeypatch.setattr(torch, "save", real)
    train(RECIPE, data_dir, data_dir / "a.safetensors", every=1)
    train(replace(RECIPE, name="whole"), data_dir, data_dir / "b.safetensors", every=1)
    one, other = weights(data_dir / "a.safetensors"), weights(data_dir / "b.safetensors")
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_what_is_frozen_keeps_its_running_statistics(data_dir: Path) -> None:
    train(replace(RECIPE, frozen=["conv"]), data_dir, data_dir / "a.safetensors")
    before, after = weights(data_dir / "start.safetensors"), weights(data_dir / "a.safetensors")
    same = {key for key in before if torch.equal(before[key].half(), after[key].half())}
    frozen = {key for key in before if key.startswith("conv")}
    assert any(key.endswith("running_mean") for key in frozen)
    assert frozen <= same
    assert same < before.keys()


def test_a_folder_that_another_training_writes_is_refused(data_dir: Path) -> None:
    folder = data_dir / "runs" / "t"
    folder.mkdir(parents=True)
    with alone_in(folder, BundleError):
        with pytest.raises(BundleError, match=f"{folder} is being written by another command"):
            train(RECIPE, data_dir, data_dir / "a.safetensors")
        assert not list(folder.iterdir())
    train(RECIPE, data_dir, data_dir / "a.safetensors")
    assert (data_dir / "a.safetensors").is_file()


def test_targets_are_tried_before_anything_is_read(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = {"name": "t", "init": "no such weights", "sources": {"nowhere": [1, 1]}, "steps": 1, "seed": 1}
    (data_dir / "r.json").write_text(json.dumps(recipe))
    (data_dir / "file").write_text("")
    command = ["train", "recognizer", str(data_dir / "r.json")]
    assert cli.main([*command, "--data-dir", str(data_dir), "--out", str(data_dir)]) == 2
    assert f"cannot write {data_dir}: it is a folder" in capsys.readouterr().err
    assert cli.main([*command, "--data-dir", str(data_dir), "--out", str(data_dir / "file" / "x.safetensors")]) == 2
    assert "file is a file, expected a folder" in capsys.readouterr().err
    assert cli.main([*command, "--data-dir", str(data_dir / "file"), "--out", str(data_dir / "x.safetensors")]) == 2
    assert "cannot write to the folder" in capsys.readouterr().err


def test_what_is_watched_is_looked_up_before_the_first_step(data_dir: Path) -> None:
    make_librispeech(data_dir / "LibriSpeech", "dev-clean")
    with pytest.raises(OptionError, match="unknown split 'dev-clear'"):
        train(replace(RECIPE, dev=["dev-clear"]), data_dir, data_dir / "a.safetensors")
    assert not list((data_dir / "runs" / "t").iterdir())


@pytest.mark.parametrize("batch_seconds", [0.01, 0.9, 1.5, 4.0])
def test_no_batch_is_empty_where_utterances_are_longer_than_one(data_dir: Path, batch_seconds: float) -> None:
    recipe = replace(RECIPE, batch_seconds=batch_seconds, augmentation={"speed": [1.0, 1.0]})
    batches = training.Batches(recipe, load_bundle(data_dir / "start.safetensors"), data_dir)
    found = list(batches.chunk(0))
    assert len(found) == batches.CHUNK_STEPS
    sizes = [len(batch) for batch in found]
    assert min(sizes) >= 1
    if batch_seconds < 4:
        assert max(sizes) == (1 if batch_seconds < 1 else 2)


def test_utterances_that_never_fit_do_not_draw_for_ever(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.Batches, "MOST_REFUSED", 20)
    write_recordings(data_dir, ["A" * 2000])
    batches = training.Batches(RECIPE, load_bundle(data_dir / "start.safetensors"), data_dir)
    with pytest.raises(OptionError, match="20 utterances in a row too long, or too short for their words"):
        list(batches.chunk(0))
