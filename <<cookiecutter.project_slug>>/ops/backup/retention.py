"""Which backups may go. In doubt they stay: a bill for storage can be mended, a deleted backup cannot."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from ops.backup.config import Config, Keep
from ops.backup.manifest import SUFFIX, Kind, sequence_of
from ops.backup.store import Backup, Store, Stored

log = structlog.get_logger(__name__)

# A run that is still uploading has no manifest yet.
DEBRIS_AGE = timedelta(days=1)


@dataclass(frozen=True)
class Verdict:
    """What may go, and why nothing does where that is surprising."""

    expired: Sequence[Backup]
    warning: str = ""


@dataclass(frozen=True)
class LetGo:
    """What a retention did to a kind.

    Attributes:
        kept: good backups that are left.
        deleted: ids of what was too old, and names of what dead runs left.
        damaged: those that cannot be restored, with the reason; they stay.
    """

    kept: int
    deleted: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def let_go(config: Config, store: Store, kind: Kind) -> LetGo:
    """Delete what is too old: the manifest first, so that a backup half deleted does not look whole.

    Raises:
        BackupError: the store refused; what was not deleted stays for the next time.
    """
    backups = store.backups(kind)
    if not config.may_delete:
        backups = still_kept(backups, config.keep[kind])
    damaged = [f"{backup.manifest.id}: {backup.fault}" for backup in backups if backup.fault]
    damaged += store.unreadable(kind)
    if damaged:
        log.error("backup_damaged", kind=kind, backups=damaged)
    good = sum(not backup.fault for backup in backups)
    if not config.may_delete:
        return LetGo(good, damaged=damaged)
    verdict = expired(backups, config.keep[kind])
    if verdict.warning:
        log.warning("backup_retention_held", kind=kind, reason=verdict.warning)
    for backup in verdict.expired:
        store.delete(backup.manifest.name, *(part.name for part in backup.manifest.parts))
    lost = debris(backups, [*store.of(kind)])
    store.delete(*(stored.name for stored in lost))
    deleted = [backup.manifest.id for backup in verdict.expired] + [stored.name for stored in lost]
    return LetGo(good - len(verdict.expired), deleted + store.abort_unfinished(DEBRIS_AGE), damaged)


def still_kept(backups: Sequence[Backup], keep: Keep) -> list[Backup]:
    """Without those that the bucket's own lifecycle is letting go: too old, and some of their objects are gone already.

    It deletes object by object, by the age of each, so a backup is half there for up to a day.
    """
    now = max((backup.stored_at for backup in backups), default=None)
    return [
        backup
        for backup in backups
        if not (backup.fault and now and now - backup.stored_at > timedelta(days=keep.days))
    ]


def expired(backups: Sequence[Backup], keep: Keep) -> Verdict:
    """The backups that are too old, judged from the newest one.

    Clocks jump, so three things hold whatever they say: the newest `keep.last` good ones stay; a backup is old only if
    our clock and the store's agree; and none is older than one with a smaller sequence. Should the newest one be
    further from its predecessor than everything is kept, then nothing goes in this run.

    Args:
        backups: all of them, by sequence; the last is the one just made.
        keep: age from which they may go, and how many good ones stay in any case.
    """
    good = [backup for backup in backups if not backup.fault]
    candidates = good[: -keep.last]
    if not candidates:
        return Verdict([])
    age = timedelta(days=keep.days)
    times = _never_backwards(good)
    now_ours, now_theirs = times[-1]
    before_ours, before_theirs = times[-2]
    if now_ours - before_ours > age or now_theirs - before_theirs > age:
        return Verdict([], f"more than {keep.days} days since the backup before: a clock jumped, or none was made")
    old = [
        backup
        for backup, (ours, theirs) in zip(good, times, strict=True)
        if backup in candidates and now_ours - ours > age and now_theirs - theirs > age
    ]
    return Verdict(old[:-1] if keep.reaches else old)


def debris(backups: Sequence[Backup], objects: Sequence[Stored]) -> list[Stored]:
    """Objects that never got a manifest: their run died on the way."""
    if not backups:
        return []
    now = max(backup.stored_at for backup in backups)
    known = {part.name for backup in backups for part in backup.manifest.parts}
    manifests = {stored.name.removesuffix(SUFFIX) for stored in objects if stored.name.endswith(SUFFIX)}
    return [
        stored
        for stored in objects
        if not stored.name.endswith(SUFFIX)
        and sequence_of(stored.name)
        and stored.name not in known
        # A manifest that cannot be read today may be read tomorrow, by whoever knows how.
        and _stem(stored.name) not in manifests
        and now - stored.modified > DEBRIS_AGE
    ]


def _stem(name: str) -> str:
    """Folder and id: what an object and its manifest have in common."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _never_backwards(backups: Sequence[Backup]) -> list[tuple[datetime, datetime]]:
    """Our time and the store's for each backup, where none is before its predecessor's."""
    times: list[tuple[datetime, datetime]] = []
    for backup in backups:
        ours, theirs = backup.manifest.created_at, backup.stored_at
        if times:
            ours, theirs = max(ours, times[-1][0]), max(theirs, times[-1][1])
        times.append((ours, theirs))
    return times
