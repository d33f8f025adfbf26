"""The runbook is whole: every page has its five parts; tests/ops/test_docs.py reads its commands, tests/system runs what it can."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNBOOK = ROOT / "docs/runbook"
PAGES = sorted(path for path in RUNBOOK.glob("*.md") if path.name != "README.md")
PARTS = ["Symptom", "Check", "Act", "Undo", "Verify"]


def parts(text: str) -> list[str]:
    """Those of the five that a page has, in its order."""
    return [heading for heading in re.findall(r"(?m)^## (.*)$", text) if heading in PARTS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_its_parts(page: Path) -> None:
    """In their order: who is woken at night looks for the same thing in the same place."""
    assert parts(page.read_text("utf-8")) == PARTS


@pytest.mark.parametrize("page", [*PAGES, RUNBOOK / "README.md"], ids=lambda page: page.stem)
def test_every_block_says_where_it_can_be_run(page: Path) -> None:
    """Natively, which tests do, or with the containers; nothing in between that nobody has tried."""
    kinds = re.findall(r"(?m)^ *```(\w[^\n]*)$", page.read_text("utf-8"))
    assert set(kinds) <= {"bash", "bash compose", "sh"}


def test_a_part_that_is_missing_is_noticed() -> None:
    """The first check can fail."""
    assert parts("# Page\n\n## Symptom\n\n## Act\n") != PARTS
