"""Restore objects: one, those of a prefix, or all, as they were at a moment. Nothing is ever deleted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import structlog

from ops.backup.choose import choose
from ops.backup.config import Config
from ops.backup.errors import BackupError, Damaged, Refused
from ops.backup.manifest import Manifest
from ops.backup.objects import journal
from ops.backup.objects.journal import Life
from ops.backup.objects.live import Live
from ops.backup.objects.mirror import KIND, at_once, fetch, journal_of, listed_at
from ops.backup.progress import Progress
from ops.backup.scratch import scratch
from ops.backup.store import Store

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Wish:
    """Which objects, and as of when.

    Attributes:
        key: this one alone.
        prefix: those whose keys begin so.
        at: as they were then; as the last mirror knew them without it.
        backup: id of the mirror's run; the newest good one without it.
    """

    key: str = ""
    prefix: str = ""
    at: datetime | None = None
    backup: str | None = None

    def takes(self, key: str) -> bool:
        """Whether an object is wished for."""
        return key == self.key if self.key else key.startswith(self.prefix)


@dataclass(frozen=True)
class Restored:
    """What a restore did.

    Attributes:
        moment: as of which the objects are.
        written: keys that were missing or different.
        size: their bytes.
        same: how many were there already.
        damaged: key and reason of those whose mirrored bytes are not what they were.
    """

    manifest: Manifest
    moment: datetime
    written: list[str] = field(default_factory=list)
    size: int = 0
    same: int = 0
    damaged: list[str] = field(default_factory=list)


def restore(config: Config, wish: Wish, *, force: bool = False, progress: Progress | None = None) -> Restored:
    """Put objects back.

    Args:
        config: where from and where to.
        wish: which.
        force: also where other bytes lie under the key now. A bucket with versions keeps those.
        progress: is told how far it is.

    Raises:
        Refused: other bytes would be overwritten and `force` was not said; nothing was changed.
        BackupError: nothing is known of such objects, or of that moment; nothing was changed.
        Damaged: some could not be put back; all others were, and the text names those.
    """
    store = Store(config)
    store.open()
    with scratch("restore") as folder:
        manifest = choose(store, KIND, wish.backup)
        lives = journal_of(store, manifest, folder)
        moment = wish.at or listed_at(manifest)
        if moment > listed_at(manifest):
            raise BackupError(
                f"the last mirror was made at {listed_at(manifest):%Y-%m-%d %H:%M:%S} UTC, before that moment",
                "make one first: python -m ops.backup objects",
            )
        chosen = {key: life for key, life in journal.alive(lives, moment).items() if wish.takes(key)}
        if not chosen:
            raise BackupError(_nothing(lives, wish, moment), "look: python -m ops.backup history KEY")
        return put_back(config, store, manifest, moment, chosen, folder, force=force, progress=progress)


def put_back(
    config: Config,
    store: Store,
    manifest: Manifest,
    moment: datetime,
    chosen: Mapping[str, Life],
    folder: Path,
    *,
    force: bool,
    progress: Progress | None = None,
) -> Restored:
    """Put chosen lives back where they are not; raises as `restore` does."""
    live = Live(config.files)
    now = live.current()
    todo = [
        life for key, life in chosen.items() if key not in now or not _equal(live, life, now[key].etag, now[key].size)
    ]
    differ = [life.key for life in todo if life.key in now]
    if differ and not force:
        shown = ", ".join(differ[:3])
        raise Refused(
            f"{len(differ)} of {len(chosen)} objects are there with other bytes: {shown}",
            "say --force to overwrite them"
            + ("; the bucket keeps them as older versions" if live.keeps_versions() else ""),
        )

    def work(life: Life, file: Path) -> Life:
        fetch(store, life, file)
        live.put_back(life, file)
        return life

    result = Restored(manifest, moment, same=len(chosen) - len(todo))
    size = 0
    progress = progress or Progress("restore")
    progress.begin(len(todo), sum(life.size for life in todo))
    for life, outcome in at_once(todo, work, folder):
        if isinstance(outcome, Damaged):
            result.damaged.append(f"{life.key}: {outcome}")
        elif isinstance(outcome, BackupError):
            raise outcome  # the store is away: no other one would come through
        else:
            result.written.append(life.key)
            size += life.size
        progress.step(life.size)
    log.info("objects_restored", backup=manifest.id, at=moment.isoformat(), written=len(result.written), bytes=size)
    if result.damaged:
        shown = "\n  ".join(result.damaged[:5])
        raise Damaged(
            f"{len(result.damaged)} of {len(todo)} objects are not what was mirrored, and were left; the others are back:\n  {shown}",
            "an older version may be whole: --at an earlier moment",
        )
    return Restored(manifest, moment, sorted(result.written), size, result.same)


def _equal(live: Live, life: Life, etag: str, size: int) -> bool:
    """Whether the same bytes are there; a tag of several parts says nothing, so then they are read."""
    if size != life.size:
        return False
    return etag == life.etag or live.digest(life.key) == life.sha256


def _nothing(lives: journal.Journal, wish: Wish, moment: datetime) -> str:
    name = f"object {wish.key}" if wish.key else f"object beginning with {wish.prefix!r}" if wish.prefix else "object"
    text = f"no {name} is known to have been there at {moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    known = [life for life in lives if wish.key and life.key == wish.key]
    return text + "".join(f"\n  {history(life)}" for life in known)


def history(life: Life) -> str:
    """One life, for people."""
    end = f"{life.until:%Y-%m-%d %H:%M:%S}" if life.until else "now"
    return f"{life.since:%Y-%m-%d %H:%M:%S} to {end}: {life.size:,} bytes, sha256 {life.sha256[:16]}"
