"""Speed of the attacks: ``python -m benchmarks.attack --out results/bench/attack.json``, or ``make bench``.

Everything is measured in one run, in turn, on recordings of the bundled dev split; ratios are medians over rounds.
Exit code 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.attacks import PGD
from armory_mdnf.audio.files import read_audio
from armory_mdnf.audio.resample import resample
from armory_mdnf.cpu import switch
from armory_mdnf.data.bundled import load_split
from armory_mdnf.defenses import MDNF
from armory_mdnf.errors import BundleError, OptionError
from armory_mdnf.files.atomic import write_text
from benchmarks import bars, memory
from benchmarks.baselines import ArtStyleEstimator, bare_resynthesis, bare_step
from benchmarks.processes import Workers
from benchmarks.subjects import DECODER, EPS, RECOGNIZERS, WHISPER, defence, estimator, speech
from benchmarks.timing import Timing, interleaved

STEPS = 4
LENGTHS_S = (2, 4, 8, 16, 32)


def bare_pgd(name: str, x: np.ndarray, text: str) -> Callable[[], Tensor]:
    """:data:`STEPS` steps of l2 PGD written straight down: only the gradient, the step, the two bounds."""
    model = estimator(name)
    defended = None
    for operation in defence(name):
        noise = (operation.curve, operation.noise_level) if isinstance(operation, MDNF) else ()
        defended = bare_resynthesis(operation.vocoder, *noise)
    clean = torch.from_numpy(x)[None].to(model.device)
    recognizer, target = model.model.eval(), model.encode([text], 1)[0]

    def run() -> Tensor:
        x_adv = clean
        for _ in range(STEPS):
            g = bare_step(recognizer, x_adv, target, defended)()
            delta = (x_adv + EPS / 5 * g / g.norm()).clamp(-1, 1) - clean
            x_adv = clean + delta * (EPS / delta.norm().clamp(min=1e-12)).clamp(max=1)
        return x_adv

    return run


def step_ratios(rounds: int) -> list[dict[str, Any]]:
    """One step of ours against the bare one for each defence and recogniser, at one utterance of 4 s."""
    x = speech(4)
    candidates: dict[str, Callable[[], object]] = {}
    skipped: dict[str, str] = {}
    names = [*RECOGNIZERS, DECODER]
    for name in names:
        try:
            model = estimator(name)
        except (BundleError, OptionError) as error:  # an extra, or weights that are not here
            skipped[name] = str(error)
            continue
        text = str(model.predict(x)[0])
        attack = PGD(model, norm="l2", eps=EPS, max_iter=STEPS)
        candidates[f"ours, {name}"] = partial(attack.generate, x, [text], indices=[0])
        candidates[f"bare, {name}"] = bare_pgd(name, x, text)
    times = interleaved(candidates, rounds)
    what, bar = "step, 4 s", "<= 1.05"
    return [
        {"what": what, "defence": name, "bar": bar, "skipped": skipped[name]}
        if name in skipped
        else row(what, name, times[f"ours, {name}"], times[f"bare, {name}"], "bare torch step", bar)
        for name in names
    ]


def cpu_ways(rounds: int) -> list[dict[str, Any]]:
    """One step with what is done for a CPU's sake against one without, at one utterance of 4 s."""
    x = speech(4)
    rows = []
    for name in ("none", "MG", "WG", f"{WHISPER}, HG-MDNF"):
        try:
            model = estimator(name)
        except OptionError as error:  # an extra that is not here
            rows.append({"what": "step, 4 s, fast", "defence": name, "bar": "<= 1", "skipped": str(error)})
            continue
        step = partial(PGD(model, eps=EPS, max_iter=1).generate, x, [str(model.predict(x)[0])], indices=[0])
        times = interleaved({way: partial(by_way, way, step) for way in switch.WAYS}, rounds)
        rows.append(row("step, 4 s, fast", name, times["fast"], times["plain"], "plain", "<= 1"))
    return rows


def by_way(way: str, run: Callable[[], object]) -> None:
    """Run with a CPU's own ways, or without."""
    before = os.environ.get(switch.VARIABLE)
    os.environ[switch.VARIABLE] = way
    try:
        run()
    finally:
        os.environ.pop(switch.VARIABLE)
        if before is not None:
            os.environ[switch.VARIABLE] = before


