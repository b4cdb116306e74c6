"""Speed of an attack's step on a GPU: ``python -m benchmarks.gpu --out results/bench/gpu.json``.

A step is one of l2 PGD through MDNF with MelGAN at 22.05 kHz and DeepSpeech2, utterances side by side. Throughput is
that of random weights of the full size: it does not depend on their values. Whether a precision changes word error rate
and SNR is asked of the bundled recogniser and vocoder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from armory_mdnf.asr.estimator import RecognizerEstimator
from armory_mdnf.attacks.geometry import L2
from armory_mdnf.attacks.gradient import LossGradient
from armory_mdnf.attacks.pgd import Batch, Descent
from armory_mdnf.audio.files import read_audio
from armory_mdnf.data.bundled import load_split
from armory_mdnf.defenses import MDNF
from armory_mdnf.errors import ArmoryMdnfError, AttackError, OptionError
from armory_mdnf.evaluation.tables import markdown
from armory_mdnf.files.atomic import write_text
from armory_mdnf.metrics.perturbation import snr_db
from armory_mdnf.metrics.wer import word_error_rate
from armory_mdnf.runner.evaluate import ADVERSARIAL, BENIGN
from benchmarks.attack import machine
from benchmarks.gpu_step import alone, build, count_flops, networks, parts, precision, utterances
from benchmarks.subjects import EPS
from benchmarks.timing import interleaved

PRECISIONS = ("float32", "TF32", "bfloat16")
OUT_OF_MEMORY = "out of memory"
STEPS = 4
SNR_TOLERANCE_DB = 0.1
# Dense peaks in TFLOP/s by the makers' data sheets and the driver's exact name: a PCIe card or a slice has others.
_HOPPER_SXM = {"float32": 67.0, "TF32": 494.0, "bfloat16": 989.0}
PEAKS = {"NVIDIA H100 80GB HBM3": _HOPPER_SXM, "NVIDIA H200": _HOPPER_SXM}
NOTES = (
    "throughput: random weights of the full size, seeded; it does not depend on the values",
    "float32: TF32 off; TF32: for everything, and nothing changes off CUDA; bfloat16: weights and activations of "
    "DeepSpeech2 and MelGAN, but batch norm's weights; STFT, log mel, resampling and CTC in float32 without TF32",
    "FLOPs: multiplications and additions of convolutions and matrices, those of the LSTM in closed form, none of FFTs "
    "and elementwise operations; backward passes to the audio only",
    "parts are run alone, forward and backward, on what the part before gives; rest: the step without them",
    "device busy: the kernels' time in the profiler over the step's time without it",
)


def attempt(run: Callable[[], Any], device: str) -> tuple[Any, str | None, float | None]:
    """What it returns; what went wrong, in a line, None if nothing; and on CUDA the peak memory in GiB."""
    cuda, result, problem = device != "cpu", None, None
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        result = run()
        if cuda:
            torch.cuda.synchronize()
    except (RuntimeError, AttackError) as error:
        text = str(error)
        short = "out of memory" in text.lower() or "ALLOC_FAILED" in text or "can't allocate memory" in text
        problem = OUT_OF_MEMORY if short else f"{type(error).__name__}: {(text.splitlines() or [''])[0]}"
    return result, problem, torch.cuda.max_memory_allocated() / 2**30 if cuda else None


def kernels(run: Callable[[], object], device: str) -> dict[str, float]:
    """Milliseconds of each kernel (on a CPU: operation) during a run by the profiler, the longest first."""
    cuda = device != "cpu"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        run()
        if cuda:
            torch.cuda.synchronize()
    kind = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU
    events: list[Any] = [e for e in profiler.key_averages() if e.device_type == kind and not e.is_user_annotation]
    times = {e.key: (e.self_device_time_total if cuda else e.self_cpu_time_total) / 1e3 for e in events}
    return dict(sorted(times.items(), key=lambda item: -item[1]))


def peak(name: str, device: str) -> float | None:
    """The card's peak in a precision, TFLOP/s; None for a card that is not in the table."""
    return None if device == "cpu" else PEAKS.get(torch.cuda.get_device_name(), {}).get(name)


def throughput(
    name: str, runs: dict[int, Callable[[], object]], flops: int, rounds: int, device: str
) -> list[dict[str, Any]]:
    """A row a batch, timed in turn with batch 1. ``runs``: of :data:`STEPS` steps; ``flops``: of one utterance's."""
    most = peak(name, device)
    rows = []
    for n, run in runs.items():
        pair = {"1": runs[1], str(n): run}
        times, problem, memory = attempt(partial(interleaved, pair, rounds), device)
        row: dict[str, Any] = {"precision": name, "batch": n, "problem": problem, "peak memory, GiB": memory}
        if problem is None:
            seconds = times[str(n)].median / STEPS
            ratio, low, high = times[str(n)].ratio(times["1"])
            row |= {"ms a step": 1e3 * seconds, "utterance-steps a second": n / seconds}
            row |= {"against batch 1": n / ratio, "lowest": n / high, "highest": n / low}
            row |= {"TFLOP/s": flops * n / seconds / 1e12}
            row["share of peak"] = row["TFLOP/s"] / most if most else None
        rows.append(row)
    return rows


