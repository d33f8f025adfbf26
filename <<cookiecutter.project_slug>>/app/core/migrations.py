"""Alembic from Python: upgrade under a lock, and what revision the code expects.

Each feature's revisions are a branch of their own below `migrations/versions/<feature>`, so a feature's folder can go
without leaving a gap. "Newest" therefore means all heads.
"""

import os
from collections.abc import Set
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from app.core.project import ROOT

# Tells migrations/env.py to leave a newer database alone.
UNLESS_NEWER = "unless newer"


def alembic_config() -> Config:
    """The configuration in alembic.ini, usable from any working directory."""
    config = Config(ROOT / "alembic.ini")
    config.set_main_option("script_location", str(ROOT / "migrations").replace("%", "%%"))
    return config


@cache
def expected_heads() -> frozenset[str]:
    """The revisions at which the database must be for this code."""
    return frozenset(ScriptDirectory.from_config(alembic_config()).get_heads())


@cache
def known_revisions() -> frozenset[str]:
    """Every revision that this code has."""
    return frozenset(item.revision for item in ScriptDirectory.from_config(alembic_config()).walk_revisions())


def missing(applied: Set[str]) -> frozenset[str]:
    """The revisions that this code needs and the database has not come to.

    None where the database has a revision that this code does not know: a newer version has migrated it, which happens
    before it takes over and stays after it is rolled back. Its migrations suit this version: docs/migrations.md.

    Args:
        applied: what the table `alembic_version` holds.
    """
    return expected_heads() - applied if applied <= known_revisions() else frozenset()


def upgrade() -> None:
    """Bring the database to the newest revisions. Several processes may call this at once: one works, the others wait.

    A database that a newer version has migrated is left as it is: after a rollback this one starts on it again.
    """
    config = alembic_config()
    config.attributes[UNLESS_NEWER] = True
    command.upgrade(config, "heads")


def before_feature(feature: str) -> str:
    """Alembic's name for the database as it was before a feature came into it.

    It is not `feature@base`: every branch starts at a revision of core, and Alembic would go on from there to the very beginning,
    with all tables of all others.

    Raises:
        LookupError: the feature has no revisions.
    """
    for revision in ScriptDirectory.from_config(alembic_config()).walk_revisions():
        if feature in (revision.branch_labels or ()) and f"{feature}_0001" == revision.revision:
            return f"{feature}@{revision.down_revision}"
    raise LookupError(feature)


def take_back(feature: str) -> None:
    """Undo a feature's revisions in the database: its tables go, with what is in them, and no other's.

    Raises:
        LookupError: the feature has no revisions.
    """
    command.downgrade(alembic_config(), before_feature(feature))


def _numbers(folder: Path) -> list[str]:
    """The numbers of the revisions in a feature's folder, in order."""
    beginning = f"{folder.name}_"
    return sorted(path.name.removeprefix(beginning)[:4] for path in folder.glob(f"{beginning}[0-9]*.py"))


def new_revision(feature: str, message: str) -> None:
    """Write a migration of `feature` from the difference between its models and the database.

    Args:
        feature: a feature's name, or `core`.
        message: what it does; becomes part of the file's name.
    """
    config = alembic_config()
    versions = ROOT / "migrations" / "versions"
    folder = versions / feature
    own, core = _numbers(folder), _numbers(versions / "core")
    folder.mkdir(exist_ok=True)
    # Alembic writes only to folders that are named one by one; to read, it finds them itself.
    folders = os.pathsep.join(sorted(str(path) for path in versions.iterdir() if path.is_dir()))
    config.set_main_option("version_locations", folders.replace("%", "%%"))
    config.set_main_option("recursive_version_locations", "false")
    command.revision(
        config,
        message=message,
        autogenerate=True,
        head=f"{feature}_{own[-1]}" if own else f"core_{core[-1]}",
        splice=True,  # a feature may branch off a revision of core that has successors
        branch_label=None if own else feature,
        version_path=str(folder),
        rev_id=f"{feature}_{len(own) + 1:04d}",
    )
