"""A server as `make provision` leaves it, in a folder: the stack on the engine, and behind SSH the door for deploys."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from tests.containers.engine import CommandError, build, inspect, run, wait_for

ROOT = Path(__file__).resolve().parents[2]
LABEL = "com.docker.compose"


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """One production stack of this project under a name of its own, so that no other one is touched.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.name = f"containers-{uuid4().hex[:8]}"
        self.folder = folder / "service"
        self.https_port = free_port()
        self.http_port = free_port()
        self.url = f"https://localhost:{self.https_port}"
        self.authority = str(self.folder / "ops/nginx/certs/fullchain.pem")
        self._ssh = folder / "ssh"
        self.ssh_port = free_port()
        self._sshd: subprocess.Popen[bytes] | None = None
        self.env = {**os.environ, "COMPOSE_PROJECT_NAME": self.name, "ENV": "prod", "PULL": "0", "DRAIN_SECONDS": "15"}
        self.overrides = os.environ.get("COMPOSE_OVERRIDES", "").split()
        #: Everything that was built here, to be removed again.
        self.images: list[str] = []

    # The images

    def image(self, dockerfile: str, *options: str, context: str = "-") -> str:
        """Build an image that goes when the server goes; returns its id."""
        made = build(dockerfile, "--label", f"{self.name}=1", *options, context=context)
        self.images.append(made)
        return made

    def build(self) -> tuple[str, str]:
        """The images of this checkout: of the application and of the backup service."""
        app, backup = (
            self.image(
                str(ROOT / "Dockerfile"), "--target", target, "--tag", f"{self.name}:{target}", context=str(ROOT)
            )
            for target in ("app", "backup")
        )
        return app, backup

    # The machine

    def prepare(self) -> None:
        """What a person does once: .env with fresh secrets, a certificate, the key's door."""
        self.folder.mkdir()
        # The settings are written by the checkout's own command, in a copy so that nobody's .env is touched.
        copy = self.folder.parent / "desk"
        shutil.copytree(ROOT / "app", copy / "app")
        shutil.copy(ROOT / "pyproject.toml", copy)
        subprocess.run([sys.executable, "-m", "app.cli", "settings", "init"], cwd=copy, check=True, capture_output=True)
        lines = (copy / ".env").read_text("utf-8").splitlines()
        changed = {
            "DOMAIN": "localhost",
            "HTTP_PORT": str(self.http_port),
            "HTTPS_PORT": str(self.https_port),
            "TLS_DIR": "./ops/nginx/certs",  # no authority is asked here
            "AI_ALLOW_OFFLINE": "true",  # nobody is asked here
            "RATE_LIMIT": "100000r/m",  # the load comes from one address
            "RATE_LIMIT_BURST": "5000",
        }
        kept = [line for line in lines if line.partition("=")[0] not in changed]
        (self.folder / ".env").write_text("\n".join([*kept, *(f"{k}={v}" for k, v in changed.items())]) + "\n", "utf-8")
        (self.folder / ".env").chmod(0o600)
        certificates = self.folder / "ops/nginx/certs"
        certificates.mkdir(parents=True)
        run(str(ROOT / "ops/scripts/makecert.sh"), "localhost", env={**self.env, "TLS_DIR": str(certificates)})

    def listen(self) -> None:
        """Start an SSH server of our own on loopback, whose one key leads to the door and nowhere else."""
        self._ssh.mkdir(mode=0o700)
        for name in ("host", "deploy"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self._ssh / name))
        door = self._ssh / "door.sh"
        shutil.copy(ROOT / "ops/scripts/door.sh", door)
        key = (self._ssh / "deploy.pub").read_text("utf-8").strip()
        forced = f"{shlex.quote(str(door))} prod {shlex.quote(str(self.folder))}"
        (self._ssh / "authorized_keys").write_text(f'restrict,command="{forced}" {key}\n', "utf-8")
        # A login has a bare environment: what it must know of this test's engine and stack is said here.
        told = (
            "COMPOSE_PROJECT_NAME",
            "COMPOSE_OVERRIDES",
            "DOCKER_HOST",
            "DOCKER_CONFIG",
            "DRAIN_SECONDS",
            "PATH",
            "PULL",
        )
        known = " ".join(f'"{name}={self.env[name]}"' for name in told if name in self.env)
        (self._ssh / "config").write_text(
            f"""
Port {self.ssh_port}
ListenAddress 127.0.0.1
HostKey {self._ssh}/host
AuthorizedKeysFile {self._ssh}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
SetEnv {known}
""",
            "utf-8",
        )
        program = os.environ.get("SSHD") or shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
        if not program:
            raise CommandError("sshd is not here: apt-get install openssh-server, or name it: SSHD=/path/to/sshd")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it insists, when root starts it
        with (self._ssh / "log").open("wb") as log:
            self._sshd = subprocess.Popen([program, "-D", "-e", "-f", str(self._ssh / "config")], stderr=log)
        wait_for("sshd accepts", self._accepts)

    def _accepts(self) -> bool:
        if self._sshd and self._sshd.poll() is not None:
            raise CommandError(f"sshd ended: {(self._ssh / 'log').read_text('utf-8')}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.ssh_port)) == 0

    def ship(self, image: str, backup: str, **changed: str) -> subprocess.CompletedProcess[str]:
        """Deploy by the script that the workflow calls."""
        host_key = (self._ssh / "host.pub").read_text("utf-8").split()
        return subprocess.run(
            [ROOT / "ops/scripts/ship.sh"],
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith(("COMPOSE_", "DOCKER_"))},
                "DEPLOY_TARGET": f"{pwd.getpwuid(os.geteuid()).pw_name}@127.0.0.1",
                "DEPLOY_PORT": str(self.ssh_port),
                "DEPLOY_SSH_KEY": (self._ssh / "deploy").read_text("utf-8").strip(),
                "DEPLOY_KNOWN_HOSTS": f"[127.0.0.1]:{self.ssh_port} {host_key[0]} {host_key[1]}",
                "DEPLOY_URL": self.url,
                "CURL_OPTIONS": f"--cacert {self.authority}",
                "APP_IMAGE": image,
                "BACKUP_IMAGE": backup,
                **changed,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def knock(self, *words: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Come to the door with words of one's own."""
        given = ("-F", "none", "-i", str(self._ssh / "deploy"), "-p", str(self.ssh_port), "-o", "IdentitiesOnly=yes")
        blind = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR")
        target = f"{pwd.getpwuid(os.geteuid()).pw_name}@127.0.0.1"
        return subprocess.run(
            ["ssh", *given, *blind, *options, target, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    # The stack

    def containers(self, service: str = "", *, every: bool = False) -> list[dict[str, Any]]:
        """The containers of a service, or of all that stay up; `every`: those that have ended as well."""
        filters = [f"label={LABEL}.project={self.name}", *([f"label={LABEL}.service={service}"] if service else [])]
        words = [word for one in filters for word in ("--filter", one)]
        return inspect(run("docker", "ps", "--quiet", *(["--all"] if every else []), *words).split())

    def runs(self, service: str = "api") -> str:
        """The id of the image that a service runs; it must be one container."""
        (container,) = self.containers(service)
        image: str = container["Image"]
        return image

    def client(self) -> httpx.Client:
        """A client that trusts the certificate."""
        trust = ssl.create_default_context(cafile=self.authority)
        return httpx.Client(base_url=self.url, verify=trust, timeout=20, trust_env=False)

    def ready(self) -> bool:
        """Whether a request through nginx is answered."""
        try:
            with self.client() as client:
                return client.get("/health/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def logs(self) -> str:
        """The last words of everything, for whoever looks for what went wrong."""
        names = [container["Name"].strip("/") for container in self.containers(every=True)]
        said = [
            (
                name,
                subprocess.run(["docker", "logs", "--tail", "30", name], capture_output=True, text=True, check=False),
            )
            for name in names
        ]
        return "\n".join(f"== {name}\n{one.stdout}{one.stderr}" for name, one in said)

    def remove(self) -> None:
        """Everything that was made here, and nothing else."""
        if self._sshd:
            self._sshd.terminate()
            self._sshd.wait(10)
        mine = ("--filter", f"label={LABEL}.project={self.name}")
        for kind, listing in (("container", ("ls", "--all")), ("volume", ("ls",)), ("network", ("ls",))):
            if found := run("docker", kind, *listing, "--quiet", *mine).split():
                run("docker", kind, "rm", *(("--force", "--volumes") if kind == "container" else ()), *found)
        for image in dict.fromkeys(reversed(self.images)):
            subprocess.run(["docker", "image", "rm", "--force", image], capture_output=True, check=False)


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """A prepared server without a version, removed afterwards."""
    made = Server(folder)
    try:
        made.prepare()
        made.listen()
        yield made
    finally:
        made.remove()
