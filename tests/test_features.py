"""A feature comes and goes by one command and by one document, and leaves no trace."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from baking import SOURCE, files_of
from projects import block, deletion_steps

TOOLS = Path(sys.executable).parent


def begin(project: Path, name: str) -> None:
    """What `make feature` does, but for the formatter and what is made from the code."""
    code = f"from pathlib import Path; from ops.feature import begin; begin(Path('.'), {name!r})"
    subprocess.run([sys.executable, "-B", "-c", code], cwd=project, check=True, stdin=subprocess.DEVNULL)


def run(steps: list[str], project: Path) -> None:
    """Type the steps of a document, but for what needs an environment."""
    for step in steps:
        if not step.startswith("make "):
            subprocess.run(["bash", "-euc", step], cwd=project, check=True, stdin=subprocess.DEVNULL)


def listed(project: Path) -> str:
    """The line with the list of features."""
    match = re.search(r"(?m)^FEATURES = .*$", (project / "app/features/__init__.py").read_text())
    assert match
    return match[0]


@pytest.mark.parametrize("name", ["billing", "time_sheets"])
def test_what_is_begun_is_linted(bake: Callable[..., Path], name: str) -> None:
    """By the project's own rules, and formatted by them, as the command does: a longer name makes longer lines."""
    project = bake()
    begin(project, name)
    for command in (("format",), ("check",)):
        done = subprocess.run([TOOLS / "ruff", *command, "--quiet", "."], cwd=project, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_feature_is_deleted_as_its_document_says(bake: Callable[..., Path]) -> None:
    """Then the project is what it was before."""
    project = bake()
    before = files_of(project)
    begin(project, "billing")
    assert files_of(project) != before
    run(block(project / "docs/features.md", "Delete one").commands, project)
    assert files_of(project) == before


@pytest.mark.parametrize("example", ["documents", "none"])
def test_others_can_be_deleted_when_there_is_one_of_ones_own(bake: Callable[..., Path], example: str) -> None:
    """Their documents know their names wherever they stand in the list, and leave the others."""
    project = bake(example=example)
    begin(project, "billing")
    if example == "documents":
        run(deletion_steps(project / "docs" / "delete-documents.md"), project)
    assert listed(project) == 'FEATURES = ("accounts", "billing")'
    run(deletion_steps(project / "docs" / "delete-accounts.md"), project)
    assert listed(project) == 'FEATURES = ("billing",)'


def test_a_skeleton_is_a_template_of_nobody_else() -> None:
    """Every file of it ends so that no linter, type checker or test runner takes it for one of the project's."""
    files = [path for path in (SOURCE / "ops" / "feature" / "skeleton").rglob("*") if path.is_file()]
    assert files
    assert {path.suffix for path in files} == {".template"}
