"""Baked projects pass their own checks and tests, on real services. Takes minutes; says what it is at."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import baking
import pytest
from baking import ROOT, files_of
from formats import parse_markdown
from running import environment, make, python_version, variables

Say = Callable[[str], None]

# Every answer that drops a room is chosen in one of them and not in another.
DEFAULT: dict[str, str] = {}
OUTSIDE = {"object_storage": "s3", "monitoring": "none"}
RUNS = [
    ("default", "check"),
    ("default", "test"),
    ("default", "test-system"),
    ("default", "drill"),
    ("outside", "check"),
    ("outside", "test"),
    ("deleted", "check"),
    ("deleted", "test"),
    ("accounts-deleted", "check"),
    ("accounts-deleted", "test"),
]
# What can differ from the default there; all of it would take as long again.
ONLY = {
    ("outside", "test"): "ops or configuration or storage or settings or envfile or cli",
    ("deleted", "test"): "not (devstack or test_worker or test_beat or tracing or realtime or messages or test_backup)",
    ("accounts-deleted", "test"): "test_api or access or security or signing or admin or realtime or migrations or cli or documents or billing",
}
# The default with a feature deleted, as the document says that goes with it.
DELETED = {"deleted": "delete-documents.md", "accounts-deleted": "delete-accounts.md"}
# One after the other, because they share the cores of one machine: `--dist loadfile` keeps this file together.
pytestmark = pytest.mark.slow

Projects = Callable[[str, Say], tuple[Path, Path]]


@pytest.fixture(scope="session")
def projects(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Projects:
    """Give each project by name, with its environment; baked once."""

    @functools.cache
    def baked(name: str) -> Path:
        answers = OUTSIDE if name == "outside" else DEFAULT
        folder = tmp_path_factory.mktemp(name)
        return baking.bake(template, folder / "out", python_version=python_version(), **answers)

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


def deletion_steps(document: Path) -> list[str]:
    """The commands in the document that says how to delete a feature, as a person would type them."""
    text = document.read_text()
    parse_markdown(text)
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 1
    return [line for line in blocks[0].splitlines() if line and not line.startswith("#")]


def run_steps(steps: list[str], project: Path, extra: dict[str, str]) -> None:
    """Type them."""
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


@pytest.mark.parametrize(("name", "target"), RUNS)
def test_a_baked_project_passes_its_own(projects: Projects, say: Say, name: str, target: str) -> None:
    """DELETED ones are the default with a feature deleted as its document says."""
    project, venv = projects(name, say)
    only = ONLY.get((name, target))
    written = make(project, venv, say, target, *([f"ARGS=-k '{only}'"] if only else []))
    if target in ("test", "test-system"):
        closing = [line for line in written.splitlines() if re.search(r"\d+ passed", line)]
        assert closing, "no test has passed"
        assert "error" not in closing[-1]


def test_deleting_the_example_leaves_what_none_would_have_given(
    projects: Projects, template: Path, tmp_path: Path, say: Say
) -> None:
    """Byte for byte: so there is no trace left, and what holds for the one holds for the other."""
    project, _ = projects("deleted", say)
    never = baking.bake(template, tmp_path / "out", python_version=python_version(), example="none")
    left = {path: content for path, content in files_of(project).items() if not is_made_by_running(path)}
    wanted = files_of(never)
    assert sorted(left) == sorted(wanted)
    assert [path for path in wanted if left[path] != wanted[path]] == []


def is_made_by_running(path: str) -> bool:
    """Whether checks and tests have left it, where the project's own .gitignore says so."""
    return any(part.startswith(".") and part.endswith("_cache") for part in path.split("/")) or bool(
        re.search(r"(^|/)(__pycache__|\.env|\.cache|\.devstack|\.coverage[^/]*)(/|$)|\.pyc$", path)
    )


def test_running_a_project_leaves_only_what_it_ignores(projects: Projects, template: Path, say: Say) -> None:
    """A project that has run holds what was baked, unchanged, and what its .gitignore names."""
    for name in ("default", "outside"):
        project, _ = projects(name, say)
        fresh = baking.bake(
            template,
            project.parent.parent / "fresh",
            python_version=python_version(),
            **(OUTSIDE if name == "outside" else DEFAULT),
        )
        now, before = files_of(project), files_of(fresh)
        assert [path for path in before if now.get(path) != before[path]] == []
        extra = [path for path in now if path not in before]
        assert [path for path in extra if not is_made_by_running(path)] == []


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
