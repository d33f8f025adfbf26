"""What the store says of all backups: the memory of the timetable and of the metrics, so that a restart forgets nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ops.backup import retention
from ops.backup.config import Config
from ops.backup.manifest import KINDS, Kind, Manifest
from ops.backup.store import Backup, Store

# What stays the same whatever is in the bucket says nothing by its size.
SIZED: tuple[Kind, ...] = ("dump", "base", "objects")


@dataclass(frozen=True)
class Known:
    """The backups of a kind.

    Attributes:
        made: when the last one was; of a mirror, when it looked at the bucket. None where there is none.
        size: of what is backed up in the last one, in bytes, and in the one before.
        seconds: how long the last one took.
        kept: good ones in the store.
        damaged: those that cannot be restored.
        held: why nothing was let go the last time; empty where nothing was held back.
        details: of the last manifest.
    """

    made: datetime | None = None
    size: int | None = None
    size_before: int | None = None
    seconds: float = 0.0
    kept: int = 0
    damaged: int = 0
    held: str = ""
    details: Mapping[str, object] = field(default_factory=dict)


class _Remembering(Store):
    """A store whose manifests are read once: nothing ever changes one."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._read: dict[str, Manifest] = {}

    def manifest(self, name: str) -> Manifest:
        """Read a manifest, or remember it."""
        if name not in self._read:
            self._read[name] = super().manifest(name)
        return self._read[name]


class State:
    """The backups of all kinds, looked at anew by `refresh`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._store = _Remembering(config)
        self.kinds: dict[str, Known] = {}

    def refresh(self) -> None:
        """Look.

        Raises:
            BackupError: the store does not answer; what was known stays.
        """
        if not self.kinds:
            # In development the first run makes the bucket; elsewhere this says that there is none.
            self._store.open()
        self.kinds = {kind: self._known(kind) for kind in KINDS}

    def _known(self, kind: Kind) -> Known:
        backups, keep = self._store.backups(kind), self._config.keep.get(kind)
        if keep and not self._config.may_delete:
            backups = retention.still_kept(backups, keep)
        good = [backup for backup in backups if not backup.fault]
        damaged = len(backups) - len(good) + len(self._store.unreadable(kind))
        if not good:
            return Known(damaged=damaged)
        last = good[-1].manifest
        held = retention.expired(good, keep).warning if keep and self._config.may_delete else ""
        return Known(
            made=_moment(last),
            size=_size(good[-1]),
            size_before=_size(good[-2]) if len(good) > 1 else None,
            seconds=last.seconds,
            kept=len(good),
            damaged=damaged,
            held=held,
            details=last.details,
        )


def _moment(manifest: Manifest) -> datetime:
    """Up to when it knows: a mirror that began before a dump is no pair with it, however late it ended."""
    listed = manifest.details.get("listed_at") if manifest.kind == "objects" else None
    return datetime.fromisoformat(listed) if isinstance(listed, str) else manifest.created_at


def _size(backup: Backup) -> int:
    """Of what was backed up: of a mirror the objects, for its own object is a list."""
    size = backup.manifest.details.get("object_bytes") if backup.manifest.kind == "objects" else None
    return size if isinstance(size, int) else backup.manifest.size
