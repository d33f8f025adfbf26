"""PostgreSQL through SQLAlchemy: the engine, transactions, and the base of every model.

A handler writes inside `async with db.transaction() as session`. The block commits when it ends, and only then are the
tasks sent that were enqueued in it, and only then does the handler answer: a failed commit can neither be reported as
success nor leave a task behind that refers to nothing.
"""

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import asyncpg
import structlog
from sqlalchemy import AsyncAdaptedQueuePool, DateTime, ExceptionContext, MetaData, NullPool, event, func, inspect, text
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, mapped_column

from app.core import metrics
from app.core.circuit import Circuit
from app.core.circuit import State as CircuitState
from app.core.errors import Unavailable, UnprocessableContent
from app.core.settings import Database as DatabaseSettings

if TYPE_CHECKING:
    from app.core.outbox import OutboxTask

log = structlog.get_logger(__name__)

Publish = Callable[["Database", Sequence["OutboxTask"]], Awaitable[None]]

# Key in `session.info` under which a transaction collects the tasks to send after its commit.
OUTBOX = "outbox"
_NOTHING: Mapping[str, Any] = {}
# So many calls in a row find a server away, and for so long none is tried then; the next one asks it again.
FAILURES = 3
OPEN_SECONDS = 2.0
LAG_EVERY_SECONDS = 5.0
# PostgreSQL's own log has the same limit (ops/postgres/postgresql.conf); a managed one may have none.
SLOW_SECONDS = 0.1
# What has come from the primary and is not applied yet is late by the time of the last transaction that is.
BEHIND = """
SELECT CASE WHEN NOT pg_is_in_recovery() OR pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
            ELSE extract(epoch FROM now() - pg_last_xact_replay_timestamp()) END
"""


class DatabaseUnavailable(Unavailable):
    """The database does not answer."""

    detail = "The database is not available at the moment. Try again shortly."


class DatabaseBusy(Unavailable):
    """The database answers, but a statement took too long, or every connection of this process is in use."""

    detail = "The database is busy at the moment. Try again shortly."


class ReadOnly(Unavailable):
    """The database takes no changes now: only its replica answers, or it is a standby itself."""

    detail = "Nothing can be changed at the moment, only read. Try again shortly."


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


# Database, session and task of the `Database.whole` around what is running.
_WHOLE: "ContextVar[tuple[Database, AsyncSession, asyncio.Task[Any] | None] | None]" = ContextVar("whole", default=None)


class Server:
    """One PostgreSQL server: its connections, and a circuit that opens when it is away.

    Args:
        name: how health calls it.
        dsn: its address.
        settings: pool and deadlines.
        info: what every session has in its `info`.
    """

    def __init__(self, name: str, dsn: str, settings: DatabaseSettings, info: Mapping[str, Any]) -> None:
        self.name = name
        self._seconds = settings.connect_seconds
        self.circuit = Circuit(name, FAILURES, OPEN_SECONDS, counts=(DatabaseUnavailable,))
        arguments = _connect_arguments(dsn, settings)
        self.engine: AsyncEngine = create_async_engine(
            "postgresql+asyncpg://",
            connect_args=arguments,
            pool_size=settings.pool_size,
            max_overflow=settings.pool_overflow,
            pool_timeout=settings.connect_seconds,
            hide_parameters=True,  # the text of an error ends up in logs, and the values are what people have sent
        )
        # For health, which must not call a server ill because all of its connections are at work.
        self._single = create_async_engine(
            "postgresql+asyncpg://", connect_args=arguments, poolclass=NullPool, hide_parameters=True
        )
        for engine in (self.engine, self._single):
            event.listen(engine.sync_engine, "handle_error", _end_silent)
        event.listen(self.engine.sync_engine, "checkout", _refuse_closed)
        _watch_statements(self.engine, name)
        self.write = async_sessionmaker(self.engine, expire_on_commit=False, info=dict(info))
        # Reads need no BEGIN and COMMIT around them: half the database time of a one-statement read.
        self.read = async_sessionmaker(
            self.engine.execution_options(isolation_level="AUTOCOMMIT"), expire_on_commit=False, info=dict(info)
        )

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """A connection for a look at the server, which is there also when the pool has none left."""
        pool = self.engine.pool
        assert isinstance(pool, AsyncAdaptedQueuePool)
        exhausted = pool.checkedout() >= pool.size() + pool._max_overflow
        with _translated():
            async with (self._single if exhausted else self.engine).connect() as connection:
                yield connection

    async def check(self) -> None:
        """Raise when the server does not answer."""
        async with self.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def usable(self) -> bool:
        """Whether to send work here. A server that was away is asked first, by one caller at a time."""
        if self.circuit.state is CircuitState.CLOSED:
            return True
        try:
            async with self.circuit.guard(), asyncio.timeout(self._seconds):
                await self.check()
        except (Unavailable, TimeoutError):
            return False
        return True

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()
        await self._single.dispose()


