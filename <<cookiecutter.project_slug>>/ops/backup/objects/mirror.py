"""The mirror: the bytes of every life that a journal names, copied once, encrypted like every backup."""

import hashlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

from ops.backup import retention
from ops.backup.choose import choose
from ops.backup.config import Config
from ops.backup.errors import BackupError, Damaged
from ops.backup.lock import only_one
from ops.backup.making import Making
from ops.backup.manifest import Manifest
from ops.backup.objects import journal
from ops.backup.objects.journal import MIRROR, Life
from ops.backup.objects.live import Live, Vanished
from ops.backup.outcome import Outcome, made
from ops.backup.progress import Progress
from ops.backup.retention import LetGo
from ops.backup.scratch import scratch
from ops.backup.store import Backup, Store

log = structlog.get_logger(__name__)

KIND: Final = "objects"
AT_ONCE = 8
# What a run that dies has copied by then is not copied again.
CHECKPOINT = "checkpoint/objects"
CHECKPOINT_SECONDS = 60
# A run under way has copied what no journal names yet.
YOUNG = timedelta(days=2)
FOR_EVER = timedelta(days=36_500)
# More at once is rather a fault of ours than so much that was deleted.
SUSPICIOUS = 100


def run(config: Config, progress: Progress | None = None) -> Outcome:
    """Copy what is new, write down what there is and what has ended, let go what no moment needs any more.

    Raises:
        Busy: another run is under way.
        BackupError: the mirror is as it was, and what was copied meanwhile is kept for the next run.
    """
    store, live = Store(config), Live(config.files)
    store.open()
    with only_one(config, KIND), scratch("objects") as folder:
        manifest = _mirror(config, store, live, folder, progress or Progress("objects"))

        def let_go() -> LetGo:
            done = retention.let_go(config, store, KIND)
            if config.may_delete:
                sweep(store, folder)
            return done

        return made(manifest, let_go)


def verify(config: Config, wanted: str | None = None, at_most: int | None = None) -> Manifest:
    """Read the mirrored bytes of every life that a run knows, and compare their digests.

    Args:
        config: where from.
        wanted: id of the run; the newest good one without it.
        at_most: so many of them only, any.

    Raises:
        Damaged: some are not what was mirrored.
    """
    store = Store(config)
    store.open()
    manifest = choose(store, KIND, wanted)
    faults: list[str] = []
    with scratch("verify") as folder:
        lives = journal_of(store, manifest, folder)
        if at_most is not None and len(lives) > at_most:
            lives = random.sample(lives, at_most)

        def read(life: Life, file: Path) -> None:
            fetch(store, life, file)

        for life, outcome in at_once(lives, read, folder):
            if isinstance(outcome, Damaged):
                faults.append(f"{life.key}: {outcome}")
            elif isinstance(outcome, BackupError):
                raise outcome
    if faults:
        shown = "\n  ".join(faults[:5])
        raise Damaged(f"{len(faults)} of {len(lives)} objects are not what was mirrored:\n  {shown}")
    return manifest


def fetch(store: Store, life: Life, file: Path) -> None:
    """The bytes of a life out of the mirror.

    Raises:
        Damaged: they are not what was mirrored.
    """
    assert life.stored
    store.fetch(life.stored, file)
    with file.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() != life.sha256:
            raise Damaged(f"{life.key}: the mirrored bytes have another digest")


def history(config: Config, key: str) -> list[Life]:
    """What the newest run knows of an object, the oldest life first."""
    store = Store(config)
    store.open()
    with scratch("history") as folder:
        return [life for life in journal_of(store, choose(store, KIND), folder) if life.key == key]


def journal_of(store: Store, manifest: Manifest, folder: Path) -> list[Life]:
    """The journal of a run.

    Raises:
        Damaged: it is not what was written.
    """
    file = folder / manifest.id
    store.fetch(manifest.only, file)
    return journal.read(file)


def listed_at(manifest: Manifest) -> datetime:
    """When that run looked at the bucket: what it knows ends there.

    Raises:
        Damaged: its manifest does not say.
    """
    try:
        return datetime.fromisoformat(manifest.details["listed_at"])
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{manifest.name} is no manifest of objects: {error!r}") from error


def _mirror(config: Config, store: Store, live: Live, folder: Path, progress: Progress) -> Manifest:
    making = Making(store, KIND)
    before, former = _before(store, folder)
    now = datetime.now(UTC)
    lives = journal.continued(before, live.listing(), now, _keep(config, former, now))
    new = [life for life in lives if life.stored is None]
    done = _copied(store, live, new, folder, progress)
    # What vanished between the listing and the copying was never whole in our hands: it has no life here.
    lives = [done.get(life.name, life) for life in lives]
    lives = [life for life in lives if life.stored]
    file = folder / "journal"
    journal.write(lives, file)
    making.send("journal", file)
    there = [life for life in lives if life.until is None]
    details = {
        "listed_at": now.isoformat(),
        "versions": live.keeps_versions(),
        "objects": len(there),
        "object_bytes": sum(life.size for life in there),
        "ended": len(lives) - len(there),
        "copied": len(done),
        "copied_bytes": sum(life.size for life in done.values()),
        "vanished": len(new) - len(done),
    }
    manifest = making.commit(details)
    _forget_notes(store, folder)
    return manifest


