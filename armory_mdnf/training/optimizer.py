"""The optimizer of a recogniser's recipe, and its schedule."""

from __future__ import annotations

import math

import torch

from armory_mdnf.asr.bundled import BundledRecognizer
from armory_mdnf.errors import OptionError, quoted
from armory_mdnf.training.recipe import Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up to the peak, then a half cosine down to the final rate."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    peak, final = recipe.learning_rate, recipe.final_learning_rate
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * done))


def make_optimizer(recipe: Recipe, recognizer: BundledRecognizer) -> torch.optim.Optimizer:
    """AdamW over what is not frozen, whose groups keep the ratio of their learning rate to the recipe's.

    Raises :class:`OptionError` for a name of ``frozen`` that no weight begins with, and for a ``layer_decay`` that
    would change nothing.
    """
    names = [name for name, _ in recognizer.network.named_parameters()]
    if recipe.layer_decay != 1 and not any(map(recognizer.layers_above, names)):
        found = f"which has no stack of layers, got {recipe.layer_decay}"
        raise OptionError(f"{recipe.name}: layer_decay: expected 1 for a {recognizer.kind}, {found}")
    for prefix in recipe.frozen:
        if not any(name.startswith(prefix) for name in names):
            first = ", ".join(sorted({name.rpartition(".")[0] for name in names})[:8])
            raise OptionError(f"{recipe.name}: frozen: no weight begins with {quoted(prefix)}; they are in {first} ...")
    head = set() if recipe.head_learning_rate is None else {id(p) for p in recognizer.head.parameters()}
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in recognizer.network.named_parameters():
        if any(name.startswith(prefix) for prefix in recipe.frozen):
            parameter.requires_grad_(False)
        elif id(parameter) not in head:
            groups.setdefault(recipe.layer_decay ** recognizer.layers_above(name), []).append(parameter)
    chosen = [{"params": parameters, "ratio": ratio} for ratio, parameters in groups.items()]
    if head:
        ratio = (recipe.head_learning_rate or 0.0) / recipe.learning_rate
        chosen.append({"params": list(recognizer.head.parameters()), "ratio": ratio})
    return torch.optim.AdamW(chosen, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
