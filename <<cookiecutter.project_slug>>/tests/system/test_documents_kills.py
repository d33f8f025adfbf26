"""`kill -9` at random moments, thirty times, while documents come in: nothing is lost, and nothing is there twice.

KILL_SEED repeats a run: the same parts die after the same waits.
"""

import os
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import uuid4

import httpx
import pytest

from devstack import USUAL_SERVICES, Stack
from tests.system.conftest import HURRY, access_token
from tests.system.helpers import eventually

pytestmark = pytest.mark.faults

ROUNDS = 30
VICTIMS = ("worker", "api", "beat", "broker")
UPLOADERS = 3
LONGEST_WAIT_SECONDS = 0.7
# What the sweep leaves alone for an hour it may touch now.
SWEEP = """
import asyncio
from datetime import UTC, datetime, timedelta

from app.core.resources import open_resources
from app.core.settings import load_settings
from app.features import settings_of_features
from app.features.documents.service import sweep

async def main():
    later = datetime.now(UTC) + timedelta(hours=2)
    async with open_resources(load_settings(settings_of_features())) as resources:
        await sweep.compare(resources, later)
        await sweep.remove_expired(resources, later)
        await sweep.empty_quarantine(resources, later)
        await sweep.fail_abandoned(resources)

asyncio.run(main())
"""


@dataclass
class Uploader:
    """Somebody who sends one file after the other, each as often as it takes until it is acknowledged."""

    client: httpx.Client
    acknowledged: dict[str, str] = field(default_factory=dict)
    attempts: int = 0
    wrong: list[str] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        """Until told to stop, and then until the last one is acknowledged."""
        while not stop.is_set():
            name = str(uuid4())
            text = "\n\n".join(f"{name} {number}: " + "Trains are booked second class. " * 20 for number in range(4))
            while (identity := self._try(name, text)) is None:
                time.sleep(0.1)
            self.acknowledged[name] = identity
            time.sleep(0.05)

    def _try(self, name: str, text: str) -> str | None:
        self.attempts += 1
        try:
            response = self.client.post("/api/v1/documents", files={"file": (f"{name}.txt", text.encode())})
        except httpx.TransportError:
            return None  # cut off: it may have been taken or not
        if response.status_code in (200, 202):
            identity: str = response.json()["id"]
            return identity
        if response.status_code != 503:
            self.wrong.append(f"{response.status_code} {response.text}")
        return None


@pytest.fixture(scope="module")
def breakable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A service of this module's own, without limits of requests."""
    limits = {"RATE_LIMIT": "100000r/m", "RATE_LIMIT_BURST": "10000", "DOCUMENTS_BACKLOG_PER_PERSON": "100000"}
    with Stack(tmp_path_factory.mktemp("kills"), USUAL_SERVICES, {**HURRY, **limits}) as stack:
        yield stack


def test_nothing_is_lost_and_nothing_is_there_twice(breakable: Stack) -> None:
    """What was acknowledged can be found, once: one row, its passages, one file. Nothing else is left anywhere."""
    seed = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(1_000_000))
    print(f"KILL_SEED={seed}")  # to repeat it
    chance = random.Random(seed)
    uploaders = [Uploader(signed_in(breakable)) for _ in range(UPLOADERS)]
    stop = threading.Event()

    def taken() -> int:
        return sum(len(uploader.acknowledged) for uploader in uploaders)

    threads = [threading.Thread(target=uploader.run, args=(stop,)) for uploader in uploaders]
    for thread in threads:
        thread.start()
    try:
        for round_ in range(ROUNDS):
            # In turn, so that each dies often, and at work: what is still starting has done nothing yet.
            victim = breakable.processes[VICTIMS[round_ % len(VICTIMS)]]
            victim.wait_ready()
            one_more = taken() + 1
            eventually(taken, one_more.__le__, "documents are taken in between two kills", 60)
            time.sleep(chance.uniform(0.0, LONGEST_WAIT_SECONDS))
            victim.kill()
            victim.spawn()
        for name in VICTIMS:
            breakable.processes[name].wait_ready()
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert [uploader.wrong for uploader in uploaders] == [[]] * UPLOADERS
    acknowledged = {identity for uploader in uploaders for identity in uploader.acknowledged.values()}
    attempts = sum(uploader.attempts for uploader in uploaders)
    print(f"{len(acknowledged)} documents acknowledged in {attempts} attempts, {ROUNDS} kills")
    assert len(acknowledged) >= ROUNDS

    def waiting() -> list[str]:
        return column(breakable, "SELECT status FROM documents WHERE status <> 'ready'")

    eventually(waiting, lambda found: not found, "every document is ready", 90)
    eventually(lambda: column(breakable, "SELECT name FROM task_outbox"), lambda left: not left, "no task is left", 60)
    breakable.run("-c", SWEEP)
    eventually(lambda: column(breakable, "SELECT name FROM task_outbox"), lambda left: not left, "the sweep's are done")

    rows = column(breakable, "SELECT id FROM documents")
    assert sorted(rows) == sorted(acknowledged), "each text is one document, whatever was sent again"
    files = [path.name for path in (breakable.data / "storage" / "app").rglob("*") if path.is_file()]
    assert sorted(files) == sorted(rows), "each document has one file, and there is no other"
    uneven = column(
        breakable,
        "SELECT d.id FROM documents d LEFT JOIN document_passages p ON p.document_id = d.id GROUP BY d.id, d.passages "
        "HAVING count(p.position) <> d.passages OR count(DISTINCT p.text) <> d.passages OR d.passages = 0",
    )
    assert uneven == []
    assert (
        column(
            breakable,
            "SELECT p.document_id FROM document_passages p LEFT JOIN documents d ON d.id = p.document_id WHERE d.id IS NULL",
        )
        == []
    )
    without_vector = (
        "SELECT p.document_id FROM document_passages p LEFT JOIN document_embeddings e "
        "ON (e.document_id, e.position) = (p.document_id, p.position) GROUP BY p.document_id, p.position "
        "HAVING count(e.position) <> 1"
    )
    assert column(breakable, without_vector) == []


def signed_in(stack: Stack) -> httpx.Client:
    """A client of somebody."""
    token = access_token(str(uuid4()))
    return httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {token}"}, timeout=30)


def column(stack: Stack, query: str) -> list[str]:
    """The only column that a query gives."""
    return stack.sql(query, database="app").split()
