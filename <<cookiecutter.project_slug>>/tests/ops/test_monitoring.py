"""Every alarm rings when it should, is silent when it should, and leads to a page; rules ask only for what there is."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml

from ops.backup.metrics import DRILL, GAUGES
from ops.backup.wal.serve import FIGURES
from ops.check.__main__ import main
from tests.ops.monitors import program
from tests.ops.promql import DASHBOARDS, ROOT, TESTS, Rule, alerts, asked_for, metrics_of, panels

ALARMS = ROOT / "ops/alertmanager/alertmanager.yml"
PARTS = ("Symptom", "Check", "Act", "Undo", "Verify")
# What others export than the service: tests/system asks those.
FOREIGN = re.compile(r"up|ALERTS|(pg|redis|node|probe|alertmanager|prometheus|backup|certificate|service_process)_.*")


@pytest.mark.parametrize(
    ("name", "path", "old", "new"),
    [
        ("promtool", "ops/prometheus/rules/api.yml", "histogram_quantile(", "histogram_quantiles("),
        ("amtool", "ops/alertmanager/alertmanager.yml", "receiver: heartbeat", "receiver: somebody"),
    ],
)
def test_a_checker_finds_the_fault_that_was_planted_for_it(
    tmp_path: Path, name: str, path: str, old: str, new: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A checker that cannot fail is a defect."""
    for folder in ("ops/prometheus", "ops/alertmanager", ".devstack/tools"):
        if (ROOT / folder).exists():
            shutil.copytree(ROOT / folder, tmp_path / folder)
    assert main([name], tmp_path) == 0
    if "NOT CHECKED" in capfd.readouterr().out:
        pytest.skip(f"{name} cannot be had on this machine")
    text = (tmp_path / path).read_text("utf-8")
    assert old in text
    (tmp_path / path).write_text(text.replace(old, new, 1), "utf-8")
    assert main([name], tmp_path) == 1
    assert f"failed: {name}" in capfd.readouterr().err


def test_the_rules_pass_their_unit_tests() -> None:
    """All of ops/prometheus/tests, by promtool itself."""
    files = sorted(map(str, TESTS.glob("*.yml")))
    done = subprocess.run([program("promtool"), "test", "rules", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_that_rings_and_one_that_does_not() -> None:
    """In the file of tests that bears the name of the rules' file. The watchdog alone is never silent."""
    rings: set[tuple[str, str]] = set()
    silent: set[tuple[str, str]] = set()
    for path in TESTS.glob("*.yml"):
        for test in yaml.safe_load(path.read_text("utf-8"))["tests"]:
            for case in test.get("alert_rule_test", ()):
                (rings if case.get("exp_alerts") else silent).add((path.name, case["alertname"]))
    wanted = {(rule.path.name, rule.name) for rule in alerts()}
    assert wanted <= rings
    assert wanted - silent <= {("monitoring.yml", "Watchdog")}


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ("alertname=WorkerDown severity=critical", "people"),
        ("alertname=ApiSlow severity=warning", "people"),
        ("alertname=Watchdog severity=none", "heartbeat"),
    ],
)
def test_an_alarm_reaches_those_it_concerns(labels: str, receiver: str) -> None:
    """By Alertmanager's own reading of its routes."""
    route = [program("amtool"), "config", "routes", "test", "--config.file", str(ALARMS), *labels.split()]
    assert subprocess.run(route, capture_output=True, text=True, check=True).stdout.split() == [receiver]


SLACK = {"ALERT_SLACK_URL": "https://hooks.example.com/T/B?a=1&b=2|\\'"}
MAIL = {
    "ALERT_EMAIL_TO": "o'people@example.com",
    "MESSAGES_SMTP_HOST": "mail.example.com",
    "MESSAGES_FROM_ADDRESS": "alarms@example.com",
}
LOGIN = {"MESSAGES_SMTP_USER": "user", "MESSAGES_SMTP_PASSWORD": 'it\'s a "secret" & more'}
HEARTBEAT = {"ALERT_HEARTBEAT_URL": "https://beat.example.com/1"}


@pytest.mark.parametrize(
    ("env", "people", "heartbeat"),
    [
        ({}, [], []),
        (SLACK, ["slack_configs"], []),
        (MAIL, ["email_configs"], []),
        (SLACK | MAIL | LOGIN | HEARTBEAT, ["email_configs", "slack_configs"], ["webhook_configs"]),
        ({"ALERT_EMAIL_TO": "people@example.com"}, [], []),
    ],
    ids=["nothing", "Slack", "mail", "everything", "mail without a server"],
)
def test_alarms_go_by_what_is_set_up(
    tmp_path: Path, env: dict[str, str], people: list[str], heartbeat: list[str]
) -> None:
    """start.sh leaves out what is not; values come in whole, secrets in files that nobody else reads."""
    known = {"PATH": os.environ["PATH"], **env}
    subprocess.run(["sh", ALARMS.with_name("start.sh"), "render", tmp_path], env=known, check=True)
    written = tmp_path / "alertmanager.yml"
    subprocess.run([program("amtool"), "check-config", str(written)], check=True, capture_output=True)
    receivers = {row.pop("name"): row for row in yaml.safe_load(written.read_text("utf-8"))["receivers"]}
    assert sorted(receivers["people"]) == people
    assert sorted(receivers["heartbeat"]) == heartbeat
    texts = [written.read_text("utf-8").partition("receivers:")[2], (tmp_path / "message.tmpl").read_text("utf-8")]
    assert not [text for text in texts if ".invalid" in text]
    if "email_configs" in people:
        assert receivers["people"]["email_configs"][0]["to"] == env["ALERT_EMAIL_TO"]
        assert receivers["people"]["email_configs"][0]["smarthost"] == "mail.example.com:587"
    for name, secret in (("slack", "ALERT_SLACK_URL"), ("smtp", "MESSAGES_SMTP_PASSWORD")):
        file = tmp_path / "secrets" / name
        assert file.read_text("utf-8") == env.get(secret, "")
        assert file.stat().st_mode & 0o077 == 0
    assert env.get("MESSAGES_SMTP_PASSWORD", "nowhere") not in written.read_text("utf-8")


