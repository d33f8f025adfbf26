"""The checkers of the monitoring room can fail, and rules and dashboards ask only for metrics that exist."""

import json
import re
import shutil
from pathlib import Path

import httpx
import pytest

from ops.check.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
RULES = sorted((ROOT / "ops/prometheus/rules").glob("*.yml"))
NAME = re.compile(r"\b(?:http|celery|cache)_[a-z_]+\b")


@pytest.mark.parametrize(
    ("name", "path", "old", "new"),
    [
        ("promtool", "ops/prometheus/rules/service.yml", "histogram_quantile(", "histogram_quantiles("),
        ("amtool", "ops/alertmanager/alertmanager.yml", "receiver: nobody", "receiver: somebody"),
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


async def test_rules_and_dashboards_name_metrics_that_exist(client: httpx.AsyncClient) -> None:
    """An alert on a metric that nobody exports is silent for ever: each name is in what Prometheus would scrape."""
    names = set(re.findall(r"(?m)^# TYPE (\S+)", (await client.get("/metrics")).text))
    exported = names | {f"{name}_{suffix}" for name in names for suffix in ("bucket", "sum", "count")}
    texts = [path.read_text("utf-8") for path in [*RULES, *sorted((ROOT / "ops/grafana/dashboards").glob("*.json"))]]
    named = {name for text in texts for name in NAME.findall(text)}
    assert named
    assert named <= exported


def test_every_alert_leads_to_a_page() -> None:
    """Severity, one sentence, and where to read on."""
    for path in RULES:
        text = path.read_text("utf-8")
        alerts = text.count("- alert:")
        assert alerts == text.count("severity:") == text.count("summary:")
        for page in re.findall(r"runbook: (\S+)", text):
            assert (ROOT / page).is_file()


def test_dashboards_are_what_grafana_reads() -> None:
    """Valid JSON, ids that are unique, the data source that is provisioned."""
    for path in sorted((ROOT / "ops/grafana/dashboards").glob("*.json")):
        panels = json.loads(path.read_text("utf-8"))["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        assert {panel["datasource"]["uid"] for panel in panels} == {"prometheus"}
