"""The audit: its checks in their order, on the same utterances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from armory_mdnf.audit.differences import check_gradient
from armory_mdnf.audit.findings import FAIL, Finding
from armory_mdnf.audit.gradients import check_draws, check_published
from armory_mdnf.audit.names import NAMES
from armory_mdnf.audit.strength import check_adaptive, check_budget, check_convergence, check_headline, check_steps
from armory_mdnf.audit.trials import Trials
from armory_mdnf.errors import AttackError, AudioError, OptionError, TranscriptError, choices


@dataclass(frozen=True)
class Options:
    """``draws``: of the EOT attacks that are tried beside the configuration's own. ``iterations_asked``: its own."""

    draws: tuple[int, ...] = (1, 5)
    iterations_asked: int = 100


_FUNCTIONS: tuple[Callable[[Trials, Options], Finding], ...] = (
    lambda trials, options: check_gradient(trials),
    lambda trials, options: check_draws(trials),
    lambda trials, options: check_published(trials, options.iterations_asked),
    lambda trials, options: check_convergence(trials, options.draws, options.iterations_asked),
    lambda trials, options: check_budget(trials, options.iterations_asked),
    lambda trials, options: check_adaptive(trials, options.iterations_asked),
    lambda trials, options: check_steps(trials, options.iterations_asked),
    lambda trials, options: check_headline(trials),
)
CHECKS = dict(zip(NAMES, _FUNCTIONS, strict=True))
"""By the name that the command line gives them, in the order in which they are made: the last judges what was tried."""


def audit(
    trials: Trials,
    options: Options,
    only: Sequence[str] = tuple(CHECKS),
    tell: Callable[[str], None] = lambda name: None,
) -> Iterator[Finding]:
    """Findings of the checks, all or ``only`` some, in their order. ``tell`` hears of each before it begins.

    A check that the attack or a defence breaks down in fails, and says with what; the others are made all the same.
    Raises :class:`OptionError` for another name.
    """
    for name in only:
        if name not in CHECKS:
            raise OptionError(choices(name, CHECKS, "check"))
    for name, check in CHECKS.items():
        if name not in only:
            continue
        tell(name)
        try:
            yield check(trials, options)
        except AttackError as error:
            advice = "See what the gradient check says of the gradient; without one there is no attack to judge."
            yield Finding(name, FAIL, f"The attack broke down: {error}.", {}, advice)
        except (AudioError, TranscriptError) as error:
            advice = (
                "What is made of audio inside the bound, or ten times it, has to be finite and of its length. A "
                "run leaves such utterances out, and its result is of the others."
            )
            yield Finding(name, FAIL, f"The defended recogniser broke down: {error}.", {}, advice)
