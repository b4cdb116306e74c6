"""The recogniser that a training run starts from."""

from __future__ import annotations

from pathlib import Path

from armory_mdnf.asr.bundled import BundledRecognizer
from armory_mdnf.asr.checkpoints import build_recognizer, kind_of, load_bundle
from armory_mdnf.asr.huggingface.folders import CONFIG, read_object
from armory_mdnf.asr.whisper.ctc import WhisperCTCConfig, start_from_whisper
from armory_mdnf.errors import BundleError, OptionError
from armory_mdnf.files import bundles
from armory_mdnf.files.provenance import of_files, sha256_of
from armory_mdnf.training.recipe import Recipe

WEIGHTS = "model.safetensors"
WHISPER_SIZES = {
    "n_mels": "num_mel_bins",
    "d_model": "d_model",
    "layers": "encoder_layers",
    "heads": "encoder_attention_heads",
    "ffn": "encoder_ffn_dim",
}


def starting_recognizer(recipe: Recipe, data_dir: Path) -> BundledRecognizer:
    """The recogniser that a recipe starts from. Raises :class:`OptionError`, :class:`BundleError`."""
    if recipe.init is None:
        try:
            return build_recognizer(recipe.kind, recipe.model)
        except (TypeError, RuntimeError, ArithmeticError, AssertionError) as error:  # torch's refusals of a size
            raise OptionError(f"recipe {recipe.name}: 'model' describes no {recipe.kind}: {error}") from error
    if recipe.model:
        raise OptionError(f"recipe {recipe.name}: give 'model' or 'init', not both: the sizes come with the weights")
    local = data_dir / recipe.init
    if recipe.kind == "whisper_ctc" and local.is_dir():
        return _whisper_encoder(local)
    recognizer = load_bundle(local if local.is_file() else recipe.init).requires_grad_(True)
    if kind_of(recognizer) != recipe.kind:
        raise OptionError(f"recipe {recipe.name}: kind is {recipe.kind!r}, {recipe.init} is a {kind_of(recognizer)!r}")
    return recognizer


def _whisper_encoder(folder: Path) -> BundledRecognizer:
    """A Whisper of transformers', its encoder under a new head. Raises :class:`BundleError` naming the file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = read_object(folder / CONFIG)
        sizes = {ours: found[theirs] for ours, theirs in WHISPER_SIZES.items()}
        weights = load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BundleError(f"{folder} is not a Hugging Face folder of a Whisper: {error!r:.200}") from error
    return start_from_whisper(WhisperCTCConfig(**sizes), weights, str(folder / WEIGHTS))


def init_checksum(recipe: Recipe, data_dir: Path) -> str | None:
    """SHA-256 of the weights that a recipe starts from, and of what says how they compute."""
    if recipe.init is None:
        return None
    local = data_dir / recipe.init
    if recipe.kind == "whisper_ctc" and local.is_dir():
        return of_files(local / name for name in (CONFIG, WEIGHTS))
    return sha256_of(local if local.is_file() else bundles.resolve(recipe.init))
