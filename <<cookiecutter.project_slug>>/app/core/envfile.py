"""`.env.example` and `.env`, both made from the settings and their documentation."""

import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from textwrap import wrap

from pydantic.fields import FieldInfo

from app.core.project import project
from app.core.settings import FeatureSettings, default_text, documented, is_generated
from app.core.settings.base import extra_of
from app.core.settings.encryption import new_key

# In the place of a default: a secret of ours, which `make setup` makes.
GENERATED = "<generated>"

# Read by compose and scripts, not by the application; here because people look for every variable in one file.
COMPOSE: tuple[tuple[str, str, str], ...] = (
    ("DOMAIN", "", "Public host name; nginx refuses every other one in stage and prod."),
    ("APP_IMAGE", "", "Image of the application in stage and prod, by digest. Empty: built here."),
    ("HTTP_PORT", "", "Port of nginx on the host. Empty: 8080 in dev, 80 in stage and prod."),
    ("HTTPS_PORT", "", "Port of nginx for TLS. Empty: 443."),
    ("NGINX_ENTRY", "", "tls, or plain behind a load balancer that ends TLS. Empty: tls in stage and prod."),
    ("NGINX_ADMIN", "", "on lets the admin page through, which ADMIN_ENABLED serves. Empty: off."),
    (
        "ACME_EMAIL",
        "",
        "Whom Let's Encrypt may write to; set, the certificate comes from there. Empty: a self-signed one.",
    ),
    (
        "ACME_SERVER",
        "",
        "letsencrypt, letsencrypt-staging to rehearse, or another https:// directory. Empty: letsencrypt.",
    ),
    ("TLS_DIR", "", "A certificate of your own: ./folder of fullchain.pem and privkey.pem. Empty: ACME_EMAIL decides."),
    (
        "STORAGE_HOST",
        "",
        "Host name under which browsers reach the object store by signed addresses, where it has no public one. Empty: none.",
    ),
    (
        "STORAGE_OPERATOR_SECRET_KEY",
        GENERATED,
        "Secret key of the account that makes the buckets and keeps the backups, where the store beside the service has more than one account.",
    ),
    ("REAL_IP_FROM", "", "Address or network of the proxy in front of nginx that may name the client. Empty: none."),
    ("REAL_IP_HEADER", "", "Header in which that proxy names the client. Empty: X-Forwarded-For."),
    ("CONNECTION_LIMIT", "", "Requests and WebSockets of one client at a time. Empty: 200."),
    ("RATE_LIMIT", "", "Requests a client may make, as nginx writes it. Empty: 100r/m."),
    ("RATE_LIMIT_BURST", "", "How many it may make at once. Empty: 50."),
    ("RATE_LIMIT_SIGN_IN", "", "The same for signing in and registering. Empty: 10r/m."),
    ("RATE_LIMIT_SIGN_IN_BURST", "", "Empty: 5."),
    ("BACKUP_IMAGE", "", "Image of the backup service, by digest. Empty: built here."),
    ("MONITOR_PASSWORD", GENERATED, "Password of the role `monitor`, which reads PostgreSQL's counters and no data."),
    ("ALERT_SLACK_URL", "", "Webhook of the Slack channel that alarms go to. Empty: none."),
    ("ALERT_EMAIL_TO", "", "Address that alarms go to, by the mail server of MESSAGES_SMTP_*. Empty: none."),
    (
        "RUNBOOK_URL",
        "",
        "Address of the repository as people read it, put before docs/runbook/… in alarms: https://…/blob/main/",
    ),
    (
        "ALERT_HEARTBEAT_URL",
        "",
        "Asked every minute while the chain of alarms works; whoever is there calls when it stops.",
    ),
)


def example(features: Sequence[type[FeatureSettings]]) -> str:
    """The text of `.env.example`: every variable with its comment, its default, and no secret."""
    return _render(features, lambda _variable, field: default_text(field), lambda: "")


def write(path: Path, features: Sequence[type[FeatureSettings]]) -> bool:
    """Write `.env` with a fresh random value for every secret that is ours to choose.

    Returns:
        False when the file is there already; it is never touched.
    """

    def value(_: str, field: FieldInfo) -> str:
        if extra_of(field).get("generated") == "encryption key":
            return new_key(datetime.now(UTC).date())
        return secrets.token_hex(24) if is_generated(field) else default_text(field)

    if path.exists():
        return False
    # Written under another name first, which only its owner may read: whoever finds the file finds all of it.
    with NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".env.") as whole:
        whole.write(_render(features, value, lambda: secrets.token_hex(24)))
        whole.flush()
        try:
            path.hardlink_to(whole.name)  # fails if there is a file by now: of two setups at once one wins
        except FileExistsError:
            return False
    return True


def _render(
    features: Sequence[type[FeatureSettings]], value: Callable[[str, FieldInfo], str], secret: Callable[[], str]
) -> str:
    lines = [
        "# Every setting, with its default. `make setup` writes .env from this with fresh secrets; never commit that.",
        "# Made by `make generate` from the settings classes: change it there.",
        "#",
        "# A variable is looked up in the environment, then in AWS Secrets Manager (SECRETS_AWS_ID), then in this file;",
        "# the first that has it wins, and empty means unset. For a secret, NAME_FILE may name a file that holds it, as",
        "# Docker and Kubernetes mount them: DATABASE_PASSWORD_FILE=/run/secrets/database_password. It counts as NAME",
        "# where it is set; NAME and NAME_FILE in one place are a fault. `python -m app.cli settings check` says them all.",
    ]
    for heading, text, fields in documented(features):
        lines += ["", f"## {heading}" + (f": {text[0].lower()}{text[1:]}" if text else "")]
        for variable, field in fields:
            lines += _comment(field.description or "")
            lines.append(f"{variable}={value(variable, field)}")
    lines += ["", "## Compose: not read by the application"]
    for variable, default, text in COMPOSE:
        known = {"DOMAIN": project().domain}.get(variable, default)
        lines += [*_comment(text), f"{variable}={secret() if known == GENERATED else known}"]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in wrap(text, 108)]
