"""Ask the service from another machine whether it is there, and tell people once when it is not, and once when it is back.

    python -m ops.health_monitor --url https://service.example.com          every five minutes, by a timer: docs/health-monitor.md
    python -m ops.health_monitor --url https://service.example.com --every 300

Needs nothing but Python, so that this one file is enough over there. Who is told, and how, comes from the environment, or from the
file that ENV_FILE names: ALERT_SLACK_URL; ALERT_EMAIL_TO with MESSAGES_SMTP_HOST, _PORT, _USER, _PASSWORD, _TLS and
MESSAGES_FROM_ADDRESS; HEALTH_TOKEN for the names of the parts that are ill. ALERT_HEARTBEAT_URL is asked after each run that could
tell, so that somebody notices when this monitor is dead itself.

The exit code is 0 when the service is well, 1 when it is not, 2 when people could not be told.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import smtplib
import socket
import ssl
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from pathlib import Path

TIMEOUT_SECONDS = 10
# A packet is lost now and then: an outage is what is still there some seconds later.
ATTEMPTS = 3
PAUSE_SECONDS = 5.0


@dataclass
class State:
    """What is known between two runs.

    Attributes:
        since: when the outage was first seen; 0 while all is well.
        problem: what was wrong then.
        told: people know of it.
    """

    since: float = 0.0
    problem: str = ""
    told: bool = False


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Wherever it leads, it is not the service, and the token is not for it."""

    def redirect_request(self, *_: object) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


def ask(url: str, token: str = "") -> tuple[int, bytes]:
    """The status and the body of a GET.

    Raises:
        OSError: nobody answers, or not in time.
    """
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})  # noqa: S310
    try:
        with _opener.open(request, timeout=TIMEOUT_SECONDS) as response:
            return response.status, response.read(1_000_000)
    except urllib.error.HTTPError as error:
        return error.code, error.read(1_000_000)


def problem_of(url: str, token: str = "") -> str:
    """What is wrong with the service in some words, or nothing."""
    try:
        status, _ = ask(f"{url}/health/ready")
    except OSError as error:
        reason = getattr(error, "reason", error)
        return f"it does not answer: {reason}"
    if status == 200:
        return ""
    return f"it answers with {status}{ill_parts(url, token)}"


def ill_parts(url: str, token: str) -> str:
    """The names of the parts that are not well, for whoever may know them."""
    if not token:
        return ""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        parts = json.loads(ask(f"{url}/health/detailed", token)[1])["parts"]
        ill = [name for name, part in sorted(parts.items()) if part["status"] != "healthy"]
        return f" ({', '.join(ill)})" if ill else ""
    return ""


def lasting_problem(url: str, token: str = "", sleep: Callable[[float], None] = time.sleep) -> str:
    """The same, if it is still there after some seconds."""
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            sleep(PAUSE_SECONDS)
        problem = problem_of(url, token)
        if not problem:
            return ""
    return problem


def tell(env: Mapping[str, str], subject: str, text: str) -> list[str]:
    """Tell people by every way that is set up.

    Returns:
        What went wrong; people know when one way worked.

    Raises:
        RuntimeError: nobody could be told.
    """
    ways: list[Callable[[], None]] = []
    if url := env.get("ALERT_SLACK_URL"):
        ways.append(lambda: _slack(url, f"*{subject}*\n{text}"))
    if env.get("ALERT_EMAIL_TO") and env.get("MESSAGES_SMTP_HOST"):
        ways.append(lambda: _mail(env, subject, text))
    failures = []
    for way in ways:
        try:
            way()
        except (OSError, smtplib.SMTPException, ValueError) as error:
            failures.append(f"{getattr(error, 'reason', error)}")
    if len(failures) == len(ways):
        raise RuntimeError("; ".join(failures) or "neither ALERT_SLACK_URL nor ALERT_EMAIL_TO is set")
    return failures


