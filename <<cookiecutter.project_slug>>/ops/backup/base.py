"""`base`: a copy of the whole cluster by pg_basebackup, from which the log leads to any later second.

It goes from the server to the store in one stream, compressed and encrypted on the way, so that no disk has to hold it. Then
it is read back and each of its files is held against PostgreSQL's own manifest.
"""

import asyncio
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

import structlog

from ops.backup import physical, replication, retention
from ops.backup.choose import choose
from ops.backup.config import Config
from ops.backup.errors import BackupError, Busy, Damaged
from ops.backup.making import Making
from ops.backup.manifest import Manifest, Part
from ops.backup.outcome import Outcome, made
from ops.backup.physical import Physical
from ops.backup.postgres import Address, Tools
from ops.backup.replication import Server
from ops.backup.retention import LetGo
from ops.backup.scratch import notes
from ops.backup.store import CHUNK, Store
from ops.backup.wal import archive
from ops.backup.wal.names import Segment

log = structlog.get_logger(__name__)

KIND: Final = "base"
ADVISORY_LOCK = 0x6261636B7571
# gzip's lightest level: the next ones take twice the time for some percent.
COMPRESSION = "client-gzip:1"


@dataclass(frozen=True)
class Base:
    """The details of a base's manifest.

    Attributes:
        start, end: positions in the log between which it was made.
        ended_at: by the server's clock; no earlier second can be recovered from it.
        plain: bytes of the cluster's files.
        log: whether a slot held the log at that time, so that later seconds can be reached.
    """

    system: str
    timeline: int
    start: int
    end: int
    segment_bytes: int
    server_version: str
    ended_at: datetime
    files: int
    plain: int
    log: bool

    @property
    def first_segment(self) -> Segment:
        """The first segment that it needs and does not bring along."""
        return Segment.holding(self.timeline, self.end, self.segment_bytes)

    @property
    def server_major(self) -> int:
        """18 of 18.4."""
        return int(self.server_version.partition(".")[0])

    def to_details(self) -> dict[str, Any]:
        """As the manifest holds them."""
        return vars(self) | {"ended_at": self.ended_at.isoformat()}

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Out of a manifest.

        Raises:
            Damaged: they are not those of a base.
        """
        try:
            ended_at = datetime.fromisoformat(manifest.details["ended_at"]).astimezone(UTC)
            return cls(**{**manifest.details, "ended_at": ended_at})
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"{manifest.name} is no manifest of a base: {error!r}") from error


def run(config: Config) -> Outcome:
    """Copy the cluster, check the copy, and let go what nothing leads back to any more.

    Raises:
        Busy: another run is under way.
        BackupError: there is no new backup; the old ones are untouched.
    """
    store = Store(config)
    store.open()
    manifest = asyncio.run(_copy(config, store))
    return made(manifest, lambda: _let_go(config, store))


def verify(config: Config, wanted: str | None = None) -> Manifest:
    """Read a base to its end, each file held against PostgreSQL's manifest.

    Raises:
        Damaged: it is not what was written.
    """
    store = Store(config)
    store.open()
    manifest = choose(store, KIND, wanted)
    physical.read(store.read(manifest.only))
    return manifest


def newest(store: Store, system: str) -> Base | None:
    """The newest good one of a system."""
    good = [Base.of(backup.manifest) for backup in store.backups(KIND) if not backup.fault]
    return next((base for base in reversed(good) if base.system == system), None)


async def _copy(config: Config, store: Store) -> Manifest:
    async with replication.session(config) as connection:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", ADVISORY_LOCK):
            raise Busy("another copy of this cluster is being made", "wait for it")
        server = await replication.server(connection)
        has_log = await replication.slot(connection) is not None
        if not has_log:
            log.warning("backup_without_log", reason="no slot holds the log; python -m ops.backup wal makes it")
        tools = Tools(config.pg_bin, server.major)
        making = await asyncio.to_thread(Making, store, KIND)

        def send_and_read_back() -> Physical:
            def read_back(part: Part) -> Physical:
                return physical.read(store.read(part))

            return making.stream("tar.gz", _stream(tools, replication.address(config)), read_back)

        copy = await asyncio.to_thread(send_and_read_back)
        ended_at: datetime = await connection.fetchval("SELECT clock_timestamp()")
        details = _details(server, copy, ended_at, has_log).to_details()
        return await asyncio.to_thread(making.commit, details)


def _details(server: Server, copy: Physical, ended_at: datetime, has_log: bool) -> Base:
    if copy.system != server.system:
        raise Damaged(f"the copy is of system {copy.system}, the server is {server.system}")
    return Base(
        system=server.system,
        timeline=copy.timeline,
        start=copy.start,
        end=copy.end,
        segment_bytes=server.segment_bytes,
        server_version=server.version,
        ended_at=ended_at,
        files=copy.files,
        plain=copy.size,
        log=has_log,
    )


def _stream(tools: Tools, address: Address) -> Iterator[bytes]:
    """What pg_basebackup writes. Should it fail, the iteration fails before its end, and with it the upload."""
    plain, env = address.for_tools()
    command = [
        *(str(tools.program("pg_basebackup")), "--pgdata=-", "--format=tar", "--wal-method=fetch"),
        *("--checkpoint=fast", f"--compress={COMPRESSION}", "--manifest-checksums=SHA256"),
        *("--no-password", "--label=ops.backup", f"--dbname={plain}"),
    ]
    with (
        notes() as errors,
        subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdout
        try:
            while piece := process.stdout.read(CHUNK):
                yield piece
            if process.wait():
                errors.seek(0)
                reason = errors.read().decode(errors="replace").strip()
                raise BackupError(f"pg_basebackup failed: {reason}", replication.NO_ROLE)
        finally:
            process.kill()


def _let_go(config: Config, store: Store) -> LetGo:
    done = retention.let_go(config, store, KIND)
    segments = archive.let_go(config, store)
    if segments:
        log.info("backup_log_let_go", segments=len(segments))
    return done
