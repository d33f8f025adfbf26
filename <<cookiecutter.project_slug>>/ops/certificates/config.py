"""What the environment decides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

SERVERS = {
    "letsencrypt": "https://acme-v02.api.letsencrypt.org/directory",
    # No limits to speak of, and nobody trusts what it signs: for trying the way.
    "letsencrypt-staging": "https://acme-staging-v02.api.letsencrypt.org/directory",
}


class ConfigError(Exception):
    """The environment is wrong; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Config:
    """Where everything is.

    Attributes:
        names: host names of the certificate, the first one its own.
        email: whom the authority may write to. Empty: no authority is asked.
        server: directory of the authority (RFC 8555).
        folder: what nginx serves from; the proof for the authority lies there as well.
        state: the account's key and what certbot remembers, for this authority alone.
        own: a person puts the certificate where nginx finds it; nothing is written.
        serves_tls: nginx ends TLS; else there is nothing to do.
        http: nginx without TLS, as (host, port).
        tls: nginx with TLS.
        metrics_port: where Prometheus asks.
    """

    names: tuple[str, ...]
    email: str
    server: str
    folder: Path
    state: Path
    own: bool
    serves_tls: bool
    http: tuple[str, int]
    tls: tuple[str, int]
    metrics_port: int

    @property
    def challenges(self) -> Path:
        """Where nginx looks for the proof."""
        return self.folder / "challenge"

    @property
    def asks(self) -> bool:
        """Whether an authority is asked at all."""
        return self.serves_tls and not self.own and bool(self.email)

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Config:
        """From variables as compose sets them.

        Raises:
            ConfigError: one is wrong.
        """
        names = tuple(
            dict.fromkeys(name for name in re.split(r"[\s,]+", environment.get("CERTIFICATE_NAMES", "")) if name)
        )
        if not names:
            raise ConfigError("CERTIFICATE_NAMES is empty: set DOMAIN to the public host name")
        server = environment.get("ACME_SERVER") or "letsencrypt"
        server = SERVERS.get(server, server)
        if urlsplit(server).scheme != "https":
            raise ConfigError(
                f"ACME_SERVER is {server}: give {', '.join(SERVERS)} or the https:// address of a directory"
            )
        state = Path(environment.get("CERTIFICATE_STATE_DIR") or "/srv/acme")
        return cls(
            names=names,
            email=environment.get("ACME_EMAIL", ""),
            server=server,
            folder=Path(environment.get("CERTIFICATE_DIR") or "/srv/certificates"),
            # A folder for each authority: after a rehearsal nothing of it is mistaken for the real one's.
            state=state / re.sub(r"[^A-Za-z0-9.-]", "_", urlsplit(server).netloc),
            own=bool(environment.get("TLS_DIR")),
            serves_tls=(environment.get("NGINX_ENTRY") or "tls") == "tls",
            http=_address(environment.get("CERTIFICATE_NGINX_HTTP") or "nginx:8080"),
            tls=_address(environment.get("CERTIFICATE_NGINX_TLS") or "nginx:8443"),
            metrics_port=int(environment.get("METRICS_CERTIFICATES_PORT") or 9103),
        )


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"{text} is not an address: give host:port")
    return host, int(port)
