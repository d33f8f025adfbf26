"""Statements of migrations that would keep others waiting or break the version that still runs: squawk over each revision.

A migration runs while the version before it serves. What squawk finds is either written in another way, or the migration
says why it may be: `ACCEPTED = {"ban-drop-column": "nothing has read it since 1.4"}` beside its revision.
"""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from ops.check.tools import Findings, findings, run

#: Matters of taste, and what migrations/env.py sees to for every statement (time-outs, one transaction a migration).
NOT_ASKED = (
    "prefer-bigint-over-int",
    "prefer-bigint-over-smallint",
    "prefer-identity",
    "prefer-robust-stmts",
    "prefer-text-field",
    "require-lock-timeout",
    "require-statement-timeout",
)
HEADER = re.compile(r"^-- Running upgrade (?:\S+ )?\s*-> (\S+)$", re.MULTILINE)
TRANSACTION = re.compile(r"^(BEGIN|COMMIT);$", re.MULTILINE)


def revisions(root: Path) -> dict[str, Mapping[str, str]]:
    """Revision → what its file accepts, and why."""
    found = {}
    for path in sorted(root.glob("migrations/versions/*/*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found[module.revision] = getattr(module, "ACCEPTED", {})
    return found


def statements(sql: str) -> Iterator[tuple[str, str]]:
    """Revision and what it sends, out of `alembic upgrade --sql`."""
    parts = HEADER.split(sql)
    for revision, body in zip(parts[1::2], parts[2::2], strict=True):
        yield revision, TRANSACTION.sub("", body)


def faults(root: Path, revision: str, sql: str, accepted: Mapping[str, str]) -> Findings:
    """What squawk says about one revision and the revision does not accept."""
    with tempfile.TemporaryDirectory(prefix="migrations-") as folder:
        file = Path(folder) / f"{revision}.sql"
        file.write_text(sql, "utf-8")
        excluded = ",".join([*NOT_ASKED, *accepted])
        command = [
            "squawk",
            "--assume-in-transaction",
            "--pg-version",
            "18",
            "--reporter",
            "gcc",
            "--exclude",
            excluded,
        ]
        return findings(run(root, [*command, str(file)])).replace(f"{folder}/", "")


def check(root: Path) -> Findings:
    """All revisions."""
    made = run(root, ["alembic", "upgrade", "heads", "--sql"])
    if made.returncode:
        return findings(made)
    known = revisions(root)
    return "\n".join(
        filter(None, (faults(root, revision, sql, known[revision]) for revision, sql in statements(made.stdout)))
    )
