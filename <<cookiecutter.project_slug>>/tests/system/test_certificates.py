"""The certificate's whole life, with Let's Encrypt's own test server as the authority and nginx as what it looks at.

Pebble checks as strictly as the real one: it asks nginx by HTTP for the proof before it signs. Debian and Ubuntu have it as a
package, which is unpacked and not installed.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography import x509

from devstack.ports import choose, is_open
from ops.certificates import pair
from ops.certificates.config import Config, ConfigError
from ops.certificates.watch import RENEW_SECONDS, RETRY_SECONDS, Attempts
from ops.check.foreign import tool
from ops.check.tools import Foreign
from tests.system.door import HOST, Door, Load, Upstream, context, opened, status
from tests.system.helpers import eventually

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 30


@dataclass
class Authority:
    """A running Pebble."""

    folder: Path
    proof: int
    port: int
    management: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def directory(self) -> str:
        """Where its clients begin."""
        return f"https://127.0.0.1:{self.port}/dir"

    @property
    def trust(self) -> Path:
        """Who vouches for the authority's own address: not for what it signs."""
        return self.folder / "authority/fullchain.pem"

    def root(self) -> str:
        """Who vouches for what it signs."""
        with urllib.request.urlopen(
            f"https://127.0.0.1:{self.management}/roots/0", context=context(), timeout=SECONDS
        ) as answer:
            text: str = answer.read().decode()
            return text

    def start(self, dns: int, *, seconds: int = 90 * 86400) -> None:
        """Start it; certificates are good for this long."""
        pair.install(self.folder / "authority", pair.placeholder(["127.0.0.1", "localhost"], address="127.0.0.1"))
        settings = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self.management}",
            "certificate": str(self.trust),
            "privateKey": str(self.folder / "authority/privkey.pem"),
            "httpPort": self.proof,
            "tlsPort": 1,
            "certificateValidityPeriod": seconds,
        }
        (self.folder / "pebble.json").write_text(json.dumps({"pebble": settings}))
        with (self.folder / "pebble.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    tool(ROOT, "pebble", "pebble"),
                    *("-config", str(self.folder / "pebble.json")),
                    *("-dnsserver", f"127.0.0.1:{dns}"),
                ],
                # Neither dawdles nor refuses good requests to see whether a client tries again.
                env={**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"},
                stdout=log,
                stderr=log,
            )
        eventually(lambda: is_open(self.port), bool, "pebble listens", SECONDS)

    def stop(self) -> None:
        """As when it is away."""
        if self.process:
            self.process.terminate()
            self.process.wait(SECONDS)
            self.process = None


@dataclass
class Scene:
    """A door without a certificate, an authority, and the service between them."""

    door: Door
    authority: Authority
    dns: int
    metrics: int

    @property
    def environment(self) -> dict[str, str]:
        """As compose sets it."""
        return {
            **os.environ,
            "CERTIFICATE_NAMES": HOST,
            "CERTIFICATE_DIR": str(self.door.certificates),
            "CERTIFICATE_STATE_DIR": str(self.door.folder / "acme"),
            "CERTIFICATE_NGINX_HTTP": f"127.0.0.1:{self.door.http}",
            "CERTIFICATE_NGINX_TLS": f"127.0.0.1:{self.door.tls}",
            "METRICS_CERTIFICATES_PORT": str(self.metrics),
            "ACME_EMAIL": "team@example.com",
            "ACME_SERVER": self.authority.directory,
            "REQUESTS_CA_BUNDLE": str(self.authority.trust),
        }

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command of a person."""
        return subprocess.run(
            [sys.executable, "-m", "ops.certificates", *arguments],
            cwd=ROOT,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )

    def served(self) -> x509.Certificate | None:
        """What a client is shown."""
        try:
            with self.door.connect() as connection:
                assert isinstance(connection, ssl.SSLSocket)
                shown = connection.getpeercert(binary_form=True)
        except ssl.SSLError:
            return None
        assert shown
        return x509.load_der_x509_certificate(shown)

    def numbers(self) -> dict[str, float]:
        """What Prometheus reads."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=SECONDS) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return {}
        return {name: float(value) for name, value in (line.split() for line in lines if not line.startswith("#"))}


