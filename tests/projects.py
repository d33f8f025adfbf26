"""Baked projects to run: as they are baked, and with a feature deleted as its document says."""

from __future__ import annotations

import fcntl
import functools
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import baking
import variants
from baking import files_of, name_of
from formats import Block, blocks, parse_markdown
from running import ENVIRONMENTS, environment, make, python_version, variables

Say = Callable[[str], None]
Tell = Callable[[str, int, str], None]
Projects = Callable[[str, Say], tuple[Path, Path]]

# Every answer that brings or drops a room is chosen in one of them, or in the default.
ANSWERS: dict[str, dict[str, str]] = {name_of(dict(row)): dict(row) for row in variants.each_once()[1:]}
# The default with a feature deleted, as the document says that goes with it.
DELETED = {"deleted": "delete-documents.md", "accounts-deleted": "delete-accounts.md"}


def projects_in(folder: Path, template: Path) -> Projects:
    """Give each project by name, with its environment; baked once."""

    @functools.cache
    def baked(name: str) -> Path:
        # A path is part of a socket's, which is short.
        short = f"rooms-{list(ANSWERS).index(name)}" if name in ANSWERS else name
        return baking.bake(template, folder / short, python_version=python_version(), **ANSWERS.get(name, {}))

    def deleted(name: str, say: Say) -> tuple[Path, Path]:
        project = baked(name)
        document = project / "docs" / DELETED[name]
        if not document.exists():
            return project, environment(project, say)
        steps = deletion_steps(document)
        run_steps([step for step in steps if not step.startswith("make ")], project, {})
        venv = environment(project, say)
        run_steps([step for step in steps if step.startswith("make ")], project, {"VENV": str(venv)})
        if name == "accounts-deleted":  # and another one begun, which stands on core alone
            make(project, venv, say, "feature", "name=billing")
        return project, venv

    def project(name: str, say: Say) -> tuple[Path, Path]:
        if name in DELETED:
            return deleted(name, say)
        return baked(name), environment(baked(name), say)

    return project


def run(projects: Projects, say: Say, name: str, target: str, *arguments: str) -> str:
    """Call a target of a project's Makefile, and return in one line how it ended.

    Args:
        projects: gives the project.
        say: what happens.
        name: of the project.
        target: of its Makefile.
        arguments: variables for make.
    """
    return passes(*projects(name, say), say, target, *arguments)


def passes(project: Path, venv: Path, say: Say, target: str, *arguments: str, seconds: int = 900) -> str:
    """Call a target of a project's Makefile, and return in one line how it ended.

    Args:
        project: its folder.
        venv: its environment.
        say: what happens.
        target: of its Makefile.
        arguments: variables for make.
        seconds: after which it is given up.
    """
    # Parts are killed there and looked at by the clock: it has the machine for itself, the others share it.
    way = fcntl.LOCK_EX if target == "test-system" else fcntl.LOCK_SH
    with (ENVIRONMENTS / "machine.lock").open("w") as machine:
        fcntl.flock(machine, way)
        written = make(project, venv, say, target, *arguments, seconds=seconds)
    if target == "check":
        return f"{len(re.findall(r'(?m)^  ok ', written))} checks passed"
    if not target.startswith("test"):
        return written.strip().splitlines()[-1].strip()
    closing = [line for line in written.splitlines() if re.search(r"\d+ passed", line)]
    assert closing, "no test has passed"
    assert "error" not in closing[-1]
    return closing[-1].strip("= ")


def block(document: Path, section: str = "", kind: str = "bash") -> Block:
    """The one block of a kind in a section of a document, or in all of it."""
    text = document.read_text()
    parse_markdown(text)
    found = [each for each in blocks(text) if each.kind == kind and section in ("", each.section)]
    assert len(found) == 1, f"{document.name} has {len(found)} blocks `{kind}` below {section or 'its title'}"
    return found[0]


def deletion_steps(document: Path) -> list[str]:
    """The commands in the document that says how to delete a feature, as a person would type them."""
    return block(document).commands


def run_steps(steps: list[str], project: Path, extra: dict[str, str]) -> str:
    """Type them, and return what they wrote."""
    written = ""
    for step in steps:
        done = subprocess.run(
            ["bash", "-euc", step],
            cwd=project,
            env={**variables(project), **extra},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{step}: {done.stdout}{done.stderr}"
        written += done.stdout
    return written


def leaves_only_what_it_ignores(project: Path, fresh: Path) -> None:
    """A project that has run holds what was baked, unchanged, and what its .gitignore names."""
    now, before = files_of(project), files_of(fresh)
    changed = [path for path in before if now.get(path) != before[path]]
    extra = [path for path in now if path not in before and not is_made_by_running(path)]
    assert changed + extra == [], f"changed: {changed}; left behind: {extra}"


def is_made_by_running(path: str) -> bool:
    """Whether checks and tests have left it, where the project's own .gitignore says so."""
    return any(part.startswith(".") and part.endswith("_cache") for part in path.split("/")) or bool(
        re.search(r"(^|/)(__pycache__|\.env|\.cache|\.devstack|\.coverage[^/]*)(/|$)|\.pyc$", path)
    )
