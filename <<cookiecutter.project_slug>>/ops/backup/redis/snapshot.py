"""Make a snapshot: fetch, check, send, read back, and only then say that it exists."""

import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Final

import structlog

from ops.backup import retention
from ops.backup.choose import choose
from ops.backup.config import Config
from ops.backup.errors import Damaged
from ops.backup.lock import only_one
from ops.backup.making import Making
from ops.backup.manifest import Manifest
from ops.backup.outcome import Outcome, made
from ops.backup.redis import rdb
from ops.backup.redis.replication import Target, fetch
from ops.backup.scratch import scratch
from ops.backup.store import Store

log = structlog.get_logger(__name__)

KIND: Final = "redis"


def run(config: Config) -> Outcome:
    """Take a snapshot of the broker, then let go what is too old.

    Raises:
        Busy: another run is under way.
        BackupError: there is no new backup; the old ones are untouched.
    """
    store = Store(config)
    store.open()
    with only_one(config, KIND), scratch("redis") as folder:
        manifest = take(config, store, folder)
        return made(manifest, lambda: retention.let_go(config, store, KIND))


def take(config: Config, store: Store, folder: Path) -> Manifest:
    """One snapshot. Whoever calls holds the lock."""
    making = Making(store, KIND)
    file = folder / "dump.rdb"
    fetch(Target.of(config.broker), file)
    found = checked(file)
    making.send("rdb", file)
    return making.commit(asdict(found))


def verify(config: Config, wanted: str | None = None) -> Manifest:
    """Fetch a snapshot and read all of it, with the checksum that Redis itself wrote.

    Raises:
        Damaged: it is not what was written.
    """
    store = Store(config)
    store.open()
    manifest = choose(store, KIND, wanted)
    with scratch("verify") as folder:
        file = folder / "dump.rdb"
        store.fetch(manifest.only, file)
        rdb.check(file)
        checked(file)
    return manifest


def checked(file: Path) -> rdb.Facts:
    """Look at a snapshot, with Redis' own program where that is at hand.

    Raises:
        Damaged: it is not whole.
    """
    found = rdb.facts(file)
    if program := shutil.which("redis-check-rdb") or shutil.which("valkey-check-rdb"):
        result = subprocess.run([program, str(file)], capture_output=True, text=True, errors="replace", check=False)
        # An older program does not know what a newer server writes, which is no fault of the snapshot.
        if result.returncode and "Can't handle RDB format version" not in result.stdout:
            last = (result.stdout.strip().splitlines() or ["no reason given"])[-1]
            raise Damaged(f"{Path(program).name} refuses the snapshot: {last}")
    return found
