"""Restore a physical backup: beside the live data first, replayed to the wanted second, looked at, and only then in its place.

Everything happens in `<folder>.restore`; the live folder is not touched before the copy has recovered and been read. Should the
process be killed, the next run clears up, or finishes where only the change of names was left.
"""

import asyncio
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import structlog

from ops.backup import base as bases
from ops.backup import physical, replication
from ops.backup.base import Base
from ops.backup.choose import choose
from ops.backup.config import Config
from ops.backup.contents import Contents
from ops.backup.errors import BackupError, Damaged, Refused
from ops.backup.manifest import Manifest
from ops.backup.postgres import Address, Tools, connected, contents
from ops.backup.restore import server as private_server
from ops.backup.restore.feeder import Feeder
from ops.backup.restore.server import PrivateServer, RecoveryEnded
from ops.backup.store import Store
from ops.backup.wal.archive import Archive, Reach
from ops.backup.wal.names import Timeline

log = structlog.get_logger(__name__)

SUPERUSER = "postgres"
RESTORING, READY, LOCK = ".restore", ".restored", ".restore.lock"
FINISHED = "finished a restore that was killed"
TOO_EARLY = "recovery ended before configured recovery target was reached"


@dataclass(frozen=True)
class Target:
    """The moment to recover.

    Attributes:
        moment: None is the latest there is.
        before: leave out what was committed at that very microsecond.
        timeline: follow this one; otherwise the one that was live at the moment.
        despite_gap: the latest that can be reached will do, where a segment of the log is lacking.
    """

    moment: datetime | None = None
    before: bool = False
    timeline: int | None = None
    despite_gap: bool = False


@dataclass(frozen=True)
class Recovered:
    """What a restore did.

    Attributes:
        until: when the last transaction that it holds was committed, as PostgreSQL says it; empty without the log.
        segments: of the log that were replayed.
        databases: what was read in each database.
        kept: where the former data are; None where there were none.
        fresh: the full backup that was made of the result.
        seconds: by step.
    """

    base: Manifest
    folder: Path
    until: str
    segments: int
    timeline: int
    databases: dict[str, Contents]
    kept: Path | None
    fresh: Manifest | None
    seconds: dict[str, float]


def restore(
    config: Config,
    into: Path,
    target: Target | None = None,
    *,
    wanted: str | None = None,
    force: bool = False,
    scratch: bool = False,
    fresh: bool = True,
    superuser: str = SUPERUSER,
) -> Recovered:
    """Bring a cluster back as it was at a moment.

    Args:
        config: where the backups are.
        into: the data folder that will hold it.
        target: the moment.
        wanted: id of the base; otherwise the newest one made before the moment.
        force: also where there are data; they are kept under another name.
        scratch: only to look at: no timeline is claimed in the store, and no fresh backup is made.
        fresh: make a full backup of the result before it goes live. Without it the service is back sooner; until one is
            made by hand, what is written from then on hangs by the older base and all of its log.
        superuser: of the cluster.

    Raises:
        Refused: there are data and `force` was not said, or a server runs on them.
        Damaged: a backup or a segment is not what was stored.
        BackupError: anything else. In all these cases the data in `into` are as they were.
    """
    into, target = into.absolute(), target or Target()
    store = Store(config)
    store.open()
    with _alone(into):
        said = finish_or_undo(into)
        if said.startswith(FINISHED) and not force:
            raise Refused(said, "start PostgreSQL on it; or restore again: --force")
        _refuse(into, force)
        manifest = _choose(store, target, wanted)
        with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as private:  # a socket's path must be short
            work = _Work(config, store, manifest, into, target, Path(private), superuser, scratch, fresh)
            return work.run()


def finish_or_undo(into: Path) -> str:
    """Clear up after a restore that was killed. Returns what was done, in words; empty where there was nothing.

    A copy that had recovered takes its place if that is empty, because then only a name was left to change.
    """
    unfinished, ready = _beside(into, RESTORING), _beside(into, READY)
    said = ""
    if ready.exists() and not into.exists():
        ready.rename(into)
        said = f"{FINISHED}: {into} is the recovered copy"
    for leftover in (unfinished, ready):
        if leftover.exists():
            private_server.end_leftover(leftover)
            shutil.rmtree(leftover)
            said = said or f"cleared away what a killed restore left: {leftover}"
    if said:
        log.warning("backup_restore_cleared", what=said)
    return said


