"""The stack is watched by the real programs: what they ask for is there, and an alarm reaches people."""

import datetime
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from uuid import uuid4

import httpx
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message

from devstack import USUAL_SERVICES, Stack
from devstack.ports import LOOPBACK, choose, is_open
from tests.ops.monitors import program
from tests.ops.promql import asked_for, panels
from tests.system.conftest import HURRY, access_token
from tests.system.faults import ENVIRONMENT, World, modules
from tests.system.helpers import eventually
from tests.system.watching import ROOT, Watch, watching

# Nothing is in these as long as nothing has gone wrong; that they ask for something that exists is tested all the same.
SILENT_WHEN_WELL = {
    "Too many requests (429)",
    "Failed attempts of tasks",
    "Retry success",
    "Mended by the sweep",
    "What would be lost now",
    "Age of the last restore drill",
    "Restore drill failed",
    "Age of the last good one",
    "Alarms that ring",
}
# Counted only when it happens, so that a healthy stack does not have them; tests/ops finds them in the code.
RARE = {
    "ai_retries_total",
    "ai_unpriced_requests_total",
    # Of the container that renews the certificate: its own tests run it.
    "certificate_probe_failed",
    "certificate_renewal_failed",
    "certificate_self_signed",
    # Of a physical backup, and of a trial restore: the tests of backups make them.
    "backup_drill_failed",
    "backup_drill_interval_seconds",
    "backup_drill_last_success_timestamp_seconds",
    "backup_wal_lag_seconds",
    "backup_wal_missing_segments",
    "backup_wal_slot_left_bytes",
}
# Queries of panels that show something else as well.
EMPTY_AT_FIRST = {"backup_previous_size_bytes"}  # until there is a second backup


class Mails(Message):
    """A mail server's memory: the subjects of what came."""

    def __init__(self) -> None:
        super().__init__()
        self.subjects: list[str] = []

    def handle_message(self, message: object) -> None:
        self.subjects.append(str(message["Subject"]))  # type: ignore[index]  # the library has no annotations


@contextmanager
def certificate(folder: Path) -> Iterator[int]:
    """A server that speaks TLS and nothing else, with a certificate of makecert.sh; its port."""
    script = ROOT / "ops/scripts/makecert.sh"
    subprocess.run([script, "localhost"], env={**os.environ, "TLS_DIR": str(folder)}, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "fullchain.pem", folder / "privkey.pem")

    class Handshake(BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError), context.wrap_socket(self.request, server_side=True) as connection:
                connection.recv(1)

    with ThreadingTCPServer((LOOPBACK, 0), Handshake) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@contextmanager
def busy(folder: Path, mails: Mails) -> Iterator[tuple[Stack, World, int]]:
    """The whole stack with providers that answer, after a little of everything that people do; and a mail server's port."""
    ports = choose(["ai", "mail"], {})
    with ExitStack() as running:
        mail = Controller(mails, hostname=LOOPBACK, port=ports["mail"])
        mail.start()
        running.callback(mail.stop)
        ai = subprocess.Popen([sys.executable, "-m", "devstack.standin_ai", "--port", str(ports["ai"])], cwd=ROOT)
        running.callback(ai.wait)
        running.callback(ai.terminate)
        env = {
            **HURRY,
            **ENVIRONMENT,
            "AI_ANSWER_PROVIDER": "openai",
            "AI_OPENAI_BASE_URL": f"http://{LOOPBACK}:{ports['ai']}/v1",
            "MESSAGES_SMTP_PORT": str(ports["mail"]),
        }
        stack = running.enter_context(Stack(folder, USUAL_SERVICES, env))
        eventually(lambda: is_open(ports["ai"]), bool, "the stand-in for the model listens", 30)
        new_client = lambda: httpx.Client(base_url=stack.url, timeout=60)  # noqa: E731  # as the other worlds have it
        yield stack, World(new_client, access_token(str(uuid4())), stack.env["HEALTH_TOKEN"]), ports["mail"]


def load(watch: Watch, stack: Stack, world: World) -> None:
    """A little of everything that people do, and a database that is away for a moment.

    Everything twice with a scrape between: of a counter that is seen for the first time nobody knows how it has grown.
    """
    for _ in range(2):
        for module in modules():
            for operation in module.OPERATIONS:
                assert operation.run(world) == operation.usual
            if further := getattr(module, "load", None):
                further(world)
        watch.ask_again()
    with world.new_client() as client:
        stack.processes["postgres"].kill()
        headers = {"Authorization": f"Bearer {world.kept['access_token']}"}
        assert client.get("/api/v1/accounts/me", headers=headers).status_code == 503
        stack.processes["postgres"].start()
        eventually(lambda: client.get("/health/ready").status_code, lambda status: status == 200, "all is well again")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Watch, Stack, World, Mails]]:
    """A busy stack and everything that watches it."""
    folder, mails = tmp_path_factory.mktemp("monitoring"), Mails()
    with (
        certificate(folder / "tls") as tls,
        busy(folder / "stack", mails) as (stack, world, mail_port),
        watching(stack, tmp_path_factory.mktemp("watch"), tls, mail_port) as watch,
    ):
        for module in modules():
            module.prepare(world)
        eventually(watch.down, lambda down: not down, "everything that Prometheus asks answers", 60)
        load(watch, stack, world)
        yield watch, stack, world, mails