def vouched_for(certificate: x509.Certificate | None) -> bool:
    """Whether it is there, and no placeholder."""
    return certificate is not None and not pair.self_signed(certificate)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Everything but the service; the authority has still to be started."""
    try:
        names = tool(ROOT, "pebble-challtestsrv", "pebble")
    except Foreign as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    ports = choose(["dns", "pebble", "management", "metrics", "control"], None)
    upstream = Upstream()
    with ExitStack() as stack:
        stack.callback(upstream.close)
        door = stack.enter_context(opened(tmp_path, upstream.port, bare=True))
        authority = Authority(tmp_path, door.http, ports["pebble"], ports["management"])
        with (tmp_path / "dns.log").open("wb") as log:
            # Every name in the world is this machine.
            dns = subprocess.Popen(
                [
                    names,
                    *("-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""),
                    *("-dns01", f"127.0.0.1:{ports['dns']}", "-management", f"127.0.0.1:{ports['control']}"),
                    *("-http01", "", "-https01", "", "-tlsalpn01", ""),
                ],
                stdout=log,
                stderr=log,
            )
        stack.callback(dns.wait, SECONDS)
        stack.callback(dns.terminate)
        stack.callback(authority.stop)
        yield Scene(door, authority, ports["dns"], ports["metrics"])


def test_a_certificate_lives(scene: Scene) -> None:
    """None, a placeholder, the first real one, a forced renewal under load, an authority that is away; all by one service."""
    door, authority = scene.door, scene.authority
    assert scene.served() is None, "nginx starts without a certificate"
    assert status(door.get(tls=False)) == 308, "and already shows the way"
    service = subprocess.Popen(
        [sys.executable, "-m", "ops.certificates", "watch"], cwd=ROOT, env=scene.environment | {"ACME_EMAIL": ""}
    )
    try:
        first = eventually(scene.served, bool, "a placeholder", SECONDS)
        assert first
        assert pair.self_signed(first)
        assert pair.names(first) == {HOST}
        eventually(scene.numbers, lambda now: now.get("certificate_self_signed") == 1, "said so", SECONDS)
    finally:
        service.terminate()
        assert service.wait(SECONDS) == 0

    authority.start(scene.dns)
    service = subprocess.Popen([sys.executable, "-m", "ops.certificates", "watch"], cwd=ROOT, env=scene.environment)
    try:
        real = eventually(scene.served, vouched_for, "a real one", SECONDS)
        assert real
        assert pair.names(real) == {HOST}
        trusting = ssl.create_default_context(cadata=authority.root())
        with (
            socket.create_connection(("127.0.0.1", door.tls)) as plain,
            trusting.wrap_socket(plain, server_hostname=HOST) as verified,
        ):
            assert verified.version() == "TLSv1.3", "a client that trusts the authority trusts the door"
        numbers = eventually(scene.numbers, lambda now: now.get("certificate_self_signed") == 0, "said so", SECONDS)
        assert numbers["certificate_not_after_timestamp_seconds"] == real.not_valid_after_utc.timestamp()
        assert numbers["certificate_not_before_timestamp_seconds"] == real.not_valid_before_utc.timestamp()
        assert numbers["certificate_renewal_failed"] == numbers["certificate_probe_failed"] == 0

        workers, serials = door.workers(), set()

        def ask() -> None:
            shown = scene.served()
            assert shown
            serials.add(shown.serial_number)

        with Load(ask, clients=2) as load:
            result = scene.run("issue", "--force")
            assert result.returncode == 0, result.stderr
            assert "a new one is served" in result.stdout
            eventually(lambda: len(serials), lambda count: count == 2, "the new one is served", SECONDS)
            load.more(20)
        assert load.errors == []
        assert door.workers() == workers, "nothing was reloaded"
        assert scene.run("issue").stdout.strip() == "certificates: the present one is good; nothing changed"

        renewed = scene.served()
        authority.stop()
        failed = scene.run("issue", "--force")
        assert failed.returncode == 1
        assert scene.served() == renewed, "an authority that is away changes nothing"
        assert "signed by CN=Pebble" in scene.run("status").stdout
        assert scene.environment["ACME_EMAIL"] not in door.log
    finally:
        service.terminate()
        assert service.wait(SECONDS) == 0


def test_what_ends_soon_is_renewed_and_what_is_closed_is_not_asked_for(scene: Scene, tmp_path: Path) -> None:
    """Without force, as the service does it: a certificate of a second is due at once. And nginx is looked at first."""
    door = scene.door
    scene.authority.start(scene.dns, seconds=1)
    assert scene.run("issue").returncode == 0
    first = pair.read(door.certificates)
    assert first
    assert scene.run("issue").returncode == 0
    second = pair.read(door.certificates)
    assert second
    assert pair.parsed(first.certificate).serial_number != pair.parsed(second.certificate).serial_number
    orders = (tmp_path / "pebble.log").read_text().count("/order-plz")
    refused = scene.run("issue", CERTIFICATE_NAMES="other.example.com")
    assert refused.returncode == 1
    assert "is it one of its server names?" in refused.stderr
    assert (tmp_path / "pebble.log").read_text().count("/order-plz") == orders, "the authority was not asked"


def test_attempts_are_counted_over_restarts(tmp_path: Path) -> None:
    """A service that starts again and again asks no more often than one that runs."""
    now = 1_800_000_000.0
    attempts = Attempts(tmp_path, lambda: now)
    assert attempts.due()
    attempts.settle(failed=True)
    assert not Attempts(tmp_path, lambda: now + RETRY_SECONDS - 1).due()
    assert Attempts(tmp_path, lambda: now + RETRY_SECONDS).due()
    attempts.settle(failed=False)
    assert not Attempts(tmp_path, lambda: now + RETRY_SECONDS).due()
    assert Attempts(tmp_path, lambda: now + RENEW_SECONDS).due()
    assert Attempts(tmp_path, lambda: now - 10 * RENEW_SECONDS).due(), (
        "a clock that was wrong does not stop it for ever"
    )


def test_a_pair_is_changed_as_a_whole(tmp_path: Path) -> None:
    """Both names lead to one folder, the key is not for everybody, and the old pair is gone."""
    pair.install(tmp_path, pair.placeholder([HOST]))
    old = (tmp_path / "current").resolve()
    fresh = pair.placeholder([HOST])
    pair.install(tmp_path, fresh)
    assert pair.read(tmp_path) == fresh
    assert {(tmp_path / name).resolve().parent for name in (pair.CERTIFICATE, pair.KEY)} == {
        (tmp_path / "current").resolve()
    }
    assert (tmp_path / pair.KEY).stat().st_mode & 0o777 == pair.READABLE_FOR_GROUP
    assert not old.exists()


def test_the_environment_is_read_strictly() -> None:
    """What is wrong is said in words; each authority has a folder of its own; who brings a certificate is left alone."""
    base = {"CERTIFICATE_NAMES": f"{HOST} files.example.com {HOST}", "ACME_EMAIL": "team@example.com"}
    config = Config.read(base)
    assert config.names == (HOST, "files.example.com")
    assert config.asks
    rehearsal = Config.read(base | {"ACME_SERVER": "letsencrypt-staging"})
    assert "staging" in rehearsal.server
    assert rehearsal.state != config.state
    assert not Config.read(base | {"TLS_DIR": "./certs"}).asks
    assert not Config.read(base | {"NGINX_ENTRY": "plain"}).asks
    assert not replace(config, email="").asks
    for wrong in ({"CERTIFICATE_NAMES": " "}, {"ACME_SERVER": "http://a.example"}, {"CERTIFICATE_NGINX_TLS": "nginx"}):
        with pytest.raises(ConfigError):
            Config.read(base | wrong)
