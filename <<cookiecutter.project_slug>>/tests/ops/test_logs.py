"""The way of a log line to Loki, as far as it can be followed without Loki and Alloy, which no package brings: what Docker
writes is taken apart by the expressions of the configuration, what it hands on exists, and dashboards ask for labels that are made.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jmespath  # type: ignore[import-untyped]  # of boto3, which needs no types of it
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ALLOY = (ROOT / "ops/alloy/config.alloy").read_text("utf-8")
LOKI: dict[str, Any] = yaml.safe_load((ROOT / "ops/loki/loki.yml").read_text("utf-8"))
TOKEN = re.compile(r'//[^\n]*|"(?:\\.|[^"\\])*"|[\w.]+|[{}\[\],=]')
# The stages that https://grafana.com/docs/alloy/latest/reference/components/loki/loki.process/ lists and that are used here.
STAGES = {"json", "timestamp", "output", "labels", "structured_metadata", "label_drop", "match"}


class Reader:
    """Reads the part of Alloy's language that the configuration uses."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = [token for token in TOKEN.findall(text) if not token.startswith("//")]

    def take(self, expected: str = "") -> str:
        """The next token."""
        assert self.tokens, f"the file ends where {expected or 'something'} is missing"
        token = self.tokens.pop(0)
        assert not expected or token == expected, f"{token} where {expected} should be"
        return token

    def until(self, end: str) -> Iterator[None]:
        """Once for each member of a list or of an object, which commas part."""
        while self.tokens[0] != end:
            yield
            if self.tokens[0] == ",":
                self.take()
        self.take(end)

    def value(self) -> Any:
        """A list, an object, a text or a name."""
        token = self.take()
        if token == "[":
            return [self.value() for _ in self.until("]")]
        if token == "{":
            return dict(self.pair() for _ in self.until("}"))
        return json.loads(token) if token.startswith('"') else token

    def pair(self) -> tuple[str, Any]:
        """A member of an object."""
        key = self.take()
        self.take("=")
        return json.loads(key) if key.startswith('"') else key, self.value()

    def body(self) -> dict[str, Any]:
        """What stands in a block: attributes by their names, and blocks as a list under the empty name."""
        found: dict[str, Any] = {}
        while self.tokens and self.tokens[0] != "}":
            name = self.take()
            if self.tokens[0] == "=":
                self.take("=")
                found[name] = self.value()
            else:
                label = json.loads(self.take()) if self.tokens[0].startswith('"') else ""
                self.take("{")
                found.setdefault("", []).append((name, label, self.body()))
                self.take("}")
        return found


def blocks(text: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Alloy's blocks as (name, label, body)."""
    return list(Reader(text).body()[""])


def component(name: str) -> dict[str, Any]:
    """The body of the only block of that name."""
    (found,) = [body for kind, _, body in blocks(ALLOY) if kind == name]
    return found


def docker_line(line: str, service: str) -> dict[str, Any]:
    """What Docker's json-file driver writes for a line, with the labels that base.yaml asks for."""
    base = yaml.safe_load((ROOT / "ops/compose/base.yaml").read_text("utf-8"))
    named = base["services"]["hardened"]["logging"]["options"]["labels"].split(",")
    known = {"com.docker.compose.service": service, "com.docker.compose.project": "project"}
    return {
        "log": line + "\n",
        "stream": "stdout",
        "attrs": {name: known[name] for name in named},
        "time": "2026-11-21T15:00:00.123456789Z",
    }


def test_what_is_handed_on_goes_to_something_that_exists() -> None:
    """A receiver that is misspelt is found when Alloy starts, which nobody does here."""
    exported = {f"{kind}.{label}" for kind, label, _ in blocks(ALLOY)}
    for kind, _, body in blocks(ALLOY):
        for target in body.get("forward_to", []):
            assert target.removesuffix(".receiver") in exported, kind
    assert component("loki.source.file")["targets"].removesuffix(".targets") in exported


def test_the_stages_are_known() -> None:
    """By name."""
    assert {name.removeprefix("stage.") for name, _, _ in component("loki.process")[""]} <= STAGES


@pytest.mark.parametrize(
    ("service", "line", "expected"),
    [
        (
            "api",
            '{"timestamp":"…","level":"warning","event":"slow_statement","request_id":"r1"}',
            {"level": "warning", "event": "slow_statement", "request_id": "r1"},
        ),
        ("nginx", '{"status":502,"request_id":"r2"}', {"status": 502, "request_id": "r2", "level": None}),
    ],
)
def test_a_line_is_taken_apart(service: str, line: str, expected: dict[str, object]) -> None:
    """Docker's wrapping first, then ours, by the very expressions of the configuration."""
    wrapping, ours = [body["expressions"] for name, _, body in component("loki.process")[""] if name == "stage.json"]
    outer = {name: jmespath.search(path, docker_line(line, service)) for name, path in wrapping.items()}
    assert outer["service"] == service
    assert outer["project"] == "project"
    inner = {name: jmespath.search(path, json.loads(outer["line"])) for name, path in ours.items()}
    assert {name: inner[name] for name in expected} == expected


def test_labels_are_few_and_those_that_dashboards_ask_for() -> None:
    """A label with many values makes a stream of each; what has many is kept beside the line."""
    stages = [(name, body) for name, _, body in component("loki.process")[""]]
    extracted = {name for kind, body in stages if kind == "stage.json" for name in body["expressions"]}
    (labels,) = [set(body["values"]) for kind, body in stages if kind == "stage.labels"]
    (beside,) = [set(body["values"]) for kind, body in stages if kind == "stage.structured_metadata"]
    assert labels | beside <= extracted
    assert labels == {"service", "project", "stream", "level"}
    dashboard = json.loads((ROOT / "ops/grafana/dashboards/logs.json").read_text("utf-8"))
    for panel in dashboard["panels"]:
        assert panel["datasource"] == {"type": "loki", "uid": "loki"}
        for target in panel["targets"]:
            (selector,) = re.findall(r"\{([^}]*)\}", target["expr"])
            assert set(re.findall(r"(\w+)(?:=~|!=|=)", selector)) <= labels, panel["title"]


def test_loki_forgets_after_a_month_and_tells_nobody_of_us() -> None:
    """Retention needs both its limit and the compactor, which must know where deletions are kept."""
    assert LOKI["limits_config"]["retention_period"] == "744h"
    assert LOKI["compactor"]["retention_enabled"] is True
    assert LOKI["compactor"]["delete_request_store"] == LOKI["schema_config"]["configs"][0]["object_store"]
    assert LOKI["analytics"]["reporting_enabled"] is False
    volumes = yaml.safe_load((ROOT / "ops/compose/rooms/loki.yaml").read_text("utf-8"))["services"]["loki"]["volumes"]
    assert f"loki:{LOKI['common']['path_prefix']}" in volumes
    for path in (LOKI["common"]["storage"]["filesystem"]["chunks_directory"], LOKI["compactor"]["working_directory"]):
        assert path.startswith(LOKI["common"]["path_prefix"] + "/"), "the rest of the file system is read-only"


def test_a_slip_in_the_file_is_noticed() -> None:
    """The reader above can fail."""
    with pytest.raises(AssertionError):
        blocks(ALLOY.replace("{", "", 1))
    with pytest.raises((AssertionError, IndexError)):
        blocks(ALLOY.rstrip().removesuffix("}"))
