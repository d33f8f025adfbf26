"""`prove`: restore the newest backups to scratch places and compare. What nobody has restored is a hope, not a backup."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog

from ops.backup import references, retention
from ops.backup.config import Config
from ops.backup.dump import Outcome
from ops.backup.errors import BackupError, Damaged
from ops.backup.lock import only_one
from ops.backup.manifest import Kind, Manifest
from ops.backup.objects import mirror
from ops.backup.postgres import Connection
from ops.backup.redis import snapshot
from ops.backup.restore import base, dump, pair
from ops.backup.restore.base import Target
from ops.backup.store import Store

log = structlog.get_logger(__name__)

KIND: Final = "proof"
# Of all objects in the mirror so many are read, other ones each time: `verify objects` reads all.
SAMPLE = 500
Facts = Mapping[str, Any]


def run(config: Config) -> Outcome:
    """Prove what there is of each kind, and write down what was found. Nothing live is touched.

    Raises:
        Busy: another run is under way.
        BackupError: a kind could not be restored, or there is nothing to prove; the others were tried all the same.
    """
    began = time.monotonic()
    store = Store(config)
    store.open()
    with only_one(config, KIND):
        found: dict[str, Facts] = {}
        faults: list[str] = []
        for kind, work in PROOFS.items():
            if not store.backups(kind):
                continue
            started = time.monotonic()
            try:
                found[kind] = {**work(config, store), "seconds": round(time.monotonic() - started, 3)}
            except BackupError as error:
                log.error("backup_unproven", kind=kind, reason=str(error))
                faults.append(f"{kind}: {error}")
        if faults:
            raise BackupError("not all backups could be restored for trial:\n  " + "\n  ".join(faults))
        if not found:
            raise BackupError("there is no backup to prove", "python -m ops.backup dump")
        sequence, id_ = store.next_id(KIND)
        seconds = round(time.monotonic() - began, 3)
        manifest = Manifest(KIND, id_, sequence, datetime.now(UTC), (), seconds, found)
        store.commit(manifest)
        try:
            return Outcome(manifest, retention.let_go(config, store, KIND))
        except BackupError as error:
            log.error("backup_retention_failed", kind=KIND, reason=str(error))
            return Outcome(manifest, None)


def _dump(config: Config, store: Store) -> Facts:
    """Every table counted, and no row of it without its object in the mirror."""
    paired = pair.find(store)
    there: Mapping[str, object] = {}
    if paired:
        with tempfile.TemporaryDirectory(prefix="prove-") as folder:
            there = pair.belonging(paired, mirror.journal_of(store, paired.mirror, Path(folder)))

    async def look(connection: Connection) -> references.Found | None:
        return await references.check(connection, there) if paired else None

    manifest, named = asyncio.run(dump.trial(config, paired.dump.id if paired else None, look))
    if named and named.lost:
        raise Damaged(f"{named.lost} of {named.named} rows name objects that the mirror lacks: {named.words()}")
    counted = manifest.details["contents"]["tables"]
    return {"backup": manifest.id, "rows": sum(counted.values()), "named": named.named if named else None}


def _base(config: Config, _store: Store) -> Facts:
    """A server of its own recovers it to the newest moment, and reads every table."""
    with tempfile.TemporaryDirectory(prefix="prove-") as folder:
        result = base.restore(config, Path(folder) / "data", Target(), scratch=True)
    rows = sum(found.rows for found in result.databases.values())
    return {"backup": result.base.id, "rows": rows, "segments": result.segments, "until": result.until}


def _redis(config: Config, _store: Store) -> Facts:
    """Redis' own checksum over all of it."""
    manifest = snapshot.verify(config)
    return {"backup": manifest.id, "keys": manifest.details["keys"]}


def _objects(config: Config, _store: Store) -> Facts:
    """Some objects, by their digests."""
    manifest = mirror.verify(config, at_most=SAMPLE)
    return {"backup": manifest.id, "read": min(SAMPLE, manifest.details["objects"] + manifest.details["ended"])}


PROOFS: Mapping[Kind, Callable[[Config, Store], Facts]] = {
    "dump": _dump,
    "base": _base,
    "redis": _redis,
    "objects": _objects,
}
