"""How many instructions a request takes, counted by callgrind: the same on every run, whoever else uses the machine.

`inside/count.py` runs within the baked project and forks a child for each case; every child counts on from where its
parent stood. Two children that differ in the number of requests alone give the cost of one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from table import Row

GOAL = 1.35
SCRIPT = Path(__file__).resolve().parent / "inside" / "count.py"
# Case -> the one it is compared with, and what the table says of it.
COMPARED = {
    "stack": ("bare", "trivial route behind the whole stack", "bare FastAPI"),
    "stack, origin": ("bare", "the same, asked from another origin", "bare FastAPI"),
    "stack, post": ("bare, post", "the same, with a body of JSON", "bare FastAPI"),
    "2 features": ("bare", "bare route among 2 further features", "bare FastAPI"),
    "40 features": ("bare", "bare route among 40 further features", "bare FastAPI"),
    "40 features, flat": ("bare", "the same in FastAPI's own flat table", "bare FastAPI"),
    "40 features, included": ("bare", "the same by `include_router`", "bare FastAPI"),
}


def measure(project: Path, python: Path, *, quick: bool) -> list[Row]:
    """Count every case; rows without figures where there is no valgrind."""
    if not shutil.which("valgrind"):
        print("valgrind is not installed, so instructions are not counted", file=sys.stderr)
        return [Row(f"instructions: {what}", beside, None, "needs valgrind") for _, what, beside in COMPARED.values()]
    counts = _count(project, python, requests=100 if quick else 400)
    return [
        Row(
            f"instructions: {what}",
            beside,
            counts[case] / counts[base],
            f"{counts[case] / 1000:.0f} k; {counts[base] / 1000:.0f} k",
            f"at most {GOAL}" if case.startswith("stack") else "",
            counts[case] <= GOAL * counts[base] if case.startswith("stack") else None,
        )
        for case, (base, what, beside) in COMPARED.items()
    ]


def _count(project: Path, python: Path, requests: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="callgrind-") as name:
        folder = Path(name)
        result = subprocess.run(
            [
                "valgrind",
                "--tool=callgrind",
                "--callgrind-out-file=/dev/null",
                f"--log-file={folder}/%p",
                *(str(python), str(SCRIPT), str(requests)),
            ],
            cwd=project,
            # The order of sets and the paths of objects must be the same in both children.
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(project),
                "PYTHONHASHSEED": "0",
                "ENV_FILE": "",
            },
            stdout=subprocess.PIPE,
            text=True,
            timeout=900,
            check=True,
        )
        totals: dict[str, dict[int, int]] = {}
        for line in result.stdout.splitlines():
            case, count, pid = line.split("\t")
            collected = re.search(r"Collected : (\d+)", (folder / pid).read_text())
            if not collected:
                raise RuntimeError(f"callgrind counted nothing for {case}")
            totals.setdefault(case, {})[int(count)] = int(collected[1])
    return {case: (found[max(found)] - found[min(found)]) / (max(found) - min(found)) for case, found in totals.items()}
