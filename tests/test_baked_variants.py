"""Projects with a feature deleted pass their own checks and tests. Takes minutes; says what it is at."""

from __future__ import annotations

from pathlib import Path

import baking
import pytest
from baking import files_of
from projects import Projects, Say, Tell, is_made_by_running, run
from running import python_version

# `--dist loadfile` keeps this file together, and runs test_baked_project.py beside it.
pytestmark = pytest.mark.slow

# What can differ from the default there; all of it would take as long again.
ONLY = {
    "deleted": "not (devstack or test_worker or test_beat or tracing or realtime or messages or test_backup)",
    "accounts-deleted": "test_api or access or security or signing or admin or realtime or migrations or cli or documents or billing",
}


@pytest.mark.parametrize("target", ["check", "test"])
@pytest.mark.parametrize("name", ONLY)
def test_a_variant_passes_its_own(projects: Projects, say: Say, tell: Tell, name: str, target: str) -> None:
    """Its checks whole, and of its tests those that can differ."""
    closing = run(projects, say, name, target, *([f"ARGS=-k '{ONLY[name]}'"] if target == "test" else []))
    tell(f"baked and run: {name}: make {target}", 1, closing)


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