def dissect(
    estimator: RecognizerEstimator, computing: Sequence[Any], batch: Batch, flops: dict[str, int], rounds: int
) -> dict[str, Any]:
    """Where the time of a step goes: by part, by kernel, and how long the device is busy."""
    device, n = batch.x.device.type, len(batch.targets)
    step, once = "whole step", partial(Descent(L2(EPS), LossGradient(), 1), estimator, batch)
    times = interleaved({step: once} | alone(parts(estimator, computing, batch), batch.x), rounds)
    ms = {part: 1e3 * time.median for part, time in times.items()}
    # Not every place lets a profiler see the card.
    found = attempt(partial(kernels, once, device), device)[0] if device != "cpu" else None
    return {
        "ms by part": ms | {"rest": 2 * ms[step] - sum(ms.values())},
        "TFLOP/s by part": {part: count * n / ms[part] / 1e9 for part, count in flops.items()},
        "device busy": sum(found.values()) / ms[step] if found else None,
        "ms a step by kernel": dict(list(found.items())[:12]) if found else None,
    }


def measure(
    name: str, estimator: RecognizerEstimator, batches: dict[int, Batch], flops: dict[str, int], rounds: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Throughput at each batch in a precision; and a dissection of the smallest and the largest that fit."""
    device, limits = estimator.device.type, []
    descent = Descent(L2(EPS), LossGradient(), STEPS)
    with precision(name, *networks(estimator)) as computing:
        runs: dict[int, Callable[[], object]] = {n: partial(descent, estimator, b) for n, b in batches.items()}
        rows = throughput(name, runs, sum(flops.values()), rounds, device)
        fit = [row["batch"] for row in rows if row["problem"] is None]
        for n in sorted({*fit[:1], *fit[-1:]}):
            look = partial(dissect, estimator, computing, batches[n], flops, rounds)
            found, problem, _ = attempt(look, device)
            limits.append({"precision": name, "batch": n, "problem": problem} | (found or {}))
    return rows, limits


def outcome(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Word error rates and mean SNR of the bundled MG-MDNF under a short attack in a precision."""
    kind = "cpu" if args.device == "cpu" else "gpu"
    estimator = RecognizerEstimator("ds2_mg", [MDNF("melgan", device_type=kind)], device_type=kind)
    split = load_split("human", "dev")[: args.utterances]
    descent, texts, ratios = Descent(L2(EPS), LossGradient(), args.steps), [], []
    with precision(name, *networks(estimator)):
        for i, u in enumerate(split):  # one by one: side by side, the walk over ragged batches skips the bfloat16 copy
            x = torch.from_numpy(read_audio(u.path)[0])[None].to(estimator.device)
            lengths = torch.tensor([x.shape[1]], device=estimator.device)
            x_adv = descent(estimator, Batch(x, lengths, estimator.encode([u.transcript], 1), [i]))
            pair = ((x, BENIGN), (x_adv, ADVERSARIAL))
            texts.append([estimator.transcribe(audio, lengths, [(i, purpose)])[0] for audio, purpose in pair])
            ratios.append(snr_db(x.cpu().numpy(), x_adv.cpu().numpy()) or 0.0)
    benign, attacked = (word_error_rate([u.transcript for u in split], list(t)) for t in zip(*texts, strict=True))
    return {"benign WER": benign, "WER under attack": attacked, "SNR, dB": sum(ratios) / len(ratios)}


def same(found: dict[str, Any], reference: dict[str, Any], tolerance: float) -> bool | None:
    """Whether word error rates (fractions) and SNR are those of float32; None if one could not be found."""
    if found["problem"] or reference["problem"]:
        return None
    within = {"benign WER": tolerance, "WER under attack": tolerance, "SNR, dB": SNR_TOLERANCE_DB}
    return all(abs(found[key] - reference[key]) <= limit for key, limit in within.items())


def main(argv: list[str] | None = None) -> int:
    """Command line. Returns 2 for options that cannot be met, 1 if something failed other than for want of memory."""
    args = _parser().parse_args(argv)
    try:
        _check(args)
    except ArmoryMdnfError as error:
        print(f"benchmarks.gpu: error: {error}", file=sys.stderr)
        return 2
    estimator = build(args.device, args.hidden, args.layers, args.channels)
    batches = {n: utterances(estimator, n, args.seconds) for n in sorted({1, *args.batches})}
    flops = count_flops(estimator, batches[1])
    content: dict[str, Any] = {"machine": machine() | device_facts(args.device), "notes": NOTES}
    content["options"] = {key: value for key, value in vars(args).items() if key != "out"}
    content |= {"FLOPs of an utterance-step": flops, "rows": [], "where the time goes": [], "outcomes": {}}
    for name in PRECISIONS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows, limits = measure(name, estimator, batches, flops, args.rounds)
        found, problem, _ = attempt(partial(outcome, name, args), args.device)
        content["outcomes"][name] = (found or {}) | {"problem": problem}
        verdict = same(content["outcomes"][name], content["outcomes"]["float32"], args.wer_tolerance)
        content["rows"] += [row | {"WER and SNR stay the same": verdict} for row in rows]
        content["where the time goes"] += limits
        write_text(args.out, json.dumps(content, indent=1) + "\n")  # now: what is measured stays, whatever comes next
    print(table(content))
    every = [*content["rows"], *content["where the time goes"], *content["outcomes"].values()]
    return int(any(found["problem"] not in (None, OUT_OF_MEMORY) for found in every))


def device_facts(device: str) -> dict[str, Any]:
    """What else the numbers depend on: an LSTM that cuDNN does not take runs cell by cell."""
    cuda = device != "cpu"
    taken = bool(torch.cudnn_is_acceptable(torch.empty(1, device=device, dtype=torch.bfloat16))) if cuda else None
    return {
        "device": device,
        "cuDNN": torch.backends.cudnn.version() if cuda else None,
        "bfloat16 LSTM by cuDNN": taken,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, default=Path("results/bench/gpu.json"))
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--rounds", type=int, default=9, help=f"timed runs of {STEPS} steps (default 9)")
    add("--batches", type=int, nargs="+", default=[1, 8, 32, 128], metavar="N", help="utterances side by side; and 1")
    add("--seconds", type=float, default=4.0, help="length of an utterance (default 4)")
    add("--hidden", type=int, default=1024, help="width of DeepSpeech2 (default 1024)")
    add("--layers", type=int, default=5, help="recurrent layers of DeepSpeech2 (default 5)")
    add("--channels", type=int, default=512, help="channels of MelGAN, a multiple of 16 (default 512)")
    add("--utterances", type=int, default=16, help="dev utterances to compare precisions on (default 16)")
    add("--steps", type=int, default=10, help="steps of the attack on them (default 10)")
    add("--wer-tolerance", type=float, default=0.02, help="difference that counts as none, a fraction (default 0.02)")
    return parser


def _check(args: argparse.Namespace) -> None:
    if args.device == "cuda" and not torch.cuda.is_available():
        raise OptionError("no CUDA device here: give --device cpu, with small sizes, to see that everything runs")
    for name in ("rounds", "hidden", "layers", "utterances", "steps"):
        if getattr(args, name) < 1:
            raise OptionError(f"expected --{name} to be at least 1, got {getattr(args, name)}")
    if min(args.batches) < 1:
        raise OptionError(f"expected --batches of at least 1, got {args.batches}")
    if args.channels < 16 or args.channels % 16:
        raise OptionError(f"expected --channels to be a multiple of 16, got {args.channels}")
    if not 0.5 <= args.seconds <= 60:
        raise OptionError(f"expected --seconds between 0.5 and 60, got {args.seconds:g}")


def table(content: dict[str, Any]) -> str:
    """Markdown tables of a results file: throughput, where the time goes, what a precision changes."""
    heads = ("utterance-steps a second", "against batch 1", "TFLOP/s", "share of peak", "peak memory, GiB")
    rows: list[list[object]] = []
    for r in content["rows"]:
        verdict = {None: "not known", True: "yes", False: "NO"}[r["WER and SNR stay the same"]]
        cells = [
            _number(r.get(key), form) for key, form in zip(heads, (".2f", ".2f", ".3f", ".1%", ".2f"), strict=True)
        ]
        rows.append([r["precision"], r["batch"], r["problem"] or cells[0], *cells[1:], verdict])
    tables = [_table(rows, "precision", "batch", *heads, "same WER and SNR")]
    rows = []
    for r in content["where the time goes"]:
        where, ms = (r["precision"], r["batch"]), r.get("ms by part", {})
        for part, value in ms.items():
            share = f"{value / ms['whole step']:.1%}"
            rows.append([*where, part, f"{value:.2f}", share, _number(r["TFLOP/s by part"].get(part), ".3f")])
        rows.append([*where, r["problem"] or "device busy", "", _number(r.get("device busy"), ".1%"), ""])
    tables.append(_table(rows, "precision", "batch", "part", "ms a step", "share", "TFLOP/s"))
    rows = []
    for name, found in content["outcomes"].items():
        cells = [_number(found.get(key), form) for key, form in (("benign WER", ".1%"), ("WER under attack", ".1%"))]
        rows.append([name, *cells, found["problem"] or f"{found['SNR, dB']:.2f}"])
    tables.append(_table(rows, "precision", "benign WER", "WER under attack", "SNR, dB"))
    return "\n\n".join(tables)


def _table(rows: list[list[object]], *header: str) -> str:
    return markdown([[str(cell) for cell in row] for row in rows], header)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


if __name__ == "__main__":
    raise SystemExit(main())
