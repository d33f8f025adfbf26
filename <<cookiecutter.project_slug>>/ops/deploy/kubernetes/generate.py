"""Make the alarms of the Prometheus operator from ops/prometheus/rules, which every other place uses: `make generate`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
TARGET = Path("ops/deploy/kubernetes/components/monitoring/rules.yaml")
#: What a cluster has not, or watches by itself: rules whose expression names it are left out.
ELSEWHERE = {
    r"nginx_|job=\"nginx": "the gateway is the cluster's",
    r"node_|job=\"node": "so are its nodes and disks",
    r"probe_|certificate_|job=\"blackbox": "certificates are cert-manager's, which has alarms of its own",
    r"loki_|alloy_|alertmanager_|prometheus_|grafana_|job=\"(alertmanager|prometheus|loki|alloy|grafana)": (
        "the operator brings the monitoring's own"
    ),
    r"vector\(1\)": "and its dead man's switch",
    r"backup_wal_": "the write-ahead log is CloudNativePG's",
}


def groups(root: Path) -> list[dict[str, Any]]:
    """The groups of all rule files, without what is watched elsewhere."""
    left_out = re.compile("|".join(ELSEWHERE))
    found = []
    for path in sorted((root / "ops/prometheus/rules").glob("*.yml")):
        for group in yaml.safe_load(path.read_text("utf-8"))["groups"]:
            rules = [rule for rule in group["rules"] if not left_out.search(rule["expr"])]
            if rules:
                found.append({**group, "rules": rules})
    return found


def text(root: Path) -> str:
    """The file."""
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "service", "labels": {"step": "app"}},
        "spec": {"groups": groups(root)},
    }
    head = "# Made of ops/prometheus/rules by `make generate`: change it there.\n"
    return head + yaml.safe_dump(rule, sort_keys=False, allow_unicode=True, width=120)


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(
            0
            if (ROOT / TARGET).read_text("utf-8") == text(ROOT)
            else f"{TARGET}: not what the rules say: make generate"
        )
    (ROOT / TARGET).write_text(text(ROOT), "utf-8")
