"""`dump`: the database as one file, which any PostgreSQL of its version or a later one can read, managed ones too."""

import asyncio
from pathlib import Path
from typing import Final

import structlog

from ops.backup import retention
from ops.backup.choose import choose
from ops.backup.config import Config
from ops.backup.contents import Dumped
from ops.backup.errors import Busy
from ops.backup.making import Making
from ops.backup.manifest import Manifest
from ops.backup.outcome import Outcome, made
from ops.backup.postgres import Address, Connection, Tools, connected, contents, outside
from ops.backup.scratch import scratch
from ops.backup.store import Store

log = structlog.get_logger(__name__)

KIND: Final = "dump"
# Any number, as long as nothing else in this database uses it.
ADVISORY_LOCK = 0x6261636B7570


def run(config: Config) -> Outcome:
    """Dump, check, send, read back, and only then say that it exists; then let go what is too old.

    Raises:
        Busy: another run is under way.
        BackupError: there is no new backup; the old ones are untouched.
    """
    store = Store(config)
    store.open()
    with scratch("dump") as folder:
        manifest = asyncio.run(_dump(config, store, folder / "database.dump"))
    return made(manifest, lambda: retention.let_go(config, store, KIND))


def verify(config: Config, wanted: str | None = None) -> Manifest:
    """Fetch a dump and read all of it, without restoring it.

    Raises:
        Damaged: it is not what was written.
    """
    store = Store(config)
    store.open()
    manifest = choose(store, KIND, wanted)
    with scratch("verify") as folder:
        dump = folder / "database.dump"
        store.fetch(manifest.only, dump)
        Tools(config.pg_bin, Dumped.of(manifest).server_major).check(dump)
    return manifest


async def _dump(config: Config, store: Store, file: Path) -> Manifest:
    address = Address(config.dsn)
    async with connected(address) as connection:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", ADVISORY_LOCK):
            raise Busy("another backup of this database is running", "wait for it")
        tools = Tools(config.pg_bin, connection.get_server_version().major)
        making = await asyncio.to_thread(Making, store, KIND)
        dumped = await _dump_snapshot(tools, address, connection, file)
        await asyncio.to_thread(tools.check, file)

        def store_it() -> Manifest:
            making.send("dump", file)
            return making.commit(dumped.to_details())

        # The lock is held until then.
        return await asyncio.to_thread(store_it)


async def _dump_snapshot(tools: Tools, address: Address, connection: Connection, file: Path) -> Dumped:
    """The dump and the counts see the same moment, whatever is written meanwhile."""
    version: str = await connection.fetchval("SHOW server_version")
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        snapshot = await connection.fetchval("SELECT pg_export_snapshot()")
        found, around = await contents(connection), await outside(connection)
        await asyncio.to_thread(tools.dump, address, snapshot, file)
    return Dumped(address.database, version, found, around)