def test_what_silences_others_exists() -> None:
    """An inhibition of an alarm that was renamed would never apply."""
    known = {alert.name for alert in alerts()}
    text = ALARMS.read_text("utf-8")
    named = re.findall(r'alertname =~ "([^"]+)"', text) + re.findall(r"alertname = (\w+)", text)
    assert {name for names in named for name in names.split("|")} <= known


def faults_of(alert: Rule) -> list[str]:
    """What a person who is woken by it would miss."""
    annotations, found = alert.body.get("annotations", {}), []
    if alert.body.get("labels", {}).get("severity") not in ("critical", "warning", "none"):
        found.append("no severity: critical, warning or none")
    if not annotations.get("summary", "").endswith("."):
        found.append("no sentence that says what a person notices: summary")
    page = ROOT / annotations.get("runbook", "nowhere")
    if page.parent != ROOT / "docs/runbook" or not page.is_file():
        return [*found, f"no page: runbook: docs/runbook/… ({page.name} is not there)"]
    text = page.read_text("utf-8")
    found += [f"{page.name} has no part `## {part}`" for part in PARTS if f"\n## {part}\n" not in text]
    return found if f"`{alert.name}`" in text else [*found, f"{page.name} does not name the alarm"]


def test_every_alert_says_how_bad_it_is_and_leads_to_a_page() -> None:
    """Severity, one sentence, and a page that says what to do."""
    assert {f"{alert.path.name}: {alert.name}": found for alert in alerts() if (found := faults_of(alert))} == {}


def test_an_alert_without_a_page_is_noticed() -> None:
    """The check above can fail."""
    bare = {"alert": "Bare", "labels": {}, "annotations": {"summary": "Something", "runbook": "docs/runbook/none.md"}}
    assert len(faults_of(Rule(Path("x.yml"), bare))) == 3


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('sum by (le) (rate(a_bucket{route!~"/metrics|b"}[5m])) > 0.8', {"a_bucket"}),
        ("a / on (slo) (14.4 * slo:b:c) and b offset 5m # c", {"a", "slo:b:c", "b"}),
        ("histogram_quantile(0.9, sum(rate(a[$__rate_interval])) by (le))", {"a"}),
    ],
)
def test_names_are_found_in_expressions(expression: str, names: set[str]) -> None:
    """What the other tests stand on."""
    assert metrics_of(expression) == names


async def test_rules_and_dashboards_name_metrics_that_exist(client: httpx.AsyncClient) -> None:
    """An alert on a metric that nobody exports is silent for ever: each name is in what Prometheus would scrape."""
    names = set(re.findall(r"(?m)^# TYPE (\S+)", (await client.get("/metrics")).text))
    exported = names | {f"{name}_{suffix}" for name in names for suffix in ("bucket", "sum", "count")}
    ours = {name: places for name, places in asked_for().items() if not FOREIGN.fullmatch(name)}
    assert ours
    assert {name: places for name, places in ours.items() if name not in exported} == {}


def test_alarms_of_backups_name_figures_that_their_scheduler_has() -> None:
    """It is no part of the application, so the test above does not ask it."""
    asked = {name for name in asked_for() if name.startswith("backup_")}
    assert asked
    assert asked <= {*GAUGES, *DRILL, *FIGURES}


def test_dashboards_are_what_grafana_reads() -> None:
    """Valid JSON, ids that are unique, the data sources that are provisioned."""
    provisioned = {
        source["uid"]
        for path in (ROOT / "ops/grafana/provisioning/datasources").glob("*.yaml")
        for source in yaml.safe_load(path.read_text("utf-8"))["datasources"]
    }
    read = [json.loads(path.read_text("utf-8")) for path in sorted(DASHBOARDS.glob("*.json"))]
    assert len({dashboard["uid"] for dashboard in read}) == len(read) > 0
    assert len({dashboard["title"] for dashboard in read}) == len(read)
    for dashboard in read:
        found = dashboard["panels"]
        assert len({panel["id"] for panel in found}) == len(found)
        assert {panel["datasource"]["uid"] for panel in found if "datasource" in panel} <= provisioned
    assert all(panel["title"] for _, panel, _ in panels())
