"""What a crash leaves between rows, tasks and files is mended, whatever its age, and nothing else is touched."""

import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import pytest

from tests.features.documents.conftest import URL, RunTasks, Upload

if TYPE_CHECKING:
    from app.core.resources import Resources
    from app.core.security import Principal
    from devstack import Stack

LATER = timedelta(hours=2)


@pytest.fixture(autouse=True)
async def empty_store(resources: "Resources") -> AsyncIterator[None]:
    """Files of other tests would be compared as well."""
    for _ in range(2):
        for item in await resources.storage.list(""):
            await resources.storage.delete(item.key)
        if _ == 0:
            yield


async def files(resources: "Resources") -> set[str]:
    """Every key of the store."""
    return {item.key for item in await resources.storage.list("")}


async def age(resources: "Resources", document_id: str) -> None:
    """Make a document old enough to be compared with its file."""
    from sqlalchemy import update

    from app.features.documents.models import Document

    async with resources.db.transaction() as session:
        long_ago = datetime.now(UTC) - timedelta(days=1)
        await session.execute(update(Document).where(Document.id == UUID(document_id)).values(created_at=long_ago))


async def look(client: httpx.AsyncClient, headers: dict[str, str], document_id: str) -> dict[str, Any]:
    """The document as its owner sees it."""
    found: dict[str, Any] = (await client.get(f"{URL}/{document_id}", headers=headers)).json()
    return found


def swept(what: str) -> float:
    """What the metric says."""
    from app.features.documents.metrics import SWEPT

    return float(SWEPT.labels(what)._value.get())


async def test_a_document_that_nobody_works_on_is_given_up(
    upload: Upload, resources: "Resources", client: httpx.AsyncClient, auth_headers: dict[str, str]
) -> None:
    """A worker killed between burying its task and telling the owner leaves "processing" with no task; the hourly task
    tells the owner, and leaves alone what is still waiting for its turn."""
    from sqlalchemy import update

    from app.core.outbox import OutboxTask, State
    from app.features.documents import tasks

    waiting = await upload(b"Waiting text.")
    abandoned = await upload(b"Abandoned text.")
    async with resources.db.transaction() as session:
        await session.execute(
            update(OutboxTask).where(OutboxTask.args[0].astext == abandoned["id"]).values(state=State.DEAD)
        )
    await tasks.reconcile(resources)
    assert (await look(client, auth_headers, waiting["id"]))["status"] == "pending"
    seen = await look(client, auth_headers, abandoned["id"])
    assert seen["status"] == "failed"
    assert "Upload it again" in seen["error"]


async def test_an_upload_killed_before_its_commit_leaves_nothing(
    upload: Upload, resources: "Resources", stack: "Stack"
) -> None:
    """A process that dies with the file stored and the row not: the file goes when it is old enough, however old; young
    ones, those with a row, and what is not ours stay."""
    from app.core.db import new_id
    from app.features.documents.service.sweep import compare

    document = await upload(b"Kept text.")
    die = (
        "import asyncio, os, sys; from app.core.settings import load_settings; from app.core.storage import Storage\n"
        "from app.features import settings_of_features\n"
        "async def main():\n"
        "    await Storage(load_settings(settings_of_features()).storage).put(sys.argv[1], b'x', 'text/plain')\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())"
    )
    orphan = f"documents/{new_id()}"
    ended = subprocess.run([sys.executable, "-c", die, orphan], env=stack.env, check=False)
    assert ended.returncode == -9
    ancient = f"documents/{UUID(int=0x0190_0000_0000 << 80 | 0x7 << 76 | 0x2 << 62)}"
    for name in (ancient, "documents/not-an-id", "elsewhere"):
        await resources.storage.put(name, b"x", "application/octet-stream")
    before = await files(resources)

    await compare(resources)
    assert await files(resources) == before  # too young
    counted = swept("orphan")
    await compare(resources, now=datetime.now(UTC) + LATER)
    assert before - await files(resources) == {orphan, ancient}
    assert swept("orphan") == counted + 2
    assert f"documents/{document['id']}" in await files(resources)


async def test_a_document_without_its_file_is_told(
    ready: Upload,
    resources: "Resources",
    client: httpx.AsyncClient,
    auth_headers: dict[str, str],
    run_tasks: RunTasks,
) -> None:
    """Failed with a reason and found no more; uploading the file again mends it. Young rows and others are left alone."""
    from app.features.documents.service.sweep import compare

    lost, young, kept = [await ready(f"Text of {name}.".encode()) for name in ("lost", "young", "kept")]
    for document in (lost, young):
        await resources.storage.delete(f"documents/{document['id']}")
    for document in (lost, kept):
        await age(resources, document["id"])
    await compare(resources)
    seen = await look(client, auth_headers, lost["id"])
    assert (seen["status"], seen["passages"]) == ("failed", 0)
    assert "lost" in seen["error"]
    assert [(await look(client, auth_headers, d["id"]))["status"] for d in (young, kept)] == ["ready", "ready"]
    answer = await client.post(f"{URL}/search", json={"query": "lost"}, headers=auth_headers)
    assert lost["id"] not in {hit["document_id"] for hit in answer.json()["results"]}

    assert (await ready(b"Text of lost."))["id"] == lost["id"]
    assert (await look(client, auth_headers, lost["id"]))["status"] == "ready"