def peers(rounds: int) -> list[dict[str, Any]]:
    """Ours, asr-attacks and ART's way, l-infinity, undefended, at one utterance of 4 s."""
    from art.attacks.evasion import ProjectedGradientDescent
    from asr_attacks.attacks import pgd
    from asr_attacks.backends import CTCModuleBackend

    x, eps = speech(4), 0.01
    model = estimator("none")
    text = str(model.predict(x)[0])
    ours = PGD(model, norm="linf", eps=eps, max_iter=STEPS)
    backend = CTCModuleBackend(_OneUtterance(model), list(model.model.alphabet.labels), "cpu", blank_id=0)
    art_style = ArtStyleEstimator("ds2_base")
    art = ProjectedGradientDescent(art_style, np.inf, eps, eps / 5, max_iter=STEPS, batch_size=1, verbose=False)

    def theirs() -> np.ndarray:
        return pgd(
            backend, x, label=text, epsilon=eps, alpha=eps / 5, num_iter=STEPS, random_start=False, verbose=False
        )

    def ours_once() -> np.ndarray:
        return ours.generate(x[None], [text], indices=[0])

    label = np.array([text])
    found = ours_once()
    differ = [float(np.mean(np.abs(other - found) > 1e-6)) for other in (theirs(), art.generate(x[None], label))]
    runs = {"ours": ours_once, "asr-attacks": theirs, "ART's way": lambda: art.generate(x[None], label)}
    times = interleaved(runs, rounds)
    rows = [
        row("l-infinity steps, 4 s", "ours", times["ours"], times["asr-attacks"], "asr-attacks 0.3", "<= 1.05"),
        row("l-infinity steps, 4 s", "ART's way", times["ART's way"], times["ours"], "ours", ">= 4"),
    ]
    for line, share in zip(rows, differ, strict=True):
        line["share of samples that differ"] = share
    return rows


class _OneUtterance(torch.nn.Module):
    """The recogniser as asr-attacks takes one: (1, T) -> logits (1, F, classes)."""

    def __init__(self, model: RecognizerEstimator) -> None:
        super().__init__()
        self.recognizer = model.model

    def forward(self, x: Tensor) -> Tensor:
        return self.recognizer(x, torch.tensor([x.shape[1]]))[0]


def batching(rounds: int) -> list[dict[str, Any]]:
    """EOT against single steps, and 16 ragged utterances together against one by one."""
    defended = estimator("MG-MDNF")
    single = PGD(defended, eps=EPS, max_iter=1)
    eot = PGD(defended, eps=EPS, max_iter=1, eot_draws=5)
    dev = [read_audio(u.path)[0] for u in load_split("human", "dev")][:16]
    rows = []
    for what, utterances in (("EOT, K = 5, 4 s", list(speech(4)[None])), ("EOT, K = 5, 4 ragged utterances", dev[:4])):
        texts = [str(t) for t in defended.predict(utterances)]
        times = interleaved(
            {
                "eot": partial(eot.generate, utterances, texts, indices=range(len(utterances))),
                "single": partial(one_by_one, single, 5 * utterances, 5 * texts),
            },
            rounds,
        )
        rows.append(row(what, "MG-MDNF", times["eot"], times["single"], "five single steps each", "<= 0.8"))
    for name in ("none", "MG-MDNF"):
        model = estimator(name)
        texts = [str(t) for t in model.predict(dev)]
        # Several steps, as in an attack: the first of a length pays for oneDNN's kernels of that length.
        attack = PGD(model, eps=EPS, max_iter=STEPS)
        times = interleaved(
            {
                "together": partial(attack.generate, dev, texts, indices=range(16)),
                "alone": partial(one_by_one, attack, dev, texts),
            },
            rounds,
        )
        rows.append(row("16 ragged utterances", name, times["together"], times["alone"], "one by one", "<= 0.6"))
    return rows


def by_processes(rounds: int) -> list[dict[str, Any]]:
    """The same by several processes of one thread each, against the threads of one process, one after another."""
    dev = [read_audio(u.path)[0] for u in load_split("human", "dev")][:16]
    rows = []
    for name in ("none", "MG-MDNF"):
        model = estimator(name)
        texts = [str(t) for t in model.predict(dev)]
        attack = PGD(model, eps=EPS, max_iter=STEPS)
        with Workers(name) as workers:
            times = interleaved(
                {
                    "processes": partial(workers.generate, dev, texts, STEPS),
                    "alone": partial(one_by_one, attack, dev, texts),
                    "one thread": partial(with_one_thread, partial(one_by_one, attack, dev, texts)),
                },
                rounds,
            )
            # What a second thread gains, processes cannot: their ratio is at least this one over their number.
            threads = f"by {torch.get_num_threads()} threads"
            rows.append(
                row("16 ragged utterances, by one thread", name, times["one thread"], times["alone"], threads, "")
            )
            against = f"one by one; {workers.processes} processes"
            rows.append(
                row("16 ragged utterances, by processes", name, times["processes"], times["alone"], against, "<= 0.6")
            )
            if name == "MG-MDNF":
                x = speech(4)
                text = str(model.predict(x)[0])
                single = PGD(model, eps=EPS, max_iter=1)
                times = interleaved(
                    {
                        "eot": partial(workers.mean_gradient, x, text, 5),
                        "single": partial(one_by_one, single, 5 * [x], 5 * [text]),
                    },
                    rounds,
                )
                against = f"five single steps; {workers.processes} processes"
                rows.append(
                    row("EOT, K = 5, 4 s, by processes", name, times["eot"], times["single"], against, "<= 0.7")
                )
    return rows


