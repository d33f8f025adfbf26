"""Requests per second of processor: the service's own process beside a bare FastAPI application with the same payload.

`inside/load.py` runs with the baked project's Python: it starts the real neighbours, one process of the service and one
of each bare application, and sends both the same requests in alternating rounds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from table import Row

SCRIPT = Path(__file__).resolve().parent / "inside" / "load.py"


def measure(project: Path, python: Path, *, quick: bool) -> list[Row]:
    """Both routes; rows without figures where the processor time of another process cannot be read."""
    if not Path("/proc/self/stat").exists():
        print("there is no /proc here, so the processor time of a server is not known", file=sys.stderr)
        return [Row("requests per second of processor", "bare FastAPI", None, "needs Linux")]
    options = ["--rounds", "3", "--share", "0.2"] if quick else []
    result = subprocess.run(
        [str(python), str(SCRIPT), *options],
        cwd=project,
        stdout=subprocess.PIPE,
        text=True,
        timeout=900,
        check=True,
    )
    return [
        Row(
            f"{found['route']}: requests per second of processor",
            f"bare FastAPI{found['with']}, the same payload ({found['bytes']} bytes)",
            found["service"] / found["bare"],
            f"{found['service']:.0f}; {found['bare']:.0f}",
        )
        for found in json.loads(result.stdout)
    ]
