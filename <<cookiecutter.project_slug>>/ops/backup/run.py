"""Make a backup: dump, check, upload, read back, and only then say that it exists."""

import asyncio
import hashlib
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import structlog

from ops.backup import retention
from ops.backup.config import Config
from ops.backup.errors import BackupError
from ops.backup.manifest import Manifest, new_id
from ops.backup.postgres import Address, Tools, connected, contents, outside
from ops.backup.store import DUMP, MANIFEST, Store

log = structlog.get_logger(__name__)

# Any number, as long as nothing else in this database uses it.
ADVISORY_LOCK = 0x6261636B7570


@dataclass(frozen=True)
class Outcome:
    """What a run made and removed.

    Attributes:
        kept: good backups in the store; None when the store did not say.
    """

    manifest: Manifest
    seconds: float
    kept: int | None
    deleted: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def run(config: Config) -> Outcome:
    """Back the database up, then let go what is too old.

    Raises:
        BackupError: there is no new backup; the old ones are untouched.
    """
    began = time.monotonic()
    store = Store(config)
    store.open()
    with tempfile.TemporaryDirectory(prefix="backup-") as folder:
        manifest = asyncio.run(_dump(config, store, Path(folder) / "database.dump"))
    kept: int | None = None
    deleted: list[str] = []
    damaged: list[str] = []
    try:
        kept, deleted, damaged = _let_go(config, store)
    except BackupError as error:
        # The backup is made all the same, and the next run tries again to let the old ones go.
        log.error("backup_retention_failed", reason=str(error))
    return Outcome(manifest, time.monotonic() - began, kept, deleted, damaged)


async def _dump(config: Config, store: Store, dump: Path) -> Manifest:
    address = Address(config.dsn)
    async with connected(address) as connection:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", ADVISORY_LOCK):
            raise BackupError("another backup of this database is running", "wait for it")
        version: str = await connection.fetchval("SHOW server_version")
        tools = Tools(config.pg_bin, connection.get_server_version().major)
        # The dump and the counts see the same moment, whatever is written meanwhile.
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            snapshot = await connection.fetchval("SELECT pg_export_snapshot()")
            found, around = await contents(connection), await outside(connection)
            await asyncio.to_thread(tools.dump, address, snapshot, dump)
        await asyncio.to_thread(tools.check, dump)
        existing = await asyncio.to_thread(store.backups)
        sequence = 1 + max((backup.manifest.sequence for backup in existing), default=0)
        size, sha256 = await asyncio.to_thread(_measure, dump)
        now = datetime.now(UTC)
        name = new_id(sequence, now)
        manifest = Manifest(
            id=name,
            sequence=sequence,
            created_at=now,
            object=store.key(name + DUMP),
            size=size,
            sha256=sha256,
            database=address.database,
            server_version=version,
            contents=found,
            outside=around,
        )
        await asyncio.to_thread(store.upload, dump, manifest.object)
        await asyncio.to_thread(store.check, manifest)
        # From here on it is a backup. The lock is held until then, so that no two get one sequence.
        await asyncio.to_thread(store.put, store.key(name + MANIFEST), manifest.to_json())
    return manifest


def _let_go(config: Config, store: Store) -> tuple[int, list[str], list[str]]:
    """Delete what is too old: the manifest first, so that a backup half deleted does not look whole."""
    backups = store.backups()
    verdict = retention.expired(backups, config.keep_days, config.keep_last)
    if verdict.warning:
        log.warning("backup_retention_held", reason=verdict.warning)
    for backup in verdict.expired:
        store.delete(store.key(backup.manifest.id + MANIFEST), backup.manifest.object)
    lost = retention.debris(backups, store.objects(), config.prefix)
    store.delete(*(stored.key for stored in lost))
    damaged = [f"{backup.manifest.id}: {backup.fault}" for backup in backups if backup.fault]
    if damaged:
        log.error("backup_damaged", backups=damaged)
    deleted = [backup.manifest.id for backup in verdict.expired] + [stored.key for stored in lost]
    return len(backups) - len(verdict.expired) - len(damaged), deleted, damaged


def _measure(file: Path) -> tuple[int, str]:
    with file.open("rb") as opened:
        return file.stat().st_size, hashlib.file_digest(opened, "sha256").hexdigest()