def _before(store: Store, folder: Path) -> tuple[list[Life], Backup | None]:
    """The newest journal that can be read, with what a dead run copied since."""
    found: list[Life] = []
    former: Backup | None = None
    for backup in reversed(store.backups(KIND)):
        try:
            found, former = journal_of(store, backup.manifest, folder), backup
            break
        except Damaged as error:
            log.error("backup_journal_damaged", backup=backup.manifest.id, reason=str(error))
    names = {life.name for life in found}
    return found + [life for life in _checkpoint(store, folder) if life.name not in names], former


def _keep(config: Config, former: Backup | None, now: datetime) -> timedelta:
    """How long ended lives stay: for this run all of them, where a clock seems to have jumped."""
    keep = timedelta(days=max(config.objects_days, config.keep[KIND].days))
    if former and not timedelta() <= now - former.manifest.created_at <= keep:
        log.warning(
            "backup_retention_held",
            kind=KIND,
            reason="the run before is too far away: a clock jumped, or none was made",
        )
        return FOR_EVER
    return keep


def _copied(store: Store, live: Live, new: Sequence[Life], folder: Path, progress: Progress) -> dict[str, Life]:
    """Copy what the mirror lacks.

    Raises:
        BackupError: some could not be copied; the others are noted for the next run.
    """
    done: dict[str, Life] = {}
    faults: list[str] = []
    progress.begin(len(new), sum(life.size for life in new))
    noted = time.monotonic()
    try:
        for life, result in at_once(new, lambda life, file: _copy(store, live, life, file), folder):
            if isinstance(result, Life):
                done[life.name] = result
            elif isinstance(result, BackupError):
                faults.append(f"{life.key}: {result}")
            progress.step(life.size)
            if time.monotonic() - noted > CHECKPOINT_SECONDS:
                _note(store, done, folder)
                noted = time.monotonic()
    except BaseException:
        _note(store, done, folder)
        raise
    if faults:
        _note(store, done, folder)
        shown = "\n  ".join(faults[:5])
        raise BackupError(
            f"{len(faults)} of {len(new)} objects could not be mirrored:\n  {shown}",
            "run it again: it goes on from here",
        )
    return done


def _copy(store: Store, live: Live, life: Life, file: Path) -> Life | None:
    try:
        came = live.copy(life, file)
    except Vanished:
        return None
    part = store.write_file(life.name, file)
    return replace(life, sha256=came.sha256, content_type=came.content_type, metadata=came.metadata, stored=part)


def at_once(
    lives: Sequence[Life], work: Callable[[Life, Path], Life | None], folder: Path
) -> Iterator[tuple[Life, Life | BackupError | None]]:
    """Do something for several objects at a time, each with a file of its own, and give each result as it comes."""
    todo = iter(enumerate(lives))
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="objects") as pool:
        running: dict[Future[Life | None], tuple[Life, Path]] = {}
        try:
            while True:
                while len(running) < AT_ONCE and (following := next(todo, None)):
                    number, life = following
                    file = folder / f"object-{number}"
                    running[pool.submit(work, life, file)] = life, file
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    life, file = running.pop(future)
                    error = future.exception()
                    file.unlink(missing_ok=True)
                    if error and not isinstance(error, BackupError):
                        raise error
                    yield life, error if isinstance(error, BackupError) else future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _note(store: Store, done: dict[str, Life], folder: Path) -> None:
    """Write down what is copied and in no journal yet; a failure only means that it is copied once more."""
    if not done:
        return
    file = folder / "noted"
    try:
        known = {life.name: life for life in _checkpoint(store, folder)}
        journal.write(list((known | done).values()), file)
        store.write_file(CHECKPOINT, file)
    except (BackupError, OSError) as error:
        log.warning("backup_checkpoint_failed", reason=str(error))


def _checkpoint(store: Store, folder: Path) -> list[Life]:
    file = folder / "checkpoint"
    try:
        file.write_bytes(store.plain(CHECKPOINT))
        return journal.read(file)
    except Damaged:
        return []  # there is none, or it is of no use


def _forget_notes(store: Store, folder: Path) -> None:
    if _checkpoint(store, folder):
        file = folder / "noted"
        journal.write([], file)
        store.write_file(CHECKPOINT, file)


def sweep(store: Store, folder: Path) -> list[str]:
    """Delete from the mirror what no journal needs any more; once a day, as it lists the whole mirror.

    In doubt nothing goes: not while the oldest journal cannot be read, nothing that is younger than two days by the
    store's clock, and never most of the mirror at once.
    """
    backups = [backup for backup in store.backups(KIND) if not backup.fault]
    if len(backups) < 2 or backups[-1].manifest.created_at.date() == backups[-2].manifest.created_at.date():
        return []
    # Lives end before they leave the journal, and that later than any journal is kept: these two name all that those between do.
    needed = {life.name for backup in (backups[0], backups[-1]) for life in journal_of(store, backup.manifest, folder)}
    mirrored = store.listing(MIRROR)
    now = backups[-1].stored_at
    old = [stored.name for stored in mirrored if stored.name not in needed and now - stored.modified > YOUNG]
    if len(old) > SUSPICIOUS and len(old) * 2 > len(mirrored):
        log.error("backup_sweep_refused", mirrored=len(mirrored), unneeded=len(old))
        return []
    store.delete(*old)
    return old
