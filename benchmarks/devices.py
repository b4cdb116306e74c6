"""What another device moves by rounding alone: ``python -m benchmarks.devices FIRST SECOND``.

Two runs of one configuration and one seed, on two devices, and others ``--beside`` the second, on its device.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from armory_mdnf.evaluation.comparison import read_run
from armory_mdnf.evaluation.devices import KEPT, compared
from armory_mdnf.files.atomic import write_text


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.devices", description=__doc__)
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="results of `armory-mdnf run`, or a record")
    parser.add_argument("--beside", nargs="+", type=Path, default=[], metavar="RUN", help="of the second one's device")
    parser.add_argument("--out", type=Path, default=Path("results") / KEPT)
    args = parser.parse_args(argv)
    first, second = map(read_run, args.runs)
    content = compared(first, second, map(read_run, args.beside))
    write_text(args.out, json.dumps(content, indent=1) + "\n")
    rows = content["utterances"]
    errors = {device: sum(row["errors"][i] for row in rows) for i, device in enumerate(content["devices"])}
    print(f"{len(rows)} utterances, {sum(row['words'] for row in rows)} words; errors: {errors}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
