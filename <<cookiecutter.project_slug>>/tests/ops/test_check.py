"""The checkers of `make check` that are the project's own: each finds a fault that is put in front of it."""

from pathlib import Path

import pytest

from ops.check import licences, migrations, secrets

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("CREATE INDEX ix_users_name ON users (name);", "require-concurrent-index-creation"),
        ("ALTER TABLE users ADD COLUMN code text NOT NULL;", "adding-required-field"),
        ("ALTER TABLE users RENAME COLUMN email TO mail;", "renaming-column"),
        ("ALTER TABLE users ADD CONSTRAINT positive CHECK (age > 0);", "constraint-missing-not-valid"),
    ],
)
def test_a_statement_that_locks_is_found_unless_it_is_accepted(statement: str, rule: str) -> None:
    """squawk speaks up, and a revision that says why silences that one rule."""
    assert rule in migrations.faults(ROOT, "billing_0001", statement, {})
    assert migrations.faults(ROOT, "billing_0001", statement, {rule: "a handful of rows"}) == ""


def test_every_revision_of_the_project_is_looked_at() -> None:
    """Alembic's listing comes apart into revisions, and their files are found."""
    made = (
        "BEGIN;\n\n-- Running upgrade  -> core_0001\n\nSELECT 1;\n\nCOMMIT;\n\n"
        "BEGIN;\n\n-- Running upgrade core_0001 -> core_0002\n\nSELECT 2;\n\nCOMMIT;\n"
    )
    assert {name: sql.split() for name, sql in migrations.statements(made)} == {
        "core_0001": ["SELECT", "1;"],
        "core_0002": ["SELECT", "2;"],
    }
    written = {"_".join(path.stem.split("_")[:2]) for path in ROOT.glob("migrations/versions/*/*.py")}
    assert "core_0001" in written
    assert set(migrations.revisions(ROOT)) == written


@pytest.mark.parametrize(
    ("licence", "free"),
    [
        ("MIT", True),
        ("Apache Software License; BSD License", True),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("GPL-2.0-only OR MIT", True),
        ("GPL-3.0-or-later", False),
        ("MIT AND AGPL-3.0-only", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("UNKNOWN", False),
    ],
)
def test_a_licence_that_binds_is_found(licence: str, free: bool) -> None:
    """A choice needs one free licence, a sum needs each to be free."""
    assert licences.allowed(licence) is free


def test_what_is_shipped_is_what_the_locks_of_the_image_name() -> None:
    """The tools of development are not asked."""
    shipped = licences.shipped(ROOT)
    assert {"fastapi", "celery"} <= shipped
    assert "pytest" not in shipped


def test_a_secret_in_a_file_is_found(tmp_path: Path) -> None:
    """Unless its line says that it is none, or it is in a test."""
    key = "AKIA" + "QYLPMN5HHHFPZAM2"
    (tmp_path / "settings.py").write_text(f'AWS = "{key}"\nEXAMPLE = "{key}"  # pragma: allowlist secret\n')
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_it.py").write_text(f'AWS = "{key}"\n')
    assert secrets.check(tmp_path) == "settings.py:1: AWS Access Key"
