"""A PostgreSQL server that nobody else can reach: it recovers a copy, is looked at, and ends.

Its socket lies in a private folder and its configuration is all its own, because the one of the copied server may name
libraries, certificates and addresses that are not here.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import asyncpg

from ops.backup.errors import BackupError
from ops.backup.postgres import Address, Tools

POLL_SECONDS = 0.05
STOP_SECONDS = 120.0
TAIL = 12


class RecoveryEnded(BackupError):
    """The server gave up; its last lines say why."""


class PrivateServer:
    """Runs while it is entered.

    Attributes:
        address: of the database `postgres`, through its socket.
    """

    def __init__(
        self, tools: Tools, cluster: Path, private: Path, superuser: str, settings: Mapping[str, str] | None = None
    ) -> None:
        """`private` is a short path of a folder that only its owner can enter."""
        self._tools, self._cluster, self._private = tools, cluster, private
        self._settings = dict(settings or {})
        self._log = private / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.address = Address(f"postgresql://{superuser}@/postgres?host={private}")

    def __enter__(self) -> Self:
        (self._private / "hba.conf").write_text("local all all trust\nlocal replication all trust\n")
        (self._private / "ident.conf").touch()
        (self._private / "postgresql.conf").touch()
        settings = {
            "config_file": str(self._private / "postgresql.conf"),
            "hba_file": str(self._private / "hba.conf"),
            "ident_file": str(self._private / "ident.conf"),
            "listen_addresses": "",
            "unix_socket_directories": str(self._private),
            # A standby that answers must have as many connections as its primary had. This one answers when it is done.
            "hot_standby": "off",
            "archive_mode": "off",
            "archive_command": "",
            "ssl": "off",
            "autovacuum": "off",
            "shared_preload_libraries": "",
            "primary_conninfo": "",
            "logging_collector": "off",
            "log_destination": "stderr",
            "dynamic_shared_memory_type": "mmap",
            "max_wal_size": "4GB",
            # Nothing here is live: the restore waits once for the disk, at its end, instead of PostgreSQL for every file.
            "fsync": "off",
            "external_pid_file": "",
            "timezone": "UTC",
            "log_timezone": "UTC",
            **self._settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._tools.program("postgres")), "-D", str(self._cluster), *options]
        env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                unprivileged(command), env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)  # fast, and clean
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait()

    async def ready(self) -> None:
        """Wait until it has recovered and takes questions.

        Raises:
            RecoveryEnded: it gave up.
        """
        while True:
            if self._process is None or self._process.poll() is not None:
                raise RecoveryEnded(f"PostgreSQL gave up the recovery:\n{self.tail()}")
            try:
                connection = await asyncpg.connect(self.address.dsn, timeout=10)
            except asyncpg.InvalidAuthorizationSpecificationError as error:
                raise BackupError(f"{error}", "name the superuser of the cluster: --superuser") from error
            except (OSError, asyncpg.PostgresError, TimeoutError):
                await asyncio.sleep(POLL_SECONDS)
                continue
            await connection.close()
            return

    def tail(self) -> str:
        """What it wrote last."""
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-TAIL:])

    def wrote(self, text: str) -> bool:
        """Whether it wrote that."""
        return text in self._log.read_text(errors="replace")


def unprivileged(command: list[str]) -> list[str]:
    """The command as PostgreSQL accepts it: it does not run as root, which only happens outside of containers."""
    if os.geteuid() != 0:
        return command
    try:
        # Not in an image.
        from devstack.postgres import unprivileged as by_setpriv
    except ImportError as error:
        raise BackupError("PostgreSQL does not run as root", "run this as the user who owns the data") from error
    return by_setpriv(command)


def end_leftover(cluster: Path) -> None:
    """End the server of a restore that was killed, if it still runs in that folder."""
    try:
        pid = int((cluster / "postmaster.pid").read_text().splitlines()[0])
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError, IndexError):
        return
    if str(cluster).encode() not in command:
        return
    os.kill(pid, signal.SIGQUIT)
    deadline = time.monotonic() + STOP_SECONDS
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def own_like(folder: Path) -> None:
    """Give a cluster to who will run it: as root, to the user PostgreSQL changes to; and to nobody else to read."""
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
        for path in folder.rglob("*"):
            shutil.chown(path, "nobody")


def run(command: list[str]) -> str:
    """Run a program of PostgreSQL that looks at a stopped cluster, as its owner.

    Raises:
        BackupError: it found a fault.
    """
    result = subprocess.run(
        unprivileged(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, errors="replace"
    )
    if result.returncode:
        name = Path(command[0]).name
        raise BackupError(f"{name} found a fault: {(result.stderr or result.stdout).strip()[-2000:]}")
    return result.stdout
