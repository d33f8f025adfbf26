"""`wal`: receives the log as it is written and stores each segment, until it is told to stop.

pg_receivewal receives, without the slot: the slot holds the log on the server, and it is moved only when a segment has been
stored and read back. So nothing here needs to survive. A new start asks the slot where to begin, and what was received but
not yet stored is received again.
"""

import asyncio
import contextlib
import signal
import subprocess
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import asyncpg
import structlog

from ops.backup import base, replication
from ops.backup.config import Config
from ops.backup.errors import BackupError
from ops.backup.postgres import Connection, Tools
from ops.backup.replication import Server
from ops.backup.scratch import advice, notes, scratch
from ops.backup.store import Store
from ops.backup.wal.archive import Archive
from ops.backup.wal.names import HISTORY, SEGMENT, Segment, read_lsn

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.5
SAMPLE_SECONDS = 5.0
LOOK_SECONDS = 900.0
AGAIN_SECONDS = 5.0
STOP_SECONDS = 10.0
# Segments on their way into the store at once, and how many may wait before the server is made to wait.
UPLOADS = 2
WAITING = 8


@dataclass
class Health:
    """How the receiving stood at `sampled`; `None` is not known.

    Attributes:
        lag: seconds since the oldest change that is not in the store.
        waiting: bytes of log that are not in the store.
        slot_left: bytes that may be written before the server gives up the slot.
        stored_at: when the last segment was stored.
        missing: segments that are lacking behind the newest base.
    """

    lag: float = 0.0
    waiting: int | None = None
    slot_left: int | None = None
    stored_at: datetime | None = None
    missing: int | None = None
    sampled: float = field(default_factory=time.monotonic)

    @property
    def lag_now(self) -> float:
        """The lag, growing for as long as nobody could ask: what is not known to be stored counts as lost."""
        unknown = time.monotonic() - self.sampled - 2 * SAMPLE_SECONDS
        return self.lag + max(0.0, unknown)


@dataclass
class Lag:
    """Since when there are changes that are not stored: from samples of the log's end and the next transaction's number.

    The log grows a little on an idle server too; only where transactions were made is there something to lose.
    """

    _samples: deque[tuple[float, int, int]] = field(default_factory=deque)
    _covered: int | None = None

    def sample(self, now: float, lsn: int, next_transaction: int) -> None:
        """The log ended there at that time."""
        if self._covered is None:
            self._covered = next_transaction
        if not self._samples or self._samples[-1][2] != next_transaction:
            self._samples.append((now, lsn, next_transaction))

    def seconds(self, now: float, stored: int) -> float:
        """Age of the oldest change behind `stored`."""
        while self._samples and (self._samples[0][1] <= stored or self._samples[0][2] == self._covered):
            self._covered = self._samples.popleft()[2]
        return now - self._samples[0][0] if self._samples else 0.0


