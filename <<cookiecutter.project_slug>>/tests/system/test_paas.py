"""The Procfile as it stands, started as Heroku would: no nginx, a port of the platform's, addresses with certificates that nobody
vouches for, a router's headers, and an end that every process is told at once.

The neighbours are the real ones; in front of them stands what speaks TLS, which those of the stack without Docker do not.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from redis import ConnectionError as RedisConnectionError
from redis import Redis

from devstack import Stack
from devstack.ports import random_free
from devstack.stack import NEIGHBOURS
from ops.certificates.pair import placeholder
from tests.system.helpers import eventually

ROOT = Path(__file__).resolve().parents[2]
HOST = "an-app-1234567890.herokuapp.com"
CLIENT, FORGED = "203.0.113.5", "198.51.100.7"
# As PostgreSQL's clients begin when they want TLS.
SSL_REQUEST = bytes.fromhex("0000000804d2162f")
#: After so many seconds the platform kills.
STOP_SECONDS = 30


class Shields:
    """TLS in front of neighbours, and no other way in.

    Args:
        folder: for the certificate.
    """

    def __init__(self, folder: Path) -> None:
        pair = placeholder(["localhost"])
        for name, text in (("certificate", pair.certificate), ("key", pair.key)):
            (folder / name).write_bytes(text)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "certificate", folder / "key")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def before(self, port: int, *, postgres: bool = False) -> int:
        """The port of a shield before that one. PostgreSQL's clients ask for TLS first, others begin with it."""

        async def start() -> int:
            serve = self._postgres if postgres else self._pass_on
            server = await asyncio.start_server(
                lambda reader, writer: serve(reader, writer, port), "127.0.0.1", ssl=None if postgres else self._context
            )
            return int(server.sockets[0].getsockname()[1])

        return asyncio.run_coroutine_threadsafe(start(), self._loop).result(10)

    def stop(self) -> None:
        """Let go of everything."""

        async def cancel() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(cancel(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _postgres(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        begun = b""
        with suppress(asyncio.IncompleteReadError, OSError):
            begun = await reader.readexactly(len(SSL_REQUEST))
        if begun != SSL_REQUEST:  # in the clear: not here
            writer.close()
            return
        writer.write(b"S")
        await writer.start_tls(self._context)
        await self._pass_on(reader, writer, port)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            try:
                while piece := await source.read(65536):
                    target.write(piece)
                    await target.drain()
            except OSError:
                pass
            finally:
                target.close()

        with suppress(asyncio.CancelledError):  # at the end of the test
            await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))


class Platform:
    """Runs kinds of processes of the Procfile, each in a session of its own, as a dyno would.

    Args:
        config: what the platform sets.
        folder: for what they write.
    """

    def __init__(self, config: Mapping[str, str], folder: Path) -> None:
        self.config, self.folder = dict(config), folder
        self.port = random_free(set())
        self.dynos: dict[str, subprocess.Popen[bytes]] = {}
        lines = (ROOT / "Procfile").read_text("utf-8").splitlines()
        self.commands = dict(line.split(": ", 1) for line in lines)

    def run(self, command: str) -> str:
        """What a one-off dyno prints; it must end well."""
        result = subprocess.run(
            self._words(command), cwd=ROOT, env=self.config, capture_output=True, text=True, timeout=120, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def start(self, kind: str) -> None:
        """One dyno of a kind."""
        with (self.folder / f"{kind}.log").open("wb") as output:
            self.dynos[kind] = subprocess.Popen(
                self._words(self.commands[kind]),
                cwd=ROOT,
                env={**self.config, "PORT": str(self.port)} if kind == "web" else self.config,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def log(self, kind: str) -> str:
        """What a dyno has written."""
        return (self.folder / f"{kind}.log").read_text("utf-8")

    def said(self, kind: str, word: str) -> None:
        """Wait until a dyno has said a word."""
        eventually(lambda: self.log(kind), lambda text: word in text or self.dynos[kind].poll() is not None, word)
        assert self.dynos[kind].poll() is None, self.log(kind)

    def stop(self) -> dict[str, int]:
        """As the platform does: SIGTERM to every process of every dyno, and no patience. The exit codes."""
        for dyno in self.dynos.values():
            if dyno.poll() is None:
                os.killpg(dyno.pid, signal.SIGTERM)
        return {kind: dyno.wait(STOP_SECONDS) for kind, dyno in self.dynos.items()}

    def kill(self) -> None:
        """Whatever is left."""
        for dyno in self.dynos.values():
            with suppress(ProcessLookupError):
                os.killpg(dyno.pid, signal.SIGKILL)
            dyno.wait()

    def _words(self, command: str) -> list[str]:
        python, *words = shlex.split(command)
        assert python == "python"
        return [sys.executable, *words]


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """With the config vars of app.json, and add-ons as Heroku has them."""
    folder = tmp_path / "dynos"
    folder.mkdir()
    with Stack(tmp_path / "stack", NEIGHBOURS) as stack:
        stack.run("-m", "app.cli", "init-storage")  # not as production would: this store keeps no versions
        shields = Shields(folder)
        wanted = json.loads((ROOT / "app.json").read_text("utf-8"))["env"]
        config = {name: given["value"] for name, given in wanted.items() if "value" in given}
        config |= {
            # The stack's own: its passwords, its store; and what is random where nothing is given.
            name: value
            for name, value in stack.env.items()
            if name in os.environ or name.startswith(("STORAGE_", "BACKUP_S3_", "AUTH_", "HEALTH_"))
        }
        user, port = stack.env["DATABASE_URL"].split("://")[1].split("@")[0], stack.ports["postgres"]
        shielded = shields.before(port, postgres=True)
        config |= {
            "ENV_FILE": "",
            "DATABASE_URL": f"postgres://{user}@127.0.0.1:{shielded}/app",
            **{
                f"{name}_URL": f"rediss://:{stack.env[f'{name}_PASSWORD']}@127.0.0.1:{shields.before(stack.ports[name.lower()])}"
                for name in ("CACHE", "BROKER")
            },
            "ENCRYPTION_KEYS": "k1:MDEyMzQ1Njc4OTo7PD0+P0BBQkNERUZHSElKS0xNTk8=",
            "BACKUP_KEYS": "k1:MDEyMzQ1Njc4OTo7PD0+P0BBQkNERUZHSElKS0xNTk8=",
            "AI_ALLOW_OFFLINE": "true",
            "MESSAGES_MODE": "sandbox",
            "ACCOUNTS_VERIFIED_EMAIL": "false",
            "LOG_LEVEL": "INFO",
            # Whoever comes from here is the router.
            "HTTP_TRUSTED_PROXIES": "127.0.0.0/8",
        }
        made = Platform(config, folder)
        try:
            yield made
        finally:
            made.kill()
            shields.stop()


Router = Callable[..., httpx.Client]


@pytest.fixture
def router(platform: Platform) -> Iterator[Router]:
    """Makes clients whose requests are as the platform's router hands them on."""
    made: list[httpx.Client] = []

    def client(protocol: str = "https") -> httpx.Client:
        headers = {"Host": HOST, "X-Forwarded-For": f"{FORGED}, {CLIENT}", "X-Forwarded-Proto": protocol}
        made.append(httpx.Client(base_url=f"http://127.0.0.1:{platform.port}", headers=headers, timeout=30))
        return made[-1]

    yield client
    for one in made:
        one.close()


def ready(client: httpx.Client) -> bool:
    """Whether the service is."""
    with suppress(httpx.TransportError):
        return client.get("/health/ready").status_code == 200
    return False


# The sandbox keeps what production sends.
MAILS = "python -m app.cli messages list"


def somebody_asks_for_mail(client: httpx.Client) -> None:
    """They register, sign in, are who they are, and have forgotten their password."""
    body = {"email": f"ada-{uuid4().hex[:8]}@example.com", "password": f"pass-{uuid4()}"}
    assert client.post("/api/v1/accounts/register", json=body).status_code == 202
    signed_in = client.post("/api/v1/accounts/sign-in", json=body)
    assert signed_in.status_code == 200, signed_in.text
    bearer = {"Authorization": f"Bearer {signed_in.json()['access_token']}"}
    assert client.get("/api/v1/accounts/me", headers=bearer).json()["email"] == body["email"]
    assert client.post("/api/v1/accounts/password/forgot", json={"email": body["email"]}).status_code == 202


def test_the_procfile_serves_behind_a_router_and_ends_when_told(platform: Platform, router: Router) -> None:
    """Release, web, a person, a task through the worker, and a clean end within the platform's time."""
    platform.run(platform.commands["release"])
    platform.start("web")
    client = router()
    eventually(lambda: ready(client), bool, platform.log("web"))

    # TLS was the router's; who came without it is sent there, and the metrics are nobody's.
    plain = router("http").get("/health?x=1")
    assert (plain.status_code, plain.headers["location"]) == (308, f"https://{HOST}/health?x=1")
    assert client.get("/health").headers["strict-transport-security"]
    assert client.get("/metrics").status_code == 404
    assert client.get("/health", headers={"Host": "somebody.example.com"}).status_code == 421

    if people := (ROOT / "app/features/accounts").is_dir():
        somebody_asks_for_mail(client)
        assert "email" not in platform.run(MAILS)  # a mail is a task, which waits until a worker is there
    for kind in ("worker", "beat"):
        platform.start(kind)
    platform.said("worker", "ready.")
    if people:
        eventually(lambda: platform.run(MAILS), lambda text: "email  sandboxed" in text, "the mail is done")
    platform.said("beat", "beat_lock_taken")

    assert platform.stop() == {"web": 0, "worker": 0, "beat": 0}
    requests = [json.loads(line) for line in platform.log("web").splitlines() if '"event":"request"' in line]
    assert {line["client"] for line in requests} == {CLIENT}


def test_a_certificate_that_nobody_vouches_for_is_believed_only_when_told(platform: Platform) -> None:
    """What makes the test above pass is the setting, and not that nobody looks."""
    for name in ("CACHE", "BROKER"):
        with (
            Redis.from_url(platform.config[f"{name}_URL"]) as redis,
            pytest.raises(RedisConnectionError, match="verify"),
        ):
            redis.ping()
    told = platform.config | {"BROKER_TLS_VERIFY": "true"}
    platform.run(platform.commands["release"])
    platform.config = told
    for kind in ("worker", "beat"):
        platform.start(kind)
    platform.said("beat", "beat_lock_not_renewed")
    platform.said("worker", "Cannot connect to rediss://")
    assert "Connected to" not in platform.log("worker")
