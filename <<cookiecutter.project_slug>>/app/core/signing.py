"""The keys of access tokens: one signs, several are believed.

A token names its key (`kid`), and a key is for one algorithm: what a token says of its algorithm decides nothing. So keys
can be changed one after the other, and so can the algorithm, without anybody being signed out; the steps are in
docs/runbook/rotate-signing-keys.md.
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm

if TYPE_CHECKING:
    from app.core.settings import Auth

# What a JWKS document may bring. A secret never comes out of a document that everybody may read.
_PUBLIC_ALGORITHMS = frozenset({"RS256", "EdDSA", "ES256"})
_MIN_RSA_BITS = 2048
_PEM = re.compile(r"-----BEGIN [A-Z ]+-----.+?-----END [A-Z ]+-----", re.DOTALL)


class NoSigningKey(RuntimeError):
    """Tokens come from somebody else, or no key is set: there is nothing to sign with."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key and the one algorithm that it is for.

    Attributes:
        id: `kid` of the tokens that it signs: made of the key itself, or named by the document that it came from.
        verifying: the secret, or the public key.
        signing: the secret, or the private key; None when it only checks.
    """

    id: str
    algorithm: str
    verifying: Any
    signing: Any = None


@dataclass(frozen=True, slots=True)
class Keyring:
    """The key that signs, if there is one, and all that are believed."""

    current: Key | None
    known: Mapping[str, Key]

    @property
    def signing(self) -> Key:
        """The key that signs.

        Raises:
            NoSigningKey: there is none.
        """
        if self.current is None:
            raise NoSigningKey
        return self.current

    def public(self) -> list[dict[str, Any]]:
        """The public keys in the form of RFC 7517; secrets are not among them."""
        return [
            {**_members(key.verifying), "kid": key.id, "alg": key.algorithm, "use": "sig"}
            for key in self.known.values()
            if isinstance(key.verifying, RSAPublicKey | Ed25519PublicKey)
        ]


@lru_cache(maxsize=16)
def keyring(settings: "Auth") -> Keyring:
    """The keys that settings name; made once for each."""
    current = _current(settings)
    secrets = (part.strip() for part in settings.further_secret_keys.get_secret_value().split(","))
    further = [_secret(secret) for secret in secrets if secret]
    keys = [*([current] if current else []), *further, *public_keys(settings.public_keys)]
    return Keyring(current, {key.id: key for key in reversed(keys)})  # of two with one id the first wins


def _current(settings: "Auth") -> Key | None:
    if settings.algorithm == "HS256":
        secret = settings.secret_key.get_secret_value()
        return _secret(secret) if secret else None
    pem = settings.private_key.get_secret_value()
    return private_key(pem, settings.algorithm) if pem else None


def private_key(pem: str, algorithm: str) -> Key:
    """The key that signs with EdDSA or RS256.

    Raises:
        ValueError: it cannot be read, or is not one for the algorithm. The text never holds a key.
    """
    try:
        private = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("no private key in PEM, or one with a passphrase") from error
    if not isinstance(private, Ed25519PrivateKey if algorithm == "EdDSA" else RSAPrivateKey):
        raise ValueError(f"no key for {algorithm}")
    assert isinstance(private, Ed25519PrivateKey | RSAPrivateKey)
    key = _asymmetric(private.public_key())
    return Key(key.id, key.algorithm, key.verifying, private)


def _secret(secret: str) -> Key:
    # Tells nothing of the secret that a signature made with it does not tell.
    identity = hmac.new(secret.encode(), b"key id", hashlib.sha256).hexdigest()[:16]
    return Key(identity, "HS256", secret, secret)


def public_keys(text: str) -> list[Key]:
    """The public keys in PEM blocks or in a JWKS document.

    Raises:
        ValueError: one cannot be read.
    """
    if text.lstrip().startswith("{"):
        return list(_from_document(text))
    blocks = _PEM.findall(text)
    if text and not blocks:
        raise ValueError("neither PEM nor a JWKS document")
    return [_from_pem(block) for block in blocks]


def _from_pem(block: str) -> Key:
    try:
        public = load_pem_public_key(block.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("holds a block that is no public key") from error
    if not isinstance(public, RSAPublicKey | Ed25519PublicKey):
        raise ValueError("holds a key that is neither RSA nor Ed25519")  # what pydantic reports
    return _asymmetric(public)


def _from_document(text: str) -> Iterator[Key]:
    try:
        # What the document holds for other uses, encryption above all, is passed over.
        entries = [entry for entry in json.loads(text)["keys"] if entry.get("use", "sig") == "sig"]
        found = [jwt.PyJWK(entry) for entry in entries if entry.get("kty") in ("RSA", "OKP", "EC")]
    except (ValueError, LookupError, TypeError, AttributeError, jwt.PyJWTError) as error:
        raise ValueError("no JWKS document") from error
    for key in found:
        if key.algorithm_name in _PUBLIC_ALGORITHMS:
            if not key.key_id:
                raise ValueError("holds a key without a kid")
            if isinstance(key.key, RSAPrivateKey | Ed25519PrivateKey):
                raise ValueError("holds a private key")
            yield Key(key.key_id, key.algorithm_name, key.key)


def _asymmetric(public: RSAPublicKey | Ed25519PublicKey) -> Key:
    if isinstance(public, RSAPublicKey) and public.key_size < _MIN_RSA_BITS:
        raise ValueError(f"an RSA key needs {_MIN_RSA_BITS} bits")
    members = _members(public)
    # RFC 7638: the members that make the key, in order and without spaces.
    canonical = json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
    identity = base64.urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode()
    return Key(identity, "RS256" if isinstance(public, RSAPublicKey) else "EdDSA", public)


def _members(public: RSAPublicKey | Ed25519PublicKey) -> dict[str, Any]:
    if isinstance(public, RSAPublicKey):
        made = RSAAlgorithm.to_jwk(public, as_dict=True)
    else:
        made = OKPAlgorithm.to_jwk(public, as_dict=True)
    return {name: made[name] for name in ("crv", "e", "kty", "n", "x") if name in made}
