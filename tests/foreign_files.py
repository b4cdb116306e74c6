"""Checkpoints in other projects' formats, honest and malicious, for the tests of their readers."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from armory_mdnf.asr.model import Recognizer


class Malicious:
    """Creates a file when it is unpickled by an ordinary load."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.marker,))


def v2_package(recognizer: Recognizer, **changes: Any) -> dict[str, Any]:
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


def v3_checkpoint(recognizer: Recognizer, module: types.ModuleType, **changes: Any) -> dict[str, Any]:
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
