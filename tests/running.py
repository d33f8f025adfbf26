"""How the tests run a baked project: its own `make` targets, on an environment that variants share."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from baking import ROOT, SOURCE

from template_extensions import PYTHON_VERSIONS

ENVIRONMENTS = ROOT / "build" / "environments"
Say = Callable[[str], None]


def python_version() -> str:
    """The answer that fits the interpreter which is here."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    return here if here in PYTHON_VERSIONS else PYTHON_VERSIONS[-1]


def variables(project: Path) -> dict[str, str]:
    """This process's variables without those that the service or its Makefile would take for their own."""
    listing = project / ".env.example"
    # A folder that is no project yet must not be told either.
    example = (listing if listing.exists() else SOURCE / ".env.example").read_text(encoding="utf-8")
    settings = set(re.findall(r"(?m)^#? ?([A-Z][A-Z0-9_]*)=", example))
    make = {
        "MAKEFLAGS",
        "MAKELEVEL",
        "MFLAGS",
        "VIRTUAL_ENV",
        "VENV",
        "PYTHON",
        "ARGS",
        "CHECK",
        "ONLY",
        "TARGETS",
        "RESUME",
        "ALL",
    }
    pytest = {name for name in os.environ if name.startswith(("PYTEST_", "COV_"))}
    own = {name: value for name, value in os.environ.items() if name not in settings | make | pytest}
    # `make setup` takes a uv that is on PATH; the template has one.
    return own | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{own.get('PATH', os.defpath)}"}


def environment(project: Path, say: Say) -> Path:
    """The virtual environment for a project's locks, made by its own `make setup` and kept between runs."""
    locks = sorted((project / "requirements").glob("*.txt"))
    digest = hashlib.sha256(sys.version.encode())
    for lock in locks:
        digest.update(lock.read_bytes())
    folder = ENVIRONMENTS / digest.hexdigest()[:16]
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    with (ENVIRONMENTS / f"{folder.name}.lock").open("w") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        make(project, folder, say, "setup", f"PYTHON={sys.executable}")
    return folder


def make(project: Path, venv: Path, say: Say, *arguments: str, seconds: int = 900) -> str:
    """Run a target of the project's Makefile, say how long it took, and return what it wrote."""
    log = project.parent / f"make-{arguments[0]}.log"
    begin = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["make", f"VENV={venv}", *arguments],
            cwd=project,
            # What mypy has learned about the libraries holds for every bake that uses them.
            env={**variables(project), "MYPY_CACHE_DIR": str(venv / "mypy-cache")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = _wait(process, say, begin, seconds, arguments[0])
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            raise
    written = log.read_text(encoding="utf-8", errors="replace")
    lines = written.strip().splitlines() or [""]
    took = time.monotonic() - begin
    ending = "ok" if status == 0 else f"exit {status}"
    say(f"make {arguments[0]}: {ending} in {took:.1f} s: {lines[-1].strip('= ')[:100]}")
    assert status == 0, f"make {' '.join(arguments)} in {project} ended with {status}:\n{written[-6000:]}"
    return written


def _wait(process: subprocess.Popen[bytes], say: Say, begin: float, seconds: int, target: str) -> int:
    while True:
        try:
            return process.wait(30)
        except subprocess.TimeoutExpired:
            passed = time.monotonic() - begin
            assert passed < seconds, f"make {target} still runs after {seconds} s"
            say(f"make {target}: {passed:.0f} s")
