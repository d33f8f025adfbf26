"""PostgreSQL through SQLAlchemy: the engine, transactions, and the base of every model.

A handler writes inside `async with db.transaction() as session`. The block commits when it ends, and only then are the
tasks sent that were enqueued in it, and only then does the handler answer: a failed commit can neither be reported as
success nor leave a task behind that refers to nothing.
"""

import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import asyncpg
from sqlalchemy import DateTime, MetaData, event, func, inspect, text
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, mapped_column

from app.core.errors import Unavailable, UnprocessableContent
from app.core.settings import Database as DatabaseSettings

if TYPE_CHECKING:
    from app.core.outbox import OutboxTask

Publish = Callable[["Database", Sequence["OutboxTask"]], Awaitable[None]]

# Key in `session.info` under which a transaction collects the tasks to send after its commit.
OUTBOX = "outbox"


class DatabaseUnavailable(Unavailable):
    """The database does not answer, or not in time."""

    detail = "The database is not available at the moment. Try again shortly."


class ValueNotStorable(UnprocessableContent):
    """PostgreSQL cannot store a value: out of range, or not text."""

    detail = "A value does not fit what can be stored."


class Base(DeclarativeBase):
    """Base of every model. Constraints have fixed names, so that a migration can drop what another one made."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def new_id() -> uuid.UUID:
    """A fresh id, a UUID of version 7 (RFC 9562): ids made later sort later, so that indexes grow at one end."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & 0xFFFF_FFFF_FFFF) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return uuid.UUID(int=value)


PrimaryId = Annotated[uuid.UUID, mapped_column(primary_key=True, default=new_id)]
CreatedAt = Annotated[datetime, mapped_column(DateTime(timezone=True), server_default=func.now())]


class Database:
    """The application's database.

    Args:
        settings: address, pool and deadlines.
        publish: called after a transaction has committed, with the tasks enqueued in it.
    """

    name = "database"

    def __init__(self, settings: DatabaseSettings, publish: Publish) -> None:
        self._publish = publish
        dsn = settings.dsn()

        async def connect(*_: Any, **__: Any) -> asyncpg.Connection:
            # asyncpg reads the address itself, so that libpq's own parameters (sslmode, sslrootcert,
            # target_session_attrs) mean here what they mean to psql and pg_dump.
            try:
                connection: asyncpg.Connection = await asyncpg.connect(
                    dsn,
                    timeout=settings.connect_seconds,
                    command_timeout=settings.statement_seconds + 1,
                    server_settings={
                        "application_name": "app",
                        "statement_timeout": str(int(settings.statement_seconds * 1000)),
                        "idle_in_transaction_session_timeout": "60000",
                    },
                )
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                raise DatabaseUnavailable from error
            return connection

        self.engine: AsyncEngine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=connect,
            pool_size=settings.pool_size,
            max_overflow=settings.pool_overflow,
            pool_timeout=settings.connect_seconds,
            hide_parameters=True,  # the text of an error ends up in logs, and the values are what people have sent
        )
        event.listen(self.engine.sync_engine, "checkout", _refuse_closed)
        self._write = async_sessionmaker(self.engine, expire_on_commit=False)
        # Reads need no BEGIN and COMMIT around them: half the database time of a one-statement read.
        self._read = async_sessionmaker(
            self.engine.execution_options(isolation_level="AUTOCOMMIT"), expire_on_commit=False
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A session whose work commits when the block ends, or rolls back when it raises."""
        with _translated():
            async with self._write() as session:
                enqueued: list[OutboxTask] = []
                session.info[OUTBOX] = enqueued
                async with session.begin():
                    yield session
                # One that went with its savepoint has no row.
                outbox = [task for task in enqueued if inspect(task).persistent]
        # Here the outermost transaction is over. SQLAlchemy's after_commit event would also fire for a savepoint.
        if outbox:
            await self._publish(self, outbox)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session for reading; each statement stands alone. Writing through it is a mistake."""
        with _translated():
            async with self._read() as session:
                yield session

    async def check(self) -> None:
        """Raise when the database does not answer."""
        async with self.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


def _refuse_closed(connection: Any, _record: object, _proxy: object) -> None:
    """Have the pool replace a connection whose server has hung up, as it does to all of them when it restarts.

    asyncpg has noticed by then where a loop runs all the time, as in the API. `pool_pre_ping` would ask, with three
    round trips at every use of a connection.
    """
    if connection.driver_connection.is_closed():
        raise DisconnectionError


# Classes of SQLSTATE (PostgreSQL's appendix A) that say: not now. Connection, resources, operator's intervention.
_AWAY = ("08", "53", "57")
_DATA = "22"


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what the driver raises into what a client may be told; anything else is a fault of ours and stays one."""
    try:
        yield
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None) or ""
        if error.connection_invalidated or state.startswith(_AWAY):
            raise DatabaseUnavailable from error
        if state.startswith(_DATA):
            raise ValueNotStorable from error
        raise
    except (PoolTimeout, TimeoutError) as error:
        raise DatabaseUnavailable from error
