"""What is asked in rules and dashboards, read without a server."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "ops/prometheus/rules"
TESTS = ROOT / "ops/prometheus/tests"
DASHBOARDS = ROOT / "ops/grafana/dashboards"

_STRINGS = re.compile(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'")
_NO_METRICS = (
    re.compile(r"#[^\n]*"),
    re.compile(r"\{[^}]*\}"),
    re.compile(r"\[[^\]]*\]"),
    re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"),
)
# A name that is followed by a bracket is a function or an aggregation.
_NAME = re.compile(r"(?<![\w:$.])[a-zA-Z_:][\w:]*\b(?!\s*\()")
_WORDS = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "group_left", "inf", "nan"}
_AGGREGATED = re.compile(r"\b(?:sum|min|max|avg|count|topk|group)\s+(?:by|without)\b")


@dataclass(frozen=True)
class Rule:
    """A rule and the file that it stands in."""

    path: Path
    body: dict[str, Any]

    @property
    def name(self) -> str:
        """Of the alert or the recorded series."""
        return str(self.body.get("alert") or self.body["record"])


def rules() -> list[Rule]:
    """Every rule of every file."""
    return [
        Rule(path, rule)
        for path in sorted(RULES.glob("*.yml"))
        for group in yaml.safe_load(path.read_text("utf-8"))["groups"]
        for rule in group["rules"]
    ]


def alerts() -> list[Rule]:
    """Those that ring."""
    return [rule for rule in rules() if "alert" in rule.body]


def panels() -> Iterator[tuple[str, dict[str, Any], str]]:
    """Every query of every dashboard as (dashboard, panel, expression); other sources have a language of their own."""
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(path.read_text("utf-8"))["panels"]:
            for target in panel.get("targets", ()):
                if panel["datasource"]["type"] == "prometheus":
                    yield path.stem, panel, target["expr"]


def metrics_of(expression: str) -> set[str]:
    """The names of the series that an expression asks for."""
    text = _STRINGS.sub("", expression)
    for pattern in _NO_METRICS:
        text = pattern.sub(" ", text)
    text = _AGGREGATED.sub(" ", text)
    return {name for name in _NAME.findall(text) if name.lower() not in _WORDS}


def asked_for() -> dict[str, set[str]]:
    """Every metric that rules and dashboards name, and where; what the rules record themselves is not among them."""
    recorded = {rule.name for rule in rules() if "record" in rule.body}
    found: dict[str, set[str]] = {}
    for rule in rules():
        for name in metrics_of(str(rule.body["expr"])):
            found.setdefault(name, set()).add(rule.path.name)
    for dashboard, _, expression in panels():
        for name in metrics_of(expression):
            found.setdefault(name, set()).add(dashboard)
    return {name: places for name, places in found.items() if name not in recorded}