def _slack(url: str, text: str) -> None:
    body = json.dumps({"text": text}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
    with _opener.open(request, timeout=TIMEOUT_SECONDS):
        pass


def _mail(env: Mapping[str, str], subject: str, text: str) -> None:
    message = EmailMessage()
    message["Subject"] = subject
    message["From"] = env.get("MESSAGES_FROM_ADDRESS") or env["ALERT_EMAIL_TO"]
    message["To"] = env["ALERT_EMAIL_TO"]
    message.set_content(text)
    host, port = env["MESSAGES_SMTP_HOST"], int(env.get("MESSAGES_SMTP_PORT") or 587)
    tls = env.get("MESSAGES_SMTP_TLS") or "starttls"
    context = ssl.create_default_context()
    server: smtplib.SMTP
    if tls == "tls":
        server = smtplib.SMTP_SSL(host, port, timeout=TIMEOUT_SECONDS, context=context)
    else:
        server = smtplib.SMTP(host, port, timeout=TIMEOUT_SECONDS)
    with server:
        if tls == "starttls":
            server.starttls(context=context)
        if user := env.get("MESSAGES_SMTP_USER"):
            server.login(user, env.get("MESSAGES_SMTP_PASSWORD", ""))
        server.send_message(message)


@contextlib.contextmanager
def kept(path: Path) -> Iterator[State]:
    """What the runs before have found; written back at the end, whole or not at all. A second run at the same time waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            state = State(**json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            state = State()  # the first run, or a file that somebody damaged: at worst people are told twice
        try:
            yield state
        finally:
            with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as fresh:
                json.dump(asdict(state), fresh)
            Path(fresh.name).replace(path)


def run(url: str, state: State, env: Mapping[str, str], now: float, problem: str) -> bool:
    """Compare what is found with what is known, and tell people what is new.

    Args:
        url: of the service, for the text.
        state: changed to what is known afterwards.
        env: who is told, and how.
        now: seconds since the epoch.
        problem: what is wrong, or nothing.

    Returns:
        Whether people know what they should. When they could not be told the next run tries again.
    """
    if problem and not state.since:
        state.since, state.problem = now, problem
    since = time.strftime("%H:%M UTC", time.gmtime(state.since))
    try:
        failures = []
        if problem and not state.told:
            text = f"{url}: {problem}. First seen at {since}, told by {socket.gethostname()}."
            failures = tell(env, f"DOWN: {url}", text)
            state.told = True
        elif not problem and state.told:
            minutes = max(1, round((now - state.since) / 60))
            failures = tell(env, f"BACK: {url}", f"{url} answers again. It was away for {minutes} min, since {since}.")
        if not problem:
            state.since, state.problem, state.told = 0.0, "", False
    except RuntimeError as error:
        print(f"health-monitor: people could not be told: {error}", file=sys.stderr)
        return False
    for failure in failures:
        print(f"health-monitor: one way failed: {failure}", file=sys.stderr)
    return True


def environment() -> dict[str, str]:
    """The variables, and below them those of the file that ENV_FILE names: NAME=value, a line each."""
    found: dict[str, str] = {}
    if file := os.environ.get("ENV_FILE"):
        for line in Path(file).read_text("utf-8").splitlines():
            name, sign, value = line.partition("=")
            if sign and not name.lstrip().startswith("#"):
                found[name.strip()] = value.strip().strip("'\"")
    return found | {name: value for name, value in os.environ.items() if value}


def once(url: str, path: Path, env: Mapping[str, str]) -> int:
    """One look at the service; returns the exit code."""
    problem = lasting_problem(url, env.get("HEALTH_TOKEN", ""))
    with kept(path) as state:
        known = run(url, state, env, time.time(), problem)
    print(f"health-monitor: {url}: {problem or 'well'}", flush=True)
    if heartbeat := env.get("ALERT_HEARTBEAT_URL"):
        try:
            if known:
                ask(heartbeat)
        except OSError as error:
            print(f"health-monitor: the heartbeat was not taken: {error}", file=sys.stderr)
    return (1 if problem else 0) if known else 2


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    env = environment()
    made = argparse.ArgumentParser(prog="health_monitor", description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--url", default=env.get("HEALTH_URL"), help="address of the service, https://… (HEALTH_URL)")
    made.add_argument(
        "--state",
        type=Path,
        default=Path(env.get("HEALTH_STATE") or Path.home() / ".local/state/health-monitor.json"),
        help="file that remembers an outage between two runs (HEALTH_STATE; ~/.local/state/health-monitor.json)",
    )
    made.add_argument("--every", type=float, metavar="SECONDS", help="stay, and look again after so many seconds")
    given = made.parse_args(arguments)
    if not (given.url or "").startswith(("http://", "https://")):
        made.error("--url or HEALTH_URL must name the service: https://service.example.com")
    url = given.url.rstrip("/")
    while given.every:
        once(url, given.state, env)
        time.sleep(given.every)
    return once(url, given.state, env)


if __name__ == "__main__":
    sys.exit(main())