def test_everything_that_rules_and_dashboards_name_is_there(watched: tuple[Watch, Stack, World, Mails]) -> None:
    """An alarm on a metric that nobody exports is silent for ever, and a panel empty."""
    watch = watched[0]

    def missing() -> dict[str, set[str]]:
        url = f"{watch.url('prometheus')}/api/v1/label/__name__/values"
        there = {*httpx.get(url).json()["data"], "ALERTS"}
        described = set(httpx.get(f"{watch.url('prometheus')}/api/v1/metadata").json()["data"])
        rare = RARE.union(*(getattr(module, "RARE", ()) for module in modules()))
        return {name: places for name, places in asked_for().items() if name not in there | described | rare}

    eventually(missing, lambda names: not names, "every metric is exported", 15)


def test_every_panel_shows_something(watched: tuple[Watch, Stack, World, Mails]) -> None:
    """Every query of every dashboard is understood, and answered with figures by a stack at work."""
    watch = watched[0]
    asked = {(dashboard, panel["title"], expression) for dashboard, panel, expression in panels()}

    def empty() -> list[tuple[str, str, str]]:
        found = []
        for dashboard, title, expression in sorted(asked):
            text = expression.replace("$__rate_interval", "2m").replace("$__range", "5m")
            result = watch.query(text)
            figures = [sample for sample in result if sample["value"][1] != "NaN"]
            if not figures and title not in SILENT_WHEN_WELL and expression not in EMPTY_AT_FIRST:
                found.append((dashboard, title, expression))
        return found

    eventually(empty, lambda found: not found, "every panel shows something", 20)


def test_the_exporter_sees_counters_and_no_data(watched: tuple[Watch, Stack, World, Mails]) -> None:
    """It signs in as a role of its own, which may read what PostgreSQL says of itself, and nothing that people wrote."""
    watch, stack, _, _ = watched
    assert [sample["value"][1] for sample in watch.query("pg_up")] == ["1"]
    may = "SELECT has_table_privilege('monitor', oid, 'SELECT') FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    assert set(stack.sql(may, stack.env["DATABASE_NAME"]).split()) == {"f"}
    roles = "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication FROM pg_roles WHERE rolname = 'monitor'"
    assert stack.sql(roles).strip() == "f|f|f|f"


def test_a_worker_that_dies_is_told_to_people_and_so_is_its_return(
    watched: tuple[Watch, Stack, World, Mails],
) -> None:
    """Killed → Prometheus → Alertmanager → Slack and mail; back → resolved. Not during a deploy."""
    watch, stack, _, mails = watched
    silence = {
        **os.environ,
        "AMTOOL": f"{program('amtool')} --alertmanager.url {watch.url('alertmanager')}",
    }
    script = ROOT / "ops/scripts/silence.sh"
    subprocess.run([script, "start"], env=silence, check=True, cwd=ROOT)
    # On a busy machine a worker that answers late has rung before, and fallen silent again.
    earlier = len(watch.receiver.taken)

    def told() -> list[str]:
        notes = [body["attachments"][0]["title"] for path, body in watch.receiver.taken[earlier:] if path == "/slack"]
        return [title for title in notes if "WorkerDown" in title]

    worker = stack.processes["worker"]
    worker.kill()
    eventually(
        lambda: watch.alerts("WorkerDown"), lambda states: states == ["suppressed"], "the alarm is kept quiet", 30
    )
    assert not told()
    subprocess.run([script, "end"], env=silence, check=True, cwd=ROOT)
    eventually(told, bool, "Slack is told", 30)
    assert told() == ["FIRING: WorkerDown (critical)"]
    eventually(lambda: mails.subjects, lambda subjects: told()[0] in subjects, "and so is the mailbox", 30)
    worker.start()
    eventually(told, lambda titles: titles[-1] == "RESOLVED: WorkerDown (critical)", "it is over", 30)
    note = next(body for path, body in watch.receiver.taken if path == "/slack" and "WorkerDown" in str(body))
    assert "https://git.example.com/project/docs/runbook/worker.md" in note["attachments"][0]["text"]


def test_the_heartbeat_beats(watched: tuple[Watch, Stack, World, Mails]) -> None:
    """The watchdog reaches the service outside, and nobody else."""
    receiver = watched[0].receiver
    eventually(lambda: [path for path, _ in receiver.taken], lambda paths: "/heartbeat" in paths, "it beats", 20)
    assert not [title for title in receiver.titles() if "Watchdog" in title]


def test_a_cause_silences_what_follows_from_it(watched: tuple[Watch, Stack, World, Mails]) -> None:
    """A dead database explains a slow API and a full queue, and not a certificate."""
    watch = watched[0]
    began = datetime.datetime.now(datetime.UTC)
    names = {"PostgresDown": "critical", "ApiSlow": "warning", "QueueLong": "warning", "CertificateExpires": "warning"}
    alerts = [
        {
            "labels": {"alertname": name, "severity": severity, "rehearsal": "yes"},
            "startsAt": began.isoformat(),
            "endsAt": (began + datetime.timedelta(minutes=1)).isoformat(),
        }
        for name, severity in names.items()
    ]
    assert httpx.post(f"{watch.url('alertmanager')}/api/v2/alerts", json=alerts).status_code == 200
    expected = {name: {"suppressed"} if name in ("ApiSlow", "QueueLong") else {"active"} for name in names}
    eventually(
        lambda: {name: set(watch.alerts(name)) for name in names}, lambda states: states == expected, "as expected", 20
    )
