"""Recipe of the bundled vocoders: spectral losses, then (optional) a discriminator.

    python -m armory_mdnf.training.vocoder --kind melgan --source LibriSpeech/train-clean-100=2 \
        --source human/train.jsonl=1 --evaluate LibriSpeech/test-other --steps 2400 --out runs/melgan

A run that is stopped goes on from its last checkpoint when it is started again with the same ``--out``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from armory_mdnf.atomic import replacing
from armory_mdnf.audio.mel import LogMel, MelRecipe
from armory_mdnf.audio.noise import stream
from armory_mdnf.errors import BundleError, OptionError
from armory_mdnf.training.vocoder_data import Segments, find_recordings, mel_statistics, read_all
from armory_mdnf.training.vocoder_generators import GENERATORS, build, condition_on
from armory_mdnf.training.vocoder_losses import MultiResolutionSTFTLoss, adversarial_loss, discriminator_loss
from armory_mdnf.vocoders import load_vocoder, make_vocoder, save_vocoder
from armory_mdnf.vocoders._parallel_wavegan import MelGANMultiScaleDiscriminator

RECIPE = MelRecipe(16000, 1024, 256, 1024, 80, 0.0, 8000.0, "centered", 1e-5)
SEGMENT = 12288  # samples, 48 frames


def generate(kind: str, generator: nn.Module, log_mel: Tensor, noise: Tensor) -> Tensor:
    """Shape: (N, n_mels, F), (N, 1, F * hop) -> (N, F * hop)."""
    wave = generator(log_mel) if kind == "melgan" else generator(noise, log_mel)
    return wave[:, 0].float()


def stoi_scores(kind: str, generator: nn.Module, front_end: LogMel, utterances: list[Tensor]) -> list[float]:
    """Short-time objective intelligibility (Taal et al. 2011) of each resynthesised utterance."""
    from pystoi import stoi

    scores = []
    with torch.no_grad():
        for i, x in enumerate(utterances):
            log_mel, frames = front_end(x[None], torch.tensor([x.shape[0]]))
            noise = torch.randn(1, 1, int(frames) * RECIPE.hop, generator=stream(0, i))
            wave = generate(kind, generator, log_mel, noise)[0, : x.shape[0]]
            scores.append(float(stoi(x.numpy(), wave.numpy(), RECIPE.sample_rate_hz)))
    return scores


class Run:
    """One training run and its checkpoint: everything needed to go on as if it had never stopped."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.folder = Path(args.out)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.step = 0
        sources = [text.rsplit("=", 1) for text in args.source]
        groups = [read_all(find_recordings(Path(s[0])), RECIPE.sample_rate_hz) for s in sources]
        weights = [float(s[1]) if len(s) == 2 else 1.0 for s in sources]
        self.segments = Segments(groups, weights, RECIPE, SEGMENT, noisy=args.noisy, snr_db=args.noise_snr_db)
        self.held_out = {
            Path(text).name.removesuffix(".jsonl"): read_all(
                find_recordings(Path(text))[:: args.evaluate_stride][: args.evaluate_limit], RECIPE.sample_rate_hz
            )
            for text in args.evaluate
        }
        if (args.kind == "parallel_wavegan_on_melgan") != (args.conditioning is not None):
            raise OptionError("--conditioning goes with --kind parallel_wavegan_on_melgan, and that kind needs it")
        torch.manual_seed(args.seed)
        self.generator = build(args.kind)
        self.discriminator = MelGANMultiScaleDiscriminator(max_downsample_channels=256)
        self.optimizer = torch.optim.AdamW(self.learning(), args.lr, (0.8, 0.99), weight_decay=1e-4)
        self.critic = torch.optim.AdamW(self.discriminator.parameters(), args.lr / 2, (0.5, 0.9), weight_decay=1e-4)
        if self.checkpoint.is_file():
            self.resume()
        elif args.conditioning is not None:
            melgan = load_vocoder(args.conditioning)
            if melgan.recipe != RECIPE or melgan.front_end.mean is None or melgan.front_end.scale is None:
                raise BundleError(f"{args.conditioning}: expected a MelGAN of this recipe, found {melgan.recipe}")
            self.mean, self.scale = melgan.front_end.mean, melgan.front_end.scale
            condition_on(self.generator, melgan)
        else:
            self.mean, self.scale = mel_statistics([u for group in groups for u in group], RECIPE)
        self.front_end = LogMel(RECIPE, self.mean, self.scale)
        self.stft_loss = MultiResolutionSTFTLoss()

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
        state |= {"step": self.step, "mean": self.mean, "scale": self.scale, "kind": self.args.kind}
        with replacing(self.checkpoint) as partial:
            torch.save(state, partial)

    def resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        if state["kind"] != self.args.kind:
            raise BundleError(f"{self.checkpoint}: expected kind {self.args.kind!r}, found {state['kind']!r}")
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        self.step, self.mean, self.scale = state["step"], state["mean"], state["scale"]

    def learning_rate(self) -> float:
        """Linear warm-up over 100 steps, then a cosine down to 5 %."""
        progress = min(self.step / self.args.steps, 1.0)
        return self.args.lr * min((self.step + 1) / 100, 1.0) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))

    def train_step(self) -> dict[str, float]:
        args = self.args
        context, target = self.segments.batch(args.seed, self.step, args.batch)
        with torch.no_grad():
            log_mel = self.front_end.unpadded(context)
        noise = torch.randn(args.batch, 1, SEGMENT, generator=stream(args.seed, 1, self.step))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
            wave = generate(args.kind, self.generator, log_mel, noise)
        sizes = torch.full((args.batch,), SEGMENT)
        convergence, distance = self.stft_loss(wave, target)
        mel_distance = (self.front_end(wave, sizes)[0] - self.front_end(target, sizes)[0]).abs().mean()
        loss = convergence + distance + args.mel_weight * mel_distance
        report = {"sc": convergence.item(), "mag": distance.item(), "mel": mel_distance.item()}
        if args.discriminator_from is not None and self.step >= args.discriminator_from:
            real = self.discriminator(target[:, None])
            critic_loss = discriminator_loss(real, self.discriminator(wave.detach()[:, None]))
            self.critic.zero_grad()
            critic_loss.backward()
            self.critic.step()
            verdict, matching = adversarial_loss(self.discriminator(target[:, None]), self.discriminator(wave[:, None]))
            loss = loss + args.adversarial_weight * (verdict + 10 * matching)
            report |= {"critic": critic_loss.item(), "verdict": verdict.item(), "matching": matching.item()}
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.learning(), 10.0)
        if bool(norm.isfinite()):
            self.optimizer.step()
        self.step += 1
        return report

    def evaluate(self) -> dict[str, float]:
        self.generator.eval()
        scores = {
            f"stoi_{name}": sum(values) / len(values)
            for name, utterances in self.held_out.items()
            for values in [stoi_scores(self.args.kind, self.generator, self.front_end, utterances)]
        }
        self.generator.train()
        return scores

    def train(self) -> None:
        args, started = self.args, time.monotonic()
        bar = tqdm(total=args.steps, initial=self.step, disable=not sys.stderr.isatty(), unit="step")
        with (self.folder / "log.jsonl").open("a") as log:
            sums: dict[str, float] = {}
            count = 0
            while self.step < args.steps:
                for name, value in self.train_step().items():
                    sums[name] = sums.get(name, 0.0) + value
                count += 1
                bar.update()
                if self.step % args.log_every == 0 or self.step == args.steps:
                    row: dict[str, float] = {"step": self.step, "seconds": round(time.monotonic() - started, 1)}
                    row |= {name: round(value / count, 4) for name, value in sums.items()}
                    if self.step % args.evaluate_every == 0 or self.step == args.steps:
                        row |= {name: round(value, 4) for name, value in self.evaluate().items()}
                    log.write(json.dumps(row) + "\n")
                    log.flush()
                    sums, count = {}, 0
                    self.save()