class Replica(Server):
    """A streaming replica: as good as the primary, a little later."""

    def __init__(self, dsn: str, settings: DatabaseSettings, info: Mapping[str, Any]) -> None:
        super().__init__("replica", dsn, settings, info)
        self._lag = settings.replica_lag_seconds
        self._in_time = False
        self._measured_at = -LAG_EVERY_SECONDS

    async def check(self) -> None:
        """Raise when the replica does not answer, or is too far behind."""
        async with self.connect() as connection:
            behind = float(await connection.scalar(text(BEHIND)) or 0)
        self._measured_at, self._in_time = time.monotonic(), behind <= self._lag
        if not self._in_time:
            raise DatabaseUnavailable(f"The replica is {behind:.0f} s behind.")

    async def in_time(self) -> bool:
        """Whether it is close enough behind the primary to be read in its place; measured every few seconds."""
        if time.monotonic() - self._measured_at > LAG_EVERY_SECONDS:
            self._measured_at, self._in_time = time.monotonic(), False  # meanwhile others read from the primary
            with suppress(Unavailable, TimeoutError):
                async with self.circuit.guard(), asyncio.timeout(self._seconds):
                    await self.check()
        return self._in_time


class Database:
    """The application's database, and its replica if there is one.

    Args:
        settings: addresses, pool and deadlines.
        publish: called after a transaction has committed, with the tasks enqueued in it.
        info: what every session has in its `info`.
    """

    name = "database"

    def __init__(self, settings: DatabaseSettings, publish: Publish, info: Mapping[str, Any] = _NOTHING) -> None:
        self._publish = publish
        self.primary = Server(self.name, settings.dsn(), settings, info)
        address = settings.replica_url.get_secret_value()
        self.replica = Replica(address, settings, info) if address else None

    @property
    def engine(self) -> AsyncEngine:
        """The connections to the primary."""
        return self.primary.engine

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A session whose work commits when the block ends, or rolls back when it raises.

        Raises:
            ReadOnly, DatabaseUnavailable, DatabaseBusy: it cannot, at the moment.
            ValueNotStorable: a value does not fit.
        """
        if (outer := self._outer()) is not None:
            with _translated():
                async with outer.begin_nested():
                    yield outer
            return
        if not await self.primary.usable():
            raise await self._no_writing()
        outbox: list[OutboxTask] = []
        try:
            async with self.primary.circuit.guard():
                with _translated():
                    async with self.primary.write() as session:
                        enqueued: list[OutboxTask] = []
                        session.info[OUTBOX] = enqueued
                        async with session.begin():
                            yield session
                        # One that went with its savepoint has no row.
                        outbox = [task for task in enqueued if inspect(task).persistent]
        except DatabaseUnavailable as error:
            raise await self._no_writing() from error
        # Here the outermost transaction is over. SQLAlchemy's after_commit event would also fire for a savepoint.
        if outbox:
            await self._publish(self, outbox)

    @asynccontextmanager
    async def read(self, *, may_lag: bool = False, whole: bool = False) -> AsyncIterator[AsyncSession]:
        """A session for reading; each statement stands alone. Writing through it is a mistake.

        From the primary, so that everybody reads what they have written; from the replica while the primary is away.

        Args:
            may_lag: from the replica where there is one, some moments behind: for lists and searches, never for what
                decides about a right or a change.
            whole: all statements in one transaction, whose settings (`SET LOCAL`) hold to its end. It never commits.

        Raises:
            DatabaseUnavailable, DatabaseBusy: it cannot, at the moment.
        """
        if (outer := self._outer()) is not None:
            with _translated():
                async with outer.begin_nested():  # a statement that fails ends no more than this
                    yield outer
            return
        server = await self._server_for_reading(may_lag)
        async with server.circuit.guard():
            with _translated():
                async with (server.write if whole else server.read)() as session:
                    yield session

    @asynccontextmanager
    async def whole(self) -> AsyncIterator[AsyncSession]:
        """A transaction that takes in every `transaction()` and `read()` of this task within the block: all or nothing.

        Only for what surrounds a handler, see `idempotency`. Other tasks have transactions of their own, as a session
        serves one at a time.

        Raises:
            ReadOnly, DatabaseUnavailable, DatabaseBusy: it cannot, at the moment.
        """
        async with self.transaction() as session:
            token = _WHOLE.set((self, session, asyncio.current_task()))
            try:
                yield session
            finally:
                _WHOLE.reset(token)

    def _outer(self) -> AsyncSession | None:
        """The session of the `whole` that we are in."""
        found = _WHOLE.get()
        if found and found[0] is self and found[2] is asyncio.current_task():
            return found[1]
        return None

    @property
    def engines(self) -> list[AsyncEngine]:
        """Whatever holds a pool of connections."""
        return [server.engine for server in (self.primary, self.replica) if server]

    async def check(self) -> None:
        """Raise when the primary does not answer."""
        await self.primary.check()

    async def close(self) -> None:
        """Close every connection."""
        await self.primary.close()
        if self.replica:
            await self.replica.close()

    async def _server_for_reading(self, may_lag: bool) -> Server:
        """The first of the servers that can be read from, by preference."""
        if self.replica is None:
            if not await self.primary.usable():
                raise DatabaseUnavailable
            return self.primary
        if may_lag and await self.replica.in_time():
            return self.replica
        for server in (self.primary, self.replica):
            if await server.usable() and await _connects(server):
                return server
        raise DatabaseUnavailable

    async def _no_writing(self) -> Unavailable:
        """What a writer is told while the primary is away."""
        readable = self.replica and await self.replica.usable() and await _connects(self.replica)
        return ReadOnly() if readable else DatabaseUnavailable()


async def _connects(server: Server) -> bool:
    """Whether the server gives a connection, which then waits in the pool: a server that has just died does not."""
    try:
        async with server.circuit.guard():
            with _translated():
                async with server.engine.connect():
                    return True
    except DatabaseBusy:
        return True  # it is there; what to do about it is for the caller
    except Unavailable:
        return False


def _connect_arguments(dsn: str, settings: DatabaseSettings) -> dict[str, Any]:
    """How SQLAlchemy's dialect gets its connections."""
    server_settings = {"application_name": "app"}
    if not settings.pooler:
        server_settings |= {
            "statement_timeout": str(int(settings.statement_seconds * 1000)),
            "idle_in_transaction_session_timeout": "60000",
        }

    async def connect(*_: Any, **__: Any) -> asyncpg.Connection:
        # asyncpg reads the address itself, so that libpq's own parameters (sslmode, sslrootcert,
        # target_session_attrs) mean here what they mean to psql and pg_dump.
        try:
            connection: asyncpg.Connection = await asyncpg.connect(
                dsn,
                timeout=settings.connect_seconds,
                command_timeout=settings.statement_seconds + 1,
                server_settings=server_settings,
                **({"statement_cache_size": 0} if settings.pooler else {}),
            )
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise DatabaseUnavailable from error
        return connection

    arguments: dict[str, Any] = {"async_creator_fn": connect}
    if settings.pooler:
        # The next statement may meet another server connection, which knows none prepared before it, or one of that name.
        arguments |= {"prepared_statement_cache_size": 0, "prepared_statement_name_func": lambda: f"s{uuid.uuid4()}"}
    return arguments


