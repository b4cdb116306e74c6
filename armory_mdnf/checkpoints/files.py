"""Any checkpoint that the package understands: what it holds, and the same as a safetensors bundle."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from armory_mdnf.asr.bundled import BundledRecognizer
from armory_mdnf.asr.checkpoints import KINDS as RECOGNIZERS
from armory_mdnf.asr.checkpoints import load_recognizer, save_recognizer
from armory_mdnf.asr.deepspeech2.checkpoints import import_recognizer, is_deepspeech
from armory_mdnf.asr.whisper.ctc import WhisperCTC
from armory_mdnf.checkpoints.ctranslate2 import WhisperFolder, import_whisper, is_ctranslate2
from armory_mdnf.errors import BundleError, quoted, shown
from armory_mdnf.files import bundles
from armory_mdnf.files.atomic import ensure_writable, ensure_writable_folder, storing
from armory_mdnf.files.foreign import Imported, read_checkpoint
from armory_mdnf.files.provenance import sha256_of
from armory_mdnf.vocoders import KINDS, Vocoder, load_vocoder, save_vocoder
from armory_mdnf.vocoders.formats import import_vocoder
from armory_mdnf.vocoders.importing import NO_STATISTICS, refuse_unused

MAX_LEFT = 100  # lines on what was left


@dataclass(frozen=True)
class Opened:
    """A checkpoint that was read: where it came from, its checksum, and what was made of it."""

    path: Path
    sha256: str
    imported: Imported[Any]


def open_checkpoint(
    path: str | os.PathLike[str],
    sha256: str | None = None,
    config: str | os.PathLike[str] | None = None,
    stats: str | os.PathLike[str] | None = None,
) -> Opened:
    """Read a recogniser or a vocoder of whatever format; the checksum first, if one is given.

    ``config`` and ``stats`` are the files that a vocoder's format keeps beside the weights; ``stats`` may be "none".
    Raises :class:`BundleError` naming the file, the key, and what was expected and found, and for a file beside that
    is not there or of no use to the format.
    """
    path = Path(path)
    if not path.is_file():
        raise BundleError(f"no checkpoint at {path}")
    beside = {"--config": config, "--stats": stats}
    for option, file in beside.items():
        if file is not None and not (option == "--stats" and str(file) == NO_STATISTICS) and not Path(file).is_file():
            raise BundleError(f"no file at {file}, which {option} names")
    found = sha256_of(path)
    if sha256 is not None and found != sha256.lower():
        raise BundleError(f"{path}: expected SHA-256 {sha256.lower()}, found {found}; it was not opened")
    if path.suffix == ".safetensors":
        refuse_unused(path, "bundle, with its configuration inside", beside)
        return Opened(path, found, _bundle(path))
    if is_ctranslate2(path):
        refuse_unused(path, "Whisper of CTranslate2's", beside)
        return Opened(path, found, import_whisper(path))
    content = read_checkpoint(path)
    if is_deepspeech(content):
        refuse_unused(path, "recogniser of deepspeech.pytorch's", beside)
        return Opened(path, found, import_recognizer(content, str(path)))
    try:
        return Opened(path, found, import_vocoder(content, path, config, stats))
    except BundleError as error:
        keys = ", ".join(map(shown, list(content)[:8])) if isinstance(content, dict) else type(content).__name__
        hint = f"; or a recogniser of deepspeech.pytorch. Found: {keys}" if "expected a vocoder" in str(error) else ""
        raise BundleError(f"{error}{hint}") from error


def _bundle(path: Path) -> Imported[Any]:
    kind = bundles.kind_of(path)
    if kind in RECOGNIZERS:
        return Imported(load_recognizer(path), _format(path, kind, "recipe"), (), ())
    if kind in KINDS:
        return Imported(load_vocoder(path), _format(path, kind, "extra"), (), ())
    known = ", ".join((*RECOGNIZERS, *KINDS))
    raise BundleError(f"{path}: expected a bundle of kind {known}, found {kind!r}")


def _format(path: Path, kind: str, origin: str) -> str:
    """A bundle's kind, and how it says that its weights came about."""
    config, _ = bundles.load(path, kind)
    told = config.get(origin)
    made = _inline(told) if isinstance(told, dict) else ""
    return f"armory-mdnf bundle, {kind}" + (f" ({made})" if made else "")


def facts_of(opened: Opened) -> dict[str, str]:
    """What a checkpoint holds, by name."""
    return {
        "file": str(opened.path),
        "bytes": f"{opened.path.stat().st_size:,}",
        "sha256": opened.sha256,
        "format": opened.imported.format,
        **_facts(opened.imported.module),
    }


def as_json(opened: Opened) -> dict[str, Any]:
    """What a checkpoint holds and what was mapped and left of it, for machines."""
    imported = opened.imported
    return facts_of(opened) | {"mapped": list(imported.mapped), "left": list(imported.left)}


def describe(opened: Opened) -> str:
    """What a checkpoint holds, a line per fact."""
    facts = facts_of(opened)
    width = max(map(len, facts))
    return "\n".join([*(f"{key:<{width}}  {value}" for key, value in facts.items()), *_report(opened.imported)])


