"""Ask the authority, through certbot: account, order, proof and renewal are its work."""

from __future__ import annotations

import http.client
import secrets
import subprocess
import sys
from pathlib import Path

from ops.certificates.config import Config
from ops.certificates.pair import Pair, read

#: Certbot's name of the one certificate.
NAME = "service"
CERTBOT_SECONDS = 300
LOOK_SECONDS = 10


class IssueError(Exception):
    """There is no certificate; the text says why."""


def issue(config: Config, *, force: bool = False) -> Pair:
    """The certificate as it should be now: a new one where there is none, or it ends soon, or the names have changed.

    Args:
        config: whom to ask, and for which names.
        force: renew it before its time. Authorities count: Let's Encrypt gives five a week for the same names.

    Raises:
        IssueError: certbot or the authority refuses.
    """
    look(config)
    config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    folders = (
        word
        for option, name in (("--config-dir", "config"), ("--work-dir", "work"), ("--logs-dir", "logs"))
        for word in (option, str(config.state / name))
    )
    command = [
        str(Path(sys.executable).with_name("certbot")),
        "certonly",
        "--non-interactive",
        "--agree-tos",
        *("--email", config.email, "--no-eff-email"),
        *("--server", config.server),
        *("--webroot", "--webroot-path", str(config.challenges)),
        *("--cert-name", NAME, "--renew-with-new-domains"),
        *(word for name in config.names for word in ("--domain", name)),
        *folders,
        *("--max-log-backups", "5", "--no-directory-hooks"),
        "--force-renewal" if force else "--keep-until-expiring",
    ]
    try:
        result = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=CERTBOT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise IssueError(f"certbot did not end within {CERTBOT_SECONDS} s") from None
    if result.returncode:
        raise IssueError(result.stdout.strip())
    pair = read(config.state / "config/live" / NAME)
    if pair is None:
        raise IssueError(f"certbot left no certificate:\n{result.stdout.strip()}")
    return pair


def look(config: Config) -> None:
    """Look for a proof the way the authority will, so that a closed door costs none of its few attempts.

    Raises:
        IssueError: nginx does not show what lies in the folder.
    """
    folder = config.challenges / ".well-known/acme-challenge"
    folder.mkdir(parents=True, exist_ok=True)
    proof = folder / f"look-{secrets.token_hex(8)}"
    proof.write_text(proof.name)
    try:
        for name in config.names:
            connection = http.client.HTTPConnection(*config.http, timeout=LOOK_SECONDS)
            try:
                connection.request("GET", f"/.well-known/acme-challenge/{proof.name}", headers={"Host": name})
                answer = connection.getresponse()
                if (answer.status, answer.read()) != (200, proof.name.encode()):
                    raise IssueError(
                        f"nginx answers {answer.status} for a proof under {name}: is it one of its server names?"
                    )
            except (OSError, http.client.HTTPException) as error:
                raise IssueError(f"nginx does not answer at {config.http[0]}:{config.http[1]}: {error}") from None
            finally:
                connection.close()
    finally:
        proof.unlink()
