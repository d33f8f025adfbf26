"""What the project depends on is bounded below, so that `make test RESOLUTION=lowest` tries something that is meant."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+(\[[a-z0-9,-]+\])?>=[0-9][0-9a-z.]*(,<[0-9.]+)?(; .+)?")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What make would do, whatever these tests were started with."""
    inherited = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "RESOLUTION", "VENV"}
    return subprocess.run(
        ["make", "--dry-run", "--always-make", "setup", *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in inherited},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("source", sorted(ROOT.glob("requirements/*.in")), ids=lambda path: path.name)
def test_every_requirement_names_its_oldest_version(source: Path) -> None:
    """Without one the resolver would take the first release that there ever was."""
    lines = [line for line in source.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    assert lines
    assert [line for line in lines if not REQUIREMENT.fullmatch(line)] == []


def test_what_is_installed_is_locked_unless_asked_otherwise() -> None:
    """By hashes; with RESOLUTION by the bounds, beside the usual environment and not into it."""
    usual = make()
    assert usual.returncode == 0, usual.stderr
    assert "--require-hashes -r requirements/app.txt" in usual.stdout
    for name, resolution in (("lowest", "lowest-direct"), ("newest", "highest")):
        other = make(f"RESOLUTION={name}")
        assert f"installing into .cache/venv-{name}" in other.stdout
        assert f"--resolution {resolution} -r requirements/app.in" in other.stdout
        assert "--require-hashes" not in other.stdout
    refused = make("RESOLUTION=oldest")
    assert refused.returncode != 0
    assert "RESOLUTION is lowest or newest, not oldest" in refused.stderr