def check_target(out: str | os.PathLike[str], source: str | os.PathLike[str]) -> Path:
    """See before anything is read that ``out`` can be written: a bundle, or a folder for CTranslate2's Whisper.

    Raises :class:`BundleError` if it has the wrong name or is the checkpoint itself, :class:`OptionError` if it cannot
    be written.
    """
    out, source = Path(out), Path(source)
    if out.exists() and source.exists() and out.samefile(source):
        raise BundleError(f"{out} is the checkpoint itself: expected another file to write")
    if source.is_file() and is_ctranslate2(source):
        if out.suffix == ".safetensors":
            raise BundleError(
                f"{source} is a Whisper of CTranslate2's, which becomes a folder: expected one, got {out}"
            )
        if out.exists() and out.samefile(source.parent):
            raise BundleError(f"{out} is the checkpoint's own folder: expected another one to write to")
        ensure_writable_folder(out)
        return out
    if out.suffix != ".safetensors":
        raise BundleError(f"{out}: expected a name that ends in .safetensors")
    ensure_writable(out)
    return out


def convert(opened: Opened, out: str | os.PathLike[str]) -> str:
    """Write a bundle (or the folder of a Whisper) and read it back.

    Returns what was mapped and what was left, a line each. Raises as :func:`check_target`, and
    :class:`StorageError` if the disk fails.
    """
    out = check_target(out, opened.path)
    source = {"source": opened.path.name, "sha256": opened.sha256, "format": opened.imported.format}
    model = opened.imported.module
    with storing(lambda: "the checkpoint is as it was; convert it again when there is room"):
        if isinstance(model, WhisperFolder):
            written = model.save(out)
            ending = [f"written: {name}" for name in written]
        else:
            if isinstance(model, BundledRecognizer):
                save_recognizer(out, model, source)
            else:
                save_vocoder(out, model, source)
            _bundle(out)
            ending = [f"sha256 of the bundle: {sha256_of(out)}"]
    return "\n".join(
        [f"{opened.path} -> {out}", f"format: {opened.imported.format}", *_report(opened.imported), *ending]
    )


def _report(imported: Imported[Any]) -> Iterator[str]:
    yield from (f"mapped: {line}" for line in imported.mapped)
    yield from (f"left:   {line}" for line in imported.left[:MAX_LEFT])
    if len(imported.left) > MAX_LEFT:
        yield f"left:   {len(imported.left) - MAX_LEFT} more"


def _parameters(module: Any) -> str:
    return f"{sum(p.numel() for p in module.parameters()):,}"


def _facts(model: Any) -> dict[str, str]:
    if isinstance(model, WhisperFolder):
        return model.facts()
    return _recogniser_facts(model) if isinstance(model, BundledRecognizer) else _vocoder_facts(model)


def _recogniser_facts(recognizer: BundledRecognizer) -> dict[str, str]:
    labels = recognizer.alphabet.labels
    alphabet = f"{quoted(labels, 120)}, {len(labels)} classes, the first is the blank"
    parameters = _parameters(recognizer.network)
    if isinstance(recognizer, WhisperCTC):
        sizes = recognizer.config
        return {
            "holds": "recogniser, Whisper's encoder with a CTC head",
            "layers": f"{sizes.layers} x {sizes.d_model}, {sizes.heads} heads",
            "alphabet": alphabet,
            "audio": f"{recognizer.sample_rate_hz} Hz, log mel of {sizes.n_mels} bins",
            "parameters": parameters,
        }
    config = recognizer.config
    direction = "bidirectional" if config.bidirectional else f"with lookahead {config.lookahead_context}"
    return {
        "holds": "recogniser, DeepSpeech2",
        "layers": f"{config.hidden_layers} x {config.hidden_size} {config.rnn_type.upper()}, {direction}; "
        f"{config.conv_channels} convolution channels",
        "alphabet": alphabet,
        "audio": f"{config.sample_rate_hz} Hz, {config.window} window of {config.window_s * 1000:g} ms every "
        f"{config.stride_s * 1000:g} ms",
        "parameters": parameters,
    }


def _vocoder_facts(vocoder: Vocoder) -> dict[str, str]:
    recipe = vocoder.recipe
    normalised = "each bin normalised" if vocoder.front_end.mean is not None else "not normalised"
    return {
        "holds": f"vocoder, {vocoder.kind}" + (", takes noise" if vocoder.needs_noise else ""),
        "generator": _inline(vocoder.generator_config),
        "audio": f"{recipe.sample_rate_hz} Hz",
        "mel": f"{recipe.n_mels} bins from {recipe.f_min_hz:g} to {recipe.f_max_hz:g} Hz, n_fft {recipe.n_fft}, hop "
        f"{recipe.hop}, window {recipe.win}, {recipe.framing}, floor {recipe.floor:g}, {normalised}",
        "parameters": _parameters(vocoder.generator),
    }


def _inline(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{shown(key)} {value if type(value) is int else shown(value)}" for key, value in values.items())
