"""Pass training speech through a vocoder, into shards that a recogniser is fine-tuned on.

    armory-mdnf train resynthesis --vocoder melgan --sources human=1 spliced=0.5 synthetic=1 --data-dir DIR

Each source gives the named hours of speech (``human`` is taken whole; ``inf`` takes all of a LibriSpeech split). The
shards are called ``VOCODER_SOURCE``. With ``--noise-snr-db`` white noise goes on what the vocoder hears, where an
attacker's perturbation will be; with ``--mel-noise-level`` MDNF's noise goes on the log mel. A vocoder of another rate
than 16 kHz gets the audio resampled and back, as in the defence. Nothing held out is touched: the sources are those of
training.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from armory_mdnf.audio import noise, ragged
from armory_mdnf.defenses import MDNF, MelResynth
from armory_mdnf.errors import OptionError
from armory_mdnf.training.augmentation import under_white_noise
from armory_mdnf.training.corpus_files import write_shard
from armory_mdnf.training.recipe import build_sources
from armory_mdnf.training.sources import SAMPLE_RATE_HZ, LibriSpeech, OnDisk, Recordings, Source
from armory_mdnf.vocoders import Vocoder, load_vocoder

SHARD_HOURS = 0.25


@dataclass
class Resynthesis:
    """The way of one training utterance: white noise where an attacker's perturbation will be, mel, vocoder.

    ``noise_snr_db``: range of the ratio of white noise before the mel; ``mel_noise_level``: range of the level of
    MDNF's noise, shaped by ``curve`` (None: flat). Without a range, without that noise.
    """

    vocoder: Vocoder
    noise_snr_db: tuple[float, float] | None = None
    mel_noise_level: tuple[float, float] | None = None
    curve: str | None = "bundled_l2"

    def __post_init__(self) -> None:
        device = next(self.vocoder.parameters()).device
        device_type = "gpu" if device.type == "cuda" else "cpu"
        self.defense = (
            MelResynth(self.vocoder, device_type=device_type)
            if self.mel_noise_level is None
            else MDNF(self.vocoder, curve=self.curve, device_type=device_type)
        )

    @torch.no_grad()
    def __call__(self, audio: np.ndarray, seed: int, index: int) -> np.ndarray:
        """One utterance, its draws fixed by seed and index, float32 (T,) -> (T,)."""
        rng = np.random.default_rng([seed, index])
        if self.noise_snr_db is not None:
            audio = under_white_noise(audio, self.noise_snr_db, rng)
        if isinstance(self.defense, MDNF) and self.mel_noise_level is not None:
            self.defense.noise_level = rng.uniform(*self.mel_noise_level)
        x, lengths = ragged.pad([torch.from_numpy(audio)])
        device = self.defense.device
        spoken = self.defense.defend(x.to(device), lengths.to(device), [noise.stream(seed, index)])
        return spoken[0].cpu().numpy()


Drawn = list[tuple[np.ndarray | OnDisk, str]]


def draw(source: Source, hours: float, rng: np.random.Generator) -> Drawn:
    """Utterances of a source: every recording in turn, or as many as fill the hours, of LibriSpeech each once."""
    if isinstance(source, Recordings):
        return [(r.audio, r.transcript) for r in source.recordings]
    drawn: Drawn = []
    room = hours * 3600 * SAMPLE_RATE_HZ
    if isinstance(source, LibriSpeech):
        for utterance in source.utterances:
            if room <= 0:
                break
            drawn.append((OnDisk(utterance), utterance.transcript))
            room -= len(drawn[-1][0])
        return drawn
    if math.isinf(hours):
        raise OptionError("expected a number of hours: only LibriSpeech and the human recordings have an end")
    while room > 0:
        audio, transcript = source.sample(rng)
        drawn.append((audio, transcript))
        room -= len(audio)
    return drawn


def write_shards(folder: Path, resynthesis: Resynthesis, drawn: Drawn, seed: int) -> None:
    """Resynthesise and write, shard by shard; a shard that exists is kept, so a stopped run goes on."""
    from tqdm import tqdm

    bounds = np.cumsum([len(a) for a, _ in drawn]) // int(SHARD_HOURS * 3600 * SAMPLE_RATE_HZ)
    bar = tqdm(total=len(drawn), unit="utterance", desc=folder.name, disable=not sys.stderr.isatty())
    for shard in range(int(bounds[-1]) + 1):
        name = f"{shard:04d}"
        members = [i for i, b in enumerate(bounds) if b == shard]
        bar.update(len(members))
        if (folder / f"{name}.jsonl").exists():
            continue
        spoken = (
            (resynthesis(np.asarray(drawn[i][0], np.float32), seed, i), {"transcript": drawn[i][1]}) for i in members
        )
        write_shard(folder, name, spoken)
    bar.close()


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="armory-mdnf train resynthesis", description=__doc__)
    parser.add_argument("--vocoder", required=True)
    parser.add_argument("--sources", nargs="+", required=True, metavar="NAME=HOURS")
    parser.add_argument("--data-dir", type=Path, default=Path("training_runs"))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--noise-snr-db", type=float, nargs=2, metavar=("LOW", "HIGH"), help="white noise before it")
    parser.add_argument(
        "--mel-noise-level", type=float, nargs=2, metavar=("LOW", "HIGH"), help="MDNF's, into VOCODER_mdnf_SOURCE"
    )
    parser.add_argument("--curve", default="bundled_l2", help="of MDNF's noise: a name, a file or flat")
    parser.add_argument("--max-duration-s", type=float, help="leave longer utterances of LibriSpeech out (default 17)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    vocoder = load_vocoder(args.vocoder, args.device)
    curve = None if args.curve == "flat" else args.curve
    resynthesis = Resynthesis(vocoder, args.noise_snr_db, args.mel_noise_level, curve)
    prefix = Path(args.vocoder).stem + ("" if args.mel_noise_level is None else "_mdnf")
    hours: dict[str, float] = {}
    for text in args.sources:
        name, _, value = text.partition("=")
        try:
            hours[name] = float(value)
        except ValueError:
            raise OptionError(f"--sources: expected NAME=HOURS, got {text!r}") from None
    sources = build_sources(list(hours), args.data_dir, args.max_duration_s)
    for k, (name, source) in enumerate(sources.items()):
        drawn = draw(source, hours[name], np.random.default_rng([args.seed, k]))
        folder = args.data_dir / f"{prefix}_{name}"
        write_shards(folder, resynthesis, drawn, args.seed + k)
        print(f"{folder}: {len(drawn)} utterances")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
