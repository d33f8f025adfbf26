"""What locust runs: people who come, walk every journey once, go, and are followed by the next ones."""

from __future__ import annotations

import ipaddress
import itertools
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from locust import HttpUser, constant, events, task

from load import journeys
from load.objectives import Measured, Report
from load.person import JourneyEnded, Person

JOURNEYS = journeys.found()
ENTRY = journeys.entry(JOURNEYS)
TOKENS = [token for token in os.environ.get("LOAD_TOKENS", "").split(",") if token]
THINK_SECONDS = float(os.environ["LOAD_THINK_SECONDS"])
REPORT = Path(os.environ["LOAD_REPORT"])

_tokens = itertools.cycle(TOKENS)
# Addresses that are set aside for trying networks (RFC 2544) and belong to nobody.
_addresses = itertools.cycle(map(str, ipaddress.ip_network("198.18.0.0/15").hosts()))


class People(HttpUser):  # type: ignore[misc]  # locust is not installed where types are checked
    """One place in the crowd; whoever leaves it is followed by somebody else."""

    wait_time = constant(0)  # a person thinks before each step

    @task  # type: ignore[untyped-decorator]
    def visit(self) -> None:
        """A whole visit. Locust lets it come to its end when the time is over."""
        person = Person(self.client, self.environment, next(_addresses), THINK_SECONDS)
        self.client.cookies.clear()
        try:
            if TOKENS:
                person.token = next(_tokens)
            elif ENTRY:
                ENTRY.enter(person)
            for journey in JOURNEYS:
                journey.walk(person)
            if ENTRY and not TOKENS:
                ENTRY.leave(person)
        except JourneyEnded:
            return


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def write_report(environment: Any, **_: Any) -> None:
    """What was seen, for whoever judges it; the exit code of locust says only that it ran."""
    measured = [
        Measured(
            name=entry.name,
            requests=entry.num_requests,
            failures=entry.num_failures,
            p50=entry.get_response_time_percentile(0.50) / 1000,
            p95=entry.get_response_time_percentile(0.95) / 1000,
            p99=entry.get_response_time_percentile(0.99) / 1000,
            per_second=entry.total_rps,
        )
        for entry in environment.stats.entries.values()
        if entry.num_requests
    ]
    errors = sorted(environment.stats.errors.values(), key=lambda error: -error.occurrences)
    report = Report(
        measured=measured,
        errors=[(f"{error.name}: {error.error}", error.occurrences) for error in errors],
        faults=[f"{fault['msg']} ({fault['count']} times)" for fault in environment.runner.exceptions.values()],
    )
    REPORT.write_text(json.dumps(asdict(report)), "utf-8")
    environment.process_exit_code = 0
