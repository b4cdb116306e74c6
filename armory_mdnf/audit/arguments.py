"""The command line of the audit, without what the audit itself loads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from armory_mdnf import console
from armory_mdnf.audit.names import NAMES


def add_audit_command(commands: Any) -> None:
    """``armory-mdnf audit`` with its options."""
    from armory_mdnf.runner.overrides import BATCH_SECONDS

    parser = commands.add_parser(
        "audit",
        help="see whether the result of a configuration's attack can be believed",
        **console.example(
            "armory-mdnf audit scenario_configs/mg_mdnf_pgd_l2.json --only gradient,draws --output audit.json"
        ),
    )
    add = parser.add_argument
    add("config", metavar="CONFIG.json", help="configuration with an untargeted PGD; - reads standard input")
    add(
        "--utterances",
        type=int,
        default=4,
        metavar="N",
        help="the configuration's first N (default 4; a difference may fail from 10)",
    )
    add("--iterations", type=int, default=20, metavar="N", help="the configuration's, but at most N (default 20)")
    add("--draws", metavar="K,...", help="of mean gradients to try (default 1, and twice its own, at least 5)")
    add("--evaluation-draws", type=int, default=3, metavar="N", help="draws that judge an attempt (default 3)")
    add("--only", metavar="CHECK,...", help=f"some of the checks: {', '.join(NAMES)}")
    add("--seed", type=int, metavar="S", help="seed of the run, its defence and its attack")
    add("--device", choices=("cpu", "cuda"), help="(default: what sysconfig.use_gpu says)")
    add("--batch-seconds", type=float, metavar="X", help=f"seconds of audio at once (default {BATCH_SECONDS:g})")
    add("--output", type=Path, metavar="FILE", help="keep the findings as JSON too")
    console.add_json(parser)
    parser.set_defaults(run=_audit)


def _audit(args: argparse.Namespace) -> int:
    from armory_mdnf.audit.command import run

    return run(args)
