"""Checkpoints in other projects' formats, honest and malicious, for the tests of their readers."""

from __future__ import annotations

import io
import pickle
import signal
import sys
import types
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from armory_mdnf.asr.deepspeech2.model import DeepSpeech2Recognizer


class Malicious:
    """Creates a file when it is unpickled by an ordinary load."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.marker,))


def v2_package(recognizer: DeepSpeech2Recognizer, **changes: Any) -> dict[str, Any]:
    """What deepspeech.pytorch V2 saves, its training state included."""
    config = recognizer.config
    audio = {
        "sample_rate": config.sample_rate_hz,
        "window_size": config.window_s,
        "window_stride": config.stride_s,
        "window": config.window,
        "noise_dir": None,
        "noise_prob": 0.4,
        "noise_levels": (0.0, 0.5),
    }
    package = {
        "hidden_size": config.hidden_size,
        "hidden_layers": config.hidden_layers,
        "rnn_type": config.rnn_type,
        "audio_conf": audio,
        "labels": config.labels,
        "state_dict": recognizer.network.state_dict(),
        "bidirectional": config.bidirectional,
        "optim_dict": {"param_groups": [{"lr": 3e-4}]},
        "epoch": 3,
    }
    return package | changes


@contextmanager
def module_that_vanishes(name: str) -> Iterator[types.ModuleType]:
    """A package that is there when a checkpoint is written and gone when it is read."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    try:
        yield module
    finally:
        del sys.modules[name]


def v3_checkpoint(recognizer: DeepSpeech2Recognizer, module: types.ModuleType, **changes: Any) -> dict[str, Any]:
    """Lightning's checkpoint of a V3 model, its configuration in objects of ``module`` as OmegaConf pickles them."""
    config = recognizer.config

    def node(value: Any) -> Any:
        kind = type("AnyNode", (), {"__module__": module.__name__})
        module.AnyNode = getattr(module, "AnyNode", kind)
        made = module.AnyNode()
        made.__dict__["_val"] = value
        return made

    def container(**values: Any) -> Any:
        kind = type("DictConfig", (), {"__module__": module.__name__})
        module.DictConfig = getattr(module, "DictConfig", kind)
        made = module.DictConfig()
        made.__dict__.update({"_content": {k: node(v) for k, v in values.items()}, "_metadata": None, "_parent": None})
        return made

    model = {"hidden_size": config.hidden_size, "hidden_layers": config.hidden_layers}
    if not config.bidirectional:
        model["lookahead_context"] = config.lookahead_context
    hyper = {
        "labels": list(config.labels),
        "model_cfg": container(**model),
        "spect_cfg": container(
            sample_rate=config.sample_rate_hz,
            window_size=config.window_s,
            window_stride=config.stride_s,
            window=config.window,
        ),
        "precision": 32,
    }
    checkpoint = {
        "epoch": 3,
        "global_step": 100,
        "state_dict": recognizer.network.state_dict(),
        "optimizer_states": [],
        "hyper_parameters": hyper,
    }
    return checkpoint | changes


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail, instead of hanging, if the block takes longer."""

    def late(number: int, frame: Any) -> None:
        pytest.fail(f"still busy after {seconds} s")  # no Exception, which a reader may take for damage

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def legacy_file(content: Any, order: Sequence[int]) -> bytes:
    """What ``torch.save`` wrote before version 1.6, its storages in a given order and not in that of addresses."""
    storages: list[Any] = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if not isinstance(value, torch.storage.TypedStorage):
                return None
            storages.append(value)
            kind = getattr(torch, value._pickle_storage_type())
            return ("storage", kind, str(len(storages) - 1), "cpu", value._size(), None)

    file = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}):
        pickle.dump(value, file, protocol=2)
    Pickler(file, protocol=2).dump(content)
    assert len(storages) == len(order)
    pickle.dump([str(key) for key in order], file, protocol=2)
    for key in order:
        file.write(storages[key]._size().to_bytes(8, "little"))
        file.write(bytes(storages[key]._untyped_storage))
    return file.getvalue()


def zip_with_pickle(pickled: bytes) -> bytes:
    """A zip file of torch's whose object is this pickle."""
    saved, rebuilt = io.BytesIO(), io.BytesIO()
    torch.save({}, saved)
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(rebuilt, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, pickled if info.filename.endswith("data.pkl") else old.read(info))
    return rebuilt.getvalue()
