"""What a run has made, whatever its kind."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from ops.backup.errors import BackupError
from ops.backup.manifest import Manifest
from ops.backup.retention import LetGo

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a run made, and what it let go; None when the store did not say or let it."""

    manifest: Manifest
    let_go: LetGo | None


def made(manifest: Manifest, let_go: Callable[[], LetGo]) -> Outcome:
    """The backup is made: let go what is too old. Where that fails the backup counts all the same, and the next run tries again."""
    try:
        return Outcome(manifest, let_go())
    except BackupError as error:
        log.error("backup_retention_failed", kind=manifest.kind, reason=str(error))
        return Outcome(manifest, None)