def _refuse_closed(connection: Any, _record: object, _proxy: object) -> None:
    """Have the pool replace a connection whose server has hung up, as it does to all of them when it restarts.

    asyncpg has noticed by then where a loop runs all the time, as in the API. `pool_pre_ping` would ask, with three
    round trips at every use of a connection.
    """
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _watch_statements(engine: AsyncEngine, name: str) -> None:
    """Count and log what is slow. The text has placeholders where people's values are."""

    def begin(_connection: Any, _cursor: Any, _statement: str, _values: Any, context: Any, _many: bool) -> None:
        context.began = time.perf_counter()

    def end(_connection: Any, _cursor: Any, statement: str, _values: Any, context: Any, _many: bool) -> None:
        seconds = time.perf_counter() - context.began
        if seconds > SLOW_SECONDS:
            metrics.SLOW_STATEMENTS.labels(name).inc()
            log.warning("slow_statement", database=name, seconds=round(seconds, 3), statement=statement[:500])

    metrics.SLOW_STATEMENTS.labels(name)  # 0 is an answer as well
    event.listen(engine.sync_engine, "before_cursor_execute", begin)
    event.listen(engine.sync_engine, "after_cursor_execute", end)


def _end_silent(context: ExceptionContext) -> None:
    """Give up a connection that does not answer, or that leads to a standby, with all others of the pool.

    A deadline that passes here is the driver's own: one of the caller comes as a cancellation.
    """
    error = context.original_exception
    connection = context.connection
    silent = isinstance(error, TimeoutError | OSError)
    if silent or getattr(error, "sqlstate", None) == STANDBY:
        context.is_disconnect = True
        if connection is not None and (driver := connection.connection.driver_connection) is not None:
            driver.terminate()  # or SQLAlchemy would wait for its farewell
    if silent:
        raise DatabaseUnavailable from error


# SQLSTATEs (PostgreSQL's appendix A). A change sent to a standby; a statement ended by its deadline.
STANDBY = "25006"
TOOK_TOO_LONG = "57014"
# Classes of them that say: not now. Connection, resources, operator's intervention.
_AWAY = ("08", "53", "57")
_DATA = "22"


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what the driver raises into what a client may be told; anything else is a fault of ours and stays one."""
    try:
        yield
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None) or ""
        if state == STANDBY:
            raise ReadOnly from error
        if state == TOOK_TOO_LONG:
            raise DatabaseBusy from error
        if error.connection_invalidated or state.startswith(_AWAY):
            raise DatabaseUnavailable from error
        if state.startswith(_DATA):
            raise ValueNotStorable from error
        raise
    except PoolTimeout as error:
        raise DatabaseBusy from error
