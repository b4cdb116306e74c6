"""A recogniser from a Hugging Face folder, whatever architecture it has of those that are known here."""

from __future__ import annotations

import os

from armory_mdnf.asr.contract import SpeechRecognizer
from armory_mdnf.asr.huggingface.ctc import MODEL_TYPES, load_ctc
from armory_mdnf.asr.huggingface.folders import NEEDS, find_folder, read_object
from armory_mdnf.asr.huggingface.whisper import load_whisper
from armory_mdnf.errors import BundleError, choices, quoted


def load_huggingface(name_or_path: str | os.PathLike[str]) -> SpeechRecognizer:
    """Read a CTC model or a Whisper by ``hf:NAME`` or by the path of its folder.

    Only safetensors are read, no code of the folder is run, nothing is downloaded.
    Raises :class:`BundleError` naming what is missing or wrong, and what to do.
    """
    folder = find_folder(name_or_path)
    config = folder / "config.json"
    if not config.is_file():
        raise BundleError(f"{folder}: expected a folder with config.json, found none")
    content = read_object(config)
    attention = content.get("attn_implementation")
    if isinstance(attention, str) and "/" in attention:  # transformers would fetch its code from the hub
        raise BundleError(f"{config}: attn_implementation: expected eager or sdpa, found {quoted(attention)}")
    found = content.get("model_type")
    if found != "whisper" and found not in MODEL_TYPES:
        raise BundleError(f"{config}: {choices(found, ['whisper', *MODEL_TYPES], 'model_type of a recogniser')}")
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise BundleError(f"{folder}: {NEEDS}") from error
    return load_whisper(folder) if found == "whisper" else load_ctc(folder)
