"""The disk of whoever makes a backup is full: said, nothing half counts as one, and with room again the next run makes it.

What comes from the server in a stream needs no disk at all, and what cannot be received stays on the server.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from os import urandom, utime
from pathlib import Path
from random import Random
from urllib.request import urlopen

from redis import Redis

from app.core.storage import client
from devstack.ports import LOOPBACK, random_free
from ops.backup.drill.disk import Disk
from ops.backup.drill.frame import Drill, Result, insist
from ops.backup.drill.rehearsal import Rehearsal
from ops.backup.errors import BackupError
from ops.backup.logs import Month
from ops.backup.manifest import Kind

BYTES = 300_000
LITTLE = BYTES // 3
# No segment of the log finds room in it.
LESS_THAN_A_SEGMENT = 8_000_000
ATTEMPT_SECONDS = 30.0


def steps(drill: Drill, rehearsal: Rehearsal) -> None:
    """All of it."""
    place = _Place(rehearsal)
    rehearsal.fill()
    kinds: list[tuple[Kind, Callable[[], int]]] = [
        ("dump", place.dumped),
        ("redis", place.keys),
        ("objects", place.objects),
        ("logs", place.logs),
    ]
    for kind, prepare in kinds:
        drill.step(f"disk full: {kind}", lambda kind=kind, prepare=prepare: place.fails(kind, prepare()))  # type: ignore[misc]
    drill.step("disk full: wal, the receiver of the log", place.log)
    drill.step("disk full: base", place.base)
    drill.step("disk full: recovery", place.recovery)


@dataclass
class _Place:
    """Where all of it happens."""

    rehearsal: Rehearsal
    env: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Of this chapter."""
        folder = self.rehearsal.stack.data / "full"
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        return folder

    def disk(self, size: int) -> Disk:
        """One of that size."""
        folder = self.folder / "disk"
        folder.mkdir(exist_ok=True)
        return Disk(folder, size)

    def ids(self, kind: Kind) -> list[str]:
        """The backups of a kind."""
        return [backup.manifest.id for backup in self.rehearsal.store().backups(kind) if not backup.fault]

    def run(self, disk: Disk | None, *words: str) -> "subprocess.CompletedProcess[str]":
        """A command of the backup, on a disk of its own if one is given."""
        return self.rehearsal.child("-m", "ops.backup", *words, disk=disk, env=self.env)

    def fails(self, kind: Kind, size: int) -> Result:
        """A run on a disk of that size, and one with room."""
        before, disk = self.ids(kind), self.disk(size)
        said = self.run(disk, kind)
        insist(said.returncode == 1, f"exit code {said.returncode}: {said.stdout[-300:]}")
        insist("next: " in said.stdout and "Traceback" not in said.stdout, f"no message: {said.stdout[-600:]}")
        insist(self.ids(kind) == before, "a half backup counts as one")
        made = self.run(None, kind)
        insist(len(self.ids(kind)) == len(before) + 1, f"no backup with room again: {made.stdout[-300:]}")
        return f"{disk.kind} of {size:,} bytes: failed with a message, nothing half; with room again it is made", None

    # What each kind has to write, and room for less of it

    def dumped(self) -> int:
        """Half of the dump as it was without a limit."""
        insist(self.run(None, "dump").returncode == 0, "no dump")
        return self.rehearsal.store().backups("dump")[-1].manifest.size // 2

    def keys(self) -> int:
        """Keys that do not compress."""
        with Redis.from_url(self.rehearsal.stack.env["BROKER_URL"]) as redis:
            redis.set("incompressible", urandom(BYTES))
        return LITTLE

    def objects(self) -> int:
        """A bucket with one object."""
        name = "drill-full"
        self.env["STORAGE_BUCKET"] = name
        s3 = client(self.rehearsal.config.store.model_copy(update={"bucket": name}))
        s3.create_bucket(Bucket=name)
        s3.put_object(Bucket=name, Key="large", Body=urandom(BYTES))
        return LITTLE

    def logs(self) -> int:
        """A log file of last month."""
        folder = self.folder / "logs"
        folder.mkdir()
        file = folder / "service.log"
        file.write_bytes(Random(1).randbytes(BYTES))  # noqa: S311  # only what does not compress
        then = Month.before(datetime.now(UTC)).begin.timestamp() + 86400
        utime(file, (then, then))
        self.env["BACKUP_LOGS_DIR"] = str(folder)
        return LITTLE

    # What is otherwise

    def log(self) -> Result:
        """The receiver: nothing is lost by it, and the alarm sees it."""
        rehearsal, disk = self.rehearsal, self.disk(LESS_THAN_A_SEGMENT)
        with self._receiver(disk) as (process, lag, said):
            _until("the receiver says it", lambda: "backup_wal_interrupted" in said())
            rehearsal.write_later()
            _until("the alarm's figure grows", lambda: lag() > 1)
            lost, reached = said(), lag()
            insist("next: make room" in lost or "a limit" in disk.kind, f"no message: {lost[-600:]}")
            disk.grow(process)
            rehearsal.flush()
            _until("nothing is waiting", lambda: lag() == 0)
        return f"the server kept it, {reached:.0f} s and growing for WalLate; with room again all was stored", None

    def base(self) -> Result:
        """It needs no disk."""
        before = self.ids("base")
        done = self.run(self.disk(4096), "base")
        insist(done.returncode == 0, f"exit code {done.returncode}: {done.stdout[-600:]}")
        insist(len(self.ids("base")) == len(before) + 1, "no backup was made")
        return "made all the same: from the server to the store in one stream", None

    def recovery(self) -> Result:
        """The disk that will hold the cluster: its largest file is a segment of the log."""
        disk = self.disk(LESS_THAN_A_SEGMENT)
        done = self.run(disk, "restore", "base", "--into", str(disk.folder / "data"), "--scratch")
        insist(done.returncode == 1, f"exit code {done.returncode}: {done.stdout[-300:]}")
        insist("next: make room there" in done.stdout, f"no message: {done.stdout[-600:]}")
        return f"{disk.kind} of {disk.size:,} bytes: refused with a message", None

    @contextmanager
    def _receiver(
        self, disk: Disk
    ) -> Iterator[tuple["subprocess.Popen[bytes]", Callable[[], float], Callable[[], str]]]:
        """The receiver on a disk: the process, the figure of its alarm, and what it says."""
        port, log = random_free(set()), self.folder / "receiver.log"
        env: Mapping[str, str] = self.rehearsal.environment | {
            "TMPDIR": str(disk.folder),
            "METRICS_BACKUP_HOST": LOOPBACK,
            "METRICS_BACKUP_PORT": str(port),
        }

        def lag() -> float:
            with urlopen(f"http://{LOOPBACK}:{port}/metrics") as answer:  # our own
                lines = answer.read().decode().splitlines()
            return float(next(line for line in lines if line.startswith("backup_wal_lag_seconds")).split()[1])

        command = disk.command([sys.executable, "-m", "ops.backup", "wal"])
        with (
            log.open("wb") as out,
            subprocess.Popen(command, env=env, stdout=out, stderr=out, preexec_fn=disk.limit) as process,  # noqa: PLW1509  # nothing else runs in the drill
        ):
            try:
                yield process, lag, lambda: log.read_text("utf-8")
            finally:
                process.terminate()
                process.wait()


def _until(what: str, condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + ATTEMPT_SECONDS
    while not condition():
        if time.monotonic() > ends:
            raise BackupError(f"not within {ATTEMPT_SECONDS:g} s: {what}")
        time.sleep(0.1)
