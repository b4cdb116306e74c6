"""Import directions, import cycles, and what the core must never load."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import armory_mdnf
from armory_mdnf.evaluation.records import read_record, write_record

ROOT = Path(armory_mdnf.__file__).parent
NAME = "armory_mdnf"

# What each package may import besides itself; the modules at the top (those of SHARED) are for everybody.
ALLOWED: dict[str, set[str]] = {
    "audio": set(),
    "cpu": set(),
    "vocoders": {"audio", "cpu"},
    "asr": {"audio", "cpu"},
    "defenses": {"audio", "vocoders"},
    "attacks": {"audio"},
    "data": {"audio"},
    "metrics": set(),
    "evaluation": {"metrics"},
    "training": {"asr", "attacks", "audio", "data", "defenses", "metrics", "vocoders"},
    "plugin": {"asr", "attacks", "audio", "data"},
    "runner": {"asr", "audio", "cpu", "data", "evaluation", "metrics"},
    "audit": {"asr", "attacks", "audio", "data", "defenses", "metrics", "runner"},
    "checkpoints": {"asr", "vocoders"},
    "commands": {"asr", "attacks", "audio", "data", "evaluation", "metrics", "report", "runner", "vocoders"},
    "report": {"asr", "audio", "audit", "data", "defenses", "evaluation", "metrics", "runner"},
    "cli": {"audit", "checkpoints", "commands", "data", "evaluation", "runner"},
    "errors": set(),
    "locations": set(),
    "options": set(),
    "spoken": set(),
    "console": set(),
    "files": set(),
    "__init__": set(),
}
SHARED = {"console", "errors", "files", "locations", "options", "spoken"}
ONLY_IN_PLUGIN = {"armory", "tensorflow"}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = [NAME, *path.relative_to(ROOT).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: set[str], lazy: bool) -> Iterator[str]:
    """Modules that a file imports; inside functions too if ``lazy``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if lazy else iter(tree.body)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else str(node.module)


MODULES = modules()


def package_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_import_directions(module: str) -> None:
    own = package_of(module)
    assert own in ALLOWED, f"say in ALLOWED what {own} may import"
    for target in imports(MODULES[module], set(MODULES), lazy=True):
        if target.split(".")[0] == NAME:
            package = package_of(target)
            assert package in ALLOWED[own] | SHARED | {own, "__init__"}, f"{module} imports {target}"
        elif own != "plugin":
            assert target.split(".")[0] not in ONLY_IN_PLUGIN, f"{module} imports {target}"


def test_what_is_allowed_is_used() -> None:
    used: dict[str, set[str]] = {name: set() for name in ALLOWED}
    for module, path in MODULES.items():
        inner = {target for target in imports(path, set(MODULES), lazy=True) if target.split(".")[0] == NAME}
        used[package_of(module)] |= {package_of(target) for target in inner}
    assert {name: allowed - used[name] for name, allowed in ALLOWED.items() if allowed - used[name]} == {}


def test_no_import_cycle() -> None:
    known = set(MODULES)
    graph = {m: {t for t in imports(p, known, lazy=True) if t in known and t != m} for m, p in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, (*trail, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    return set(run.stdout.split())


def test_the_package_itself_is_light() -> None:
    assert not loaded_after("import armory_mdnf, armory_mdnf.cli") & {"torch", "art", "numpy", *ONLY_IN_PLUGIN}


def test_a_help_is_quick() -> None:
    assert not loaded_after("from armory_mdnf.cli import build_parser; build_parser()") & {"torch", "art", "scipy"}


@pytest.mark.parametrize("command", ["plot RUN -o OUT.svg", "plot RUN -o OUT.svg --curves", "report RUN -o OUT.html"])
def test_what_is_read_and_drawn_needs_no_torch(command: str, tmp_path: Path) -> None:
    """Of a record that has its weights' checksums, and whose defence draws no noise by a curve."""
    if command.startswith("plot"):
        pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra plot)")
    records = []
    for eps in (0.5, 1.5):
        run = read_record(ROOT.parent / "results" / "human" / "mg_pgd_l2_ours.json")
        attack = run.config["attack"] | {"kwargs": run.config["attack"]["kwargs"] | {"eps": eps}}
        records.append(tmp_path / f"{eps}.json")
        outcomes = run.outcomes[:10]
        config = {**run.config, "attack": attack}
        write_record(records[-1], replace(run, outcomes=outcomes, config=config, weights={"ds2_mg": "0" * 64}))
    words = command.replace("OUT", str(tmp_path / "out")).split()
    words[1:2] = map(str, records)
    statement = f"from armory_mdnf import cli; assert cli.main({words!r}) == 0"
    assert not loaded_after(statement) & {"torch", "art"}


def test_the_core_loads_neither_armory_nor_tensorflow_nor_transformers() -> None:
    core = [m for m in MODULES if package_of(m) not in {"plugin", "training"}]
    assert not loaded_after(f"import {', '.join(sorted(core))}") & {*ONLY_IN_PLUGIN, "transformers"}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_modules_are_short(module: str) -> None:
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= 400


def test_the_picture_in_the_docs_is_the_table() -> None:
    """Its arrows are allowed imports, and following them leads to all that are."""
    text = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    (picture,) = re.findall(r"```mermaid\n(.*?)```", text, re.DOTALL)
    arrows: dict[str, set[str]] = {}
    for first, second in re.findall(r"(\w+) --> (\w+)", picture):
        arrows.setdefault(first, set()).add(second)
    (everybody,) = re.findall(r"((?:`\w+`,?\s(?:and\s)?)+)are for everybody", text)
    assert set(re.findall(r"\w+(?=`)", everybody)) == SHARED
    table = {name: allowed for name, allowed in ALLOWED.items() if name not in {*SHARED, "__init__"}}
    assert [(a, b) for a, below in arrows.items() for b in below if b not in table[a]] == []

    def below(name: str) -> set[str]:
        return set().union(*({inner, *below(inner)} for inner in arrows.get(name, ())))

    assert [(a, b) for a, allowed in table.items() for b in allowed if b not in below(a)] == []
