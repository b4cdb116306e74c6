"""Pass training speech through a vocoder, into shards that a recogniser is fine-tuned on.

    armory-mdnf train resynthesis --vocoder melgan --sources human=1 spliced=0.5 synthetic=1 --data-dir DIR

Each source gives the named hours of speech (``human`` is taken whole; ``inf`` takes all of a LibriSpeech split). The
shards are called ``VOCODER_SOURCE``. With ``--noise-snr-db`` white noise goes on what the vocoder hears, where an
attacker's perturbation will be; with ``--mel-noise-level`` MDNF's noise goes on the log mel. A vocoder of another rate
than 16 kHz gets the audio resampled and back, as in the defence. Nothing held out is touched: the sources are those of
training.

A command that was stopped goes on when it is started again. Each folder of shards says in ``made_of.json`` what they
were made of; other shards under its name are refused.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from armory_mdnf.audio import noise, ragged
from armory_mdnf.defenses import MDNF, MelResynth
from armory_mdnf.errors import OptionError, quoted
from armory_mdnf.files.atomic import ensure_writable_folder, storing
from armory_mdnf.files.provenance import made_of, of_values, sha256_of
from armory_mdnf.options import SEED, number
from armory_mdnf.training.augmentation import under_white_noise
from armory_mdnf.training.corpora.files import UNFINISHED, write_shard
from armory_mdnf.training.held_out import LEFT_OUT
from armory_mdnf.training.options import Parser, program, typed
from armory_mdnf.training.recipe import build_sources
from armory_mdnf.training.sources import SAMPLE_RATE_HZ, LibriSpeech, OnDisk, Recordings, Source
from armory_mdnf.training.state import claimed, curve_checksum, curve_option
from armory_mdnf.vocoders import Vocoder, load_vocoder, vocoder_file

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


def write_shards(
    folder: Path, resynthesis: Resynthesis, drawn: Drawn, seed: int, provenance: Mapping[str, Any]
) -> None:
    """Resynthesise and write, shard by shard; a shard that exists is kept, so a stopped run goes on.

    Raises :class:`BundleError` if what exists is not made of ``provenance`` or another command is at it,
    :class:`StorageError` if the disk fails.
    """
    advice = "delete that folder, or choose another --data-dir"
    safe = f"the shards in {folder} are safe; start the same command again to go on"
    with storing(lambda: safe), claimed(folder, provenance, "*.jsonl", advice):
        _write_shards(folder, resynthesis, drawn, seed)


def _write_shards(folder: Path, resynthesis: Resynthesis, drawn: Drawn, seed: int) -> None:
    from tqdm import tqdm

    bounds = np.cumsum([len(a) for a, _ in drawn]) // int(SHARD_HOURS * 3600 * SAMPLE_RATE_HZ)
    bar = tqdm(total=len(drawn), unit="utterance", desc=folder.name, disable=not sys.stderr.isatty())
    (folder / UNFINISHED).touch()  # nobody trains on the first shards as if they were all
    for shard in range(int(bounds[-1]) + 1):
        name = f"{shard:04d}"
        members = [i for i, b in enumerate(bounds) if b == shard]
        bar.update(len(members))
        if not members or (folder / f"{name}.jsonl").exists():
            continue
        write_shard(folder, name, _spoken(resynthesis, drawn, members, seed))
    (folder / UNFINISHED).unlink()
    bar.close()


def _spoken(
    resynthesis: Resynthesis, drawn: Drawn, members: Sequence[int], seed: int
) -> Iterator[tuple[np.ndarray, dict[str, str]]]:
    for i in members:
        audio, transcript = drawn[i]
        spoken = resynthesis(np.asarray(audio, np.float32), seed, i)
        if len(spoken) == len(audio) and np.isfinite(spoken).all():
            yield spoken, {"transcript": transcript}
        else:
            name = audio.utterance.id if isinstance(audio, OnDisk) else f"{i} ({transcript[:60]})"
            found = (
                f"{len(spoken)} samples for {len(audio)}" if len(spoken) != len(audio) else "values that are not finite"
            )
            print(f"utterance {name} is left out: the vocoder gave {found}", file=sys.stderr)


def parse_sources(texts: Sequence[str]) -> dict[str, float]:
    """Hours by source, of ``NAME=HOURS``. Raises :class:`OptionError` for what is no such pair, or there twice."""
    hours: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            number_of = float(value)
        except ValueError:
            number_of = math.nan
        if not name or not number_of > 0:  # NaN is not
            raise OptionError(f"--sources: expected NAME=HOURS, hours above 0 or inf, got {quoted(text)}")
        if name in hours:
            raise OptionError(f"--sources: {quoted(name)} is there twice")
        hours[name] = number_of
    return hours


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    ratio, level = (typed(one, float) for one in (number(-200, 200), number(0, 1e6)))
    parser = Parser("resynthesis", __doc__)
    add = parser.add_argument
    add("--vocoder", required=True, help="name of a bundled vocoder, or a file")
    text = "sources, as in a recipe, and hours of each"
    add("--sources", nargs="+", action="extend", required=True, metavar="NAME=HOURS", help=text)
    parser.add_data_dir()
    add("--seed", type=typed(SEED, int), default=7, metavar="S", help="of the draws and the noise (default: 7)")
    text = "white noise on what the vocoder hears, at a ratio in dB drawn from this range (default: none)"
    add("--noise-snr-db", type=ratio, nargs=2, metavar=("LOW", "HIGH"), help=text)
    text = "MDNF's noise at a level drawn from this range, into VOCODER_mdnf_SOURCE (default: none)"
    add("--mel-noise-level", type=level, nargs=2, metavar=("LOW", "HIGH"), help=text)
    text = "curve of MDNF's noise, with --mel-noise-level: a name, a file or flat (default: bundled_l2)"
    add("--curve", help=text)
    text = "leave longer utterances of LibriSpeech and of shards out (default: 17 and 9)"
    add("--max-duration-s", type=typed(number(0, above=True), float), metavar="S", help=text)
    text = "speakers of LibriSpeech to leave out (default: none)"
    add("--held-out-speakers", nargs="+", action="extend", metavar="SPEAKER", help=text)
    parser.add_device()
    parser.add_threads()
    args = parser.parse(argv)
    for option in ("noise_snr_db", "mel_noise_level"):
        values = getattr(args, option)
        if values is not None and values[0] > values[1]:
            raise OptionError(f"--{option.replace('_', '-')}: expected the lower end first, got {values}")
    if args.curve is not None and args.mel_noise_level is None:
        raise OptionError("--curve has no effect without --mel-noise-level")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    args = _arguments(argv)
    hours = parse_sources(args.sources)
    ensure_writable_folder(args.data_dir)
    vocoder = load_vocoder(args.vocoder, args.device)
    curve = args.curve or "bundled_l2"
    resynthesis = Resynthesis(vocoder, args.noise_snr_db, args.mel_noise_level, curve_option(curve))
    prefix = Path(args.vocoder).stem + ("" if args.mel_noise_level is None else "_mdnf")
    sources = build_sources(list(hours), args.data_dir, args.max_duration_s, args.held_out_speakers or ())
    left_out = {LEFT_OUT: sorted(args.held_out_speakers)} if args.held_out_speakers else {}
    for k, (name, source) in enumerate(sources.items()):
        provenance = made_of(
            vocoder=sha256_of(vocoder_file(args.vocoder)),
            noise_snr_db=args.noise_snr_db,
            mel_noise_level=args.mel_noise_level,
            curve=None if args.mel_noise_level is None else curve_checksum(curve),
            source=name,
            hours=hours[name] if math.isfinite(hours[name]) else "all",
            recordings=of_values(source.contents()),
            seed=args.seed,
            place_among_sources=k,  # the draws depend on it
            **left_out,
        )
        drawn = draw(source, hours[name], np.random.default_rng([args.seed, k]))
        folder = args.data_dir / f"{prefix}_{name}"
        write_shards(folder, resynthesis, drawn, args.seed + k, provenance)
        print(f"{folder}: {len(drawn)} utterances")
    return 0


if __name__ == "__main__":
    raise SystemExit(program(main))
