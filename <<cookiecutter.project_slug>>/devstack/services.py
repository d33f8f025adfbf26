"""What each part of the stack is: how it is started, when it is ready, what it needs first."""

import contextlib
import http.client
import os
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import ClassVar

from devstack import programs
from devstack.ports import LOOPBACK, is_open
from devstack.process import Process

PROBE_SECONDS = 2


@dataclass(frozen=True)
class Context:
    """What the parts know of the stack they belong to."""

    root: Path
    data: Path
    ports: Mapping[str, int]
    # The environment of the service's processes, and the same with what they read from `.env` themselves.
    env: Mapping[str, str]
    known: Mapping[str, str]
    durable: bool
    workers: int


class Service(ABC):
    """A long-running part.

    Attributes:
        after: parts and steps that must be ready before this one starts, where they belong to the stack.
        process: the child, once the stack has planned it.
    """

    name: ClassVar[str]
    after: ClassVar[tuple[str, ...]] = ()
    stop_signal: ClassVar[Signals] = Signals.SIGTERM
    # Part of the service itself: restarted when it crashes and when the code changes.
    is_app: ClassVar[bool] = False

    process: Process

    def __init__(self, context: Context) -> None:
        self.context = context

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.context.ports[self.name]

    @property
    def folder(self) -> Path:
        """Where it keeps its data."""
        return self.context.data / self.name

    def prepare(self) -> None:  # noqa: B027  # most have nothing to do
        """Before each start."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Program and arguments. Secrets do not belong here: every user of the machine can read them."""

    def environment(self) -> Mapping[str, str]:
        """The whole environment of the program."""
        return base_environment()

    @abstractmethod
    def ready(self) -> bool:
        """Whether it serves now; asked again and again."""

    def settle(self) -> None:  # noqa: B027  # as above
        """Once it is ready for the first time: what others expect to find in it."""


def base_environment() -> dict[str, str]:
    """What any program may see: nothing of the service's settings."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "USER", "LOGNAME", "TERM")
    return {name: os.environ[name] for name in kept if name in os.environ}


class _Redis(Service):
    lines: ClassVar[tuple[str, ...]]

    @property
    def _password(self) -> str:
        return self.context.known[f"{self.name.upper()}_PASSWORD"]

    def prepare(self) -> None:
        """Write the configuration; the password stands in a file that only its owner can read."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "redis.conf"
        config.unlink(missing_ok=True)
        config.touch(mode=0o600)
        quoted = self._password.replace("\\", "\\\\").replace('"', '\\"')
        fixed = (
            f"bind {LOOPBACK}",
            f"port {self.port}",
            f'dir "{self.folder}"',
            'save ""',
            "loglevel warning",
            f'requirepass "{quoted}"',
        )
        config.write_text("\n".join([*fixed, *self.lines]) + "\n")

    def command(self) -> Sequence[str]:
        """redis-server with that configuration."""
        return [str(programs.redis()), str(self.folder / "redis.conf")]

    def ready(self) -> bool:
        """It knows the password and has loaded its data."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection((LOOPBACK, self.port), PROBE_SECONDS) as connection,
        ):
            secret = self._password.encode()
            connection.sendall(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n*1\r\n$4\r\nPING\r\n" % (len(secret), secret))
            with connection.makefile("rb") as answer:
                return answer.readline() == b"+OK\r\n" and answer.readline() == b"+PONG\r\n"
        return False


class Cache(_Redis):
    """Redis as a cache: bounded, forgets, keeps nothing on disk."""

    name = "cache"
    lines = ("maxmemory 256mb", "maxmemory-policy allkeys-lru", "appendonly no")


class Broker(_Redis):
    """Redis as the broker: never evicts, keeps an append-only file."""

    name = "broker"
    lines = ("maxmemory-policy noeviction", "appendonly yes", "appendfsync everysec")


class Storage(Service):
    """An S3 server with its objects as files on disk."""

    name = "storage"

    def prepare(self) -> None:
        """The folder in which every bucket is a folder."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def command(self) -> Sequence[str]:
        """Rclone, without a configuration file of the user's."""
        # The listing cache would otherwise hide for five minutes what somebody put into the folder by hand.
        options = ["--config", "", "--dir-cache-time", "1s", "--log-level", "NOTICE"]
        return [
            str(programs.rclone()),
            "serve",
            "s3",
            "--addr",
            f"{LOOPBACK}:{self.port}",
            *options,
            str(self.folder),
        ]

    def environment(self) -> Mapping[str, str]:
        """The keys, which must not stand on the command line."""
        keys = f'"{self.context.known["STORAGE_ACCESS_KEY"]},{self.context.known["STORAGE_SECRET_KEY"]}"'
        return {**base_environment(), "RCLONE_AUTH_KEY": keys}

    def ready(self) -> bool:
        """It refuses a stranger, so it serves."""
        return http_status(self.port, "/") in (400, 403)


