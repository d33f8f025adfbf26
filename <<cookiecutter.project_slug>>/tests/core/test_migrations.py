"""Migrations: the models are what the database is, forwards and backwards, and nobody migrates twice."""

import asyncio
import os
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from alembic import command as alembic
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Connection, Integer, MetaData, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.core.db import Base
from app.core.migrations import alembic_config, before_feature, expected_heads
from app.core.project import ROOT
from devstack import Stack
from tests.core.commands import command, each


@pytest.fixture
async def empty_database(stack: Stack, environment: dict[str, str]) -> AsyncIterator[str]:
    """The address of a database with nothing in it."""
    name = f"empty_{uuid4().hex}"
    stack.sql(f'CREATE DATABASE {name} OWNER "{stack.env["DATABASE_USER"]}"')
    stack.sql("CREATE EXTENSION IF NOT EXISTS vector", database=name)
    yield stack.env["DATABASE_URL"].rsplit("/", 1)[0] + f"/{name}"
    stack.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def engine(empty_database: str) -> AsyncIterator[AsyncEngine]:
    """Connections to it."""

    async def connect(*_: Any, **__: Any) -> asyncpg.Connection:
        return await asyncpg.connect(empty_database)

    made = create_async_engine("postgresql+asyncpg://", async_creator=connect)
    yield made
    await made.dispose()


async def migrate(engine: AsyncEngine, step: Any, revision: str) -> None:
    """Run an Alembic command in the engine's database."""

    def run(connection: Connection) -> None:
        config = alembic_config()
        config.attributes["connection"] = connection
        step(config, revision)

    async with engine.connect() as connection:
        await connection.run_sync(run)
        await connection.commit()


async def differences(engine: AsyncEngine, metadata: MetaData) -> list[Any]:
    """What Alembic would have to change to make the database what the models say."""

    def compare(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, metadata))

    async with engine.connect() as connection:
        return await connection.run_sync(compare)


async def tables(engine: AsyncEngine) -> set[str]:
    """The tables there are."""
    async with engine.connect() as connection:
        found = await connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
        return set(found.scalars())


async def test_models_and_migrations_agree(engine: AsyncEngine) -> None:
    """No drift; and the check would see some: a column more is one difference."""
    await migrate(engine, alembic.upgrade, "heads")
    assert await differences(engine, Base.metadata) == []
    changed = MetaData(naming_convention=Base.metadata.naming_convention)
    for table in Base.metadata.sorted_tables:
        table.to_metadata(changed)
    changed.tables["task_outbox"].append_column(Column("forgotten", Integer, nullable=True))
    (difference,) = await differences(engine, changed)
    assert difference[0] == "add_column"
    assert difference[3].name == "forgotten"


async def test_down_to_nothing_and_up_again(engine: AsyncEngine) -> None:
    """Every revision undoes what it did; what is left can be migrated again."""
    await migrate(engine, alembic.upgrade, "heads")
    made = await tables(engine)
    await migrate(engine, alembic.downgrade, "base")
    assert await tables(engine) == {"alembic_version"}
    await migrate(engine, alembic.upgrade, "heads")
    assert await tables(engine) == made
    assert await differences(engine, Base.metadata) == []


def branches() -> list[str]:
    """The branch of every feature."""
    script = ScriptDirectory.from_config(alembic_config())
    return sorted({label for revision in script.walk_revisions() for label in revision.branch_labels})


@pytest.mark.parametrize("branch", branches())
async def test_a_feature_goes_without_the_others(engine: AsyncEngine, branch: str) -> None:
    """Its branch is undone and done again while the others' tables stay."""
    await migrate(engine, alembic.upgrade, "heads")
    before = await tables(engine)
    await migrate(engine, alembic.downgrade, before_feature(branch))
    left = await tables(engine)
    assert left < before
    assert "task_outbox" in left
    await migrate(engine, alembic.upgrade, f"{branch}@head")
    assert await tables(engine) == before


