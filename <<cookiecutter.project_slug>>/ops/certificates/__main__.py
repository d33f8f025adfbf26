"""`python -m ops.certificates watch|issue|status`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading

from ops.certificates import authority, pair
from ops.certificates.config import Config, ConfigError
from ops.certificates.served import served
from ops.certificates.watch import Attempts, renew, watch


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ops.certificates", description="The certificate that nginx serves."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("watch", help="the service: renew in time, and tell Prometheus what is served")
    issue = commands.add_parser("issue", help="ask the authority now, without waiting for the next attempt")
    issue.add_argument("--force", action="store_true", help="also when the present one is good for long (limits apply)")
    commands.add_parser("status", help="what is served, until when, and what lies on disk")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    try:
        config = Config.read(os.environ)
        if options.command == "watch":
            stop = threading.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stop.set())
            watch(config, stop)
            return 0
        return _issue(config, force=options.force) if options.command == "issue" else _status(config)
    except (ConfigError, authority.IssueError) as error:
        print(f"certificates: {error}", file=sys.stderr)
        return 1


def _issue(config: Config, *, force: bool) -> int:
    if not config.asks:
        raise ConfigError("no authority is asked here: set ACME_EMAIL, leave TLS_DIR empty, and NGINX_ENTRY to tls")
    changed = renew(config, force=force)
    Attempts(config.state).settle(failed=False)
    print("certificates: a new one is served" if changed else "certificates: the present one is good; nothing changed")
    return 0


def _status(config: Config) -> int:
    there = pair.read(config.folder)
    if there is not None:
        print(f"on disk: until {pair.parsed(there.certificate).not_valid_after_utc.isoformat()}")
    try:
        shown = served(config.tls, config.names[0])
    except OSError as error:
        print(f"served:  nothing at {config.tls[0]}:{config.tls[1]}: {error}")
        return 1
    by = "nobody (self-signed)" if pair.self_signed(shown) else shown.issuer.rfc4514_string()
    print(f"served:  until {shown.not_valid_after_utc.isoformat()}, signed by {by}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
