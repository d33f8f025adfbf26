"""Git, as this package calls it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path


class Refused(Exception):
    """Nothing was changed; the text says why, and what to do."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's variables without those by which a git that started us names its own repository."""
    own = {
        name: value for name, value in os.environ.items() if not name.startswith(("GIT_DIR", "GIT_INDEX", "GIT_WORK"))
    }
    return {**own, "LC_ALL": "C", **(extra or {})}


def run(
    folder: Path, *arguments: str, stdin: str | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run git in a folder and keep what it says."""
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=environment(env),
            capture_output=True,
            text=True,
            # A name that is no UTF-8 goes through unchanged.
            errors="surrogateescape",
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError:
        raise Refused("git is not installed") from None


def git(folder: Path, *arguments: str, stdin: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """Answer with what git printed.

    Raises:
        Refused: git ended with an error.
    """
    done = run(folder, *arguments, stdin=stdin, env=env)
    if done.returncode:
        said = done.stderr.strip() or f"it ended with {done.returncode}"
        raise Refused(f"git {arguments[0]} in {folder}: {said}")
    return done.stdout


def names(listing: str) -> list[str]:
    """The parts of what git prints with `-z`."""
    return [name for name in listing.split("\0") if name]
