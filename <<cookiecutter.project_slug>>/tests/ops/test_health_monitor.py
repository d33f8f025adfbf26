"""The monitor tells people once of an outage and once of its end: a real server that dies and returns, real receivers."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message

from devstack.ports import LOOPBACK, choose
from ops import health_monitor
from ops.health_monitor import State

ROOT = Path(__file__).resolve().parents[2]
Answers = dict[str, tuple[int, object]]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as it is told, and keeps what it is sent."""

    server: "Server"

    def do_GET(self) -> None:
        status, body = self.server.answers.get(self.path, (404, {}))
        self.server.asked.append((self.path, self.headers.get("Authorization", "")))
        self.reply(status, body)

    def do_POST(self) -> None:
        self.server.taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.reply(self.server.answers.get(self.path, (200, {}))[0], {})

    def reply(self, status: int, body: object) -> None:
        self.send_response(status)
        if status == 302:
            self.send_header("Location", str(body))
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
        pass


class Server(http.server.ThreadingHTTPServer):
    """The service, or Slack."""

    def __init__(self, port: int, answers: Answers) -> None:
        super().__init__((LOOPBACK, port), Handler)
        self.answers = answers
        self.taken: list[Any] = []
        self.asked: list[tuple[str, str]] = []
        self.url = f"http://{LOOPBACK}:{self.server_port}"


@contextmanager
def serving(port: int = 0, answers: Answers | None = None) -> Iterator[Server]:
    """A server for the length of the block; afterwards nobody listens there."""
    with Server(port, answers or {}) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


WELL: Answers = {"/health/ready": (200, {}), "/beat": (200, {})}


class Monitor:
    """Runs the monitor as a timer does, each time a process of its own."""

    def __init__(self, folder: Path, url: str, **env: str) -> None:
        self.folder, self.url, self.env = folder, url, env

    def run(self) -> int:
        """The exit code."""
        # The pauses between attempts are for the network outside.
        program = "import sys; from ops import health_monitor as m; m.PAUSE_SECONDS = 0.0; sys.exit(m.main())"
        env = {"PATH": os.environ["PATH"], "HEALTH_URL": self.url, "HEALTH_STATE": str(self.folder / "state.json")}
        command = [sys.executable, "-c", program]
        return subprocess.run(command, cwd=ROOT, env=env | self.env, check=False, capture_output=True).returncode


def test_an_outage_is_told_once_and_its_end_once(tmp_path: Path) -> None:
    """Well, dead for three runs, back: two notes, and nothing before or after."""
    port = choose(["service"], {})["service"]
    with serving() as slack:
        monitor = Monitor(tmp_path, f"http://{LOOPBACK}:{port}", ALERT_SLACK_URL=f"{slack.url}/hook")
        with serving(port, WELL):
            assert monitor.run() == 0
        assert [monitor.run() for _ in range(3)] == [1, 1, 1]
        with serving(port, WELL):
            assert [monitor.run() for _ in range(2)] == [0, 0]
        notes = [note["text"].splitlines()[0] for note in slack.taken]
    assert notes == [f"*DOWN: {monitor.url}*", f"*BACK: {monitor.url}*"]


def test_when_nobody_could_be_told_the_next_run_tries_again(tmp_path: Path) -> None:
    """An outage that began while Slack was away is not kept secret, and neither is its end."""
    ports = choose(["slack", "service"], {})
    beating = {"ALERT_HEARTBEAT_URL": ""}
    monitor = Monitor(
        tmp_path,
        f"http://{LOOPBACK}:{ports['service']}",
        ALERT_SLACK_URL=f"http://{LOOPBACK}:{ports['slack']}/hook",
        **beating,
    )
    assert monitor.run() == 2
    with serving(ports["slack"]) as slack:
        assert monitor.run() == 1
        assert [note["text"][:6] for note in slack.taken] == ["*DOWN:"]
    with serving(ports["service"], WELL):
        assert monitor.run() == 2
        with serving(ports["slack"]) as slack:
            assert monitor.run() == 0
            assert [note["text"][:6] for note in slack.taken] == ["*BACK:"]


def test_what_is_wrong_is_named_and_the_token_goes_nowhere_else(tmp_path: Path) -> None:
    """The parts that are ill; and a redirection is an outage that is not followed."""
    ill: Answers = {
        "/health/ready": (503, {}),
        "/health/detailed": (503, {"parts": {"database": {"status": "unhealthy"}, "cache": {"status": "healthy"}}}),
    }
    with serving() as slack, serving(0, ill) as service:
        monitor = Monitor(tmp_path, service.url, ALERT_SLACK_URL=f"{slack.url}/hook", HEALTH_TOKEN="secret")
        assert monitor.run() == 1
        assert "it answers with 503 (database)" in slack.taken[0]["text"]
        assert ("/health/detailed", "Bearer secret") in service.asked
        assert ("/health/ready", "") in service.asked
        service.answers["/health/ready"] = service.answers["/health/detailed"] = (302, f"{slack.url}/trap")
        assert monitor.run() == 1
        assert slack.asked == []


def test_mail_and_the_heartbeat(tmp_path: Path) -> None:
    """Mail is another way; the heartbeat is told of each run, also of one that found an outage."""

    subjects: list[str] = []

    class Mails(Message):
        def handle_message(self, message: Any) -> None:
            subjects.append(message["Subject"])

    ports = choose(["mail", "service"], {})
    mail = Controller(Mails(), hostname=LOOPBACK, port=ports["mail"])
    mail.start()
    try:
        with serving(0, WELL) as outside:
            monitor = Monitor(
                tmp_path,
                f"http://{LOOPBACK}:{ports['service']}",
                ALERT_EMAIL_TO="people@example.com",
                MESSAGES_SMTP_HOST=LOOPBACK,
                MESSAGES_SMTP_PORT=str(ports["mail"]),
                MESSAGES_SMTP_TLS="none",
                ALERT_HEARTBEAT_URL=f"{outside.url}/beat",
            )
            assert monitor.run() == 1
            assert [path for path, _ in outside.asked] == ["/beat"]
    finally:
        mail.stop()
    assert subjects == [f"DOWN: {monitor.url}"]


def test_a_moment_is_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes as many failures in a row as there are attempts."""
    found = iter(["away", "away", ""])
    monkeypatch.setattr(health_monitor, "problem_of", lambda *_: next(found))
    assert health_monitor.lasting_problem("http://x", sleep=lambda _: None) == ""


def test_a_damaged_memory_is_begun_anew(tmp_path: Path) -> None:
    """It must not keep the monitor from telling."""
    (tmp_path / "state.json").write_text('{"since": ')
    with health_monitor.kept(tmp_path / "state.json") as state:
        assert state == State()
        state.since = 5.0
    with health_monitor.kept(tmp_path / "state.json") as state:
        assert state.since == 5.0


def test_it_needs_nothing_but_python(tmp_path: Path) -> None:
    """The one file, somewhere else, without this project's packages."""
    alone = tmp_path / "health_monitor.py"
    alone.write_bytes((ROOT / "ops/health_monitor.py").read_bytes())
    shown = subprocess.run([sys.executable, "-I", "-S", alone, "--help"], capture_output=True, text=True, check=True)
    assert "--every" in shown.stdout
