"""The two Redis servers."""

from collections.abc import Mapping
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import BaseModel, Field, SecretStr

from app.core.settings.base import NO_SECRET, secret


def _with_trust(url: str, *, checked: bool) -> str:
    """The address with what is to be thought of the server's certificate, unless it says so itself."""
    parts = urlsplit(url)
    if parts.scheme != "rediss" or "ssl_cert_reqs" in parts.query:
        return url
    wish = f"ssl_cert_reqs={'required' if checked else 'none'}"  # said nothing, Celery would not check
    return urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, wish)))))


class _Redis(BaseModel):
    def address(self) -> str:
        """The address as redis-py reads it."""
        fields: Mapping[str, object] = self.__dict__
        url, password = fields["url"], fields["password"]
        assert isinstance(url, SecretStr)
        assert isinstance(password, SecretStr)
        if url.get_secret_value():
            return _with_trust(url.get_secret_value(), checked=bool(fields["tls_verify"]))
        return f"redis://:{quote(password.get_secret_value(), safe='')}@{fields['host']}:{fields['port']}/0"


class Cache(_Redis):
    """Redis as a cache: bounded, may forget anything at any time."""

    url: SecretStr = Field(
        default=NO_SECRET,
        description="Whole address of a managed Redis: rediss://:password@host:6379/0. Empty: made of the parts below.",
    )
    tls_verify: bool = Field(
        default=True,
        description="Check the certificate of a rediss:// address. off: encrypted, but whoever answers is believed; only for a provider whose certificates nobody vouches for.",
    )
    host: str = Field(default="127.0.0.1", description="Name or address of the server.")
    port: int = Field(default=6379, description="Port of the server.")
    password: SecretStr = secret("Password of the cache.")
    ttl_seconds: int = Field(
        default=300, gt=0, description="How long a cached value lives unless the caller says otherwise."
    )


class Broker(_Redis):
    """Redis as Celery's broker: never evicts, keeps an append-only file. A server of its own, so that a full cache cannot drop a task."""

    url: SecretStr = Field(
        default=NO_SECRET,
        description="Whole address of a managed Redis with maxmemory-policy noeviction. Empty: made of the parts below.",
    )
    tls_verify: bool = Field(
        default=True,
        description="Check the certificate of a rediss:// address. off: encrypted, but whoever answers is believed; only for a provider whose certificates nobody vouches for.",
    )
    host: str = Field(default="127.0.0.1", description="Name or address of the server.")
    port: int = Field(default=6380, description="Port of the server.")
    password: SecretStr = secret("Password of the broker.")
