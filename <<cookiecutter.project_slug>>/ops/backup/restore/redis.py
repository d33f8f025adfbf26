"""Restore the broker: the server takes the snapshot in as a replica does, so its append-only file has it as well."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from ops.backup.choose import choose
from ops.backup.config import Config
from ops.backup.errors import Damaged, Refused
from ops.backup.lock import only_one
from ops.backup.manifest import Manifest
from ops.backup.redis.server import Server
from ops.backup.redis.snapshot import KIND, checked, take
from ops.backup.scratch import scratch
from ops.backup.store import Store

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Restored:
    """What a restore did.

    Attributes:
        keys: that the broker has now.
        kept: id of the snapshot of what it had before; None where that was nothing.
    """

    manifest: Manifest
    keys: int
    kept: str | None


def restore(
    config: Config,
    wanted: str | None = None,
    *,
    force: bool = False,
    own_address: str = "",
    progress: Callable[[int], None] = lambda _sent: None,
) -> Restored:
    """Put a snapshot in the place of what the broker holds.

    Args:
        config: where from and where to.
        wanted: id of the backup; None takes the newest.
        force: also where the broker has keys; a snapshot of these is kept.
        own_address: where the broker can reach this process; else where our connection to it comes from.
        progress: is told the bytes sent.

    Raises:
        Refused: the broker has keys and `force` was not said.
        Damaged: the backup is not what its manifest says.
        BackupError: anything else. In all these cases the broker holds what it held, unless the text says otherwise.
    """
    store = Store(config)
    store.open()
    server = Server(config.broker)
    with only_one(config, KIND), scratch("restore") as folder:
        manifest = choose(store, KIND, wanted)
        before = server.keys()
        if before and not force:
            raise Refused(
                f"the broker at {server.place} has {before:,} keys",
                "stop worker and beat, then say --force to replace them; a snapshot of them is kept",
            )
        file = folder / "restored.rdb"
        store.fetch(manifest.only, file)
        found = checked(file)
        kept = take(config, store, folder).id if before else None
        server.load(file, own_address, progress)
        keys = server.keys()
        # Keys that have an end may have come to it since; those of further databases are not counted in the snapshot.
        if keys < found.keys - found.expiring:
            raise Damaged(
                f"the snapshot has {found.keys:,} keys, and the broker now {keys:,}",
                f"what it held before is backup {kept}: restore redis --from {kept} --force" if kept else "",
            )
    log.info("redis_restored", backup=manifest.id, keys=keys, kept=kept)
    return Restored(manifest, keys, kept)
