"""Run programs and say what they found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: What a check answers: nothing, or what is wrong in words for a person.
Findings = str


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the table.

    Attributes:
        name: how the report and SKIP call it.
        run: gets the project's folder and answers with what it found.
        needs: a pattern of files; without a match there is nothing to check.
    """

    name: str
    run: Callable[[Path], Findings]
    needs: str = "pyproject.toml"

    def applies(self, root: Path) -> bool:
        """Whether this project has what is checked here."""
        return next(root.glob(self.needs), None) is not None


class Unavailable(Exception):
    """The checker is not installed; the text says what to do."""


class Foreign(Unavailable):
    """The checker comes from no Python package, and the machine has none."""


def search_path() -> str:
    """PATH with the tools of this environment first, also when it is not activated."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def find(*names: str) -> str | None:
    """The first of the programs that is there."""
    return next((found for name in names if (found := shutil.which(name, path=search_path()))), None)


def run(
    root: Path, command: Sequence[str | Path], env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program in the project's folder and keep what it says.

    Raises:
        Unavailable: the program is not installed.
    """
    program = find(str(command[0]))
    if program is None:
        raise Unavailable(f"{command[0]} is not installed: make setup")
    return subprocess.run(
        [program, *map(str, command[1:])],
        cwd=root,
        env={**os.environ, "PATH": search_path(), **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def findings(result: subprocess.CompletedProcess[str]) -> Findings:
    """What a program said when it failed, and nothing when it did not."""
    if result.returncode == 0:
        return ""
    return (result.stdout + result.stderr).strip() or f"{result.args[0]} ended with {result.returncode}"


def command(*parts: str) -> Callable[[Path], Findings]:
    """A check that is one command. A part with a `*` stands for the files it matches."""

    def check(root: Path) -> Findings:
        expanded = [
            word
            for part in parts
            for word in (sorted(str(path.relative_to(root)) for path in root.glob(part)) if "*" in part else [part])
        ]
        return findings(run(root, expanded))

    return check
