"""Recipe of the bundled vocoders: spectral losses, then (optional) a discriminator.

    armory-mdnf train vocoder --kind melgan --source LibriSpeech/train-clean-100=2 \
        --source human/train.jsonl=1 --evaluate LibriSpeech/test-other --steps 2400 --out runs/melgan

A run that is stopped goes on from its last checkpoint when the same command is started again; another command with the
same ``--out`` is refused. To go on in another way (other recordings, a discriminator), begin in a new folder with
``--continue-from CHECKPOINT``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from armory_mdnf.asr.checkpoints import load_recognizer
from armory_mdnf.audio.mel import LogMel
from armory_mdnf.audio.noise import stream
from armory_mdnf.errors import BundleError, OptionError
from armory_mdnf.files import bundles
from armory_mdnf.files.atomic import ensure_writable, ensure_writable_folder, storing
from armory_mdnf.files.locks import alone_in
from armory_mdnf.files.provenance import made_of, of_array, of_values, sha256_of
from armory_mdnf.files.strict_json import dumps
from armory_mdnf.options import whole
from armory_mdnf.training.options import Parser, describe_value, program, typed
from armory_mdnf.training.sensitivity import noise_sensitivity, watched_prompts
from armory_mdnf.training.state import MADE_OF, after_failure, cut_log, fill_optimizer, load_state, save_state
from armory_mdnf.training.vocoder_data import (
    Segments,
    mel_statistics,
    packed,
    read_each,
    training_recordings,
    unpacked,
)
from armory_mdnf.training.vocoder_generators import GENERATORS, RECIPE, begin_with, build, condition_on
from armory_mdnf.training.vocoder_losses import MultiResolutionSTFTLoss, adversarial_loss, discriminator_loss
from armory_mdnf.training.vocoder_recipe import FIELDS, PATHS, VocoderRecipe, parse_sources
from armory_mdnf.training.vocoder_watching import Watching, check_stoi, generate, stoi_scores
from armory_mdnf.vocoders import Vocoder, load_vocoder, make_vocoder, save_vocoder, vocoder_file
from armory_mdnf.vocoders._parallel_wavegan import MelGANMultiScaleDiscriminator

SEGMENT = 12288  # samples, 48 frames
STATE = {
    **dict.fromkeys(("generator", "discriminator", "optimizer", "critic"), dict),
    "step": int,
    "mean": Tensor,
    "scale": Tensor,
    "kind": str,
}
"""What a checkpoint holds besides its provenance, and of which types."""


class Run:
    """One training run and its checkpoint: everything needed to go on as if it had never stopped.

    Raises :class:`BundleError` if the checkpoint in ``folder`` is of another run, or damaged.
    """

    def __init__(self, recipe: VocoderRecipe, folder: Path, watching: Watching, device: str = "cpu") -> None:
        self.recipe, self.folder, self.watching, self.device = recipe, folder, watching, torch.device(device)
        self.step = 0
        groups = read_sources(recipe.sources, recipe.held_out_speakers)
        weights = list(recipe.sources.values())
        self.provenance = made_of(
            recipe=recipe.plain(),
            sources=sources_provenance(recipe.sources, groups),
            conditioning=None if recipe.conditioning is None else sha256_of(vocoder_file(recipe.conditioning)),
            init=None if recipe.init is None else sha256_of(vocoder_file(recipe.init)),
            continue_from=None if recipe.continue_from is None else checkpoint_sum(Path(recipe.continue_from)),
        )
        stored = load_state(self.checkpoint, STATE, self.provenance) if self.checkpoint.is_file() else None
        self.segments = Segments(groups, weights, RECIPE, SEGMENT, noisy=recipe.noisy, snr_db=recipe.noise_snr_db)
        self.held_out = watching.read()
        self.listener = None if watching.sensitivity is None else load_recognizer(watching.sensitivity)
        self.prompts = [] if self.listener is None else watched_prompts()
        torch.manual_seed(recipe.seed)
        self.generator = build(recipe.kind).to(self.device)
        self.discriminator = MelGANMultiScaleDiscriminator(max_downsample_channels=256).to(self.device)
        self.optimizer = torch.optim.AdamW(self.learning(), recipe.lr, (0.8, 0.99), weight_decay=1e-4)
        self.critic = torch.optim.AdamW(self.discriminator.parameters(), recipe.lr / 2, (0.5, 0.9), weight_decay=1e-4)
        self.seconds = 0.0
        if stored is not None:
            self.resume(self.checkpoint, stored)
            self.seconds = stored.get("seconds", 0.0)
        elif recipe.continue_from is not None:
            other = Path(recipe.continue_from)
            self.resume(other, load_state(other, STATE, {}, incidental=lambda key: True))
            if self.step >= recipe.steps:
                raise OptionError(
                    f"steps: {other} is at step {self.step} and steps count on from there; expected more than that, "
                    f"found {recipe.steps}"
                )
        elif recipe.conditioning is not None:
            melgan, self.mean, self.scale = trained_vocoder(recipe.conditioning)
            condition_on(self.generator, melgan)
        elif recipe.init is not None:
            trained, self.mean, self.scale = trained_vocoder(recipe.init)
            if (trained.kind, trained.generator_config) != (recipe.kind, GENERATORS[recipe.kind]):
                found = f"{trained.kind} {trained.generator_config}"
                raise BundleError(f"{recipe.init}: expected the {recipe.kind} that is trained here, found {found}")
            begin_with(self.generator, trained)
        else:
            self.mean, self.scale = mel_statistics([u for group in groups for u in group], RECIPE)
        self.front_end = LogMel(RECIPE, self.mean, self.scale).to(self.device)
        self.stft_loss = MultiResolutionSTFTLoss().to(self.device)

    def learning(self) -> list[nn.Parameter]:
        return [p for p in self.generator.parameters() if p.requires_grad]

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def parts(self) -> dict[str, Any]:
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "optimizer": self.optimizer,
            "critic": self.critic,
        }

    def save(self) -> None:
        state: dict[str, Any] = {name: part.state_dict() for name, part in self.parts().items()}
        state |= {"step": self.step, "mean": self.mean, "scale": self.scale, "kind": self.recipe.kind}
        state |= {"seconds": self.seconds}
        save_state(self.checkpoint, state | {MADE_OF: dumps(self.provenance)})

    def resume(self, path: Path, state: dict[str, Any]) -> None:
        if state["kind"] != self.recipe.kind:
            raise BundleError(f"{path}: expected kind {self.recipe.kind!r}, found {state['kind']!r}")
        for name, part in self.parts().items():
            if isinstance(part, nn.Module):
                bundles.fill(part, state[name], str(path))
            else:
                fill_optimizer(part, state[name], path)
        self.step, self.mean, self.scale = state["step"], state["mean"], state["scale"]

    def learning_rate(self) -> float:
        """Linear warm-up over 100 steps, then a cosine down to 5 %."""
        progress = min(self.step / self.recipe.steps, 1.0)
        return (
            self.recipe.lr * min((self.step + 1) / 100, 1.0) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))
        )

    def train_step(self) -> dict[str, float]:
        recipe = self.recipe
        context, target = (x.to(self.device) for x in self.segments.batch(recipe.seed, self.step, recipe.batch))
        with torch.no_grad():
            log_mel = self.front_end.unpadded(context)
        noise = torch.randn(recipe.batch, 1, SEGMENT, generator=stream(recipe.seed, 1, self.step)).to(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.bfloat16):
            wave = generate(recipe.kind, self.generator, log_mel, noise)
        sizes = torch.full((recipe.batch,), SEGMENT, device=self.device)
        convergence, distance = self.stft_loss(wave, target)
        mel_distance = (self.front_end(wave, sizes)[0] - self.front_end(target, sizes)[0]).abs().mean()
        spectral = convergence + distance + recipe.mel_weight * mel_distance
        loss = recipe.spectral_weight(self.step) * spectral
        report = {"sc": convergence.item(), "mag": distance.item(), "mel": mel_distance.item()}
        if recipe.discriminator_from is not None and self.step >= recipe.discriminator_from:
            real = self.discriminator(target[:, None])
            critic_loss = discriminator_loss(real, self.discriminator(wave.detach()[:, None]))
            self.critic.zero_grad()
            critic_loss.backward()
            self.critic.step()
            with torch.no_grad():
                real = self.discriminator(target[:, None])
            self.discriminator.requires_grad_(False)  # its verdict is the generator's to mend
            verdict, matching = adversarial_loss(real, self.discriminator(wave[:, None]))
            self.discriminator.requires_grad_(True)
            loss = loss + recipe.adversarial_weight * (verdict + 10 * matching)
            report |= {"critic": critic_loss.item(), "verdict": verdict.item(), "matching": matching.item()}
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.learning(), 10.0)
        if not math.isfinite(float(norm) + sum(report.values())):
            raise OptionError(f"the loss or its gradient is not finite at step {self.step}; lower 'lr'?")
        self.optimizer.step()
        self.step += 1
        return report

    def evaluate(self) -> dict[str, float]:
        self.generator.eval()
        scores = {
            f"stoi_{name}": sum(values) / len(values)
            for name, utterances in self.held_out.items()
            for values in [stoi_scores(self.recipe.kind, self.generator, self.front_end, utterances)]
        }
        self.generator.train()
        if self.listener is not None:
            vocoder = as_vocoder(self.recipe.kind, self.generator.state_dict(), self.mean, self.scale, "the generator")
            found = noise_sensitivity(vocoder.to(self.device), self.listener, self.prompts)
            scores |= {f"cosine_{name}": value for name, value in found.items()}
        return scores

    def train(self) -> None:
        """Go on to the last step. Raises :class:`StorageError` if the disk fails."""
        with storing(lambda: after_failure(self.checkpoint)):
            self._train()

    def _train(self) -> None:
        recipe, watching, started = self.recipe, self.watching, time.monotonic() - self.seconds
        bar = tqdm(total=recipe.steps, initial=self.step, disable=not sys.stderr.isatty(), unit="step")
        cut_log(self.folder / "log.jsonl", self.step if self.checkpoint.is_file() else -1)
        with (self.folder / "log.jsonl").open("a") as log, bar:
            sums: dict[str, float] = {}
            count = 0
            while self.step < recipe.steps:
                for name, value in self.train_step().items():
                    sums[name] = sums.get(name, 0.0) + value
                count += 1
                bar.update()
                if self.step % watching.log_every == 0 or self.step == recipe.steps:
                    self.seconds = time.monotonic() - started
                    row: dict[str, float] = {"step": self.step, "seconds": round(self.seconds, 1)}
                    row |= {name: round(value / count, 4) for name, value in sums.items()}
                    if self.step % watching.evaluate_every == 0 or self.step == recipe.steps:
                        row |= {name: round(value, 4) for name, value in self.evaluate().items()}
                    log.write(json.dumps(row) + "\n")
                    log.flush()
                    sums, count = {}, 0
                    self.save()


def read_sources(sources: Iterable[str], held_out_speakers: Sequence[str] = ()) -> list[list[Tensor]]:
    """The recordings of each source, packed."""
    found = training_recordings(sources, held_out_speakers)
    return [[packed(x) for x in read_each(paths, RECIPE.sample_rate_hz)] for paths in found]


def trained_vocoder(name: str) -> tuple[Vocoder, Tensor, Tensor]:
    """A vocoder of this recipe to begin with, mean and scale of its log mel. Raises :class:`BundleError`."""
    vocoder = load_vocoder(name)
    if vocoder.recipe != RECIPE or vocoder.front_end.mean is None or vocoder.front_end.scale is None:
        raise BundleError(f"{name}: expected a vocoder of this recipe with statistics, found {vocoder.recipe}")
    return vocoder, vocoder.front_end.mean, vocoder.front_end.scale


def sources_provenance(sources: Mapping[str, float], groups: list[list[Tensor]]) -> dict[str, Any]:
    """Weight and a checksum of the recordings of each source, by its place among them."""
    sums = [of_values(of_array(unpacked(u).numpy()) for u in group) for group in groups]
    return {str(i): {"weight": w, "recordings": s} for i, (w, s) in enumerate(zip(sources.values(), sums, strict=True))}


def checkpoint_sum(path: Path) -> str:
    """SHA-256 of a checkpoint. Raises :class:`BundleError` if there is none."""
    if not path.is_file():
        raise BundleError(f"no checkpoint at {path}")
    return sha256_of(path)


def check_given(folder: Path, given: Mapping[str, Any]) -> None:
    """Raise :class:`BundleError` unless the checkpoint in a folder is of a run with the options that are given."""
    expected: dict[str, Any] = {"recipe": {key: value for key, value in given.items() if key not in PATHS}}
    counts = [f"recipe.{key}" for key in expected["recipe"]]
    if "sources" in given:
        read = read_sources(given["sources"], given.get("held_out_speakers", ()))
        expected["sources"] = sources_provenance(given["sources"], read)
    for name in {"conditioning", "init"} & given.keys():
        expected[name] = sha256_of(vocoder_file(given[name]))
    if "continue_from" in given:
        expected["continue_from"] = checkpoint_sum(Path(given["continue_from"]))
    counts += [key for key in PATHS if key in expected]
    checkpoint_sum(folder / "checkpoint.pt")  # it is there

    def incidental(key: str) -> bool:
        return key not in counts and key.split(".")[0] not in counts

    load_state(folder / "checkpoint.pt", STATE, made_of(**expected), incidental=incidental)


def export(checkpoint: Path, path: Path) -> None:
    """Write the generator of a checkpoint, weight norm removed, as a bundle with its recipe inside."""
    state = load_state(checkpoint, STATE, {}, incidental=lambda key: True)
    vocoder = as_vocoder(state["kind"], state["generator"], state["mean"], state["scale"], str(checkpoint))
    save_vocoder(path, vocoder, {"steps": state["step"]})


def as_vocoder(kind: str, weights: dict[str, Any], mean: Tensor, scale: Tensor, origin: str) -> Vocoder:
    """The vocoder of a generator that is being trained, its weight norm removed."""
    generator: Any = build(kind)
    bundles.fill(generator, weights, origin)
    vocoder = make_vocoder(kind.removesuffix("_on_melgan"), RECIPE, GENERATORS[kind], mean, scale)
    generator.remove_weight_norm()
    vocoder.generator.load_state_dict(generator.state_dict())
    return vocoder


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("vocoder", __doc__)
    add = parser.add_argument

    def recipe(option: str, name: str, **how: Any) -> None:
        field, default = FIELDS[name], getattr(VocoderRecipe, name, None)
        shown = "" if default is None else f" (default: {describe_value(default)})"
        add(option, dest=name, default=argparse.SUPPRESS, help=f"{field.help}{shown}", **how)

    add("--recipe", type=Path, metavar="FILE.json", help="fields of the recipe; options win (default: none)")
    recipe("--kind", "kind", choices=sorted(GENERATORS))
    recipe("--source", "sources", action="append", metavar="FOLDER_OR_MANIFEST[=WEIGHT]")
    recipe("--conditioning", "conditioning", metavar="VOCODER")
    recipe("--continue-from", "continue_from", metavar="CHECKPOINT")
    recipe("--init", "init", metavar="VOCODER")
    recipe("--held-out-speakers", "held_out_speakers", nargs="+", action="extend", metavar="SPEAKER")
    for option, parse in (("steps", int), ("batch", int), ("lr", float), ("mel-weight", float)):
        recipe(f"--{option}", option.replace("-", "_"), type=parse, metavar="X")
    recipe("--discriminator-from", "discriminator_from", type=int, metavar="STEP")
    recipe("--adversarial-weight", "adversarial_weight", type=float, metavar="X")
    recipe("--spectral-final", "spectral_final", type=float, metavar="X")
    recipe("--spectral-fade-steps", "spectral_fade_steps", type=int, metavar="N")
    recipe("--noisy", "noisy", type=float, metavar="SHARE")
    recipe("--noise-snr-db", "noise_snr_db", type=float, nargs=2, metavar=("LOW", "HIGH"))
    recipe("--bfloat16", "bfloat16", action="store_true")
    recipe("--seed", "seed", type=int, metavar="S")
    count = typed(whole(1), int)
    text = "folder or manifest to score in the log (STOI); may be given more than once"
    add("--evaluate", action="append", default=[], metavar="FOLDER_OR_MANIFEST", help=text)
    add("--evaluate-stride", type=count, default=4, metavar="N", help="every N-th recording of each (default: 4)")
    add("--evaluate-limit", type=count, default=10, metavar="N", help="of those the first N (default: 10)")
    add(
        "--evaluate-every",
        type=count,
        default=400,
        metavar="STEPS",
        help="how often; whole lines of the log (default: 400)",
    )
    text = "recogniser in whose gradients the noise sensitivity is logged, a name or a file (default: none)"
    add("--sensitivity", metavar="RECOGNISER", help=text)
    add("--log-every", type=count, default=50, metavar="STEPS", help="line in the log and checkpoint (default: 50)")
    add("--out", type=Path, required=True, metavar="FOLDER", help="folder of the checkpoint and the log")
    add("--export", type=Path, metavar="FILE", help="bundle to write at the end: FILE.safetensors")
    add("--export-only", action="store_true", help="write the bundle of the checkpoint, don't train")
    parser.add_device()
    parser.add_threads()
    return parser.parse(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, and write a bundle at the end. Returns the exit status."""
    args = _arguments(argv)
    given = {} if args.recipe is None else VocoderRecipe.read(args.recipe)
    given |= {name: getattr(args, name) for name in FIELDS if hasattr(args, name)}
    if hasattr(args, "sources"):
        given["sources"] = parse_sources(given["sources"])
    if args.export:
        read = [args.recipe, *(given.get(name) for name in ("conditioning", "init", "continue_from"))]
        ensure_writable(args.export, unlike=[*filter(None, read), args.out / "checkpoint.pt"])
    if args.export_only:
        if not args.export:
            raise OptionError("--export-only needs --export, the file to write")
        check_given(args.out, given)
    else:
        for name, option in (("kind", "--kind"), ("sources", "--source")):
            if name not in given:
                raise OptionError(f"expected {option}")
        watching = Watching(**{f.name: getattr(args, f.name) for f in fields(Watching)})
        recipe = VocoderRecipe(**given)
        ensure_writable_folder(args.out)
        if watching.evaluate:
            check_stoi()
        with alone_in(args.out, BundleError):
            Run(recipe, args.out, watching, args.device).train()
    if args.export:
        with storing(lambda: after_failure(args.out / "checkpoint.pt")):
            export(args.out / "checkpoint.pt", args.export)
    return 0


if __name__ == "__main__":
    raise SystemExit(program(main))
