"""Real Prometheus, Alertmanager and exporters beside the stack, in such a hurry that an alarm takes seconds."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import yaml

from devstack import Stack
from devstack.ports import LOOPBACK, choose
from tests.ops.monitors import alertmanager, program
from tests.system.helpers import eventually

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("prometheus", "alertmanager", "backup", "postgres", "cache", "broker", "machine", "prober")
SCRAPE = "1s"


@dataclass
class Receiver:
    """Takes what is posted, as Slack and a heartbeat service do.

    Attributes:
        taken: paths and bodies, oldest first.
    """

    taken: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    port: int = 0

    @contextmanager
    def serving(self) -> Iterator["Receiver"]:
        """For the length of the block."""
        taken = self.taken

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                taken.append((self.path, json.loads(body)))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's name
                pass

        with ThreadingHTTPServer((LOOPBACK, 0), Handler) as server:
            self.port = server.server_port
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            try:
                yield self
            finally:
                server.shutdown()

    def titles(self, path: str = "/slack") -> list[str]:
        """Of the notes that came to a path."""
        return [body["attachments"][0]["title"] for where, body in self.taken if where == path]


@dataclass(frozen=True)
class Watch:
    """What watches the stack.

    Attributes:
        logs: of the programs.
        receiver: gets the alarms.
    """

    ports: dict[str, int]
    logs: Path
    receiver: Receiver

    def url(self, part: str) -> str:
        """Of a program."""
        return f"http://{LOOPBACK}:{self.ports[part]}"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What Prometheus answers now.

        Raises:
            AssertionError: it does not understand the question.
        """
        response = httpx.get(f"{self.url('prometheus')}/api/v1/query", params={"query": expression})
        assert response.status_code == 200, f"{expression}: {response.text}"
        result: list[dict[str, Any]] = response.json()["data"]["result"]
        return result

    def alerts(self, name: str) -> list[str]:
        """The states of an alarm in Alertmanager: active or suppressed."""
        found = httpx.get(f"{self.url('alertmanager')}/api/v2/alerts?filter=" + quote(f'alertname="{name}"')).json()
        return [alert["status"]["state"] for alert in found]

    def scrapes(self) -> float:
        """How often the API and the worker have been asked, the less lucky one of them."""
        asked = self.query('count_over_time(up{job=~"api|worker"}[5m])')
        return min((float(sample["value"][1]) for sample in asked), default=0.0)

    def ask_again(self) -> None:
        """Wait until Prometheus has asked both twice more."""
        wanted = self.scrapes() + 2
        eventually(self.scrapes, lambda now: now >= wanted, "Prometheus has asked again", 30)

    def down(self) -> dict[str, str]:
        """What Prometheus asks and gets no answer from, with the reason."""
        targets = httpx.get(f"{self.url('prometheus')}/api/v1/targets?state=active").json()["data"]["activeTargets"]
        return {target["scrapePool"]: target["lastError"] for target in targets if target["health"] != "up"}


