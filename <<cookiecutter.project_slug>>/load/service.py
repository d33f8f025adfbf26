"""What the load is put on: a stack of our own, as in production, or a service that runs already."""

from __future__ import annotations

import base64
import json
import os
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from devstack import USUAL_SERVICES, Stack

ROOT = Path(__file__).resolve().parents[1]
ISSUER = "https://identity.example.com"
TOKENS = 200
API_PROCESSES = 2

#: What production has and development has not. What is outside stays that of development, as it is not ours to measure: mail
#: stays in the house, and the language model is the offline one.
PRODUCTION = {
    "LOG_LEVEL": "INFO",
    "LOG_FORMAT": "json",
    "HTTP_DOCS": "false",
    "HTTP_ALLOWED_HOSTS": "127.0.0.1",
    # Every limit stays as it is. The load may name the address of each person, so that they count one by one.
    "REAL_IP_FROM": "127.0.0.1",
}


class Refused(Exception):
    """The load cannot or must not be put there; the text says what to do."""


@contextmanager
def own(*, tokens: bool) -> Iterator[tuple[str, list[str]]]:
    """Start the whole stack on free ports, with data that go afterwards; gives its address and tokens for it.

    Args:
        tokens: people have no other way in: an identity provider that the service believes gives them theirs.
    """
    provider = Ed25519PrivateKey.generate()
    believed = {**OKPAlgorithm.to_jwk(provider.public_key(), as_dict=True), "kid": "load"}
    key = f"load:{base64.b64encode(os.urandom(32)).decode()}"
    outside = {"AUTH_ISSUER": ISSUER, "AUTH_PUBLIC_KEYS": json.dumps({"keys": [believed]})} if tokens else {}
    with (
        TemporaryDirectory(prefix="load-") as folder,
        Stack(
            Path(folder),
            USUAL_SERVICES,
            {**PRODUCTION, "ENCRYPTION_KEYS": key, **outside},
            durable=True,
            workers=API_PROCESSES,
            progress=lambda name, seconds: print(f"load: {name} ready after {seconds:.1f} s", flush=True),
        ) as stack,
    ):
        yield stack.url, [_token(provider) for _ in range(TOKENS)] if tokens else []


def _token(provider: Ed25519PrivateKey) -> str:
    now = int(time.time())
    claims = {"sub": str(uuid4()), "iss": ISSUER, "aud": "api", "iat": now, "exp": now + 24 * 3600}
    return jwt.encode(claims, provider, algorithm="EdDSA", headers={"kid": "load", "typ": "at+jwt"})


def running(url: str, *, force: bool, root: Path = ROOT) -> str:
    """The address of a service that runs already, tidied up.

    Raises:
        Refused: it is no address, the project's production, or nobody is there.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused(f"{url!r} is no address; give one as URL=https://staging.example.com")
    production = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["service"]["domain"]
    if parts.hostname.rstrip(".").lower() == production.lower() and not force:
        raise Refused(
            f"{parts.hostname} is this project's production: real people would wait, and test accounts would stay; FORCE=1 insists"
        )
    address = f"{parts.scheme}://{parts.netloc}"
    try:
        httpx.get(f"{address}/health", timeout=10)
    except httpx.HTTPError as error:
        raise Refused(f"{address} does not answer: {error}") from error
    return address