async def test_a_run_is_bounded_and_the_next_goes_on(
    ready: Upload, resources: "Resources", client: httpx.AsyncClient, auth_headers: dict[str, str], few: None
) -> None:
    """Each run looks at so many files and remembers where it was; after the last one it begins anew."""
    from app.features.documents.service.sweep import compare
    from app.features.documents.settings import DocumentsSettings

    a_page = {DocumentsSettings: DocumentsSettings(sweep_files=1)}
    limited = replace(resources, settings=resources.settings.model_copy(update={"features": a_page}))

    made = [await ready(f"Text {number}.".encode()) for number in range(5)]
    for document in made:
        await age(resources, document["id"])
    await resources.storage.delete(f"documents/{made[3]['id']}")
    await resources.storage.put("documents/0000", b"x", "text/plain")  # sorts first, and is none of ours

    async def failed() -> list[int]:
        answers = [await look(client, auth_headers, document["id"]) for document in made]
        return [number for number, seen in enumerate(answers) if seen["status"] == "failed"]

    await compare(limited)  # the stranger and the first
    await compare(limited)  # the second and third
    assert await failed() == []
    await compare(limited)  # the fifth, which shows that the fourth is missing
    assert await failed() == [3]
    await resources.storage.delete(f"documents/{made[0]['id']}")
    await compare(limited)
    assert await failed() == [0, 3]


async def test_a_wrong_bucket_harms_nothing(
    ready: Upload, resources: "Resources", client: httpx.AsyncClient, auth_headers: dict[str, str], few: None
) -> None:
    """A store that knows most documents not is another store, and a database that knows most files not another one."""
    from app.core.db import new_id
    from app.features.documents.service.sweep import compare

    made = [await ready(f"Text {number}.".encode()) for number in range(3)]
    for document in made:
        await age(resources, document["id"])
        await resources.storage.delete(f"documents/{document['id']}")
    refused = swept("refused")
    await compare(resources)
    assert swept("refused") == refused + 1
    assert {(await look(client, auth_headers, document["id"]))["status"] for document in made} == {"ready"}

    strangers = {f"documents/{new_id()}" for _ in range(2)}
    for name in strangers:
        await resources.storage.put(name, b"x", "text/plain")
    await compare(resources, now=datetime.now(UTC) + LATER)
    assert await files(resources) == strangers


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages and bounds are for thousands of files; here they must fit in a test."""
    from app.features.documents.service import sweep

    monkeypatch.setattr(sweep, "PAGE", 2)
    monkeypatch.setattr(sweep, "SUSPICIOUS", 1)


async def test_an_upload_that_was_never_completed_goes_with_its_file(
    resources: "Resources", principal: "Principal", run_tasks: RunTasks
) -> None:
    """Once its time is over: the row at once, what was sent in the background."""
    from app.features.documents.service import sweep, uploads

    begun = await uploads.begin(resources, principal.id, "a.txt", 4, None, None)
    await resources.storage.put(uploads.quarantine_key(begun.id), b"data", "text/plain")
    assert await sweep.remove_expired(resources) == 0
    assert await sweep.remove_expired(resources, now=datetime.now(UTC) + LATER) == 1
    assert await run_tasks() == ["done"]
    assert await files(resources) == set()
    with pytest.raises(uploads.UploadNotFound):
        await uploads.complete(resources, principal.id, begun.id)


async def test_what_was_sent_again_after_completion_goes_as_well(
    resources: "Resources", principal: "Principal", run_tasks: RunTasks
) -> None:
    """A signed address can be used twice; the second file belongs to nobody. The completed upload is remembered a day."""
    from app.features.documents.service import sweep, uploads

    begun = await uploads.begin(resources, principal.id, "a.txt", 4, None, None)
    quarantined = uploads.quarantine_key(begun.id)
    await resources.storage.put(quarantined, b"data", "text/plain")
    document, _ = await uploads.complete(resources, principal.id, begun.id)
    await run_tasks()
    await resources.storage.put(quarantined, b"more", "text/plain")
    assert await sweep.empty_quarantine(resources) == 0
    assert await sweep.empty_quarantine(resources, now=datetime.now(UTC) + LATER) == 1
    assert await files(resources) == {f"documents/{document.id}"}
    assert await sweep.remove_expired(resources, now=datetime.now(UTC) + LATER) == 0
    assert (await uploads.complete(resources, principal.id, begun.id))[0].id == document.id
    await sweep.remove_expired(resources, now=datetime.now(UTC) + timedelta(days=2))
    with pytest.raises(uploads.UploadNotFound):
        await uploads.complete(resources, principal.id, begun.id)


async def test_the_sweep_needs_no_store_for_what_is_in_the_database(
    upload: Upload, resources: "Resources", client: httpx.AsyncClient, auth_headers: dict[str, str]
) -> None:
    """With the store away abandoned documents are still told; the next run does the rest."""
    from sqlalchemy import delete

    from app.core.outbox import OutboxTask
    from app.core.storage import Storage, StorageUnavailable
    from app.features.documents import tasks

    document = await upload(b"Abandoned text.")
    async with resources.db.transaction() as session:
        await session.execute(delete(OutboxTask))
    away = resources.settings.storage.model_copy(update={"endpoint_url": "http://127.0.0.1:9", "timeout_seconds": 0.3})
    storage = Storage(away)
    with pytest.raises(StorageUnavailable):
        await tasks.reconcile(replace(resources, storage=storage))
    await storage.close()
    assert (await look(client, auth_headers, document["id"]))["status"] == "failed"


async def test_prometheus_sees_documents_and_passages(client: httpx.AsyncClient, ready: Upload) -> None:
    """By status, with zero where there are none."""
    await ready(b"One text.")
    lines = (await client.get("/metrics")).text.splitlines()
    assert 'documents{status="ready"} 1.0' in lines
    assert 'documents{status="failed"} 0.0' in lines
    assert any(line.startswith("document_passages ") for line in lines)
