"""What a configuration names by module and name, in this package or anywhere else, and how it is called."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from armory_mdnf.errors import ArmoryMdnfError, OptionError, quoted, refuse_unknown, shown, traced
from armory_mdnf.files.provenance import of_sources, sha256_of
from armory_mdnf.runner.config import Config, as_list, component

OURS = "armory_mdnf"
SHOWN = 12  # names of a module in a message
KNOWN = (OURS, "art")
"""Packages of which :func:`own_code`, or the version, says what the code is; of other modules the file's checksum."""
# What no run imports: it presents, trains or imports weights, which have checksums of their own. `evaluation` counts
# words, so that it is none of these.
APART = ("audit", "checkpoints", "cli", "commands", "report", "training")


def is_ours(thing: object) -> bool:
    """Whether a module's name, a function, a class or an object is of this package."""
    home = thing if isinstance(thing, str) else getattr(thing, "__module__", None) or type(thing).__module__
    return home == OURS or home.startswith(f"{OURS}.")


def import_from(folders: Sequence[str]) -> None:
    """Let modules be found in these folders and in the working directory, as in ``armory run``; last of all places."""
    for folder in (*folders, str(Path.cwd())):
        if folder not in sys.path:
            sys.path.append(folder)


def find(block: Config, what: str) -> Any:
    """The object of a block. Raises :class:`OptionError` naming the key for a module or name that is not there."""
    try:
        module = importlib.import_module(block["module"])
    except (Exception, SystemExit) as error:  # a module that is there can fail in any way
        missing = isinstance(error, ModuleNotFoundError) and block["module"].startswith(str(error.name))
        why = f"no module {shown(block['module'])}" if missing else f"{shown(block['module'])} cannot be imported"
        raise OptionError(f"{what}.module: {why}: {traced(error)}") from error
    found = getattr(module, block["name"], None)
    if found is None:
        own = {k: v for k, v in vars(module).items() if callable(v) and not k.startswith("_")}
        public = [k for k, v in own.items() if str(getattr(v, "__module__", "")).startswith(module.__name__)]
        near = difflib.get_close_matches(block["name"], public, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else f", which has {', '.join(sorted(public)[:SHOWN]) or 'none'}"
        # A file of that name may lie elsewhere too.
        file = None if is_ours(block["module"]) else getattr(module, "__file__", None)
        where = f" ({shown(file, 200)})" if file else ""
        raise OptionError(f"{what}.name: no {quoted(block['name'])} in {block['module']}{where}{hint}")
    return found


def find_dotted(name: str, what: str) -> Any:
    """The object of a dotted name, which may lead through attributes of a module. Raises :class:`OptionError`."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        except (Exception, SystemExit) as error:  # as in `find`
            raise OptionError(f"{what}: {shown(name)} cannot be imported: {traced(error)}") from error
        for part in parts[length:]:
            found = getattr(found, part, None)
        if callable(found):
            return found
        break
    raise OptionError(f"{what}: {shown(name)} is no function that can be imported")


def make(function: Any, kwargs: Mapping[str, Any], name: str, *args: Any) -> Any:
    """``function(*args, **kwargs)``, where the keywords are those of a configuration.

    Raises :class:`OptionError` for an unknown keyword, with the nearest match, and for what the function itself
    raises; this package's errors say enough as they are.
    """
    check_kwargs(function, kwargs, name, taken=len(args))
    try:
        return function(*args, **kwargs)
    except ArmoryMdnfError:
        raise
    except Exception as error:  # of somebody else's code
        given = ", ".join(f"{key}={quoted(value, 40)}" for key, value in kwargs.items())
        what = f"does not take {given}" if given else "cannot be made without options"
        raise OptionError(f"{name} {what}: {traced(error)}") from error


def theirs(config: Config, skip_attack: bool = False) -> str:
    """Names of the components that run in an evaluation and are not of this package; empty where there is none."""
    attack = None if skip_attack else config["attack"]
    blocks = {"model": config["model"], "defense": config["defense"], "attack": attack}
    return " or ".join(f"{what} {component(b)}" for what, b in blocks.items() if b and not is_ours(b["module"]))


def check_kwargs(function: Any, kwargs: Mapping[str, Any], name: str, taken: int = 0) -> None:
    """Raise :class:`OptionError` for a keyword that a function does not take; ``taken``: arguments given otherwise."""
    known = parameters(function)
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
        return
    refuse_unknown(kwargs, list(known)[taken:], name)


def parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Parameters of a function, or of a class's constructor without ``self``; none if it does not tell."""
    made = function.__init__ if inspect.isclass(function) else function  # a metaclass may stand in front of it
    try:
        found = dict(inspect.signature(made).parameters)
    except (TypeError, ValueError):  # of a built-in
        return {}
    if inspect.isclass(function):
        found.pop("self", None)
    return found


def files_of(components: Sequence[Any]) -> dict[str, str]:
    """SHA-256 of the files that components say their results depend on, by the names that they give them.

    A component says so by ``file_checksums()``, a mapping of names to checksums.
    """
    found: dict[str, str] = {}
    for thing in components:
        if callable(listing := getattr(thing, "file_checksums", None)):
            found |= listing()
    return found


@functools.cache
def own_code() -> str:
    """SHA-256 of the sources of this package that can change what a run finds, as they are when first asked for."""
    return of_sources(Path(__file__).parents[1], APART)


def others(config: Config) -> list[Config]:
    """The blocks of what else a run's lines may hang on: dotted names of perturbation metrics, and ``user_init``.

    Those of tasks follow from the transcripts, when all is done.
    """
    found = [_dotted(name) for name in as_list(config["metric"]["perturbation"]) if "." in name]
    return [*found, *([config["user_init"]] if (config.get("user_init") or {}).get("module") else [])]


def _dotted(name: str) -> Config:
    """The block of a dotted name, which may lead through a class: its module is the longest part that is one."""
    parts = name.split(".")
    lengths = range(len(parts) - 1, 0, -1)
    length = next((n for n in lengths if ".".join(parts[:n]) in sys.modules), len(parts) - 1)
    return {"module": ".".join(parts[:length]), "name": parts[length]}


def blocks_of(config: Config) -> list[Config]:
    """Every block of a configuration that names a module."""
    components = [config[name] for name in ("dataset", "model", "defense", "attack")]
    components.append((config["attack"] or {}).get("targeted_labels"))
    return [*filter(None, components), *others(config)]


def code_of(blocks: Sequence[Config | None]) -> dict[str, str]:
    """SHA-256 of this package's code, and of modules outside :data:`KNOWN` that blocks name, once they are imported.

    And of those that define what the blocks name, and the classes that it is made from; not of what these import.
    """
    found = {OURS: own_code()}
    for home in (home for block in filter(None, blocks) for home in _homes(block)):
        file = getattr(sys.modules.get(home), "__file__", None)
        if file and home.split(".")[0] not in KNOWN:
            found[home] = sha256_of(file)
    return found


def _homes(block: Config) -> list[str]:
    """The module that a block names, and those that define what it names there, which may be handed on only."""
    named = getattr(sys.modules.get(block["module"]), block.get("name") or "", None)
    defining = [str(getattr(kind, "__module__", OURS)) for kind in getattr(named, "__mro__", (named,))]
    # What Python brings is known by its version.
    return [block["module"], *(home for home in defining if home.split(".")[0] not in sys.stdlib_module_names)]
