"""Fill the secrets of an environment: `python -m ops.deploy.ecs.fill ENVIRONMENT AUTHORITY.pem`.

What is ours to choose gets a fresh value where there is none; what is there is never changed, but for the authority of
the database's certificate. Nothing of a value is printed.
"""

from __future__ import annotations

import json
import secrets
import ssl
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import boto3

from app.core.settings import documented, is_generated
from app.core.settings.base import extra_of
from app.core.settings.encryption import new_key
from app.features import settings_of_features
from ops.deploy.ecs.render import Fault, read

AUTHORITY = "AUTHORITY"
BACKUP = ("BACKUP_KEYS",)


def fresh(variables: Iterable[str]) -> dict[str, str]:
    """A new value for each of these variables that is ours to choose."""
    made = {}
    fields = {name: field for _, _, group in documented(settings_of_features()) for name, field in group}
    for name in variables:
        if is_generated(fields[name]):
            is_key = extra_of(fields[name]).get("generated") == "encryption key"
            made[name] = new_key(datetime.now(UTC).date()) if is_key else secrets.token_hex(24)
    return made


def fill(environment: str, authority: str) -> dict[str, list[str]]:
    """Fill the secrets NAME/app and NAME/backup.

    Args:
        environment: its name.
        authority: certificates that the database's is checked against, as PEM.

    Returns:
        The secrets to the variables in them that only a person knows, and that have no value yet.

    Raises:
        Fault: the certificates are none.
    """
    try:
        ssl.create_default_context(cadata=authority)
    except ssl.SSLError as error:
        raise Fault(f"the authority of the database is no certificate: {error}") from error
    chosen = read(environment)
    client = boto3.client("secretsmanager", region_name=chosen["region"])
    missing = {}
    wanted = {"app": tuple(chosen["secrets"]["app"]), "backup": BACKUP}
    for kind, variables in wanted.items():
        name = f"{chosen['name']}/{kind}"
        found: dict[str, str] = json.loads(client.get_secret_value(SecretId=name)["SecretString"])
        whole = fresh(variables) | found | ({AUTHORITY: authority} if kind == "app" else {})
        if whole != found:
            client.put_secret_value(SecretId=name, SecretString=json.dumps(whole))
        if lacking := [variable for variable in variables if variable not in whole]:
            missing[name] = lacking
    return missing


def main(environment: str, authority: str) -> None:
    """Run from the command line."""
    for name, variables in fill(environment, Path(authority).read_text("ascii")).items():
        print(f"fill: {name} still needs {', '.join(variables)}: docs/ecs.md, Secrets", file=sys.stderr)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Fault as fault:
        sys.exit(f"fill: {fault}")
