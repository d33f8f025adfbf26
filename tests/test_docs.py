"""What documents name exists: in every combination of answers by the project's own check, and in the template's own pages by the same."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest
from baking import CHOICES, QUESTIONS, ROOT, SOURCE, name_of
from formats import blocks

# Each block marked `bash`, by its page and the heading above it: a test types it. The runbook's are the project's own tests' to type.
TYPED = {
    "README.md": ["Try it", "Use it"],  # test_baked_project.py, test_walks.py
    "<project>/README.md": ["Start"],  # test_walks.py
    "<project>/docs/backup.md": ["Try it"],  # test_walks.py
    "<project>/docs/delete-accounts.md": ["Delete accounts"],  # projects.py
    "<project>/docs/delete-documents.md": ["Delete the example"],  # projects.py
    "<project>/docs/features.md": ["Begin one", "Change it", "Delete one"],  # test_walks.py
    "<project>/docs/template-update.md": ["A newer template", "A newer template"],  # test_updates.py
}

Combinations = list[tuple[dict[str, str], Path]]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The project's own, which needs nothing but Python."""
    monkeypatch.syspath_prepend(SOURCE)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    return importlib.import_module("ops.check.docs")


def test_what_a_project_says_is_there(combinations: Combinations, check: ModuleType) -> None:
    """Links, indexes, targets and scripts, whatever was left out."""
    found = [
        f"{name_of(answers)}: {line}" for answers, project in combinations for line in check.check(project).splitlines()
    ]
    assert found == []


def test_what_the_template_says_is_there(check: ModuleType) -> None:
    """Its pages speak of its own targets, and of those of the project that it bakes."""
    rules = "\n".join([check.rules_of(ROOT), check.rules_of(SOURCE)])
    pages = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")), ROOT / "benchmarks" / "README.md"]
    found = [f"{page.name}: {fault}" for page in pages for fault in check.faults(ROOT, page, rules)]
    # They speak of the project's files as well.
    assert [line for line in found if not (SOURCE / line.rpartition("there is no file ")[2]).is_file()] == []
    listed = re.findall(r"\]\(([^)]+)\)", (ROOT / "docs" / "decisions" / "README.md").read_text())
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs/decisions").glob("0*.md"))


def test_no_block_is_printed_that_nobody_types() -> None:
    """A new one needs its walk; what cannot be walked here is marked `sh`."""
    pages = {path.relative_to(ROOT).as_posix(): path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))}
    pages |= {f"<project>/{path.relative_to(SOURCE).as_posix()}": path for path in SOURCE.rglob("*.md")}
    printed = {
        name: [each.section for each in blocks(path.read_text()) if each.kind == "bash"] for name, path in pages.items()
    }
    assert {name: sections for name, sections in printed.items() if sections and "/runbook/" not in name} == TYPED


def test_the_readme_lists_the_questions_and_their_answers() -> None:
    """All of them, with the default first; a choice of many names alone is enough."""
    rows = re.findall(r"(?m)^\| (`[a-z_`, ]+`) \| *([^|]*?) *\| (.*) \|$", (ROOT / "README.md").read_text())
    told = {name: (default, rest) for names, default, rest in rows for name in re.findall(r"[a-z_]+", names)}
    asked = [name for name in QUESTIONS if not name.startswith("_")]
    assert sorted(told) == sorted(asked)
    for name, answers in CHOICES.items():
        default, rest = told[name]
        assert answers[0] in default, name
        assert [answer for answer in answers if answer not in rest and rest != "one answer today"] == [], name
