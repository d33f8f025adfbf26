"""Measure what a bake and a request cost, beside something plain that does the same work, and print one table.

    python benchmarks/run.py                    everything, about ten minutes
    python benchmarks/run.py --quick            fewer rounds: whether it works, not what it costs
    python benchmarks/run.py --only requests    one part
    python benchmarks/run.py --write            and put the table into benchmarks/README.md

Everything is compared within one run on one machine, in alternating rounds, so that a busy neighbour slows down both
sides. Nothing here is a test: a figure that misses its goal is marked, and the exit code stays 0.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The tests know how to bake and how to run what was baked.
sys.path[:0] = [str(HERE.parent / name) for name in ("tests", "tools", "")]

import bake  # noqa: E402  # only now found, as everything below
import baking  # noqa: E402
import instructions  # noqa: E402
import requests_per_second  # noqa: E402
import running  # noqa: E402
import search  # noqa: E402
import stage  # noqa: E402
from table import Row, circumstances, render, write  # noqa: E402

README = HERE / "README.md"


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    parser.add_argument("--only", choices=["bake", "requests", "instructions", "search"], help="one part")
    parser.add_argument(
        "--environment",
        type=Path,
        help="virtual environment with the baked project's locks; else made in build/",
    )
    options = parser.parse_args()
    if options.write and (options.quick or options.only):
        parser.error("--write needs the whole measurement: neither --quick nor --only")

    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        template = stage.stage(folder / "template")
        parts: dict[str, Callable[[], list[Row]]] = {
            "bake": lambda: bake.measure(template, folder / "bake", quick=options.quick),
        }
        if options.only != "bake":
            project = baking.bake(template, folder / "out", python_version=running.python_version())
            environment = options.environment or running.environment(project, say)
            python = environment.absolute() / "bin" / "python"
            parts["requests"] = lambda: requests_per_second.measure(project, python, quick=options.quick)
            parts["instructions"] = lambda: instructions.measure(project, python, quick=options.quick)
            parts["search"] = lambda: search.measure(project, python, quick=options.quick)
        rows: list[Row] = []
        for part, measure in parts.items():
            if options.only in (None, part):
                say(f"measuring: {part}")
                found = measure()
                say(render(found))
                rows += found
    note = circumstances(load)
    print(render(rows), note, sep="\n\n")
    if options.write:
        write(README, rows, note)


def say(line: str) -> None:
    """What happens, on stderr: stdout is for the table."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
