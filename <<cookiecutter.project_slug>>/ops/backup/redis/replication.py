"""Redis' replication, from both ends: it gives a snapshot away as to a replica, and takes one as from a primary.

So neither needs the server's volume, its shell or its version: the server writes and reads the file itself. And what
comes by replication is loaded with the append-only file on, which `dump.rdb` in its folder is not.
"""

import hmac
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self
from urllib.parse import urlsplit

from redis.connection import parse_url

from ops.backup.errors import BackupError
from ops.backup.scratch import is_full

PIECE = 1024 * 1024
MARK = 40  # length of the mark that ends a snapshot of unknown length
CONNECT_SECONDS = 10
# A server that saves says something every second; one that is silent for so long is gone.
SILENCE_SECONDS = 60
MANAGED = "a managed Redis keeps its own backups: set BACKUP_REDIS_AT to nothing and turn those on"


@dataclass(frozen=True)
class Target:
    """Where a Redis is and how it lets us in, out of its address."""

    host: str
    port: int
    username: str | None
    password: str | None
    tls: bool

    @classmethod
    def of(cls, url: str) -> Self:
        """Out of an address as redis-py reads it."""
        parts: Mapping[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
        return cls(
            parts.get("host") or "localhost",
            parts.get("port") or 6379,
            parts.get("username"),
            parts.get("password"),
            urlsplit(url).scheme == "rediss",
        )

    def connect(self) -> socket.socket:
        """A connection, not yet signed in."""
        plain = socket.create_connection((self.host, self.port), CONNECT_SECONDS)
        plain.settimeout(SILENCE_SECONDS)
        return ssl.create_default_context().wrap_socket(plain, server_hostname=self.host) if self.tls else plain


def fetch(target: Target, file: Path) -> None:
    """Write a snapshot of this moment, as a new replica would get it.

    Raises:
        BackupError: there is no whole one.
    """
    try:
        with target.connect() as connection, connection.makefile("rb") as answers:
            if target.password:
                words = ("AUTH", *([target.username] if target.username else []), target.password)
                _ask(connection, answers, *words)
            for words in (("REPLCONF", "capa", "eof"), ("REPLCONF", "rdb-only", "1")):
                connection.sendall(command(*words))
                answers.readline()  # an older server knows neither, and does without
            connection.sendall(command("SYNC"))
            head = b"\n"
            while head == b"\n":  # that it is still at it
                head = answers.readline()
            if not head.startswith(b"$"):
                raise BackupError(f"Redis gives no snapshot: {head.decode(errors='replace').strip()}", MANAGED)
            with file.open("wb") as opened:
                _receive(answers, head[1:].strip(), opened)
    except OSError as error:
        if is_full(error):
            raise  # not Redis' fault, and said by whoever gave the folder
        raise BackupError(f"no snapshot of Redis at {target.host}:{target.port}: {error}", "check BROKER_…") from error


def _receive(answers: BinaryIO, head: bytes, file: BinaryIO) -> None:
    if not head.startswith(b"EOF:"):
        left = int(head)
        while left:
            piece = answers.read(min(PIECE, left))
            if not piece:
                raise BackupError(f"Redis ended the connection {left:,} bytes before the end of its snapshot")
            file.write(piece)
            left -= len(piece)
        return
    mark = head[4:]
    tail = b""
    while tail != mark:
        # Whatever is there: waiting for a full piece would wait for ever at the end.
        piece = answers.read1(PIECE)  # type: ignore[attr-defined]  # a buffered reader has it
        if not piece:
            raise BackupError("Redis ended the connection before the end of its snapshot")
        both = tail + piece
        file.write(both[:-MARK])
        tail = both[-MARK:]


def command(*words: str | bytes) -> bytes:
    """A command as Redis reads it."""
    parts = [word if isinstance(word, bytes) else word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def _ask(connection: socket.socket, answers: BinaryIO, *words: str) -> None:
    connection.sendall(command(*words))
    if not (answer := answers.readline()).startswith(b"+"):
        raise BackupError(f"Redis refused {words[0]}: {answer.decode(errors='replace').strip()}", "check BROKER_…")


class Primary:
    """Stands for a primary until a replica has fetched one snapshot. Only who knows the password gets it.

    Attributes:
        password: for `masterauth` of the replica.
        sent: bytes of the snapshot that are on their way.
        error: why it came to nothing.
    """

    def __init__(self, snapshot: Path, host: str, progress: Callable[[int], None] = lambda _sent: None) -> None:
        """Listen.

        Args:
            snapshot: the file to give away.
            host: address of ours that the replica can reach.
            progress: is told the bytes sent.
        """
        self.password = secrets.token_hex(32)
        self.sent = 0
        self.error = ""
        self._snapshot = snapshot
        self._progress = progress
        self._ended = threading.Event()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self._listener.settimeout(0.2)
        self._thread = threading.Thread(target=self._serve, name="primary", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            connection.settimeout(SILENCE_SECONDS)
            with connection, connection.makefile("rb") as requests:
                try:
                    self._talk(connection, requests)
                except (OSError, ValueError) as error:
                    self.error = str(error)

    def _talk(self, connection: socket.socket, requests: BinaryIO) -> None:
        known = False
        while (words := _words(requests)) and not self._ended.is_set():
            name = words[0].upper()
            if name == b"AUTH":
                known = hmac.compare_digest(words[-1], self.password.encode())
                connection.sendall(b"+OK\r\n" if known else b"-WRONGPASS it is not this one\r\n")
            elif not known:
                connection.sendall(b"-NOAUTH Authentication required.\r\n")
            elif name == b"PING":
                connection.sendall(b"+PONG\r\n")
            elif name in (b"PSYNC", b"SYNC"):
                if name == b"PSYNC":
                    connection.sendall(f"+FULLRESYNC {secrets.token_hex(20)} 0\r\n".encode())
                self._send(connection)
            elif name == b"REPLCONF" and words[1:2] != [b"ACK"]:
                connection.sendall(b"+OK\r\n")

    def _send(self, connection: socket.socket) -> None:
        self.sent = 0
        connection.sendall(b"$%d\r\n" % self._snapshot.stat().st_size)
        with self._snapshot.open("rb") as file:
            while piece := file.read(PIECE):
                connection.sendall(piece)
                self.sent += len(piece)
                self._progress(self.sent)


def _words(requests: BinaryIO) -> list[bytes]:
    """The next command; nothing at the end of the connection."""
    head = b"\n"
    while head == b"\n":  # a replica that loads says so by empty lines
        head = requests.readline(128)
    if not head:
        return []
    if not head.startswith(b"*"):
        return head.split()
    words = []
    for _ in range(min(int(head[1:]), 64)):
        length = int(requests.readline(32)[1:])
        words.append(requests.read(min(length, 4096) + 2)[:-2])
    return words
