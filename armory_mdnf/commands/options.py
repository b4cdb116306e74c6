"""Options that several commands have, and how they print."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from armory_mdnf.commands.blocks import ATTACKS, DEFAULT_MODEL, DEFENSES, FINE_TUNED, Block, attack_block

PROGRESS_AFTER_S = 5.0


def add_model(
    parser: argparse.ArgumentParser, default: str = DEFAULT_MODEL, seeds: str = "the defence's noise"
) -> None:
    """``--model``, ``--defense``, ``--device``, ``--seed``, which is of ``seeds``."""
    add = parser.add_argument
    add(
        "--model",
        metavar="NAME",
        help=f"bundled weights, a .safetensors file, a folder of Hugging Face's, or hf:NAME (default: {default}; "
        f"behind HiFi-GAN {FINE_TUNED['hg']}, behind other vocoders {FINE_TUNED['mg']})",
    )
    add_defense(parser, "none")
    add("--device", choices=("cpu", "cuda"), help="(default: cuda where there is one)")
    add("--seed", type=int, default=0, metavar="S", help=f"of {seeds} (default 0)")


def add_defense(parser: argparse.ArgumentParser, default: str) -> None:
    """``--defense``."""
    parser.add_argument(
        "--defense",
        default=default,
        metavar="NAME",
        help=f"{', '.join(DEFENSES)}; with options as in mg_mdnf,noise_level=40; or a configuration's FILE.json "
        f"(default: {default})",
    )


def add_attack(parser: argparse.ArgumentParser, *others: str) -> None:
    """``--attack`` and what it takes; ``others``: further names that the command knows."""
    add = parser.add_argument
    add("--attack", default="pgd-l2", metavar="NAME", help=f"{', '.join([*ATTACKS, *others])} (default: pgd-l2)")
    add("--eps", type=float, metavar="E", help="l2 or l-infinity bound, full scale being 1 (default: the paper's)")
    add("--snr-db", type=float, metavar="D", help="bound of pgd-snr in decibels (default: the paper's)")
    add("--steps", type=int, metavar="N", help="iterations (default: the paper's)")
    add("--eot", type=int, default=1, metavar="K", help="noise draws whose mean gradient is followed (default 1)")
    text = "exact, or published: the loss at one draw, pulled back through another (default: exact)"
    add("--gradient", default="exact", metavar="NAME", help=text)


def add_piece_seconds(parser: argparse.ArgumentParser) -> None:
    """``--piece-seconds``."""
    parser.add_argument(
        "--piece-seconds",
        type=float,
        default=20.0,
        metavar="X",
        help="longer recordings are cut where they are quiet, into pieces of at most X seconds (default 20)",
    )


def chosen_attack(args: argparse.Namespace, targeted: bool) -> Block:
    """The block of the attack that ``--seed`` and the options of :func:`add_attack` describe."""
    return attack_block(
        args.attack,
        eps=args.eps,
        snr_db=args.snr_db,
        steps=args.steps,
        eot=args.eot,
        gradient=args.gradient,
        targeted=targeted,
        seed=args.seed,
    )


class Progress:
    """A bar on standard error for what takes more than five seconds; nothing for what is quicker."""

    def __init__(self, total: int | None, what: str) -> None:
        from tqdm import tqdm

        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            desc=what,
            file=sys.stderr,
            delay=PROGRESS_AFTER_S,
            ascii=not terminal,
            # Elsewhere each state of the bar is a line that stays.
            mininterval=0.2 if terminal else PROGRESS_AFTER_S,
            maxinterval=PROGRESS_AFTER_S,
            leave=False,
        )

    def step_of(self, total: int) -> None:
        """One more is done, of a number that was not known before."""
        self._bar.total = total
        self._bar.update()

    def step(self, count: int = 1) -> None:
        """So much more is done."""
        self._bar.update(count)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values in two columns."""
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0) + 3
    return "\n".join(f"{name:{width}}{value}".rstrip() for name, value in rows)
