"""Render templates/ as the official image's entry point does, for the stack without Docker and for the checks.

In a container `envsubst` replaces `${NAME}`; here `render` does. Both leave nginx's own `$variables` alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).resolve().parent
VARIABLE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)\}")

#: Every variable of the templates with a value that suits one machine; compose.yaml sets the same names.
DEFAULTS: dict[str, str] = {
    "NGINX_ENTRY": "plain",  # plain or tls: which file of templates/entry serves
    "NGINX_ADMIN": "off",  # on or off: whether the admin page is let through
    "NGINX_STORAGE": "off",  # on or off: whether signed addresses of the object store are let through
    "NGINX_LISTEN": "127.0.0.1:8080",
    "NGINX_LISTEN_TLS": "127.0.0.1:8443",
    "NGINX_SERVER_NAMES": "localhost 127.0.0.1 [::1]",  # every other host is refused with 421
    "NGINX_API_SERVER": "127.0.0.1:8000",  # in compose "api:8000 resolve"
    "NGINX_RESOLVER": "127.0.0.11",  # used only with `resolve`
    "NGINX_WEB_ROOT": str(SOURCE / "www"),
    "NGINX_TLS_DIR": str(SOURCE / "certs"),
    "NGINX_CHALLENGE_DIR": str(SOURCE / "certs/challenge"),  # where Let's Encrypt finds its proof
    "STORAGE_HOST": "storage.invalid",  # the name under which browsers reach the store
    "STORAGE_BUCKET": "app",
    "STORAGE_SERVER": "127.0.0.1:9000",
    "REAL_IP_FROM": "255.255.255.255",  # an address nobody has: no proxy in front is trusted
    "REAL_IP_HEADER": "X-Forwarded-For",
    "CONNECTION_LIMIT": "200",
    "RATE_LIMIT": "100r/m",
    "RATE_LIMIT_BURST": "50",
    "RATE_LIMIT_SIGN_IN": "10r/m",
    "RATE_LIMIT_SIGN_IN_BURST": "5",
}


def render(target: Path, variables: Mapping[str, str]) -> Path:
    """Write the whole configuration under `target`, which becomes nginx's prefix, and return its nginx.conf.

    Start it with `nginx -p TARGET -c TARGET/nginx.conf -e stderr -g "daemon off;"`.
    """
    values = DEFAULTS | dict(variables)
    if unknown := values.keys() - DEFAULTS.keys():
        raise ValueError(f"no such nginx variable: {', '.join(sorted(unknown))}")
    templates = SOURCE / "templates"
    for template in sorted(templates.rglob("*.template")):
        result = target / template.relative_to(templates).with_suffix("")
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text(VARIABLE.sub(lambda match: values[match[1]], template.read_text("utf-8")), "utf-8")
    return target / "nginx.conf"