def test_every_feature_has_one_head() -> None:
    """Two heads in a branch are two people's migrations that nobody has put in order."""
    script = ScriptDirectory.from_config(alembic_config())
    folders = [head.rsplit("_", 1)[0] for head in expected_heads()]
    assert len(folders) == len(set(folders))
    assert set(branches()) <= set(folders) <= {"core", *branches()}
    for revision in script.walk_revisions():
        assert revision.doc, revision.revision
        assert Path(revision.path).parent.name == revision.revision.rsplit("_", 1)[0]


async def test_two_deploys_at_once(
    empty_database: str, environment: dict[str, str], eventually: Callable[..., Any]
) -> None:
    """Two processes stand before the same empty database: both succeed, and it was done once."""
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    door = await asyncpg.connect(empty_database)
    # The lock that migrations/env.py takes: held here until both of them want it.
    await door.execute("SELECT pg_advisory_lock(x'6d6967'::int)")
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "app.cli", "migrate"],
            cwd=ROOT,
            env={**os.environ, **environment, "DATABASE_URL": empty_database},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for _ in range(2)
    ]

    async def both() -> bool:
        return bool(await door.fetchval(waiting) == 2)

    await eventually(both)
    await door.close()
    outputs = [(await asyncio.to_thread(process.communicate, timeout=60))[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    assert sum(output.count(b"-> core_0001") for output in outputs) == 1


async def test_a_database_of_a_newer_version_is_left_alone(empty_database: str, environment: dict[str, str]) -> None:
    """After a rollback the stack starts again, migrations first: the older ones have nothing to do, and that is no failure."""
    database = await asyncpg.connect(empty_database)
    await database.execute("CREATE TABLE alembic_version (version_num text)")
    await database.execute("INSERT INTO alembic_version VALUES ('core_0001'), ('newer_0001')")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app.cli", "migrate"),
        cwd=ROOT,
        env={**os.environ, **environment, "DATABASE_URL": empty_database},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    tables = await database.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    await database.close()
    assert process.returncode == 0, output
    assert b"database_is_newer" in output
    assert [row["tablename"] for row in tables] == ["alembic_version"]


def test_a_migration_is_written_from_the_models(
    project_copy: Path, empty_database: str, environment: dict[str, str]
) -> None:
    """`make migration`: a new feature's first revision begins a branch, its second follows, names with _ included."""
    feature = project_copy / "app/features/road_maps"
    feature.mkdir()
    (feature / "__init__.py").touch()
    model = """
from sqlalchemy.orm import Mapped
from app.core.db import Base, PrimaryId

class RoadMap(Base):
    __tablename__ = "road_maps"
    id: Mapped[PrimaryId]
"""
    (feature / "models.py").write_text(model)
    listed = project_copy / "app/features/__init__.py"
    listed.write_text(listed.read_text() + '\nFEATURES = (*FEATURES, "road_maps")\n')
    env = {**environment, "DATABASE_URL": empty_database}

    def run(*lines: str) -> None:
        for done in each(env, *(command(*shlex.split(line)) for line in lines), cwd=project_copy):
            assert done.returncode == 0, done.stdout + done.stderr

    run("migrate", "migration --feature road_maps --message begin", "migrate")
    (feature / "models.py").write_text(model + "    name: Mapped[str]\n")
    run("migration --feature road_maps --message 'a name'", "migrate")
    folder = project_copy / "migrations/versions/road_maps"
    assert sorted(file.name for file in folder.glob("*.py")) == [
        "road_maps_0001_begin.py",
        "road_maps_0002_a_name.py",
    ]
    first, second = (file.read_text() for file in sorted(folder.glob("*.py")))
    assert "create_table" in first
    assert "'road_maps'" in first.replace('"', "'")
    assert "add_column" in second
    assert "drop" not in second.split("def downgrade")[0]


def test_what_has_no_branch_is_not_taken_back() -> None:
    """Neither core, from which all start, nor a name with a slip in it."""
    for name in ("core", "acounts", ""):
        with pytest.raises(LookupError):
            before_feature(name)