def one_by_one(attack: PGD, utterances: list[np.ndarray], texts: list[str]) -> list[np.ndarray]:
    """The utterances of a batch as single runs."""
    pairs = enumerate(zip(utterances, texts, strict=True))
    return [attack.generate(u, [text], indices=[i]) for i, (u, text) in pairs]


def with_one_thread(run: Callable[[], object]) -> None:
    """Run with one thread of torch's."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run()
    finally:
        torch.set_num_threads(threads)


def growth(rounds: int) -> list[dict[str, Any]]:
    """Seconds and peak memory of a step over the utterance's length."""
    rows = []
    for name in ("none", "MG-MDNF"):
        model = estimator(name)
        attack = PGD(model, eps=EPS, max_iter=1)
        candidates: dict[str, Callable[[], object]] = {}
        for seconds in LENGTHS_S:
            x = speech(seconds)
            text = str(model.predict(x)[0])
            candidates[str(seconds)] = partial(attack.generate, x, [text], indices=[0])
        times = interleaved(candidates, rounds)
        per_second = {s: times[str(s)].median / s for s in LENGTHS_S}
        middle = float(np.median(list(per_second.values())))
        for seconds in LENGTHS_S:
            rows.append(
                {
                    "what": f"step, {seconds} s",
                    "defence": name,
                    "seconds": times[str(seconds)].median,
                    "ratio": per_second[seconds] / middle,
                    "against": "median time a second of audio",
                    "bar": "0.8 to 1.2",
                    "peak memory, MiB": memory.added(name, seconds),
                }
            )
        rows.append(straight_line(name, [times[str(s)].median for s in LENGTHS_S]))
    return rows


def straight_line(name: str, seconds: Sequence[float]) -> dict[str, Any]:
    """How far steps over :data:`LENGTHS_S` are from a constant and a time a second of audio, fitted to their ratios.

    The constant is what a step costs whatever the length: oneDNN packs the recurrent weights anew at every call.
    """
    taken = np.asarray(seconds)
    parts = np.stack([np.ones(len(LENGTHS_S)), np.asarray(LENGTHS_S, float)], 1)
    constant, slope = np.linalg.lstsq(parts / taken[:, None], np.ones_like(taken))[0]
    deviation = taken / (constant + slope * parts[:, 1])
    farthest = float(deviation[np.abs(deviation - 1).argmax()])
    return {
        "what": f"steps over {LENGTHS_S[0]} to {LENGTHS_S[-1]} s, the farthest from a line",
        "defence": name,
        "seconds": float(slope),
        "constant seconds": float(constant),
        "ratio": farthest,
        "against": f"{1000 * constant:.0f} ms and {1000 * slope:.0f} ms a second of audio",
        "bar": "0.8 to 1.2",
    }


def resampling(rounds: int) -> list[dict[str, Any]]:
    """16 -> 22.05 -> 16 kHz, forward and backward, against a step through MelGAN at 16 kHz."""
    x = torch.from_numpy(speech(4))[None]
    lengths = torch.tensor([x.shape[1]])
    model = estimator("MG")
    text = str(model.predict(x.numpy())[0])

    def there_and_back() -> Tensor:
        leaf = x.clone().requires_grad_()
        back, _ = resample(*resample(leaf, lengths, 16000, 22050), 22050, 16000)
        return torch.autograd.grad(back.sum(), leaf)[0]

    step = partial(PGD(model, eps=EPS, max_iter=1).generate, x.numpy(), [text], indices=[0])
    times = interleaved({"resampling": there_and_back, "step": step}, rounds)
    return [row("resampling to 22.05 kHz and back, 4 s", "MG", times["resampling"], times["step"], "a step", "<= 0.05")]


def row(what: str, name: str, ours: Timing, base: Timing, against: str, bar: str) -> dict[str, Any]:
    """One line of the table."""
    median, low, high = ours.ratio(base)
    return {
        "what": what,
        "defence": name,
        "seconds": ours.median,
        "ratio": median,
        "lowest": low,
        "highest": high,
        "against": against,
        "bar": bar,
    }


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


PARTS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    part.__name__: part for part in (step_ratios, cpu_ways, peers, batching, by_processes, growth, resampling)
}


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attack", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/bench/attack.json"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0, help="torch threads, 0: as many as cores")
    text = "only these parts, for a table of their own: give another --out (default: all)"
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help=text)
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []
    for name in args.parts:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += PARTS[name](args.rounds)
    content = {"machine": machine(), "rounds": args.rounds, "steps_a_run": STEPS, "rows": rows}
    write_text(args.out, json.dumps(content, indent=1) + "\n")
    print(bars.table(content))
    return 1 if bars.missed(rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