class _App(Service):
    is_app = True

    def environment(self) -> Mapping[str, str]:
        """The settings of the whole stack."""
        # With the data, so that a killed process leaves nothing in the machine's temporary folder.
        metrics = str(self.context.data / "metrics" / self.name)
        return {**self.context.env, "PYTHONUNBUFFERED": "1", "PROMETHEUS_MULTIPROC_DIR": metrics}

    def _cli(self, *arguments: str) -> Sequence[str]:
        return [sys.executable, "-m", "app.cli", *arguments]


class Api(_App):
    """The HTTP API."""

    name = "api"
    after = ("migrations", "bucket", "cache", "broker")

    def command(self) -> Sequence[str]:
        """The API on its own port; reloading is the devstack's work, the same for all three."""
        return self._cli("serve", "--host", LOOPBACK, "--port", str(self.port), "--workers", str(self.context.workers))

    def ready(self) -> bool:
        """It answers."""
        return http_status(self.port, "/health") == 200


class Worker(_App):
    """The Celery worker."""

    name = "worker"
    after = ("migrations", "bucket", "cache", "broker")

    def command(self) -> Sequence[str]:
        """One worker with its processes."""
        return self._cli("worker")

    def ready(self) -> bool:
        """Its metrics are served once it takes tasks."""
        return is_open(self.port)


class Beat(_App):
    """The Celery scheduler."""

    name = "beat"
    after = ("migrations", "broker")

    def prepare(self) -> None:
        """The folder of its schedule."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def command(self) -> Sequence[str]:
        """One scheduler; its memory of the last runs stays with the data."""
        return self._cli("beat", "--schedule", str(self.folder / "schedule"))

    def ready(self) -> bool:
        """It listens on nothing, but says when it begins."""
        return self.process.logged("beat: Starting")


class Nginx(Service):
    """The only public door."""

    name = "nginx"
    # Started beside everything else: it resolves no names here, and answers 503 until the API is there.
    after = ()

    def prepare(self) -> None:
        """Render the same configuration that the container uses."""
        # Imported here because only a whole stack needs it.
        from ops.nginx.render import DEFAULTS, render

        addresses = {
            "NGINX_LISTEN": f"{LOOPBACK}:{self.port}",
            "NGINX_API_SERVER": f"{LOOPBACK}:{self.context.ports.get('api', 8000)}",
        }
        wishes = {name: self.context.known[name] for name in DEFAULTS if self.context.known.get(name)}
        self.folder.mkdir(parents=True, exist_ok=True)
        render(self.folder, wishes | addresses)

    def command(self) -> Sequence[str]:
        """Nginx in the foreground."""
        # As root its workers would become `nobody`, who cannot look into folders that only root may enter.
        directives = "daemon off; user root;" if os.geteuid() == 0 else "daemon off;"
        prefix = str(self.folder)
        return [
            str(programs.nginx()),
            "-p",
            prefix,
            "-c",
            f"{prefix}/nginx.conf",
            "-e",
            "stderr",
            "-g",
            directives,
        ]

    def ready(self) -> bool:
        """It accepts connections."""
        return is_open(self.port)


@dataclass(frozen=True)
class Step:
    """Something that runs once at the start and ends."""

    name: str
    after: tuple[str, ...]
    arguments: tuple[str, ...]


# The processes of the application expect both.
STEPS = (
    Step("migrations", ("postgres",), ("-m", "app.cli", "migrate")),
    Step("bucket", ("storage",), ("-m", "app.cli", "init-storage")),
)


def http_status(port: int, path: str) -> int | None:
    """The status of a GET on the loopback interface, or None where nobody answers."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