def export(checkpoint: Path, path: Path) -> None:
    """Write the generator of a checkpoint, weight norm removed, as a bundle with its recipe inside."""
    state = torch.load(checkpoint, weights_only=True)
    generator: Any = build(state["kind"])
    generator.load_state_dict(state["generator"])
    kind = state["kind"].removesuffix("_on_melgan")
    vocoder = make_vocoder(kind, RECIPE, GENERATORS[state["kind"]], state["mean"], state["scale"])
    generator.remove_weight_norm()
    vocoder.generator.load_state_dict(generator.state_dict())
    save_vocoder(path, vocoder, {"steps": state["step"]})


def main(argv: list[str] | None = None) -> int:
    """Train, and write a bundle at the end. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="armory_mdnf.training.vocoder", description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=sorted(GENERATORS), required=True)
    parser.add_argument("--source", action="append", required=True, metavar="FOLDER_OR_MANIFEST[=WEIGHT]")
    parser.add_argument("--conditioning", help="trained MelGAN under a parallel_wavegan_on_melgan: bundle name or path")
    parser.add_argument("--evaluate", action="append", default=[], metavar="FOLDER_OR_MANIFEST")
    parser.add_argument("--evaluate-stride", type=int, default=4)
    parser.add_argument("--evaluate-limit", type=int, default=10)
    parser.add_argument("--evaluate-every", type=int, default=400)
    parser.add_argument("--out", required=True, help="folder of the checkpoint and the log")
    parser.add_argument("--export", type=Path, help="bundle to write at the end")
    parser.add_argument("--export-only", action="store_true", help="write the bundle of the checkpoint, don't train")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--mel-weight", type=float, default=1.0)
    parser.add_argument("--discriminator-from", type=int, help="step at which the discriminator joins (default: never)")
    parser.add_argument("--adversarial-weight", type=float, default=0.5)
    parser.add_argument("--noisy", type=float, default=0.0, help="share of segments under white noise")
    parser.add_argument("--noise-snr-db", type=float, nargs=2, default=(0.0, 40.0), metavar=("LOW", "HIGH"))
    parser.add_argument("--bfloat16", action="store_true", help="run the generator in bfloat16 where it is quicker")
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args(argv)
    if args.steps < 1 or args.batch < 1:
        raise OptionError(f"expected --steps and --batch >= 1, got {args.steps} and {args.batch}")
    if not 0 <= args.noisy <= 1:
        raise OptionError(f"expected --noisy between 0 and 1, got {args.noisy:g}")
    if args.threads:
        torch.set_num_threads(args.threads)
    if not args.export_only:
        Run(args).train()
    if args.export:
        export(Path(args.out) / "checkpoint.pt", args.export)
    return 0


if __name__ == "__main__":
    sys.exit(main())
