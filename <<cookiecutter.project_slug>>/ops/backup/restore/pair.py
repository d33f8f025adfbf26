"""Restore the pair: a dump, and the objects that its rows name.

A dump and a mirror are a pair when the mirror looked at the bucket after the dump's snapshot: whatever the snapshot names was
stored before it, and what was deleted since is still in the mirror. So any dump with any later run of the mirror will do.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.core.storage import NamedObjects
from ops.backup import references
from ops.backup.choose import LOOK
from ops.backup.config import Config
from ops.backup.errors import BackupError, Damaged
from ops.backup.manifest import Manifest
from ops.backup.objects import journal
from ops.backup.objects.journal import Life
from ops.backup.objects.live import Live
from ops.backup.objects.mirror import journal_of, listed_at
from ops.backup.postgres import Address, connected
from ops.backup.progress import Progress
from ops.backup.references import Found
from ops.backup.restore import dump, objects
from ops.backup.scratch import scratch
from ops.backup.store import Store

# How far the clocks of the database and of the store may be apart.
SLACK = timedelta(minutes=5)


@dataclass(frozen=True)
class Pair:
    """A dump with the run of the mirror that belongs to it."""

    dump: Manifest
    mirror: Manifest

    @property
    def moment(self) -> datetime:
        """As of when the rows are: the dump's snapshot."""
        return snapshot_at(self.dump)


@dataclass(frozen=True)
class Restored:
    """What a restore did."""

    pair: Pair
    objects: objects.Restored
    database: dump.Restored
    named: Found


def snapshot_at(manifest: Manifest) -> datetime:
    """When a dump's snapshot was taken: at its beginning."""
    return manifest.created_at - timedelta(seconds=manifest.seconds)


def choose(store: Store, at: datetime | None = None, wanted: str | None = None) -> Pair:
    """The newest dump, or the one of that id, or the newest before a moment, with the first mirror after it.

    Raises:
        BackupError: there is none that makes a pair.
    """
    found = find(store, at, wanted)
    if found:
        return found
    if wanted:
        raise BackupError(
            f"no objects were mirrored since dump {wanted} was made", "python -m ops.backup objects, then try again"
        )
    which = f"dump from before {at:%Y-%m-%d %H:%M:%S} UTC" if at else "dump"
    raise BackupError(f"the store holds no {which} with a mirror of the objects made after it", LOOK)


def find(store: Store, at: datetime | None = None, wanted: str | None = None) -> Pair | None:
    """The same; None where there is none."""
    dumps = [backup.manifest for backup in store.backups("dump") if not backup.fault]
    mirrors = [backup.manifest for backup in store.backups("objects") if not backup.fault]
    for manifest in reversed(dumps):
        if (wanted and manifest.id != wanted) or (at and snapshot_at(manifest) > at):
            continue
        later = [mirror for mirror in mirrors if listed_at(mirror) >= manifest.created_at]
        if later:
            return Pair(manifest, min(later, key=listed_at))
    return None


def belonging(pair: Pair, lives: journal.Journal) -> dict[str, Life]:
    """The objects that rows of the dump may name."""
    return journal.around(lives, pair.moment, SLACK + timedelta(seconds=pair.dump.seconds))


def restore(
    config: Config,
    at: datetime | None = None,
    wanted: str | None = None,
    *,
    force: bool = False,
    names: Sequence[NamedObjects] | None = None,
    progress: Progress | None = None,
) -> Restored:
    """Put both back: the objects first, so that no row is ever live without its object.

    Args:
        config: where from and where to.
        at: the state of that moment, as near before it as there is a dump.
        wanted: id of the dump.
        force: also over a live database, which is kept aside, and over other bytes of an object.
        names: which rows name objects; what the features declare, unless given.
        progress: is told how far the objects are.

    Raises:
        Refused: something live stands there and `force` was not said; it was not touched.
        Damaged: both are back, and some rows name objects that are not there.
        BackupError: anything else; the live database is as it was.
    """
    store = Store(config)
    store.open()
    with scratch("restore") as folder:
        pair = choose(store, at, wanted)
        lives = journal_of(store, pair.mirror, folder)
        dump.refuse_live(config, force=force)
        written = objects.put_back(
            config,
            store,
            pair.mirror,
            pair.moment,
            belonging(pair, lives),
            folder,
            force=force,
            progress=progress,
        )
    database = dump.restore(config, pair.dump.id, force=force)
    named = check(config, names)
    if named.lost:
        raise Damaged(
            f"{named.lost} of {named.named} rows name objects that are not there: {named.words()}",
            "an older version may be there: python -m ops.backup restore objects --key KEY --at TIME",
        )
    return Restored(pair, written, database, named)


def check(config: Config, names: Sequence[NamedObjects] | None = None) -> Found:
    """Compare the live database with the live bucket."""
    there = Live(config.files).current()

    async def ask() -> Found:
        async with connected(Address(config.dsn)) as connection:
            return await references.check(connection, there, names)

    return asyncio.run(ask())
