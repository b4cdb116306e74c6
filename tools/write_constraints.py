"""Print the versions installed in this environment as pip constraints: `.venv/bin/python tools/write_constraints.py`.

A version that asks for a newer Python than setup.cfg does is pinned only there, so that older ones still resolve.
torch pins the CUDA packages itself.
"""

from __future__ import annotations

import re
from importlib import metadata

OWN = {"armory-mdnf"}
PINNED_BY_TORCH = re.compile(r"(nvidia|cuda|triton)(-|$)")
OLDEST = (3, 10)
NOT_BELOW_3_11 = {"protobuf"}  # tensorflow-metadata wants an older one there


def marker(requires_python: str | None) -> str:
    """Environment marker for a version's Requires-Python, empty if every Python of ours will do."""
    lower = re.search(r">=\s*([\d.]+)", requires_python or "")
    if not lower or tuple(map(int, lower[1].rstrip(".").split("."))) <= OLDEST:
        return ""
    return f'; python_full_version >= "{lower[1]}"'


def main() -> None:
    """Print one line a package."""
    print("# Versions that are tested together, on Python 3.11. Written by tools/write_constraints.py.")
    lines = set()
    for found in metadata.distributions():
        name = found.metadata["Name"]
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key not in OWN and not PINNED_BY_TORCH.match(key):
            requires = ">=3.11" if key in NOT_BELOW_3_11 else found.metadata.get("Requires-Python")
            lines.add(f"{key}=={found.version}{marker(requires)}")
    print("\n".join(sorted(lines)))


if __name__ == "__main__":
    main()
