"""The variables that a platform is given once, in the form of an env file: what stands in the repository, fresh secrets, and yours."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from ops.deploy.paas.api import Failed

ROOT = Path(__file__).resolve().parents[3]


def encryption_key() -> str:
    """As `python -m app.cli encryption new-key` makes them, where the application is not installed."""
    secret = base64.b64encode(secrets.token_bytes(32)).decode()
    return f"k{datetime.now(UTC):%Y%m%d}{secrets.token_hex(2)}:{secret}"


#: What is ours to choose.
FRESH: Mapping[str, Callable[[], str]] = {
    "AUTH_SECRET_KEY": lambda: secrets.token_hex(32),
    "HEALTH_TOKEN": lambda: secrets.token_hex(24),
    "ENCRYPTION_KEYS": encryption_key,
    "BACKUP_KEYS": encryption_key,
}


def heroku() -> dict[str, str]:
    """From app.json; what has no value is asked for."""
    given = json.loads((ROOT / "app.json").read_text("utf-8"))["env"]
    return {name: entry.get("value", "") for name, entry in given.items()}


def railway() -> dict[str, str]:
    """From variables.env; what is empty is asked for."""
    text = (ROOT / "ops/deploy/paas/railway/variables.env").read_text("utf-8")
    pairs = (line.partition("=") for line in text.splitlines() if line[:1] != "#")
    return {name: value for name, _, value in pairs}


SOURCES: Mapping[str, Callable[[], dict[str, str]]] = {"heroku": heroku, "railway": railway}


def settings(platform: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Every variable with its value. One that the environment has wins.

    Args:
        platform: heroku or railway; a Blueprint of Render asks and generates by itself.
        environment: that of the process unless given.

    Raises:
        Failed: some are asked for and not given; all of them are named.
    """
    given = os.environ if environment is None else environment
    found = {}
    for name, value in SOURCES[platform]().items():
        found[name] = given.get(name) or value or FRESH.get(name, str)()
    if missing := [name for name, value in found.items() if not value]:
        raise Failed(f"not given: {', '.join(missing)}; export them and ask again: docs/paas.md")
    return found
