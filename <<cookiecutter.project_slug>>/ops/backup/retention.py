"""Which backups may go. In doubt they stay: a bill for storage can be mended, a deleted backup cannot."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ops.backup.store import DUMP, MANIFEST, Backup, Stored

# A run that is still uploading has no manifest yet.
DEBRIS_AGE = timedelta(days=1)


@dataclass(frozen=True)
class Verdict:
    """What may go, and why nothing does where that is surprising."""

    expired: Sequence[Backup]
    warning: str = ""


def expired(backups: Sequence[Backup], keep_days: int, keep_last: int) -> Verdict:
    """The backups that are too old, judged from the newest one.

    Clocks jump, so three things hold whatever they say: the newest `keep_last` good ones stay; a backup is old only if
    our clock and the store's agree; and none is older than one with a smaller sequence. Should the newest one be
    further from its predecessor than everything is kept, then nothing goes in this run.

    Args:
        backups: all of them, by sequence; the last is the one just made.
        keep_days: age from which they may go.
        keep_last: how many good ones stay in any case.
    """
    good = [backup for backup in backups if not backup.fault]
    candidates = good[:-keep_last]
    if not candidates:
        return Verdict([])
    age = timedelta(days=keep_days)
    times = _never_backwards(good)
    now_ours, now_theirs = times[-1]
    before_ours, before_theirs = times[-2]
    if now_ours - before_ours > age or now_theirs - before_theirs > age:
        return Verdict([], f"more than {keep_days} days since the backup before: a clock jumped, or none was made")
    return Verdict(
        [
            backup
            for backup, (ours, theirs) in zip(good, times, strict=True)
            if backup in candidates and now_ours - ours > age and now_theirs - theirs > age
        ]
    )


def debris(backups: Sequence[Backup], objects: Sequence[Stored], prefix: str) -> list[Stored]:
    """Dumps that never got a manifest: their run died on the way."""
    if not backups:
        return []
    now = max(backup.stored_at for backup in backups)
    known = {backup.manifest.object for backup in backups}
    names = {stored.key for stored in objects}
    return [
        stored
        for stored in objects
        if stored.key.startswith(prefix)
        and stored.key.endswith(DUMP)
        and stored.key not in known
        # A manifest that cannot be read today may be read tomorrow, by whoever knows how.
        and stored.key.removesuffix(DUMP) + MANIFEST not in names
        and now - stored.modified > DEBRIS_AGE
    ]


def _never_backwards(backups: Sequence[Backup]) -> list[tuple[datetime, datetime]]:
    """Our time and the store's for each backup, where none is before its predecessor's."""
    times: list[tuple[datetime, datetime]] = []
    for backup in backups:
        ours, theirs = backup.manifest.created_at, backup.stored_at
        if times:
            ours, theirs = max(ours, times[-1][0]), max(theirs, times[-1][1])
        times.append((ours, theirs))
    return times
