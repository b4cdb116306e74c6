"""Run configurations in Armory, one line of progress each, and show the two side by side: what `make demo` does.

They are printed, and a page of HTML has them with their transcripts word under word.

Armory's own output is kept back; its errors are shown at once, and the end of it when a run gives no results.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from armory_mdnf.errors import ArmoryMdnfError, ResultsError
from armory_mdnf.evaluation.armory_results import newest_results
from armory_mdnf.evaluation.comparison import print_comparison
from armory_mdnf.evaluation.names import defence_label
from armory_mdnf.files.atomic import ensure_writable, write_text
from armory_mdnf.report.page import render
from armory_mdnf.report.runs import read_runs

INTERRUPTED = 130
PAGE = Path("outputs") / "demo.html"
KEPT_LINES = 60
PROGRESS = re.compile(r"Evaluation:.*?\| (\d+)/(\d+) ")
STYLE = re.compile(r"\x1b\[[0-9;]*m")
ERROR = re.compile(r"\d{4}-\d\d-\d\d \S+ +\S+ +(ERROR|CRITICAL) ")


def main(argv: Sequence[str] | None = None) -> int:
    """Run two configurations and compare them. Returns 0, 1 if a run gave no results, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="demo.py", description=__doc__)
    parser.add_argument("--armory", required=True, metavar="PATH", help="the `armory` command")
    parser.add_argument("--utterances", type=int, required=True, metavar="N", help="the first N of the configuration's")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE.html", help=f"(default: {PAGE})")
    parser.add_argument("configs", nargs=2, type=Path, metavar="CONFIG.json")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="further flags of `armory run`, which win")
    args = parser.parse_args(argv)
    try:
        ensure_writable(args.page)
        results = []
        for config in args.configs:
            found = run(args.armory, config, ["--num-eval-batches", str(args.utterances), *args.flags])
            if found is None:
                return 1
            results.append(found)
        print()
        print_comparison(*results)
        write_text(args.page, render(read_runs(results), title="Two defences under one attack"))
    except KeyboardInterrupt:
        print("\ndemo.py: stopped", file=sys.stderr)
        return INTERRUPTED
    except ArmoryMdnfError as error:
        print(f"demo.py: error: {error}", file=sys.stderr)
        return 2
    print(*(f"results      {path}" for path in results), f"page         {args.page.resolve()}", sep="\n")
    return 0


def run(armory: str, config: Path, flags: list[str]) -> Path | None:
    """One run of Armory. Returns its results file, or None after showing why there is none."""
    try:
        label = defence_label(json.loads(config.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError) as error:
        raise ResultsError(f"{config}: not a configuration: {error}") from error
    line, started, tail = Line(label), time.time(), []
    command = [armory, "run", str(config), "--log-level", "armory:WARNING", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for text in texts(process):
            if match := PROGRESS.search(text):
                line.done, line.of = int(match[1]), int(match[2])
            elif text:
                tail = [*tail, text][-KEPT_LINES:]
                if ERROR.match(text):
                    line.interrupt(text)
            line.show()
    try:
        if process.returncode == 0:
            found = newest_results(started)
            line.end("done")
            return found
        reason = f"armory run ended with exit code {process.returncode}"
    except ResultsError as error:
        reason = str(error)
    line.end("no results")
    said = ["", f"The end of what Armory said of {config}:", "", *tail, "", f"demo.py: error: {reason}"]
    print("\n".join(said), file=sys.stderr)
    return None


def texts(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Lines of a process and steps of its progress bars as they come, and an empty one for each second without."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as waiting:
        waiting.register(process.stdout, selectors.EVENT_READ)
        rest = b""
        while True:
            if not waiting.select(timeout=1):
                yield ""
                continue
            block = os.read(process.stdout.fileno(), 65536)
            *whole, rest = re.split(rb"[\r\n]+", rest + block)
            yield from (STYLE.sub("", text.decode("utf-8", errors="replace")) for text in whole)
            if not block:
                if rest:
                    yield STYLE.sub("", rest.decode("utf-8", errors="replace"))
                return


class Line:
    """The line that tells how far a run is: rewritten on a terminal, elsewhere written once, at its end."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.done, self.of = 0, 0
        self.start = time.monotonic()
        self.terminal = sys.stdout.isatty()

    def text(self, state: str) -> str:
        """What the line says now."""
        seconds = int(time.monotonic() - self.start)
        return f"{self.label:12} {state:28} {seconds // 60}:{seconds % 60:02}"

    def show(self) -> None:
        """Say how far the run is."""
        if self.terminal:
            state = f"attacking utterance {min(self.done + 1, self.of)} of {self.of}" if self.of else "starting Armory"
            print(f"\r\x1b[K{self.text(state)}", end="", flush=True)

    def interrupt(self, text: str) -> None:
        """Show a line of Armory's above."""
        if self.terminal:
            print("\r\x1b[K", end="", flush=True)
        print(text, file=sys.stderr, flush=True)

    def end(self, state: str) -> None:
        """Say how the run ended."""
        start = "\r\x1b[K" if self.terminal else ""
        number = f"{self.done} of {self.of} utterances, " if self.of else ""
        print(f"{start}{self.text(number + state)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
