"""The default project passes its own checks and tests, on real services. Takes minutes; says what it is at."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import baking
import pytest
from baking import ROOT, SOURCE
from projects import Projects, Say, Tell, leaves_only_what_it_ignores, run
from running import python_version

# `--dist loadfile` keeps this file together, and runs test_baked_variants.py beside it.
pytestmark = pytest.mark.slow


# What its README says that can be asked of it; `make load` is run, and seen to fail, by test-system.
TARGETS = [
    target
    for target in re.findall(r"(?m)^\|.*`make ([a-z-]+)` \|$", (SOURCE / "README.md").read_text())
    if target not in ("help", "load")
]


def test_the_readme_names_what_is_run_here() -> None:
    """A slip in its table would be a target that is not run any more."""
    assert TARGETS == ["check", "test", "test-system", "drill"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_baked_project_passes_its_own(projects: Projects, say: Say, tell: Tell, target: str) -> None:
    """Every target that says whether it is well."""
    tell(f"baked and run: default: make {target}", 1, run(projects, say, "default", target))


def test_running_it_leaves_only_what_it_ignores(projects: Projects, template: Path, tmp_path: Path, say: Say) -> None:
    """After all of the above."""
    project, _ = projects("default", say)
    leaves_only_what_it_ignores(project, baking.bake(template, tmp_path, python_version=python_version()))


def test_the_demonstration_ends_well(tmp_path: Path, say: Say) -> None:
    """`make demo CHECK=1` in a folder of its own: a demonstration that is running is left alone."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "demo.py"), "--check", "--folder", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for phase in (
        *("bake", "install", "start", "register", "sign in", "upload PDF"),
        *("found", "headers", "health", "rate limit", "stop"),
    ):
        assert re.search(rf"(?m)^  {phase} +\d+\.\d\d s", done.stdout), phase
    assert "FAILED" not in done.stdout
    say(done.stdout.strip().splitlines()[-1])
