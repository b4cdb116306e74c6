"""Train a recogniser, or fine-tune one on resynthesised speech.

    armory-mdnf train recognizer RECIPE.json --data-dir DIR --out FILE.safetensors

A recipe fixes the model, the sources and their weights, the augmentation, the schedule and the seed. A batch depends on
the seed and its step alone, so a run that was stopped goes on from its last checkpoint as if it had not been. On
several GPUs: ``torchrun --nproc-per-node N -m armory_mdnf.training.recognizer RECIPE.json --device cuda ...``.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from armory_mdnf.asr.bundled import BundledRecognizer
from armory_mdnf.asr.checkpoints import save_recognizer
from armory_mdnf.asr.ctc import ctc_loss, frames_needed
from armory_mdnf.asr.decoding import greedy_decode
from armory_mdnf.audio import ragged
from armory_mdnf.data.bundled import Utterance
from armory_mdnf.data.librispeech import load_split, split_name
from armory_mdnf.data.selection import any_split, fingerprint, read_samples
from armory_mdnf.errors import AudioError, BundleError, OptionError, quoted
from armory_mdnf.files import bundles
from armory_mdnf.files.atomic import ensure_writable, ensure_writable_folder, storing
from armory_mdnf.files.locks import alone_in
from armory_mdnf.files.provenance import check_same, made_of, of_values
from armory_mdnf.files.strict_json import dumps
from armory_mdnf.metrics.wer import word_error_rate
from armory_mdnf.options import whole
from armory_mdnf.training.augmentation import Augmentation
from armory_mdnf.training.held_out import check_speakers
from armory_mdnf.training.loading import ahead
from armory_mdnf.training.optimizer import learning_rate, make_optimizer
from armory_mdnf.training.options import Parser, program, typed
from armory_mdnf.training.parallel import Workers
from armory_mdnf.training.recipe import PRECISIONS, Recipe, build_sources, recipe_help
from armory_mdnf.training.sources import SAMPLE_RATE_HZ, librispeech_in
from armory_mdnf.training.start import init_checksum, starting_recognizer
from armory_mdnf.training.state import (
    MADE_OF,
    OTHERWISE,
    after_failure,
    cut_log,
    fill_optimizer,
    load_state,
    save_state,
)

Batch = list[tuple[np.ndarray, list[int]]]
"""Audio (T,) and characters of each utterance."""


class Batches:
    """Batches of about equal duration, drawn in chunks and sorted by length within a chunk."""

    CHUNK_STEPS = 8
    MOST_REFUSED = 10_000

    def __init__(
        self, recipe: Recipe, recognizer: BundledRecognizer, data_dir: Path, workers: Workers | None = None
    ) -> None:
        self.workers = workers or Workers()
        self.recipe = recipe
        self.recognizer = recognizer
        self.names = list(recipe.sources)
        self.sources = build_sources(self.names, data_dir, recipe.max_duration_s, recipe.held_out_speakers)
        self.augmentation = Augmentation(**{k: _tuple(v) for k, v in recipe.augmentation.items()})

    def sizes(self) -> dict[str, int]:
        """How many utterances each source draws from, for the log."""
        return {name: len(source) for name, source in self.sources.items()}

    def recordings(self) -> dict[str, str]:
        """A checksum of what each source draws from."""
        return {name: of_values(source.contents()) for name, source in self.sources.items()}

    def chunk(self, number: int) -> list[Batch]:
        """The batches of steps ``number * CHUNK_STEPS`` and following."""
        rng = np.random.default_rng(self.workers.key(self.recipe.seed, number))
        progress = number * self.CHUNK_STEPS / self.recipe.steps
        shares = np.array([a + (b - a) * progress for a, b in self.recipe.sources.values()])
        limit = 3.0 if number * self.CHUNK_STEPS < self.recipe.short_first_steps else math.inf
        room = self.recipe.batch_seconds * self.CHUNK_STEPS
        drawn: list[tuple[np.ndarray, list[int]]] = []
        refused = 0
        # An utterance for each batch at least, however few seconds one may have.
        while room > 0 or len(drawn) < self.CHUNK_STEPS:
            if refused == self.MOST_REFUSED:
                raise OptionError(
                    f"{self.recipe.name}: {refused} utterances in a row too long, or too short for their words"
                )
            refused += 1
            name = self.names[rng.choice(len(self.names), p=shares / shares.sum())]
            audio, transcript = self.sources[name].sample(rng)
            if len(audio) > limit * SAMPLE_RATE_HZ:
                continue
            audio = self.augmentation.waveform(audio, rng)
            target = self.recognizer.alphabet.encode(transcript)
            if frames_needed(target) > int(self.recognizer.out_frames(torch.tensor(len(audio)))):
                continue
            drawn.append((audio, target))
            refused = 0
            room -= len(audio) / SAMPLE_RATE_HZ
        drawn.sort(key=lambda item: len(item[0]))
        # Equal duration a batch: the boundaries are quantiles of the running duration.
        total = np.cumsum([len(a) for a, _ in drawn])
        batch_of = np.minimum((total - 1) * self.CHUNK_STEPS // total[-1], self.CHUNK_STEPS - 1)
        batches = [[d for d, b in zip(drawn, batch_of, strict=True) if b == k] for k in range(self.CHUNK_STEPS)]
        if not all(batches):  # an utterance is longer than a batch
            bounds = [k * len(drawn) // self.CHUNK_STEPS for k in range(self.CHUNK_STEPS + 1)]
            batches = [drawn[a:b] for a, b in pairwise(bounds)]
        return [batches[k] for k in rng.permutation(self.CHUNK_STEPS)]


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def loss_of(
    recognizer: BundledRecognizer,
    batch: Batch,
    masks: Any,
    precision: torch.dtype = torch.bfloat16,
    consistency: float = 0.0,
) -> Tensor:
    """Mean CTC loss per character. The network runs in ``precision``, the loss in float32.

    With ``consistency``, each utterance is masked twice, and so much of :func:`disagreement` per character is added to
    the mean of both losses (CR-CTC, Yao et al. 2025).
    """
    device = next(recognizer.parameters()).device
    x, lengths = ragged.pad([torch.from_numpy(audio) for audio, _ in batch])
    targets = [target for _, target in batch]
    with torch.no_grad():
        spectrogram, frames = recognizer.features(x.to(device), lengths.to(device))
        if consistency:
            spectrogram, frames, targets = spectrogram.repeat(2, 1, 1, 1), frames.repeat(2), targets * 2
        spectrogram = masks(spectrogram, frames)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
        logits, frames = recognizer.network(spectrogram, frames)
    logits = logits.float()
    losses = ctc_loss(logits, frames, targets)
    if consistency:
        losses = losses + consistency * disagreement(logits, frames)
    return (losses / torch.tensor([len(t) for t in targets], device=device).clamp(min=1)).mean()


def disagreement(logits: Tensor, frames: Tensor) -> Tensor:
    """Divergence of each draw's characters from those of the other draw, which is held fixed, summed over the frames.

    Shape: logits (2N, F, classes) of N utterances and of the same N again, frames (2N,) -> (2N,).
    """
    mine = logits.log_softmax(-1)
    other = mine.detach().roll(len(logits) // 2, 0)
    divergence = torch.nn.functional.kl_div(mine, other, reduction="none", log_target=True).sum(-1)
    return divergence.masked_fill(~ragged.mask(frames, logits.shape[1]), 0.0).sum(-1)


def watched(
    splits: Sequence[str],
    limit: int | None = None,
    held_out_speakers: Sequence[str] = (),
    librispeech: Path | None = None,
) -> dict[str, list[Utterance]]:
    """The first ``limit`` utterances of each split, of LibriSpeech only ``held_out_speakers``, where there are some.

    ``librispeech`` is its folder, as for :func:`~armory_mdnf.data.librispeech.find_root`.
    Raises :class:`OptionError` for a split or a speaker that is not known, or of which nothing is left.
    """
    chosen = {}
    for split in splits:
        found = load_split(split, librispeech) if split_name(split) else any_split(split)
        if held_out_speakers and split_name(split):
            check_speakers(held_out_speakers, librispeech)
            found = [u for u in found if u.voice in set(held_out_speakers)]
        if not found:
            raise OptionError(f"dev: no utterance of {split} is of {', '.join(held_out_speakers)}")
        chosen[split] = found[:limit]
    return chosen


def check_heard(recognizer: BundledRecognizer, utterances: Iterable[Utterance]) -> None:
    """Raise :class:`AudioError` naming the first that cannot be read, or is too short or too long for a recogniser."""
    for utterance in utterances:
        samples = len(read_samples(utterance))
        try:
            recognizer.check_lengths(torch.tensor([samples]))
        except AudioError as error:
            raise AudioError(f"dev: {utterance.path}, {quoted(utterance.id)}: {error}") from error


@torch.no_grad()
def evaluate(
    recognizer: BundledRecognizer, chosen: Mapping[str, Sequence[Utterance]], batch_size: int = 12
) -> dict[str, float]:
    """Benign WER in percent on the utterances of each split, which :func:`watched` gives."""
    recognizer.eval()
    device = next(recognizer.parameters()).device
    result = {}
    for split, found in chosen.items():
        utterances = sorted(found, key=lambda u: u.duration_s)
        hypotheses: list[str] = []
        for start in range(0, len(utterances), batch_size):
            audio = [torch.from_numpy(read_samples(u)) for u in utterances[start : start + batch_size]]
            x, lengths = ragged.pad(audio)
            logits, frames = recognizer(x.to(device), lengths.to(device))
            hypotheses += greedy_decode(logits, frames, recognizer.alphabet)
        references = [u.transcript for u in utterances]
        result[split] = round(100 * word_error_rate(references, hypotheses), 2)
    return result


def train(recipe: Recipe, data_dir: Path, out: Path, device: str = "cpu", every: int = 250, loaders: int = 0) -> None:
    """Run a recipe to its end, and write a bundle; goes on from ``data_dir/runs/NAME`` if it was begun before.

    ``loaders`` processes read and augment the utterances ahead; with 0, this one does.
    Raises :class:`BundleError` if what was begun there is another training, or goes on right now, :class:`StorageError`
    if the disk fails.
    """
    run_dir = data_dir / "runs" / recipe.name
    with storing(lambda: after_failure(run_dir / "checkpoint.pt")):
        run_dir.mkdir(parents=True, exist_ok=True)
        workers, device = Workers.join(device)
        with alone_in(run_dir, BundleError) if workers.first else nullcontext():
            _train(recipe, data_dir, run_dir, out, device, every, loaders, workers)


def _train(
    recipe: Recipe, data_dir: Path, run_dir: Path, out: Path, device: str, every: int, loaders: int, workers: Workers
) -> None:
    from tqdm import tqdm

    # In bfloat16 attention took 27 ms a call on an H200, where cuDNN's, which plans for each length anew, comes first.
    # That it was cuDNN's is inferred; without it nothing was timed.
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.manual_seed(recipe.seed)
    recognizer = starting_recognizer(recipe, data_dir)
    if recipe.dropout:
        recognizer.set_dropout(recipe.dropout)
    batches = Batches(recipe, recognizer, data_dir, workers)
    provenance = _provenance(recipe, data_dir, batches)
    chosen = watched(recipe.dev, recipe.dev_utterances, recipe.held_out_speakers, librispeech_in(data_dir))
    checkpoint = run_dir / "checkpoint.pt"
    before = _load(checkpoint, provenance, batches.names) if checkpoint.exists() else {}
    step = before.get("step", 0)
    heard = of_values(map(fingerprint, chain(*chosen.values()))) if workers.first else ""
    # The first evaluates; what it cannot hear is refused now, not after the first steps. To decode all takes a while.
    if workers.first and before.get("heard") != heard:
        check_heard(recognizer, chain(*chosen.values()))
    end = -(-recipe.steps // Batches.CHUNK_STEPS)
    chunks = ahead(batches.chunk, step // Batches.CHUNK_STEPS, end, loaders)
    loaded: list[Batch] = next(chunks, [])  # the loaders start before the model is on a GPU
    recognizer.to(device)
    optimizer = make_optimizer(recipe, recognizer)
    if before:
        bundles.fill(recognizer.network, before["network"], str(checkpoint))
        fill_optimizer(optimizer, before["optimizer"], checkpoint)
    if workers.first:
        cut_log(run_dir / "log.jsonl", step if before else -1)
    path = run_dir / "log.jsonl" if workers.first else Path(os.devnull)
    quiet = not (workers.first and sys.stderr.isatty())
    bar = tqdm(total=recipe.steps, initial=step, unit="step", disable=quiet)
    with closing(chunks), path.open("a", buffering=1) as log, bar:
        log.write(json.dumps({"step": step, "utterances": batches.sizes()}) + "\n")
        running, since = 0.0, step
        seconds, began = before.get("audio_s", 0.0), time.monotonic() - before.get("elapsed_s", 0.0)
        while step < recipe.steps:
            for batch in loaded[step % Batches.CHUNK_STEPS :]:
                running += _step(recipe, recognizer, optimizer, batch, step, batches.augmentation, workers)
                seconds += sum(len(a) for a, _ in batch) / SAMPLE_RATE_HZ
                step += 1
                bar.update()
                if workers.first and (step % every == 0 or step == recipe.steps):
                    elapsed_s = time.monotonic() - began
                    line = {"step": step, "loss": round(running / (step - since), 4)}
                    line |= {"audio_h": round(seconds / 3600, 3), "elapsed_s": round(elapsed_s, 1)}
                    line |= evaluate(recognizer, chosen)
                    log.write(json.dumps(line) + "\n")
                    bar.set_postfix(line)
                    running, since = 0.0, step
                    state: dict[str, Any] = {"network": recognizer.network.state_dict(), "step": step}
                    state |= {"optimizer": optimizer.state_dict(), "heard": heard, "source_order": batches.names}
                    state |= {"audio_s": seconds, "elapsed_s": elapsed_s}
                    save_state(checkpoint, state | {MADE_OF: dumps(provenance)})
                if step == recipe.steps:
                    break
            loaded = next(chunks, [])
    about = {"name": recipe.name, "steps": recipe.steps, "seed": recipe.seed}
    if workers.first:
        save_recognizer(out, recognizer.eval(), about, half=True)
    workers.leave()


def _step(
    recipe: Recipe,
    recognizer: BundledRecognizer,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    step: int,
    augmentation: Augmentation,
    workers: Workers,
) -> float:
    """Take one step. Returns the loss before it. Raises :class:`OptionError` if the gradient is not finite."""
    recognizer.train()
    for module in recognizer.network.modules():  # running statistics too are what frozen weights compute with
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and not module.weight.requires_grad:
            module.eval()
    for group in optimizer.param_groups:
        group["lr"] = group["ratio"] * learning_rate(recipe, step)
    rng = np.random.default_rng(workers.key(recipe.seed, step, 1))
    if recipe.dropout:  # as the draws, of the seed and the step alone
        own = np.random.default_rng(workers.key(recipe.seed, step, 2))
        torch.manual_seed(int(own.integers(1 << 62)))
    masks = _masks(augmentation, rng)
    loss = loss_of(recognizer, batch, masks, PRECISIONS[recipe.precision], recipe.consistency)
    optimizer.zero_grad()
    loss.backward()
    workers.average_gradients(recognizer)
    norm = torch.nn.utils.clip_grad_norm_(recognizer.parameters(), recipe.clip_norm)
    if not math.isfinite(float(norm)):
        raise OptionError(f"{recipe.name}: the gradient is not finite at step {step}; lower 'learning_rate'?")
    optimizer.step()
    return float(loss.detach())


def _load(checkpoint: Path, provenance: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """The state to go on with. Raises :class:`BundleError` as :func:`load_state`, and for sources in another order.

    A draw goes by that, and provenance leaves it out; older checkpoints do not say it.
    """
    state = load_state(checkpoint, {"network": dict, "optimizer": dict, "step": int}, provenance)
    order = {"source_order": names}
    check_same(order | {key: state[key] for key in order.keys() & state}, order, checkpoint, OTHERWISE)
    return state


def _provenance(recipe: Recipe, data_dir: Path, batches: Batches) -> dict[str, Any]:
    """What the training is made of. On which device it is computed does not count: that changes the rounding alone."""
    parts: dict[str, Any] = {"recipe": asdict(recipe), "recordings": batches.recordings()}
    parts["init"] = init_checksum(recipe, data_dir)
    if batches.workers.size > 1:  # each draws batches of its own
        parts["processes"] = batches.workers.size
    return made_of(**parts)


def _masks(augmentation: Augmentation, rng: np.random.Generator) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda spectrogram, frames: augmentation.mask(spectrogram, frames, rng)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = Parser("recognizer", __doc__, recipe_help())
    parser.add_argument("recipe", type=Path, metavar="RECIPE.json", help="what to train, see below")
    parser.add_data_dir()
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="weights to write: FILE.safetensors")
    parser.add_device()
    parser.add_threads()
    text = "processes that read and augment ahead; for a GPU, one per core or so (default: 0)"
    parser.add_argument("--loaders", type=typed(whole(0, 256), int), default=0, metavar="N", help=text)
    text = "steps from one checkpoint and line of the log to the next (default: 250)"
    parser.add_argument("--every", type=typed(whole(1), int), default=250, metavar="N", help=text)
    args = parser.parse(argv)
    recipe = Recipe.read(args.recipe)
    begins_with = [] if recipe.init is None else [recipe.init, args.data_dir / recipe.init]
    ensure_writable(args.out, unlike=[args.recipe, *begins_with])
    ensure_writable_folder(args.data_dir / "runs" / recipe.name)
    train(recipe, args.data_dir, args.out, args.device, args.every, args.loaders)
    return 0


if __name__ == "__main__":
    raise SystemExit(program(main))
