"""The service: a placeholder at once, a real certificate as soon as may be, and numbers about what is served."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, start_http_server

from ops.certificates import authority, pair
from ops.certificates.config import Config
from ops.certificates.served import served

log = logging.getLogger("certificates")

RENEW_SECONDS = 12 * 3600  # the authorities' own advice: twice a day; nearly always there is nothing to do
# Let's Encrypt takes five failed proofs an hour for a name.
RETRY_SECONDS = 3600
PROBE_SECONDS = 10
BOOT_SECONDS = 2  # between looks for nginx that has yet to start


class Numbers:
    """What Prometheus is told."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.not_after = self._gauge("not_after_timestamp_seconds", "End of the certificate that nginx serves.")
        self.not_before = self._gauge("not_before_timestamp_seconds", "Begin of the certificate that nginx serves.")
        self.self_signed = self._gauge("self_signed", "1 while nginx serves a certificate that nobody vouches for.")
        self.probe_failed = self._gauge("probe_failed", "1 while a handshake with nginx fails.")
        self.renewal_failed = self._gauge("renewal_failed", "1 after the last attempt to get or renew one failed.")

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"certificate_{name}", text, registry=self.registry)

    def forget(self) -> None:
        """Nothing is known of what is served: an old end would be a lie."""
        for gauge in (self.not_after, self.not_before, self.self_signed):
            gauge.set(float("nan"))


def ensure_placeholder(config: Config) -> None:
    """Something to serve, where there is nothing yet or only a placeholder that has ended or has other names."""
    config.challenges.mkdir(parents=True, exist_ok=True)
    there = pair.read(config.folder)
    if there is not None:
        certificate = pair.parsed(there.certificate)
        fits = pair.names(certificate) == set(config.names)
        left = certificate.not_valid_after_utc.timestamp() - time.time()
        if not pair.self_signed(certificate) or (fits and left > pair.PLACEHOLDER_DAYS / 2 * 86400):
            return
    pair.install(config.folder, pair.placeholder(config.names))
    log.info("a placeholder is served until there is a certificate for %s", ", ".join(config.names))


def renew(config: Config, *, force: bool = False) -> bool:
    """Ask the authority and serve what it gave; whether that is another one than before.

    Raises:
        authority.IssueError: it did not work out; what was served is served on.
    """
    fresh = authority.issue(config, force=force)
    if fresh == pair.read(config.folder):
        return False
    pair.install(config.folder, fresh)
    log.info("serving a new certificate until %s", pair.parsed(fresh.certificate).not_valid_after_utc.isoformat())
    return True


def probe(config: Config, numbers: Numbers) -> None:
    """Look at what is served."""
    try:
        shown = served(config.tls, config.names[0])
    except OSError as error:
        numbers.forget()
        numbers.probe_failed.set(1)
        log.warning("no handshake with %s:%d: %s", *config.tls, error)
        return
    numbers.probe_failed.set(0)
    numbers.not_after.set(shown.not_valid_after_utc.timestamp())
    numbers.not_before.set(shown.not_valid_before_utc.timestamp())
    numbers.self_signed.set(pair.self_signed(shown))


class Attempts:
    """When the authority may be asked again; written down, so that a service in a restart loop does not ask each time."""

    def __init__(self, state: Path, clock: Callable[[], float] = time.time) -> None:
        self._file = state / "next-attempt"
        self._clock = clock

    def due(self) -> bool:
        """Whether it is time. A moment further away than any wait comes from a clock that was wrong."""
        try:
            wait = float(self._file.read_text()) - self._clock()
        except (FileNotFoundError, ValueError):
            return True
        return wait <= 0 or wait > RENEW_SECONDS * 1.1

    def settle(self, *, failed: bool) -> None:
        """An attempt is over."""
        wait = RETRY_SECONDS if failed else RENEW_SECONDS * random.uniform(0.9, 1)  # noqa: S311  # not all at the same hour
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self._file.with_suffix(".new")
        fresh.write_text(str(self._clock() + wait))
        fresh.replace(self._file)


def attempt(config: Config, numbers: Numbers, attempts: Attempts) -> None:
    """One attempt, if it is time for it."""
    if not attempts.due():
        return
    try:
        authority.look(config)
    except authority.IssueError as error:
        # Not the authority's doing, and it costs nothing: tried again at once, as when everything has only begun to start.
        numbers.renewal_failed.set(1)
        log.warning("not asking the authority: %s", error)
        return
    failed = False
    try:
        renew(config)
    except authority.IssueError as error:
        failed = True
        log.error("no certificate from %s, trying again in an hour: %s", config.server, error)
    numbers.renewal_failed.set(failed)
    attempts.settle(failed=failed)


def watch(config: Config, stop: threading.Event) -> None:
    """Serve until told to stop."""
    numbers = Numbers()
    numbers.forget()
    if config.serves_tls and not config.own:
        ensure_placeholder(config)
    server, thread = start_http_server(config.metrics_port, registry=numbers.registry)
    if not config.serves_tls:
        log.info("NGINX_ENTRY is plain: whoever ends TLS looks after the certificate")
    elif config.own:
        log.info("TLS_DIR is set: watching the certificate there, renewing nothing")
    elif not config.email:
        log.warning("ACME_EMAIL is empty: no authority is asked, the placeholder stays")
    attempts = Attempts(config.state)
    while not stop.is_set():
        if config.asks:
            attempt(config, numbers, attempts)
        elif config.serves_tls and not config.own:
            ensure_placeholder(config)
        if config.serves_tls:
            probe(config, numbers)
        stop.wait(PROBE_SECONDS if not attempts.due() or not config.asks else BOOT_SECONDS)
    server.shutdown()
    thread.join()
