"""Write docs/api.md from the public docstrings, or with --check say that it is out of date.

    python tools/write_api.py [--check]

Sources are read and not imported, so that what is written depends on them alone.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "api.md"
# In the order in which data flow. What is not here may change without notice.
PARTS = {
    "Recognisers": ("asr.contract", "asr.estimator", "asr.checkpoints"),
    "Defences": (
        *("defenses.base", "defenses.mel_resynth", "defenses.mdnf", "defenses.randomized_smoothing"),
        *("defenses.curves", "vocoders.base"),
    ),
    "Attacks": ("attacks.evasion", "attacks.geometry", "attacks.recognizer"),
    "Data": ("data.bundled", "data.own", "data.saved", "data.selection", "audio.recordings"),
    "Metrics": ("metrics.wer", "metrics.cer", "metrics.perturbation", "metrics.intervals"),
    "Results": (
        "evaluation.records",
        "evaluation.names",
        "evaluation.comparison",
        "evaluation.paper",
        "report.runs",
        "report.page",
    ),
    "What a configuration names": (
        *("plugin.datasets", "plugin.model", "plugin.attacks", "plugin.targets", "plugin.metrics", "plugin.seeding"),
    ),
    "Errors": ("errors",),
}
HEAD = """# API reference

Written from the docstrings by `tools/write_api.py`; a test holds the two together. Shapes, units and errors are in the
text of each name. The command line is not here: `armory-mdnf COMMAND --help`.
"""
ROLE = re.compile(r":\w+:`~?\.?([^`]+)`")


def main() -> int:
    """Write the page, or compare. Returns 0, or 1 if it is out of date."""
    text = page()
    if "--check" in sys.argv[1:]:
        if not OUT.is_file() or OUT.read_text(encoding="utf-8") != text:
            print(f"{OUT.relative_to(ROOT)} is out of date: run python tools/write_api.py", file=sys.stderr)
            return 1
        return 0
    OUT.write_text(text, encoding="utf-8")
    return 0


def page() -> str:
    """All of it."""
    blocks = [HEAD]
    for title, modules in PARTS.items():
        blocks.append(f"## {title}\n")
        blocks += [module_text(name) for name in modules]
    return "\n".join(blocks)


def module_text(name: str) -> str:
    """A module: what it is for, and its public classes, functions and documented constants."""
    path = (ROOT / "armory_mdnf" / name.replace(".", "/")).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    blocks = [f"### `armory_mdnf.{name}`\n", f"{prose(ast.get_docstring(tree) or '')}\n"]
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            blocks += described(node)
    return "\n".join(blocks)


def described(node: ast.ClassDef | ast.FunctionDef) -> Iterator[str]:
    """A class with its public methods, or a function."""
    doc = ast.get_docstring(node)
    if doc is None:
        return
    if isinstance(node, ast.FunctionDef):
        yield f"#### `{signature(node)}`\n\n{prose(doc)}\n"
        return
    made = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    yield f"#### `class {signature(made, node.name) if made else node.name + fields(node)}`\n\n{prose(doc)}\n"
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_") and ast.get_docstring(inner):
            is_property = any(isinstance(d, ast.Name) and d.id == "property" for d in inner.decorator_list)
            head = f"{node.name}.{inner.name}" if is_property else signature(inner, f"{node.name}.{inner.name}")
            yield f"- `{head}`: {' '.join(prose(ast.get_docstring(inner) or '').split())}\n"


def signature(node: ast.FunctionDef, name: str = "") -> str:
    """Name and arguments on one line, without ``self``."""
    arguments = ast.parse(ast.unparse(node)).body[0]
    assert isinstance(arguments, ast.FunctionDef)
    if arguments.args.args and arguments.args.args[0].arg in ("self", "cls"):
        del arguments.args.args[0]
    gives = f" -> {ast.unparse(node.returns)}" if node.returns is not None and node.name != "__init__" else ""
    return f"{name or node.name}({ast.unparse(arguments.args)}){gives}"


def fields(node: ast.ClassDef) -> str:
    """The fields of a dataclass, as arguments; nothing of another class."""
    if not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return ""
    found = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    shown = ", ".join(ast.unparse(n) for n in found if not str(ast.unparse(n.target)).startswith("_"))
    return f"({shown.replace('lambda :', 'lambda:')})"  # Python 3.10 writes the space


def prose(doc: str) -> str:
    """A docstring as Markdown."""
    return ROLE.sub(r"`\1`", doc).replace("``", "`")


if __name__ == "__main__":
    sys.exit(main())
