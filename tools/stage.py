"""A clean copy of the template: what a clone would hold, without the caches that work on it leaves behind."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE_FOLDER = "<<cookiecutter.project_slug>>"
PARTS = ("cookiecutter.json", "reserved-slugs.txt", "template_extensions.py", "hooks", TEMPLATE_FOLDER)
LEFT_BEHIND = (
    ".cache",
    ".coverage*",
    ".devstack",
    ".env",
    ".import_linter_cache",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".venv",
    "__pycache__",
    "*.pyc",
    "celerybeat-schedule*",
    "dump.rdb",
)


def stage(target: Path) -> Path:
    """Copy everything a bake reads to a new folder, and return the folder."""
    ignore = shutil.ignore_patterns(*LEFT_BEHIND)
    target.mkdir(parents=True)
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, target / part, ignore=ignore)
        else:
            shutil.copy(source, target / part)
    for folder in sorted((path for path in target.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    return target
