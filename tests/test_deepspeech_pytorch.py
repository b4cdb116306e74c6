"""Checkpoints of deepspeech.pytorch V2 and V3: what is read, what is refused, and that nothing in them is executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import speechlike, tiny_recognizer
from foreign_files import Malicious, module_that_vanishes, v2_package, v3_checkpoint

from armory_mdnf.asr.deepspeech2.checkpoints import import_recognizer, read_recognizer
from armory_mdnf.asr.deepspeech2.model import DeepSpeech2Recognizer
from armory_mdnf.errors import BundleError
from armory_mdnf.files.foreign import read_checkpoint

SIZES = {
    "bidirectional LSTM": {"hidden_layers": 3},
    "bidirectional GRU": {"rnn_type": "gru", "hidden_size": 16, "conv_channels": 32},
    "LSTM with lookahead": {"bidirectional": False, "lookahead_context": 7},
    "GRU with lookahead, one layer, 8 kHz": {
        "rnn_type": "gru",
        "bidirectional": False,
        "hidden_layers": 1,
        "sample_rate_hz": 8000,
        "labels": "_abc ",
        "window": "hann",
    },
}


def write(version: str, path: Path, recognizer: DeepSpeech2Recognizer, zipped: bool = True, **changes: Any) -> None:
    if version == "V2":
        torch.save(v2_package(recognizer, **changes), path, _use_new_zipfile_serialization=zipped)
        return
    with module_that_vanishes("omegaconf_of_then") as module:
        content = v3_checkpoint(recognizer, module, **changes)
        torch.save(content, path, _use_new_zipfile_serialization=zipped)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("version", ["V2", "V3"])
@pytest.mark.parametrize("sizes", SIZES)
def test_a_checkpoint_gives_the_recogniser_back(tmp_path: Path, sizes: str, version: str, zipped: bool) -> None:
    original, path = tiny_recognizer(**SIZES[sizes]), tmp_path / "m.pth"
    write(version, path, original, zipped)
    imported = import_recognizer(read_checkpoint(path), str(path))
    assert imported.module.config == (
        original.config
        if not original.config.bidirectional
        else original.config.__class__(**original.config.as_dict() | {"lookahead_context": 20})
    )
    assert f" {version} " in imported.format
    assert "epoch" in imported.left
    assert not imported.module.training
    assert not any(p.requires_grad for p in imported.module.parameters())
    x, lengths = torch.randn(1, 4000), torch.tensor([4000])
    torch.testing.assert_close(imported.module(x, lengths)[0], original(x, lengths)[0], atol=1e-3, rtol=1e-4)
    for key, weight in original.network.state_dict().items():
        assert torch.equal(imported.module.network.state_dict()[key], weight)


def test_labels_may_be_a_list_and_names_may_be_those_of_data_parallel_training(tmp_path: Path) -> None:
    original, path = tiny_recognizer(), tmp_path / "m.pth"
    state = {f"module.{k}": v for k, v in original.network.state_dict().items()}
    write("V2", path, original, labels=list(original.config.labels), state_dict=state)
    assert read_recognizer(path).config.labels == original.config.labels


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("version", ["V2", "V3"])
@pytest.mark.parametrize("where", ["beside", "labels", "state_dict"])
def test_a_malicious_checkpoint_executes_nothing(tmp_path: Path, where: str, version: str, zipped: bool) -> None:
    marker, path, original = tmp_path / "executed", tmp_path / "bad.pth", tiny_recognizer()
    bad = Malicious(marker)
    if where == "state_dict":
        changes: dict[str, Any] = {"state_dict": original.network.state_dict() | {"fc.0.module.1.weight": bad}}
    elif where == "labels" and version == "V2":
        changes = {"labels": bad}
    elif where == "labels":
        changes = {"hyper_parameters": {"labels": bad, "model_cfg": bad, "spect_cfg": bad}}
    else:
        changes = {"optimizer_states": bad}
    write(version, path, original, zipped, **changes)
    if where == "beside":
        assert "optimizer_states" in import_recognizer(read_checkpoint(path), "bad").left
    else:
        with pytest.raises(BundleError, match=r"bad\.pth"):
            read_recognizer(path)
    assert not marker.exists()
    with module_that_vanishes("omegaconf_of_then") as module:
        for name in ("AnyNode", "DictConfig"):
            setattr(module, name, type(name, (), {}))
        torch.load(path, weights_only=False)  # the file is live: an ordinary load does execute it
    assert marker.exists()


REFUSED = {
    r"expected weight 'rnns\.1\.batch_norm\.module\.weight' of shape \(24,\), found none": {
        "rnns.1.batch_norm.module.weight": None
    },
    r"weight 'rnns\.0\.rnn\.weight_hh_l0' is missing": {"rnns.0.rnn.weight_hh_l0": None},
    r"'rnns\.0\.rnn\.weight_hh_l0' has shape \(96,\), expected two": {"rnns.0.rnn.weight_hh_l0": torch.zeros(96)},
    r"3 \(GRU\) or 4 \(LSTM\) gates.*found shape \(24, 24\)": {"rnns.0.rnn.weight_hh_l0": torch.zeros(24, 24)},
    r"'rnns\.1\.rnn\.weight_hh_l0' has shape \(96, 23\)": {"rnns.1.rnn.weight_hh_l0": torch.zeros(96, 23)},
    r"weight 'fc\.0\.module\.1\.weight' of shape \(29, 24\), found \(3, 3\)": {
        "fc.0.module.1.weight": torch.zeros(3, 3)
    },
    r"expected finite numbers": {"fc.0.module.1.weight": torch.full((29, 24), torch.nan)},
    r"found weight 'fc\.1\.weight', which": {"fc.1.weight": torch.zeros(2)},
    r"'rnns\.2\.rnn\.weight_hh_l0' is missing": {"rnns.77.rnn.bias_hh_l0": torch.zeros(2)},
}


@pytest.mark.parametrize("version", ["V2", "V3"])
@pytest.mark.parametrize("message", REFUSED)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, message: str, version: str) -> None:
    original, path = tiny_recognizer(), tmp_path / "m.pth"
    state = {k: v for k, v in (original.network.state_dict() | REFUSED[message]).items() if v is not None}
    write(version, path, original, state_dict=state)
    with pytest.raises(BundleError, match=r"m\.pth: .*" + message):
        read_recognizer(path)


AUDIO = {"sample_rate": 16000, "window_size": 0.02, "window_stride": 0.01, "window": "hamming"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 10**9}, "says hidden_size 1000000000, its weights 24"),
        ({"hidden_layers": 7}, "says hidden_layers 7, its weights 2"),
        ({"rnn_type": "gru"}, "says rnn_type 'gru', its weights 'lstm'"),
        ({"bidirectional": False}, "says bidirectional False, its weights True"),
        ({"labels": "_AB"}, r"of shape \(3, 24\), found \(29, 24\)"),
        ({"labels": ["_", "AB"]}, "alphabet of characters under 'labels'"),
        ({"labels": "ABC"}, "the blank '_' once in the alphabet 'ABC', found it 0 times"),
        ({"labels": "_A_"}, "the blank '_' once in the alphabet '_A_', found it 2 times"),
        ({"labels": "_" * 10**6}, r"expected the blank '_' once in the alphabet '_{60,90}\.\.\., found it"),
        ({"labels": ["_"] * 10**5}, "holds more than 65536 values"),
        ({"labels": None}, "alphabet of characters under 'labels'"),
        ({"audio_conf": {}}, "not that of a deepspeech.pytorch V2 package: KeyError"),
        ({"audio_conf": 3}, "a dictionary under 'audio_conf', found int"),
        ({"audio_conf": AUDIO | {"sample_rate": 10**11}}, "gives .* inputs"),
        ({"audio_conf": AUDIO | {"window_stride": 0.0}}, "stride 0 s"),
        ({"audio_conf": AUDIO | {"window_size": "x"}}, "expected a number as its .* window_size, found 'x'"),
        ({"audio_conf": AUDIO | {"sample_rate": torch.zeros(2)}}, "expected a number as its .* sample_rate"),
        ({"audio_conf": AUDIO | {"window": torch.zeros(2)}}, "not that of a"),
        ({"hidden_size": torch.zeros(2)}, "says hidden_size"),
        ({"hidden_size": True}, "says hidden_size True, its weights 24"),
        (
            {"audio_conf": {"sample_rate": 16000, "window_size": 0.02, "window_stride": 0.01, "window": "kaiser"}},
            "hann",
        ),
        ({"state_dict": [1]}, "a dictionary under 'state_dict', found list"),
        ({"state_dict": {}}, "weight 'rnns.0.rnn.weight_ih_l0' is missing"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    path = tmp_path / "m.pth"
    write("V2", path, tiny_recognizer(), **changes)
    with pytest.raises(BundleError, match=r"m\.pth: .*" + message):
        read_recognizer(path)


def test_what_is_not_the_network_is_left_and_said(tmp_path: Path) -> None:
    path, original = tmp_path / "m.ckpt", tiny_recognizer()
    write("V3", path, original, state_dict=original.network.state_dict() | {"wer.errors": torch.zeros(())})
    imported = import_recognizer(read_checkpoint(path), str(path))
    assert set(imported.left) == {
        "epoch",
        "global_step",
        "optimizer_states",
        "state_dict: wer.errors",
        "hyper_parameters: precision",
    }


def test_other_files_of_torch_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    torch.save({"model": {}}, path)
    with pytest.raises(BundleError, match=r"m\.pth: expected 'state_dict' with 'hyper_parameters'"):
        read_recognizer(path)


@pytest.mark.parametrize("version", ["V2", "V3"])
@pytest.mark.parametrize("blank", [7, 28])
def test_the_blank_is_where_the_labels_say(tmp_path: Path, blank: int, version: str) -> None:
    """As upstream, ``labels.index("_")``: the same network, its classes permuted, gives what it gave."""
    original, path = tiny_recognizer(), tmp_path / "m.pth"
    first, *others = original.config.labels
    labels = "".join([*others[:blank], first, *others[blank:]])
    state = original.network.state_dict()
    rows = [original.config.labels.index(c) for c in labels]
    state["fc.0.module.1.weight"] = state["fc.0.module.1.weight"][rows]
    write(version, path, original, state_dict=state)
    content = read_checkpoint(path)
    (content if version == "V2" else content["hyper_parameters"])["labels"] = labels
    imported = import_recognizer(content, str(path))
    assert imported.module.config.labels == original.config.labels
    assert f"its blank '_' moved from class {blank} to the front" in imported.mapped[2]
    x = torch.from_numpy(speechlike(8000, 3))[None]
    lengths, target = torch.tensor([8000]), [original.encode("AB")]
    assert imported.module.transcripts(x, lengths) == original.transcripts(x, lengths) != [""]
    torch.testing.assert_close(imported.module.losses(x, lengths, target), original.losses(x, lengths, target))


def test_v1_is_named(tmp_path: Path) -> None:
    """The names of issues 331, 336, 378 of deepspeech.pytorch; data-parallel or not."""
    path, original = tmp_path / "v1.pth", tiny_recognizer()
    for prefix in ("", "module."):
        state = {
            prefix + k.replace("conv.seq_module.", "conv."): v
            for k, v in original.network.state_dict().items()
            if "bias_" not in k
        }
        write("V2", path, original, state_dict=state)
        with pytest.raises(BundleError, match=r"v1\.pth: .* deepspeech\.pytorch V1 .*'conv\.0\.weight'"):
            read_recognizer(path)


def test_sizes_that_only_the_shapes_claim_allocate_nothing(tmp_path: Path) -> None:
    """Without numbers a tensor can have any shape: a million channels, and the inputs that go with them."""
    path, original = tmp_path / "m.pth", tiny_recognizer(bidirectional=False)
    channels = 10**6
    claimed = {
        "conv.seq_module.0.weight": torch.zeros(channels, 0, 41, 11),
        "rnns.0.rnn.weight_ih_l0": torch.zeros(0, channels * 41),
    }
    write("V2", path, original, state_dict=original.network.state_dict() | claimed)
    with pytest.raises(BundleError, match=r"m\.pth: expected weight 'conv\.seq_module\.0\.weight' of shape"):
        read_recognizer(path)


def test_sections_without_end_are_refused(tmp_path: Path) -> None:
    deep: Any = {}
    for _ in range(50):
        deep = {"a": deep, "b": deep}
    itself: list[Any] = []
    itself.append(itself)
    path = tmp_path / "m.pth"
    for changes in (
        {"audio_conf": AUDIO | {"x": deep}},
        {"labels": itself},
        {"audio_conf": AUDIO | {"window": itself}},
    ):
        write("V2", path, tiny_recognizer(), **changes)
        with pytest.raises(BundleError, match=r"m\.pth: .*(nested more than|holds more than)") as refused:
            read_recognizer(path)
        assert len(str(refused.value)) < 500
