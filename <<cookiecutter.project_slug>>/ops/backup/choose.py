"""Which backup: the one that was named, or the newest good one."""

from ops.backup.errors import BackupError, Damaged
from ops.backup.manifest import Kind, Manifest, manifest_name
from ops.backup.store import Store

LOOK = "look: python -m ops.backup list"


def choose(store: Store, kind: Kind, wanted: str | None = None) -> Manifest:
    """The backup of that id, or the newest good one.

    Raises:
        Damaged: it is missing, or not whole.
        BackupError: there is none at all.
    """
    backups = store.backups(kind)
    if wanted is None:
        good = [backup for backup in backups if not backup.fault]
        if not good:
            reasons = [f"\n  {reason}" for reason in store.unreadable(kind)]
            raise BackupError(f"the store holds no {kind} that could be restored{''.join(reasons)}", LOOK)
        return good[-1].manifest
    found = [backup for backup in backups if backup.manifest.id == wanted]
    if not found:
        if any(stored.name == manifest_name(kind, wanted) for stored in store.of(kind)):
            store.manifest(manifest_name(kind, wanted))  # says why it cannot be read
        raise Damaged(f"there is no {kind} {wanted}; what has no manifest is none", LOOK)
    if found[0].fault:
        raise Damaged(f"{wanted}: {found[0].fault}", f"take another one; {LOOK}")
    return found[0].manifest
