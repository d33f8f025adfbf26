"""The database server as its replication role sees it: who it is, where its log stands, and the slot that holds the log."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from ops.backup.config import Config
from ops.backup.errors import BackupError
from ops.backup.postgres import Address, Connection, Tools, connected
from ops.backup.wal.names import Segment, read_lsn, write_lsn

# The server keeps the log from here on. It is moved by us, when a segment is safe in the store, and not by whoever receives
# it: what was received and then lost with its container is still on the server.
SLOT = "backup"
DATABASE = "postgres"
NO_ROLE = "physical backups need a role with REPLICATION: BACKUP_REPLICATION_…, docs/backup.md"


@dataclass(frozen=True)
class Server:
    """What a server says of itself.

    Attributes:
        system: identifier of the cluster.
        segment_bytes: size of a segment of its log.
    """

    system: str
    major: int
    version: str
    segment_bytes: int


@dataclass(frozen=True)
class Slot:
    """The slot.

    Attributes:
        lost: the server had to let go what it held, because it would have taken more than max_slot_wal_keep_size.
        position: from where on the log is held.
        left: bytes that may still be written before that happens; None without a limit.
    """

    lost: bool
    position: int
    left: int | None


def address(config: Config) -> Address:
    """Where physical backups come from.

    Raises:
        BackupError: the settings name no role for them.
    """
    if not config.replication_dsn:
        raise BackupError("there is no role for physical backups", NO_ROLE)
    return Address(config.replication_dsn).of(DATABASE)


@asynccontextmanager
async def session(config: Config) -> AsyncIterator[Connection]:
    """An ordinary session of that role, for questions.

    Raises:
        BackupError: the server does not let it in.
    """
    async with connected(address(config), NO_ROLE) as connection:
        yield connection


async def server(connection: Connection) -> Server:
    """Who it is."""
    row = await connection.fetchrow(
        """
        SELECT (SELECT system_identifier FROM pg_control_system())::text AS system,
               (SELECT setting FROM pg_settings WHERE name = 'wal_segment_size')::bigint AS segment_bytes,
               current_setting('server_version') AS version
        """
    )
    assert row is not None
    return Server(row["system"], connection.get_server_version().major, row["version"], row["segment_bytes"])


async def slot(connection: Connection) -> Slot | None:
    """The slot, if there is one."""
    row = await connection.fetchrow(
        "SELECT wal_status, restart_lsn::text AS lsn, safe_wal_size FROM pg_replication_slots WHERE slot_name = $1",
        SLOT,
    )
    if row is None:
        return None
    lost = row["wal_status"] == "lost" or row["lsn"] is None
    return Slot(lost, 0 if lost else read_lsn(row["lsn"]), row["safe_wal_size"])


async def ensure_slot(connection: Connection) -> bool:
    """Have the slot. Returns whether it had to be made, so that the log before it may be lost.

    Raises:
        BackupError: the server has none to give.
    """
    found = await slot(connection)
    if found and not found.lost:
        return False
    try:
        if found:
            await connection.execute("SELECT pg_drop_replication_slot($1)", SLOT)
        await connection.execute("SELECT pg_create_physical_replication_slot($1, true)", SLOT)
    except asyncpg.PostgresError as error:
        raise BackupError(f"the server gives no replication slot: {error}", NO_ROLE) from error
    return True


async def advance(connection: Connection, lsn: int) -> None:
    """Let the server go what lies before a position."""
    found = await slot(connection)
    if found and not found.lost and found.position < lsn:
        await connection.execute("SELECT pg_replication_slot_advance($1, $2::text::pg_lsn)", SLOT, write_lsn(lsn))


async def held_from(config: Config, tools: Tools, size: int) -> Segment:
    """The first segment that the slot holds, on the timeline where it lies."""
    plain, env = address(config).for_tools()
    join = "&" if "?" in plain else "?"
    command = [str(tools.program("psql")), "-XAt", "-F", " ", "-d", f"{plain}{join}replication=true"]

    def ask() -> str:
        result = subprocess.run(
            [*command, "-c", f"READ_REPLICATION_SLOT {SLOT}"], env=env, capture_output=True, text=True, check=False
        )
        if result.returncode:
            raise BackupError(f"the slot cannot be read: {result.stderr.strip()}", NO_ROLE)
        return result.stdout

    _, lsn, timeline = (await asyncio.to_thread(ask)).split()
    return Segment.holding(int(timeline), read_lsn(lsn), size)
