"""`prove`: restores the newest backup of each kind to a scratch place, compares it, and leaves the result in the store.

Nothing live is touched: the dump goes into a database of its own beside the live one, the cluster into a folder of its own.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from ops.backup import base, retention
from ops.backup.base import Base
from ops.backup.choose import choose
from ops.backup.config import Config
from ops.backup.errors import BackupError, Damaged
from ops.backup.lock import only_one
from ops.backup.making import Making
from ops.backup.manifest import Kind, Manifest
from ops.backup.objects import mirror
from ops.backup.outcome import Outcome, made
from ops.backup.postgres import Connection, Tools
from ops.backup.redis import snapshot
from ops.backup.references import check as check_references
from ops.backup.restore import base as recovering
from ops.backup.restore import dump as restoring
from ops.backup.restore import pair as pairs
from ops.backup.restore.base import Target
from ops.backup.scratch import scratch
from ops.backup.store import Store

log = structlog.get_logger(__name__)

KIND: Final = "proof"
# A copied cluster and the log that it replays, in sizes of the copy.
ROOM = 1.5
# Objects read to their end; each week others.
OBJECTS = 1000

Facts = dict[str, Any]


def run(config: Config) -> Outcome:
    """Prove every kind of which there is a backup.

    Raises:
        Busy: another run is under way.
        BackupError: at least one could not be restored. All were tried.
    """
    store = Store(config)
    store.open()
    with only_one(config, KIND):
        manifest = _prove(config, store)
        return made(manifest, lambda: retention.let_go(config, store, KIND))


def _prove(config: Config, store: Store) -> Manifest:
    making = Making(store, KIND)
    found: dict[str, Facts] = {}
    faults: list[str] = []
    for kind, prove in PROOFS.items():
        if not store.backups(kind):
            continue
        started = time.monotonic()
        try:
            found[kind] = prove(config, store)
        except BackupError as error:
            log.error("backup_proof_failed", kind=kind, reason=str(error))
            faults.append(f"{kind}: {error}")
            continue
        found[kind]["seconds"] = round(time.monotonic() - started, 3)
        log.info("backup_proven", kind=kind, **found[kind])
    if faults:
        raise BackupError(
            "not every backup could be restored:\n  " + "\n  ".join(faults), "docs/runbook/backup-unproven.md"
        )
    if not found:
        raise BackupError("there is no backup that could be proven", "make one: python -m ops.backup dump")
    return making.commit(found)


def _dump(config: Config, store: Store) -> Facts:
    """Loaded, every row counted, and each object that a row names is in the mirror."""
    manifest = choose(store, "dump")
    keys = _mirrored(store, manifest)

    async def look(connection: Connection) -> int:
        if keys is None:
            return 0
        found = await check_references(connection, keys)
        if found.lost:
            raise Damaged(f"{found.lost} of {found.named} rows name objects that are in no mirror: {found.words()}")
        return found.named

    proven = restoring.rehearse(config, manifest.id, look)
    return {"backup": manifest.id, "how": "restored", "rows": proven.contents.rows, "objects_named": proven.seen}


def _mirrored(store: Store, manifest: Manifest) -> Mapping[str, object] | None:
    """The objects that belong to a dump; None where none were mirrored since."""
    try:
        pair = pairs.choose(store, wanted=manifest.id)
    except BackupError:
        return None
    with scratch("proof") as folder:
        return pairs.belonging(pair, mirror.journal_of(store, pair.mirror, folder))


def _base(config: Config, store: Store) -> Facts:
    """Recovered to the latest second, every table read, every page compared; only read where there is no room for that."""
    manifest = choose(store, "base")
    details = Base.of(manifest)
    with scratch("proof") as folder:
        room = shutil.disk_usage(folder).free
        try:
            Tools(config.pg_bin, details.server_major).program("postgres")
            is_here = True
        except BackupError:
            is_here = False
        if not is_here or room < ROOM * details.plain:
            base.verify(config, manifest.id)
            why = f"no room for {details.plain:,} bytes in {folder}" if is_here else "no server to recover with"
            log.warning("backup_proof_lighter", kind="base", reason=why)
            return {"backup": manifest.id, "how": "read"}
        result = recovering.restore(config, folder / "data", Target(), wanted=manifest.id, scratch=True)
        rows = sum(contents.rows for contents in result.databases.values())
        return {
            "backup": manifest.id,
            "how": "recovered",
            "rows": rows,
            "until": result.until,
            "segments": result.segments,
        }


def _redis(config: Config, store: Store) -> Facts:
    return {"backup": snapshot.verify(config, choose(store, "redis").id).id, "how": "read"}


def _objects(config: Config, store: Store) -> Facts:
    return {"backup": mirror.verify(config, choose(store, "objects").id, at_most=OBJECTS).id, "how": "read"}


PROOFS: Mapping[Kind, Callable[[Config, Store], Facts]] = {
    "dump": _dump,
    "base": _base,
    "redis": _redis,
    "objects": _objects,
}