@dataclass
class _Work:
    """One restore, with what it knows."""

    config: Config
    store: Store
    manifest: Manifest
    into: Path
    target: Target
    private: Path
    superuser: str
    scratch: bool
    fresh: bool

    def run(self) -> Recovered:
        base, cluster = Base.of(self.manifest), _beside(self.into, RESTORING)
        tools = Tools(self.config.pg_bin, base.server_major)
        seconds: dict[str, float] = {}
        cluster.mkdir(mode=0o700)
        try:
            with _timed(seconds, "unpack"):
                self._unpack(cluster, tools)
            archive = Archive(self.store, base.system, base.segment_bytes)
            with Feeder(archive, self.private, base.segment_bytes) as feeder:
                result = self._recover(cluster, tools, base, archive, feeder, seconds)
            with _timed(seconds, "checksums"):
                _checksums(tools, cluster)
            if not self.scratch:
                with _timed(seconds, "to the disk"):
                    _to_the_disk(cluster)
            kept = self._swap(cluster)
        except BaseException:
            shutil.rmtree(cluster, ignore_errors=True)
            raise
        log.info("backup_recovered", base=self.manifest.id, folder=str(self.into), until=result.until)
        return replace(result, kept=kept)

    def _unpack(self, cluster: Path, tools: Tools) -> None:
        try:
            copy = physical.read(self.store.read(self.manifest.only), cluster)
        except OSError as error:
            raise BackupError(f"the copy cannot be written to {cluster}: {error}", "make room there") from error
        log.info("backup_unpacked", base=self.manifest.id, files=copy.files, bytes=copy.size)
        _verify(tools, cluster)
        (cluster / "recovery.signal").touch(mode=0o600)
        private_server.own_like(cluster)

    def _recover(
        self, cluster: Path, tools: Tools, base: Base, archive: Archive, feeder: Feeder, seconds: dict[str, float]
    ) -> Recovered:
        settings = {"restore_command": feeder.command, "recovery_target_action": "promote"}
        moment = self.target.moment
        # Named: after an earlier recovery there is a newer one, which branched off before the wanted moment.
        timeline = _timeline(archive, self.store, base, self.target)
        settings["recovery_target_timeline"] = str(timeline.number)
        reach = archive.reach(base.first_segment, timeline)
        if reach.missing and not moment and not self.target.despite_gap:
            raise _gap(reach)
        to_moment = {}
        if moment:
            to_moment = {
                "recovery_target_time": moment.isoformat(),
                "recovery_target_inclusive": "off" if self.target.before else "on",
            }
        try:
            return self._serve(cluster, tools, base, feeder, settings | to_moment, seconds)
        except RecoveryEnded as error:
            if feeder.failure:
                raise feeder.failure from error
            if TOO_EARLY not in str(error) or not moment:
                raise
            if reach.missing:
                raise _gap(reach) from error
            if not (reach.until and reach.until > moment):
                raise BackupError(
                    f"the log in the store ends before {moment.isoformat()}",
                    "python -m ops.backup wal --flush, where the server still runs; or --to latest; or --timeline",
                ) from error
            # The log goes on without a gap beyond that moment, and nothing was committed after it: its end is the same.
            log.info("backup_nothing_later", moment=moment.isoformat())
            return self._serve(cluster, tools, base, feeder, settings, seconds)

    def _serve(
        self,
        cluster: Path,
        tools: Tools,
        base: Base,
        feeder: Feeder,
        settings: dict[str, str],
        seconds: dict[str, float],
    ) -> Recovered:
        with PrivateServer(tools, cluster, self.private, self.superuser, settings) as server:
            with _timed(seconds, "replay"):
                asyncio.run(server.ready())
            with _timed(seconds, "read"):
                databases, timeline, until = asyncio.run(_look(server.address))
            fresh = None
            if not self.scratch:
                with _timed(seconds, "fresh backup"):
                    fresh = self._claim(server, cluster, base, timeline)
        return Recovered(
            base=self.manifest,
            folder=self.into,
            until=until,
            segments=len(feeder.fed),
            timeline=timeline,
            databases=databases,
            kept=None,
            fresh=fresh,
            seconds=seconds,
        )

    def _claim(self, server: PrivateServer, cluster: Path, base: Base, timeline: int) -> Manifest | None:
        """Store where the new timeline comes from, so that no later recovery takes its number; then a full backup of it."""
        name = f"{timeline:08X}.history"
        Archive(self.store, base.system, base.segment_bytes).put(name, (cluster / "pg_wal" / name).read_bytes())
        config = replace(self.config, replication_dsn=server.address.dsn)

        async def hold_the_log() -> None:
            async with replication.session(config) as connection:
                await replication.ensure_slot(connection)

        asyncio.run(hold_the_log())
        return bases.run(config).manifest if self.fresh else None

    def _swap(self, cluster: Path) -> Path | None:
        """The change of names. Killed in between, the next run finds the ready copy and no folder, and finishes it."""
        ready, kept = _beside(self.into, READY), None
        cluster.rename(ready)
        if self.into.exists():
            if any(self.into.iterdir()):
                kept = _beside(self.into, f".before_{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
                self.into.rename(kept)
            else:
                self.into.rmdir()
        ready.rename(self.into)
        return kept


def _choose(store: Store, target: Target, wanted: str | None) -> Manifest:
    if wanted:
        manifest = choose(store, "base", wanted)
        if target.moment and Base.of(manifest).ended_at > target.moment:
            raise BackupError(
                f"{manifest.id} was made after {target.moment.isoformat()}", "leave --from out, or name an older one"
            )
        return manifest
    good = [backup.manifest for backup in store.backups("base") if not backup.fault]
    before = [base for base in good if not target.moment or Base.of(base).ended_at <= target.moment]
    if not before:
        if not target.moment:
            return choose(store, "base")  # says why there is none
        oldest = f"; the oldest was made at {Base.of(good[0]).ended_at.isoformat()}" if good else ""
        raise BackupError(
            f"there is no physical backup from before {target.moment.isoformat()}{oldest}",
            "python -m ops.backup list --kind base; older days: restore dump",
        )
    # The newest may belong to a timeline that was left since: by a recovery to a moment before it, of which there is no base yet.
    newest = Base.of(before[-1])
    timeline = _timeline(Archive(store, newest.system, newest.segment_bytes), store, None, target)
    leading = [manifest for manifest in before if _leads(Base.of(manifest), timeline, newest.system)]
    return (leading or before)[-1]


def _timeline(archive: Archive, store: Store, base: Base | None, target: Target) -> Timeline:
    """The one to follow: that which was named, or was live at the moment and comes from the base."""
    known = archive.timelines
    if target.timeline:
        return known.get(target.timeline, Timeline(target.timeline))
    made = [(Base.of(backup.manifest), backup.stored_at) for backup in store.backups("base") if not backup.fault]
    mine = [(found.timeline, stored_at) for found, stored_at in made if found.system == archive.system]
    number = archive.live(mine, target.moment)
    live = known.get(number, Timeline(number))
    return (
        live
        if base is None or _leads(base, live, archive.system)
        else known.get(base.timeline, Timeline(base.timeline))
    )


def _leads(base: Base, timeline: Timeline, system: str) -> bool:
    """Whether the log leads from a base to a timeline."""
    return base.system == system and timeline.passes(base.timeline, base.end)


def _gap(reach: Reach) -> Damaged:
    where = (
        f"it leads without a gap to {reach.last.name}, stored at {reach.until}" if reach.last else "it leads nowhere"
    )
    return Damaged(
        f"the log lacks {len(reach.missing)} segments, the first is {reach.missing[0].name}; {where}",
        "--to a moment before that, or --despite-gap for the latest that can be reached",
    )


def _refuse(into: Path, force: bool) -> None:
    """Say no before anything is fetched."""
    if os.path.ismount(into):
        raise BackupError(f"{into} is a mount point and cannot be renamed", "mount its parent folder instead")
    if not into.parent.is_dir():
        raise BackupError(f"there is no folder {into.parent}", "make it, as the user who will run PostgreSQL")
    if not into.exists() or not any(into.iterdir()):
        return
    if not (into / "PG_VERSION").exists():
        raise Refused(f"{into} holds something that is no PostgreSQL cluster", "name another folder")
    if not force:
        raise Refused(f"{into} holds a cluster", "say --force to replace it; it is kept under another name")
    try:
        lines = (into / "postmaster.pid").read_text().splitlines()
        pid = int(lines[0])
    except (OSError, ValueError, IndexError):
        return  # no server runs on it
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        command = b""
    # In another container its number means nothing, so what the file says of its health counts as well: it is written anew
    # every minute, and a server that was killed no longer does so.
    fresh = time.time() - (into / "postmaster.pid").stat().st_mtime < 90
    if b"postgres" in command or fresh:
        raise Refused(
            f"a server runs on {into} (process {pid})",
            "stop it: docker compose stop postgres; if it was killed, remove postmaster.pid there, or wait two minutes",
        )


@contextmanager
def _alone(into: Path) -> Iterator[None]:
    """One restore at a time for a folder; the lock ends with the process, however it ends."""
    if not into.parent.is_dir():
        raise BackupError(f"there is no folder {into.parent}", "make it, as the user who will run PostgreSQL")
    with _beside(into, LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Refused(f"another restore into {into} is running", "wait for it") from error
        try:
            yield
        finally:
            _beside(into, LOCK).unlink(missing_ok=True)


def _beside(into: Path, suffix: str) -> Path:
    return into.with_name(into.name + suffix)


async def _look(address: Address) -> tuple[dict[str, Contents], int, str]:
    """Read every table of every database, the timeline, and when the last transaction was committed."""
    async with connected(address) as connection:
        names = await connection.fetch("SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate")
        timeline = int((await connection.fetchval("SELECT pg_walfile_name(pg_current_wal_lsn())"))[:8], 16)
        # Known only until the first write of the new timeline; then PostgreSQL has forgotten.
        until = await connection.fetchval("SELECT coalesce(pg_last_xact_replay_timestamp()::text, '')")
    found = {}
    for record in names:
        async with connected(address.of(record["datname"])) as connection:
            try:
                found[record["datname"]] = await contents(connection)
            except asyncpg.PostgresError as error:
                raise Damaged(f"database {record['datname']} cannot be read: {error}") from error
    return found, timeline, until


def _verify(tools: Tools, cluster: Path) -> None:
    """PostgreSQL's own opinion of the copy, the log that came along included, where its program runs."""
    try:
        program = str(tools.program("pg_verifybackup"))
    except BackupError:
        return
    if subprocess.run([program, "--version"], capture_output=True, check=False).returncode:
        return  # one build of it, that of the stack without Docker, dies at once; the files were compared by ourselves
    private_server.run([program, "--exit-on-error", str(cluster)])


def _checksums(tools: Tools, cluster: Path) -> None:
    """Every page against its checksum, if the cluster has them."""
    control = private_server.run([str(tools.program("pg_controldata")), str(cluster)])
    version = [line for line in control.splitlines() if line.startswith("Data page checksum version:")]
    if version and version[0].split(":")[1].strip() != "0":
        private_server.run([str(tools.program("pg_checksums")), "--check", f"--pgdata={cluster}"])


def _to_the_disk(cluster: Path) -> None:
    """Wait until the disk has all of it: until here nobody waited for any file, as whatever is cut off is begun anew.

    Raises:
        BackupError: the disk could not take it.
    """
    done = subprocess.run(["sync", "-f", str(cluster)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BackupError(f"the recovered copy could not be written to the disk: {done.stderr.strip()}", "another disk")


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - began, 3)