class Receiver:
    """Runs until `stop`. Failures of server and store are logged and tried again; nothing is lost by them but time."""

    def __init__(self, config: Config, turned: Callable[[], None] = lambda: None) -> None:
        """`turned` is called with each turn of the loop."""
        self._config, self._turned = config, turned
        self._store = Store(config)
        self._stop = asyncio.Event()
        self.health = Health()
        self._lag = Lag()

    def stop(self) -> None:
        """End soon: what is received whole is stored first."""
        self._stop.set()

    async def run(self) -> None:
        """Receive."""
        failed = False
        while not self._stop.is_set():
            self._turned()
            try:
                await self._session()
                failed = False
            except (BackupError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                # The first of a row is an error, the rest is the same again.
                (log.warning if failed else log.error)("backup_wal_interrupted", reason=str(error))
                failed = True
                await self._wait(AGAIN_SECONDS)

    async def _session(self) -> None:
        """From one connection to its end."""
        await asyncio.to_thread(self._store.open)
        async with replication.session(self._config) as connection:
            server = await replication.server(connection)
            tools = Tools(self._config.pg_bin, server.major)
            archive = await asyncio.to_thread(Archive, self._store, server.system, server.segment_bytes)
            start = await self._start(connection, server, tools, archive)
            with scratch("wal") as spool:
                # What pg_receivewal leaves when it dies while opening a segment: it begins with that one.
                (spool / f"{start.name}.partial").touch()
                async with self._receiving(tools, spool) as process:
                    log.info("backup_wal_receiving", system=server.system, segment=start.name)
                    await self._follow(connection, archive, spool, process, start)

    async def _start(self, connection: Connection, server: Server, tools: Tools, archive: Archive) -> Segment:
        fresh = await replication.ensure_slot(connection)
        start = await replication.held_from(self._config, tools, server.segment_bytes)
        stored = archive.segments
        if fresh and stored:
            log.error("backup_wal_gap", reason="the slot had to be made anew; a new base is needed", segment=start.name)
        while start in stored:  # it was stored, and the slot not yet moved
            start = start.next
        self.health.stored_at = archive.newest
        return start

    @asynccontextmanager
    async def _receiving(self, tools: Tools, spool: Path) -> AsyncIterator[subprocess.Popen[bytes]]:
        plain, env = replication.address(self._config).for_tools()
        command = [
            *(str(tools.program("pg_receivewal")), f"--directory={spool}", "--no-loop", "--no-sync"),
            *("--no-password", f"--dbname={plain}"),
        ]
        with notes() as errors:
            process = _started(command, env, errors)
            try:
                yield process
                if process.poll() is not None and not self._stop.is_set():
                    errors.seek(0)
                    said = errors.read().decode(errors="replace").strip()
                    raise BackupError(f"pg_receivewal ended: {said}", advice(said))
            finally:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    await asyncio.to_thread(process.wait, STOP_SECONDS)
                process.kill()
                process.wait()

    async def _follow(
        self,
        connection: Connection,
        archive: Archive,
        spool: Path,
        process: subprocess.Popen[bytes],
        start: Segment,
    ) -> None:
        """Store what is received, until the process ends or we are told to stop."""
        stored = start.start
        sampled = looked = 0.0
        with ThreadPoolExecutor(UPLOADS, thread_name_prefix="wal") as pool:
            while True:
                self._turned()
                stopping = self._stop.is_set() or process.poll() is not None
                stored = await self._store_finished(connection, archive, spool, process, pool, stored, start.size)
                now = time.monotonic()
                if now - sampled > SAMPLE_SECONDS:
                    sampled = now
                    await self._sample(connection, stored, start.size)
                if now - looked > LOOK_SECONDS:
                    looked = now
                    self.health.missing = await asyncio.to_thread(self._missing, archive)
                if stopping:
                    return
                await self._wait(POLL_SECONDS)

    async def _store_finished(
        self,
        connection: Connection,
        archive: Archive,
        spool: Path,
        process: subprocess.Popen[bytes],
        pool: ThreadPoolExecutor,
        stored: int,
        size: int,
    ) -> int:
        """Store the segments that are whole, in their order, and let the server go each one. Returns how far that is."""
        finished = _finished(spool)
        too_many = len(finished) > WAITING
        if too_many:
            process.send_signal(signal.SIGSTOP)  # the log stays on the server, and the disk here small
        loop = asyncio.get_running_loop()
        for at in range(0, len(finished), UPLOADS):
            batch = finished[at : at + UPLOADS]
            await asyncio.gather(*(loop.run_in_executor(pool, _store_file, archive, file) for file in batch))
            for file in batch:
                if SEGMENT.fullmatch(file.name):
                    stored = Segment.named(file.name, size).end
                    await replication.advance(connection, stored)
                    self.health.stored_at = datetime.now(UTC)
                    log.info("backup_wal_stored", segment=file.name)
                file.unlink()
        if too_many:
            process.send_signal(signal.SIGCONT)
        return stored

    async def _sample(self, connection: Connection, stored: int, size: int) -> None:
        row = await connection.fetchrow(
            "SELECT pg_current_wal_lsn()::text AS lsn, pg_snapshot_xmax(pg_current_snapshot())::text AS next"
        )
        assert row is not None
        lsn, now = read_lsn(row["lsn"]), time.monotonic()
        self._lag.sample(now, lsn, int(row["next"]))
        health, slot = self.health, await replication.slot(connection)
        health.waiting = max(0, lsn - stored)
        health.slot_left = slot.left if slot else None
        health.lag, health.sampled = self._lag.seconds(now, stored), now
        if health.waiting > size and health.stored_at:
            # More than one segment behind: then it began no later than when the last one was stored, also before this start.
            health.lag = max(health.lag, (datetime.now(UTC) - health.stored_at).total_seconds())

    def _missing(self, archive: Archive) -> int | None:
        """Segments that are lacking behind the newest base of this system."""
        archive.look()
        found = base.newest(self._store, archive.system)
        if found is None:
            return None
        timeline = max(archive.timelines.values(), key=lambda timeline: timeline.number)
        missing = archive.reach(found.first_segment, timeline).missing
        if missing:
            log.error("backup_wal_gap", segments=len(missing), first=missing[0].name, reason="a new base is needed")
        return len(missing)

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)


async def flush(config: Config, seconds: float = 60.0) -> None:
    """Have the server end its segment, and wait until a receiver has stored everything written so far.

    Raises:
        BackupError: nobody stored it in that time.
    """
    async with replication.session(config) as connection:
        wanted = read_lsn(await connection.fetchval("SELECT pg_current_wal_lsn()::text"))
        try:
            await connection.execute("SELECT pg_switch_wal()")
        except asyncpg.InsufficientPrivilegeError:
            log.warning("backup_wal_not_switched", reason="the role may not; archive_timeout does it in some minutes")
        deadline = time.monotonic() + seconds
        while (slot := await replication.slot(connection)) is None or slot.position < wanted:
            if time.monotonic() > deadline:
                raise BackupError(
                    f"the log was not stored within {seconds:.0f} s",
                    "is the receiver running? python -m ops.backup wal",
                )
            await asyncio.sleep(POLL_SECONDS / 5)


def _started(command: list[str], env: dict[str, str], errors: IO[bytes]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)


def _finished(spool: Path) -> list[Path]:
    """What is whole, in its order; histories first, because without them a segment of a new timeline leads nowhere."""
    names = sorted(file.name for file in spool.iterdir())
    histories = [name for name in names if HISTORY.fullmatch(name)]
    return [spool / name for name in histories + [name for name in names if SEGMENT.fullmatch(name)]]


def _store_file(archive: Archive, file: Path) -> None:
    archive.put(file.name, file.read_bytes())
