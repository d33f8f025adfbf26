"""The engine, by its command line: what people and the scripts use as well."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any


class CommandError(Exception):
    """A command failed; the text is what it said."""


def run(*command: str, env: dict[str, str] | None = None, cwd: Any = None, text: str | None = None) -> str:
    """Run a command and return what it wrote.

    Raises:
        CommandError: it failed.
    """
    done = subprocess.run(command, env=env, cwd=cwd, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CommandError(f"{' '.join(command[:6])}: exit code {done.returncode}\n{done.stdout}{done.stderr}".strip())
    return done.stdout


def inspect(names: Sequence[str]) -> list[dict[str, Any]]:
    """What the engine knows of containers, images or networks."""
    found: list[dict[str, Any]] = json.loads(run("docker", "inspect", *names)) if names else []
    return found


def build(dockerfile: str, *options: str, context: str = "-") -> str:
    """Build an image and return its id. Without a context the file is all there is."""
    given = ("--file", dockerfile, context) if context != "-" else ("-",)
    return run("docker", "build", "--quiet", *options, *given, text=None if context != "-" else dockerfile).strip()


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Wait until the condition holds, and return what it gave.

    Raises:
        TimeoutError: it did not in that time.
    """
    ends = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > ends:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.2)
    return found
