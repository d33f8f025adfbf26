"""Hands the log to a recovering server: each file that it asks for, fetched from the store ahead of the question."""

import socketserver
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from ops.backup.errors import BackupError
from ops.backup.restore import fetch
from ops.backup.wal.archive import Archive
from ops.backup.wal.names import SEGMENT, Segment

log = structlog.get_logger(__name__)

# Segments fetched ahead of the one that is asked for.
AHEAD = 4


class Feeder:
    """Listens on a Unix socket in a private folder for as long as it is entered.

    Attributes:
        fed: segments that were handed out.
        failure: why one could not be; the recovery then ends, and this is the reason.
    """

    def __init__(self, archive: Archive, folder: Path, size: int) -> None:
        self._archive, self._size = archive, size
        self._socket = folder / "log"
        self._pool = ThreadPoolExecutor(AHEAD, thread_name_prefix="feeder")
        self._coming: dict[str, Future[bytes]] = {}
        self._lock = threading.Lock()
        self.fed: list[str] = []
        self.failure: BackupError | None = None
        feeder = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(feeder.answer(self.rfile.readline().decode().strip()))

        self._server = socketserver.ThreadingUnixStreamServer(str(self._socket), Handler)

    @property
    def command(self) -> str:
        """For restore_command."""
        return f'"{sys.executable}" -I -S "{fetch.__file__}" "{self._socket}" "%f" "%p"'

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="feeder", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._pool.shutdown(cancel_futures=True)

    def answer(self, name: str) -> bytes:
        """What goes over the socket."""
        if not self._archive.has(name):
            return fetch.MISSING + b"\n"
        try:
            data = self._ahead(name).result()
        except BackupError as error:
            self.failure = error
            log.error("backup_wal_unreadable", file=name, reason=str(error))
            return b"!\n"
        self.fed.append(name)
        return fetch.FOUND + str(len(data)).encode() + b"\n" + data

    def _ahead(self, name: str) -> "Future[bytes]":
        """The file, and those behind it on their way."""
        wanted = [name]
        if SEGMENT.fullmatch(name):
            segment = Segment.named(name, self._size)
            for _ in range(AHEAD):
                segment = segment.next
                if self._archive.has(segment.name):
                    wanted.append(segment.name)
        with self._lock:
            for each in wanted:
                if each not in self._coming:
                    self._coming[each] = self._pool.submit(self._archive.read, each)
            return self._coming.pop(name)
