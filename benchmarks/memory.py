"""Peak memory of an attack: ``python -m benchmarks.memory DEFENCE SECONDS`` prints MiB."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from armory_mdnf.attacks import PGD
from benchmarks.subjects import EPS, estimator, speech

STEPS = 3


def added(name: str, seconds: float) -> float:
    """Resident memory that some steps add in a fresh process, MiB."""
    command = [sys.executable, "-W", "ignore", "-m", __name__, name, str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    return float(done.stdout.split()[-1])


def added_here(name: str, seconds: float) -> float:
    """The same in this process, which must not have held more before."""
    x, model = speech(seconds), estimator(name)
    attack = PGD(model, eps=EPS, max_iter=STEPS)
    attack.generate(speech(0.5), ["A"], indices=[0])
    before = _most_resident()
    attack.generate(x, ["A"], indices=[0])
    return _most_resident() - before


def _most_resident() -> float:
    """The most memory that this process has held, MiB. getrusage would start from what the parent held."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    print(added_here(sys.argv[1], float(sys.argv[2])))
