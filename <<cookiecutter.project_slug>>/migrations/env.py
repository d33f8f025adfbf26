"""Runs migrations on the database of the settings, one process at a time."""

import asyncio
from typing import Any, Literal

import asyncpg
import structlog
from alembic import context
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

from app.core import audit, idempotency, messages, outbox, sign_outs  # noqa: F401  # core's own tables belong to Base.metadata as well
from app.core.db import Base
from app.core.encryption import Sealed
from app.core.migrations import UNLESS_NEWER, known_revisions
from app.core.settings import load_settings
from app.features import modules, settings_of_features

log = structlog.get_logger(__name__)

# A number of our own for the advisory lock: two deploys at once must not migrate twice.
LOCK = 0x6D6967
LOCK_WAIT = "120s"
# A statement that cannot get its lock gives up instead of queueing every other query behind it.
STATEMENT_LOCK_WAIT = "10s"

modules("models")  # fills Base.metadata


def render(kind: str, item: object, _: object) -> str | Literal[False]:
    """A migration outlives our classes, so it names the type that the database has."""
    return "sa.LargeBinary()" if kind == "type" and isinstance(item, Sealed) else False


def run(connection: Connection) -> None:
    """Migrate within the connection."""
    connection.execute(text(f"SET lock_timeout = '{LOCK_WAIT}'"))
    connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
    connection.execute(text(f"SET lock_timeout = '{STATEMENT_LOCK_WAIT}'"))
    connection.commit()
    if context.config.attributes.get(UNLESS_NEWER) and is_newer(connection):
        return
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        compare_server_default=True,
        render_item=render,
        # A migration that fails leaves those before it in place, and itself undone.
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def is_newer(connection: Connection) -> bool:
    """Whether a newer version has migrated this database: then there is nothing to do for this one, and nothing wrong."""
    applied = set(MigrationContext.configure(connection).get_current_heads())
    connection.commit()
    if unknown := applied - known_revisions():
        log.warning("database_is_newer", revisions=sorted(unknown))
    return bool(unknown)


async def online() -> None:
    """Connect without the application's pool and deadlines: building an index may take its time."""
    dsn = load_settings(settings_of_features()).database.dsn()

    async def connect(*_: Any, **__: Any) -> asyncpg.Connection:
        connection: asyncpg.Connection = await asyncpg.connect(dsn, timeout=10)
        return connection

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=pool.NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()


given = context.config.attributes.get("connection")
if context.is_offline_mode():
    # `alembic upgrade heads --sql`: what would be sent, for people and for `make check`, which looks for statements that lock.
    context.configure(dialect_name="postgresql", literal_binds=True, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
elif given is not None:
    run(given)
else:
    asyncio.run(online())
