"""A few variants in which every two answers meet, each run whole by its own targets: `make test-variants`.

No part of `make test`, which looks for test_*.py. What it takes from the environment:

- ONLY: words that the names of the variants are to hold, as in `ONLY="kubernetes loki"`.
- ALL: every combination that makes sense, instead of a few.
- TARGETS: of their Makefiles, in place of check, test and test-system.
- RESUME: leave out what has passed for the very same files.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import baking
import pytest
import variants
from baking import ROOT, files_of, name_of
from projects import Say, Tell, passes
from running import environment, python_version

PASSED = ROOT / "build" / "variants"
TARGETS = (os.environ.get("TARGETS") or "check test test-system").split()
# What it is called, where it lies, and a digest of all its files.
Variant = tuple[str, Path, str]
# A suite under kill -9 and a restore drill take their time.
SECONDS = 3600


def chosen() -> list[dict[str, str]]:
    """The answers of each variant.

    Raises:
        pytest.UsageError: ONLY leaves none.
    """
    rows = variants.every() if os.environ.get("ALL") else variants.pairwise()
    words = os.environ.get("ONLY", "").split()
    every = [dict(row) for row in rows]
    kept = [answers for answers in every if all(word in name_of(answers) for word in words)]
    if not kept:
        names = "\n  ".join(name_of(answers) for answers in every)
        raise pytest.UsageError(f"no variant holds {' and '.join(words)}; there are:\n  {names}")
    return kept


@pytest.fixture(scope="module", params=chosen(), ids=name_of)
def variant(request: pytest.FixtureRequest, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Variant:
    """One of them, baked."""
    project = baking.bake(
        template, tmp_path_factory.mktemp("variant") / "out", python_version=python_version(), **request.param
    )
    state = hashlib.sha256(sys.version.encode())
    files = files_of(project)
    del files[".cruft.json"]  # the template's commit, which is not looked at by anything that runs
    for path, content in files.items():
        state.update(b"%s\0%d\0%s" % (path.encode(), len(content), content))
    return name_of(request.param), project, state.hexdigest()[:24]


@pytest.mark.parametrize("target", TARGETS)
def test_a_variant_passes_its_own(variant: Variant, target: str, say: Say, tell: Tell) -> None:
    """Whole, with the services that it starts."""
    name, project, state = variant
    stamp = PASSED / f"{state}-{target}"
    if os.environ.get("RESUME") and stamp.exists():
        closing = f"passed before: {stamp.read_text(encoding='utf-8')}"
    else:
        closing = passes(project, environment(project, say), say, target, seconds=SECONDS)
        PASSED.mkdir(parents=True, exist_ok=True)
        stamp.write_text(closing, encoding="utf-8")
    tell(f"{name}: make {target}", 1, closing)
