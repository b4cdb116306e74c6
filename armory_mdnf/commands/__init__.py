"""The commands for one's own models and recordings, a module each; what they do is elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def add_commands(commands: Any, run: Callable[[Sequence[str], Mapping[str, Any]], int]) -> None:
    """Add them to an argument parser's sub-commands. ``run`` is :data:`armory_mdnf.commands.evaluate.Run`."""
    from armory_mdnf.commands import attack, configs, defend, doctor, evaluate, plot, report, transcribe

    for module in (transcribe, defend, attack, configs, report, plot, doctor):
        module.add_command(commands)
    evaluate.add_command(commands, run)
