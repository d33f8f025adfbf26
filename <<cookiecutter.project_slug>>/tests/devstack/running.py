"""A devstack in a process of its own, as `make dev` starts it, and what is left of it afterwards."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from devstack import guard

ROOT = Path(__file__).resolve().parents[2]
# Generous: the machine may be busy with other tests.
DEADLINE_SECONDS = 120


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition; fails with `what` when it does not come to hold."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS} s: {what}"
        time.sleep(0.02)


class Running:
    """`python -m devstack` with its output in a file."""

    def __init__(
        self, folder: Path, services: str, *options: str, env: Mapping[str, str] | None = None, root: Path = ROOT
    ) -> None:
        self.data = folder / "data"
        self.env_file = folder / "env"
        if not self.env_file.exists():
            self.env_file.write_text("DATABASE_PASSWORD=first\n")
        self._output = folder / f"output-{time.monotonic_ns()}.txt"
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "devstack", "--data", str(self.data), "--services", services, *options],
                cwd=root,
                env={**os.environ, "ENV_FILE": str(self.env_file), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """Everything it printed so far."""
        return self._output.read_text()

    @property
    def state(self) -> dict[str, Any]:
        """What state.json says."""
        found: dict[str, Any] = json.loads((self.data / "state.json").read_text())
        return found

    def until_ready(self) -> "Running":
        """Wait for the ready line."""
        self.until_printed("ready in ")
        return self

    def until_printed(self, text: str) -> None:
        """Wait until it says something."""
        eventually(lambda: text in self.output or self.process.poll() is not None, text)
        assert text in self.output, self.output

    def family(self) -> dict[int, str]:
        """Itself and everything it started, with what tells them from later processes."""
        return guard.family(self.process.pid)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_SECONDS)

    def clean_up(self) -> None:
        """For the end of a test, whatever happened in it."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        self.process.wait(DEADLINE_SECONDS)


def nothing_left(members: Mapping[int, str]) -> bool:
    """Whether none of these processes runs any more."""
    return not any(guard.alive(pid, identity) for pid, identity in members.items())
