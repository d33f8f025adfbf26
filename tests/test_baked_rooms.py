"""Projects of other answers pass their own checks, and the tests that the default project has not. Says what it is at."""

from __future__ import annotations

from pathlib import Path

import baking
import pytest
import variants
from projects import ANSWERS, Projects, Say, Tell, leaves_only_what_it_ignores, run
from running import python_version

# `--dist loadfile` keeps this file together, and runs others of its kind beside it.
pytestmark = pytest.mark.slow

# What looks at the project as a whole; the rest is the default's, which has run it. `make test-variants` runs all of it.
ONLY = ("test_settings", "test_envfile", "test_requirements", "test_runbook")
# What test_checked_variants.py does for all combinations at once, and what takes most of the time of `make check`.
DONE = "types,secrets"


def own_tests(project: Path, default: Path) -> list[str]:
    """Files of tests that the default project has not."""
    return [
        path.stem
        for path in project.glob("tests/[!s]*/**/test_*.py")
        if not (default / path.relative_to(project)).exists()
    ]


def test_every_answer_is_baked_and_run() -> None:
    """Here or as the default."""
    said = {(option, answer) for answers in ANSWERS.values() for option, answer in answers.items()}
    default = set(variants.every()[0])
    assert said | default == {(option, answer) for option, answers in variants.OPTIONS.items() for answer in answers}


@pytest.mark.parametrize("target", ["check", "test"])
@pytest.mark.parametrize("name", ANSWERS)
def test_a_variant_passes_its_own(
    projects: Projects, default_project: Path, say: Say, tell: Tell, name: str, target: str
) -> None:
    """Of its tests those that only it has, and those that look at all of it."""
    project, _ = projects(name, say)
    only = " or ".join([*ONLY, *own_tests(project, default_project)])
    arguments = {"check": f"SKIP={DONE}", "test": f"ARGS=-k '{only}'"}
    tell(f"baked and run: {name}: make {target}", 1, run(projects, say, name, target, arguments[target]))


@pytest.mark.parametrize("name", ANSWERS)
def test_running_it_leaves_only_what_it_ignores(
    projects: Projects, template: Path, tmp_path: Path, say: Say, name: str
) -> None:
    """Where rooms are left out or come in as well."""
    project, _ = projects(name, say)
    fresh = baking.bake(template, tmp_path, python_version=python_version(), **ANSWERS[name])
    leaves_only_what_it_ignores(project, fresh)
