"""Certificate and key on disk, changed both at once."""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

CERTIFICATE, KEY = "fullchain.pem", "privkey.pem"
PLACEHOLDER_DAYS = 30
# Whoever reads is in the group of the folder: nginx.
READABLE_FOR_GROUP = 0o640


@dataclass(frozen=True, slots=True)
class Pair:
    """Both as PEM."""

    certificate: bytes
    key: bytes


def parsed(certificate: bytes) -> x509.Certificate:
    """The first certificate of a chain in PEM, the server's own."""
    return x509.load_pem_x509_certificate(certificate)


def names(certificate: x509.Certificate) -> set[str]:
    """The host names that it is for."""
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return set(extension.value.get_values_for_type(x509.DNSName))


def self_signed(certificate: x509.Certificate) -> bool:
    """Whether nobody vouches for it: the placeholder, or one by makecert.sh."""
    return certificate.issuer == certificate.subject


def placeholder(hosts: Sequence[str], *, address: str = "") -> Pair:
    """A self-signed pair, with which nginx can serve until there is a real one; good for an address as well."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, hosts[0][:64])])
    places: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
    places += [x509.IPAddress(ipaddress.ip_address(address))] if address else []
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks of clients differ
        .not_valid_after(now + datetime.timedelta(days=PLACEHOLDER_DAYS))
        .add_extension(x509.SubjectAlternativeName(places), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def read(folder: Path) -> Pair | None:
    """The pair that lies there, if one does."""
    try:
        return Pair((folder / CERTIFICATE).read_bytes(), (folder / KEY).read_bytes())
    except FileNotFoundError:
        return None


def install(folder: Path, pair: Pair) -> None:
    """Put the pair in the place of the old one.

    nginx opens two files, one after the other, and must not get one of each: both names lead through one link, and that
    is changed by a rename.
    """
    fresh = folder / f"pair-{secrets.token_hex(4)}"
    fresh.mkdir(parents=True)
    for name, text in ((CERTIFICATE, pair.certificate), (KEY, pair.key)):
        with open(fresh / name, "xb", opener=lambda path, flags: os.open(path, flags, READABLE_FOR_GROUP)) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    old = (folder / "current").resolve() if (folder / "current").is_symlink() else None
    _link(folder / "current", fresh.name)
    for name in (CERTIFICATE, KEY):
        if not (folder / name).is_symlink():
            _link(folder / name, f"current/{name}")
    if old and old.parent == folder.resolve():
        shutil.rmtree(old, ignore_errors=True)


def _link(name: Path, target: str) -> None:
    fresh = name.with_name(f".{name.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(name)
