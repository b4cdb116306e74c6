"""The recogniser as Armory asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.errors import BundleError, OptionError, cause, quoted, refuse_unknown, shown

MODEL_KEYS = ("weights",)
WRAPPER_KEYS = ("clip_values", "device_type", "gradient")


def get_art_model(
    model_kwargs: Mapping[str, Any], wrapper_kwargs: Mapping[str, Any], weights_path: str | None = None
) -> RecognizerEstimator:
    """A recogniser behind ART's interface; Armory puts the defences in front of it.

    ``model_kwargs``: ``weights``, the name of bundled weights, the path of a bundle, or a model of Hugging Face's. The
    configuration's ``weights_file``, which arrives as ``weights_path``, can name one instead, not as well.
    ``wrapper_kwargs``: ``clip_values`` (default -1 to 1; null does not clip attacks), ``device_type`` ("gpu", the
    default, falls back to the CPU where there is none) and ``gradient``, which ART's attacks follow ("exact", the
    default, or "published"; this package's have an option of their own).
    Raises :class:`OptionError` for other keys, :class:`BundleError` for the weights.
    """
    for name, given in (("model_kwargs", model_kwargs), ("wrapper_kwargs", wrapper_kwargs)):
        if not isinstance(given, Mapping):
            raise OptionError(f"expected {name} to be an object, got {quoted(given)}")
    refuse_unknown(model_kwargs, MODEL_KEYS, "model_kwargs")
    refuse_unknown(wrapper_kwargs, WRAPPER_KEYS, "wrapper_kwargs")
    weights = [w for w in (model_kwargs.get("weights"), weights_path) if w is not None]
    if len(weights) != 1 or not isinstance(weights[0], str):
        raise OptionError(
            "expected the name or path of weights, in either model_kwargs.weights or weights_file, got "
            f"{quoted(model_kwargs.get('weights'))} and {quoted(weights_path)}"
        )
    options = dict(wrapper_kwargs)
    if (clip := options.get("clip_values")) is not None:
        if not isinstance(clip, (list, tuple)) or any(type(v) not in (int, float) for v in clip) or len(clip) != 2:
            raise OptionError(f"expected clip_values to be two numbers or null, got {quoted(clip)}")
        options["clip_values"] = tuple(clip)
    try:
        return RecognizerEstimator(weights[0], **options)
    except OSError as error:  # a name that is too long, a file that may not be read
        raise BundleError(f"weights {shown(weights[0])}: {cause(error)}") from error
