"""Restore a dump: beside the live database first, in its place only when it is proven.

A restore that is killed leaves at worst a half-loaded database under another name, or, in the tenth of a second of the
change of names, one that lets nobody in. The next restore, or `restore undo`, clears both up before it does anything else.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

import asyncpg
import structlog

from ops.backup.choose import choose
from ops.backup.config import Config
from ops.backup.contents import Contents, Dumped, Outside
from ops.backup.errors import BackupError, Damaged, Refused
from ops.backup.manifest import Manifest
from ops.backup.postgres import Address, Connection, Tools, connected, contents
from ops.backup.scratch import scratch
from ops.backup.store import Store

log = structlog.get_logger(__name__)
T = TypeVar("T")

# Reached by every role by default, and never the one that is restored.
MAINTENANCE = "postgres"
LONGEST_NAME = 63
# One at a time on a server; PostgreSQL lets it go when the process is gone, however it ended.
ADVISORY_LOCK = 0x6261636B7572
STAMP = re.compile(r"\d{8}t\d{6}z")
LOADING, FORMER, PROOF = "_restore_", "_before_", "_proof_"
LISTS = ("search_path", "temp_tablespaces", "session_preload_libraries", "local_preload_libraries")


@dataclass(frozen=True)
class Restored:
    """What a restore did.

    Attributes:
        kept: the name under which the former database still exists; None where there was none.
    """

    manifest: Manifest
    database: str
    kept: str | None


def restore(config: Config, wanted: str | None = None, *, force: bool = False) -> Restored:
    """Put a backup in the place of the database.

    Args:
        config: where from and where to.
        wanted: id of the backup; None takes the newest.
        force: also where a database with tables lives already; it is kept under another name.

    Raises:
        Refused: a live database stands there and `force` was not said.
        Damaged: the backup is not what its manifest says.
        BackupError: anything else. In all these cases the live database is as it was.
    """
    store = Store(config)
    store.open()
    manifest = choose(store, "dump", wanted)
    with scratch("restore") as folder:
        return asyncio.run(_restore(config, store, manifest, folder, force))


def refuse_live(config: Config, *, force: bool) -> None:
    """Raise where `restore` would refuse, before anything that belongs to it is begun.

    Raises:
        Refused: a live database stands there and `force` was not said.
    """

    async def ask() -> None:
        admin = Address(config.admin_dsn).of(MAINTENANCE)
        async with _alone(admin) as connection:
            await _undo(connection, Address(config.dsn).database)
            await _refuse_live(connection, admin, Address(config.dsn).database, force)

    asyncio.run(ask())


async def _refuse_live(connection: Connection, admin: Address, database: str, force: bool) -> None:
    if not force and await _has_tables(connection, admin, database):
        raise Refused(
            f"database {database} is live: it has tables",
            "say FORCE=1 (--force) to replace it; it is kept under another name",
        )


def undo(config: Config) -> list[str]:
    """Clear up after a restore that was killed. Returns what was done, in words; empty where there was nothing.

    Raises:
        BackupError: another restore is running.
    """

    async def work() -> list[str]:
        async with _alone(Address(config.admin_dsn).of(MAINTENANCE)) as connection:
            return await _undo(connection, Address(config.dsn).database)

    return asyncio.run(work())


@dataclass(frozen=True)
class Rehearsed(Generic[T]):
    """What a restore for trial found.

    Attributes:
        seen: what `look` returned.
    """

    contents: Contents
    seen: T


def rehearse(config: Config, wanted: str, look: Callable[[Connection], Awaitable[T]]) -> Rehearsed[T]:
    """Restore a dump into a database of its own, compare it with its manifest, look at it, and drop it.

    Raises:
        Damaged: it is not what was dumped.
        BackupError: anything else.
    """
    store = Store(config)
    dumped = Dumped.of(manifest := choose(store, "dump", wanted))
    live, admin = Address(config.dsn), Address(config.admin_dsn).of(MAINTENANCE)

    async def work(file: Path, listing: Path) -> Rehearsed[T]:
        async with _alone(admin) as connection:
            await _undo(connection, live.database)
            tools = Tools(config.pg_bin, connection.get_server_version().major)
            trial = _name(live.database, f"{PROOF}{datetime.now(UTC):%Y%m%dt%H%M%Sz}")
            await _execute(connection, "CREATE DATABASE {} OWNER {}", trial, live.user)
            try:
                await _load(tools, dumped, file, admin.of(trial), live.user, listing)
                async with connected(admin.of(trial)) as inside:
                    return Rehearsed(dumped.contents, await look(inside))
            finally:
                await _execute(connection, "DROP DATABASE IF EXISTS {} WITH (FORCE)", trial)

    with scratch("proof") as folder:
        file = folder / "database.dump"
        store.fetch(manifest.only, file)
        Tools(config.pg_bin, dumped.server_major).check(file)
        return asyncio.run(work(file, folder / "list"))


@asynccontextmanager
async def _alone(admin: Address) -> AsyncIterator[Connection]:
    async with connected(admin) as connection:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", ADVISORY_LOCK):
            raise BackupError("another restore is running on this server", "wait for it")
        yield connection


async def _undo(connection: Connection, live: str) -> list[str]:
    """The lock is ours, so whatever looks like a restore under way is one that died."""
    rows = await connection.fetch("SELECT datname, datallowconn FROM pg_database WHERE NOT datistemplate")
    allows = {row["datname"]: row["datallowconn"] for row in rows}
    left = [name for name in allows if _is_named(name, live, LOADING)]
    trials = [name for name in allows if _is_named(name, live, PROOF)]
    former = [name for name in allows if _is_named(name, live, FORMER)]
    done = []
    # A loaded copy beside it tells that it was the restore that closed the live one; an operator may have had reasons.
    shut = [name for name in former if not allows[name]] + ([live] if left and not allows.get(live, True) else [])
    for name in shut:
        await _execute(connection, "ALTER DATABASE {} ALLOW_CONNECTIONS true", name)
        done.append(f"{name} lets its users in again")
    for name in left + trials:
        await _execute(connection, "DROP DATABASE {} WITH (FORCE)", name)
        done.append(f"dropped {name}, which a killed restore left")
    if done:
        log.warning("backup_restore_undone", what=done)
    return done


def _is_named(name: str, live: str, middle: str) -> bool:
    """Whether a restore of this database gave this name."""
    stamp = name.rpartition(middle)[2]
    return bool(STAMP.fullmatch(stamp)) and name == _name(live, middle + stamp)


async def _restore(config: Config, store: Store, manifest: Manifest, folder: Path, force: bool) -> Restored:
    live, dumped = Address(config.dsn), Dumped.of(manifest)
    admin = Address(config.admin_dsn).of(MAINTENANCE)
    async with _alone(admin) as connection:
        await _undo(connection, live.database)
        await _refuse_live(connection, admin, live.database, force)
        tools = Tools(config.pg_bin, connection.get_server_version().major)
        dump = folder / "database.dump"
        # Before anything is changed: is it what was written, all of it?
        await asyncio.to_thread(store.fetch, manifest.only, dump)
        await asyncio.to_thread(tools.check, dump)
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}".lower()
        fresh = _name(live.database, f"{LOADING}{stamp}")
        await _execute(connection, "CREATE DATABASE {} OWNER {}", fresh, live.user)
        try:
            await _load(tools, dumped, dump, admin.of(fresh), live.user, folder / "list")
            await _apply(connection, fresh, dumped.outside)
            kept = await _swap(connection, live.database, fresh, _name(live.database, f"{FORMER}{stamp}"))
        except BaseException:
            await _execute(connection, "DROP DATABASE IF EXISTS {} WITH (FORCE)", fresh)
            raise
    log.info("backup_restored", backup=manifest.id, database=live.database, kept=kept)
    return Restored(manifest, live.database, kept)


async def _load(tools: Tools, dumped: Dumped, dump: Path, target: Address, owner: str, listing: Path) -> None:
    """Fill the new database and compare it with the manifest."""
    async with connected(target) as connection:
        for extension in dumped.contents.extensions:
            # Already there where template1 has it, which is how a role that may not create it gets by.
            await _execute(connection, "CREATE EXTENSION IF NOT EXISTS {}", extension)
    await asyncio.to_thread(tools.restore, dump, target, owner, listing)
    async with connected(target) as connection:
        if differences := dumped.contents.differences(await contents(connection)):
            raise Damaged("the restored database is not the one that was dumped:\n  " + "\n  ".join(differences))
        # A dump has no statistics; without them the first queries would be planned blindly.
        await connection.execute("ANALYZE")


async def _apply(connection: Connection, database: str, outside: Outside) -> None:
    """Privileges and settings of the database itself, which no dump holds."""
    if outside.grants is not None:
        await _execute(connection, "REVOKE ALL ON DATABASE {} FROM PUBLIC", database)
        roles = {record[0] for record in await connection.fetch("SELECT rolname FROM pg_roles")}
        for role, privilege in outside.grants:
            if role and role not in roles:
                log.warning("backup_role_missing", role=role, privilege=privilege)
                continue
            # The privilege is a keyword, and only PostgreSQL itself ever wrote it into the manifest.
            if not privilege.isalpha():
                raise Damaged(f"{privilege!r} is no privilege")
            to = await _quoted(connection, role) if role else "PUBLIC"
            await _execute(connection, f"GRANT {privilege} ON DATABASE {{}} TO {to}", database)
    for setting in outside.settings:
        name, _, value = setting.partition("=")
        # Lists of names are stored with each name quoted where it must be; quoting the list would make it one name.
        literal = value if name in LISTS else await connection.fetchval("SELECT quote_literal($1::text)", value)
        await _execute(connection, f"ALTER DATABASE {{}} SET {{}} TO {literal}", database, name)


async def _swap(connection: Connection, live: str, fresh: str, aside: str) -> str | None:
    """Rename both in one transaction: at no moment is there a half, and a failure leaves the live one where it was."""
    exists = await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", live)
    if not exists:
        await _execute(connection, "ALTER DATABASE {} RENAME TO {}", fresh, live)
        return None
    # Nobody may come back between the end of the sessions and the rename.
    await _execute(connection, "ALTER DATABASE {} ALLOW_CONNECTIONS false", live)
    name = live
    try:
        await _end_sessions(connection, live)
        async with connection.transaction():
            await _execute(connection, "ALTER DATABASE {} RENAME TO {}", live, aside)
            await _execute(connection, "ALTER DATABASE {} RENAME TO {}", fresh, live)
        name = aside
    finally:
        await _execute(connection, "ALTER DATABASE {} ALLOW_CONNECTIONS true", name)
    return aside


async def _end_sessions(connection: Connection, database: str) -> None:
    # PostgreSQL ends its own workers by itself, and only a superuser may do so otherwise.
    query = """
        SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
         WHERE datname = $1 AND backend_type = 'client backend'
    """
    try:
        await connection.fetch(query, database)
    except asyncpg.InsufficientPrivilegeError as error:
        raise BackupError(
            f"other roles are connected to {database}, and this one may not end their sessions",
            "stop whatever is connected, or set BACKUP_ADMIN_URL",
        ) from error


async def _has_tables(connection: Connection, admin: Address, database: str) -> bool:
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", database):
        return False
    async with connected(admin.of(database)) as inside:
        return bool((await contents(inside)).tables)


async def _quoted(connection: Connection, name: str) -> str:
    quoted: str = await connection.fetchval("SELECT quote_ident($1)", name)
    return quoted


async def _execute(connection: Connection, statement: str, *names: str) -> None:
    """Run a statement with names, quoted by PostgreSQL, in place of its braces.

    Raises:
        BackupError: PostgreSQL refused it.
    """
    quoted = [await _quoted(connection, name) for name in names]
    try:
        await connection.execute(statement.format(*quoted))
    except asyncpg.PostgresError as error:
        advice = (
            "use a role that may: BACKUP_ADMIN_URL" if isinstance(error, asyncpg.InsufficientPrivilegeError) else ""
        )
        raise BackupError(f"PostgreSQL refused `{statement.format(*quoted)}`: {error}", advice) from error


def _name(database: str, suffix: str) -> str:
    return database[: LONGEST_NAME - len(suffix)] + suffix