def configuration(folder: Path, stack: Stack, ports: dict[str, int], certificate: int) -> Path:
    """Prometheus' own configuration and rules, with other addresses and shorter times."""
    config = yaml.safe_load((ROOT / "ops/prometheus/prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": SCRAPE, "scrape_timeout": SCRAPE, "evaluation_interval": SCRAPE}
    at = {
        "api:8000": stack.ports["api"],
        "worker:9101": stack.ports["worker"],
        "backup:9102": ports["backup"],
        "postgres-exporter:9187": ports["postgres"],
        "cache-exporter:9121": ports["cache"],
        "broker-exporter:9121": ports["broker"],
        "node-exporter:9100": ports["machine"],
        "prober:9115": ports["prober"],
        "localhost:9090": ports["prometheus"],
        "alertmanager:9093": ports["alertmanager"],
        "nginx:8443": certificate,
    }
    text = json.dumps(config)
    for name, port in at.items():
        text = text.replace(name, f"{LOOPBACK}:{port}")
    text = text.replace("http://nginx:8080", stack.url)
    config = json.loads(text)
    for job in config["scrape_configs"]:
        for entry in job.pop("dns_sd_configs", ()):
            names = [f"{name}:{entry['port']}" for name in entry["names"]]
            # What this stack has not is not there in compose's development either: a name that leads nowhere.
            targets = [f"{LOOPBACK}:{at[name]}" for name in names if name in at]
            job.setdefault("static_configs", []).append({"targets": targets})
    (folder / "rules").mkdir()
    for path in (ROOT / "ops/prometheus/rules").glob("*.yml"):
        (folder / "rules" / path.name).write_text(
            re.sub(r"(?m)^( +for:) \w+", rf"\1 {SCRAPE}", path.read_text("utf-8"))
        )
    (folder / "prometheus.yml").write_text(json.dumps(config))
    return folder / "prometheus.yml"


def routes(folder: Path, receiver: Receiver, mail_port: int) -> Path:
    """Alertmanager's configuration as start.sh writes it, with shorter times."""
    env = {
        "PATH": os.environ["PATH"],
        "ALERT_SLACK_URL": f"http://{LOOPBACK}:{receiver.port}/slack",
        "ALERT_HEARTBEAT_URL": f"http://{LOOPBACK}:{receiver.port}/heartbeat",
        "ALERT_EMAIL_TO": "people@example.com",
        "MESSAGES_SMTP_HOST": LOOPBACK,
        "MESSAGES_SMTP_PORT": str(mail_port),
        "MESSAGES_SMTP_TLS": "none",
        "MESSAGES_FROM_ADDRESS": "alarms@example.com",
        "RUNBOOK_URL": "https://git.example.com/project/",
    }
    subprocess.run(["sh", ROOT / "ops/alertmanager/start.sh", "render", folder], check=True, env=env)
    written = folder / "alertmanager.yml"
    text = re.sub(r"(group_wait|group_interval): \w+", r"\1: 500ms", written.read_text("utf-8"))
    written.write_text(text)
    return written


def monitor_role(stack: Stack) -> str:
    """Make the role of the exporter as the container does; returns its password."""
    password = "monitor-of-a-test"  # Debian's old exporter takes no blanks
    name = stack.env["DATABASE_NAME"]
    script = (ROOT / "ops/postgres/init/sql/monitor.sql").read_text("utf-8")
    stack.sql(f"\\set password '{password}'\n\\set name '{name}'\n{script}")
    return password


@contextmanager
def watching(stack: Stack, folder: Path, certificate: int, mail_port: int) -> Iterator[Watch]:
    """Everything of ops/prometheus and ops/alertmanager, around a stack that runs.

    Args:
        stack: what is watched; whole.
        folder: for data and logs.
        certificate: port of a server that speaks TLS, as nginx does in production.
        mail_port: of a mail server.
    """
    ports = choose(list(PARTS), {})
    with ExitStack() as running:
        receiver = running.enter_context(Receiver().serving())
        watch = Watch(ports, folder, receiver)

        def run(part: str, *command: str, env: dict[str, str] | None = None) -> None:
            log = running.enter_context((folder / f"{part}.log").open("wb"))
            known = {"PATH": os.environ["PATH"], **(env or {})}
            child = subprocess.Popen(command, cwd=folder, env=known, stdout=log, stderr=subprocess.STDOUT)
            running.callback(child.wait)
            running.callback(child.terminate)

        def listen(part: str, option: str = "--web.listen-address") -> str:
            return f"{option}={LOOPBACK}:{ports[part]}"

        timetable = {
            **stack.env,
            "METRICS_BACKUP_HOST": LOOPBACK,
            "METRICS_BACKUP_PORT": str(ports["backup"]),
            "BACKUP_ENCRYPTION": "false",
            "PYTHONPATH": str(ROOT),
        }
        run("backup", sys.executable, "-m", "ops.backup", "schedule", env=timetable)
        database = f"{LOOPBACK}:{stack.ports['postgres']}/{stack.env['DATABASE_NAME']}?sslmode=disable"
        sign_in = {"DATA_SOURCE_URI": database, "DATA_SOURCE_USER": "monitor", "DATA_SOURCE_PASS": monitor_role(stack)}
        run("postgres", program("prometheus-postgres-exporter"), listen("postgres"), env=sign_in)
        for part in ("cache", "broker"):
            redis = {
                "REDIS_ADDR": f"redis://{LOOPBACK}:{stack.ports[part]}",
                "REDIS_PASSWORD": stack.env[f"{part.upper()}_PASSWORD"],
            }
            run(part, program("prometheus-redis-exporter"), listen(part), env=redis)
        run("machine", program("prometheus-node-exporter"), listen("machine"), *collectors())
        prober = ROOT / "ops/prometheus/prober/prober.yml"
        run(
            "prober",
            program("prometheus-blackbox-exporter"),
            f"--config.file={prober}",
            "--timeout-offset=0.1",
            listen("prober"),
        )
        run(
            "alertmanager",
            alertmanager(folder),
            f"--config.file={routes(folder, receiver, mail_port)}",
            f"--storage.path={folder / 'alerts'}",
            "--cluster.listen-address=",
            listen("alertmanager"),
        )
        run(
            "prometheus",
            program("prometheus"),
            f"--config.file={configuration(folder, stack, ports, certificate)}",
            f"--storage.tsdb.path={folder / 'series'}",
            "--rules.alert.resend-delay=1s",  # what came before Alertmanager listened would come again in a minute
            listen("prometheus"),
        )
        eventually(lambda: answers(watch.url("prometheus")), bool, "Prometheus is ready", 30)
        yield watch


def collectors() -> list[str]:
    """The options of the node exporter, as compose has them."""
    room = yaml.safe_load((ROOT / "ops/compose/rooms/monitoring.yaml").read_text("utf-8"))
    command: list[str] = room["services"]["node-exporter"]["command"]
    return command


def answers(url: str) -> bool:
    """Whether a program of the Prometheus family is ready."""
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False
