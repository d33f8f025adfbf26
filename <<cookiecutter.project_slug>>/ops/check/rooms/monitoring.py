"""promtool and amtool, which no Python package brings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ops.check.foreign import tool
from ops.check.tools import Check, Findings, findings, run

#: Debian's packages of the tools, and of the servers that the tests run.
PACKAGES = {
    "promtool": "prometheus",
    "prometheus": "prometheus",
    "amtool": "prometheus-alertmanager",
    **{
        name: name
        for name in (
            "prometheus-alertmanager",
            "prometheus-blackbox-exporter",
            "prometheus-node-exporter",
            "prometheus-postgres-exporter",
            "prometheus-redis-exporter",
        )
    },
}


def checking(name: str, *arguments: str) -> Callable[[Path], Findings]:
    """A check by one of the tools."""

    def check(root: Path) -> Findings:
        return findings(run(root, [tool(root, name, PACKAGES[name]), *arguments]))

    return check


CHECKS = (
    Check("promtool", checking("promtool", "check", "config", "ops/prometheus/prometheus.yml"), "ops/prometheus"),
    Check("amtool", checking("amtool", "check-config", "ops/alertmanager/alertmanager.yml"), "ops/alertmanager"),
)
