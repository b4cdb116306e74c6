"""The commands for one's own models and recordings, a module each; what they do is elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def add_commands(commands: Any, run: Callable[[Sequence[str]], int]) -> None:
    """Add them to an argument parser's sub-commands. ``run`` runs a configuration as ``armory-mdnf run`` does."""
    from armory_mdnf.commands import attack, configs, defend, doctor, evaluate, plot, report, transcribe

    for module in (transcribe, defend, attack, configs, report, plot, doctor):
        module.add_command(commands)
    evaluate.add_command(commands, run)
