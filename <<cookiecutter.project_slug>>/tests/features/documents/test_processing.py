"""The way from an uploaded file to passages: it may break off and begin again anywhere, and always ends."""

import asyncio
import hashlib
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.features.documents.conftest import URL, RunTasks, Upload
from tests.features.documents.samples import pdf

if TYPE_CHECKING:
    from app.core.resources import Resources
    from app.core.security import Principal

TEXT = "\n\n".join(f"# Part {n}\n\nThis is sentence {n} about topic{n} in a longer text. " * 30 for n in range(6))


async def passages_of(resources: "Resources", document_id: str) -> Sequence[Any]:
    """Everything stored of a document's passages, in order."""
    from sqlalchemy import and_, select

    from app.features.documents.models import DocumentEmbedding, DocumentPassage

    joined = and_(
        DocumentEmbedding.document_id == DocumentPassage.document_id,
        DocumentEmbedding.position == DocumentPassage.position,
    )
    async with resources.db.read() as session:
        rows = await session.execute(
            select(DocumentPassage, DocumentEmbedding.embedding)
            .join(DocumentEmbedding, joined, isouter=True)
            .where(DocumentPassage.document_id == UUID(document_id))
            .order_by(DocumentPassage.position)
        )
        return [(row.position, row.text, row.heading, row.page, embedding) for row, embedding in rows]


async def outbox(resources: "Resources") -> list[tuple[str, str]]:
    """Name and state of every task that is not done."""
    from sqlalchemy import select

    from app.core.outbox import OutboxTask

    async with resources.db.read() as session:
        rows = await session.scalars(select(OutboxTask).order_by(OutboxTask.id))
        return [(row.name, row.state) for row in rows]


async def time_passes(resources: "Resources") -> None:
    """Make every waiting task due, as the sweep does when its time has come."""
    from sqlalchemy import update

    from app.core.outbox import OutboxTask, State

    async with resources.db.transaction() as session:
        await session.execute(update(OutboxTask).where(OutboxTask.state == State.WAITING).values(state=State.PENDING))


async def look(client: httpx.AsyncClient, headers: dict[str, str], document_id: str) -> dict[str, Any]:
    """The document as its owner sees it."""
    found: dict[str, Any] = (await client.get(f"{URL}/{document_id}", headers=headers)).json()
    return found


@pytest.fixture
async def without_provider(resources: "Resources") -> "AsyncIterator[Resources]":
    """The resources with a real embedding client whose provider does not listen."""
    from app.core.ai import OfflineEmbedder, OpenAIEmbedder

    embedder = OpenAIEmbedder(
        api_key="", base_url="http://127.0.0.1:9/v1", model=OfflineEmbedder.model, timeout_seconds=1, max_retries=0
    )
    # It is not waited for beyond the attempts of the task.
    tasks = resources.settings.tasks.model_copy(update={"patience_seconds": 0})
    settings = resources.settings.model_copy(update={"tasks": tasks})
    yield replace(resources, embedder=embedder, settings=settings)
    await embedder.close()


async def test_passages_keep_what_the_search_shows(ready: Upload, resources: "Resources") -> None:
    """Positions without gap, headings, pages, and a vector of length 1 of the text under its heading."""
    from app.core.ai import lexical_vector

    document = await ready(pdf(["First page text.", "Second page text."], bookmarks=["Alpha", "Beta"]))
    found = await passages_of(resources, document["id"])
    assert [row[:4] for row in found] == [(0, "First page text.", "Alpha", 1), (1, "Second page text.", "Beta", 2)]
    assert found[0][4] == pytest.approx(lexical_vector("Alpha\nFirst page text."), abs=1e-3)


async def test_running_twice_changes_nothing(
    ready: Upload, resources: "Resources", client: httpx.AsyncClient, auth_headers: dict[str, str]
) -> None:
    """A message that arrives twice leaves the same passages, and a ready document is not touched."""
    from app.features.documents.tasks import process

    document = await ready(TEXT.encode())
    before = await passages_of(resources, document["id"])
    seen = await look(client, auth_headers, document["id"])
    await process(resources, document["id"])
    assert await passages_of(resources, document["id"]) == before
    assert await look(client, auth_headers, document["id"]) == seen
    assert seen["passages"] == len(before) > 6


async def test_running_at_once_ends_as_running_alone(
    upload: Upload, resources: "Resources", client: httpx.AsyncClient, auth_headers: dict[str, str]
) -> None:
    """Two workers with the same document, as after a lost lease, do not mix or double their passages."""
    from app.features.documents.tasks import process

    document = await upload(TEXT.encode())
    await asyncio.gather(*(process(resources, document["id"]) for _ in range(4)))
    found = await passages_of(resources, document["id"])
    assert [row[0] for row in found] == list(range(len(found)))
    seen = await look(client, auth_headers, document["id"])
    assert (seen["status"], seen["passages"]) == ("ready", len(found))


async def test_a_run_that_broke_off_is_repeated_whole(
    upload: Upload, resources: "Resources", run_tasks: RunTasks, client: httpx.AsyncClient, auth_headers: dict[str, str]
) -> None:
    """A worker killed after it had begun leaves "processing"; the next run ends in "ready", with nothing left over."""
    from sqlalchemy import insert, update

    from app.features.documents.models import Document, DocumentPassage, Status

    document = await upload(TEXT.encode())
    async with resources.db.transaction() as session:
        await session.execute(
            update(Document).where(Document.id == UUID(document["id"])).values(status=Status.PROCESSING)
        )
        leftover = {
            "document_id": UUID(document["id"]),
            "position": 999,
            "owner_id": uuid4(),
            "text": "left over",
            "language": "simple",
        }
        await session.execute(insert(DocumentPassage).values(**leftover))
    assert await run_tasks() == ["done"]
    assert (await look(client, auth_headers, document["id"]))["status"] == "ready"
    assert "left over" not in [row[1] for row in await passages_of(resources, document["id"])]


async def test_a_document_deleted_before_its_task_needs_none(
    upload: Upload, client: httpx.AsyncClient, auth_headers: dict[str, str], run_tasks: RunTasks, resources: "Resources"
) -> None:
    """The task of a document that is gone ends quietly."""
    document = await upload(b"Short-lived text.")
    await client.delete(f"{URL}/{document['id']}", headers=auth_headers)
    assert await run_tasks() == ["done", "done"]
    assert await passages_of(resources, document["id"]) == []


async def test_a_document_deleted_during_its_task_stays_deleted(
    upload: Upload, client: httpx.AsyncClient, auth_headers: dict[str, str], resources: "Resources"
) -> None:
    """A deletion while the passages are being embedded wins: none are stored, and nothing fails."""
    from app.core.ai import OfflineEmbedder
    from app.features.documents.tasks import process

    document = await upload(b"Text that goes while it is read.")

    class DeletingMeanwhile(OfflineEmbedder):
        async def embed(self, texts: Sequence[str]) -> list[list[float]]:
            answer = await client.delete(f"{URL}/{document['id']}", headers=auth_headers)
            assert answer.status_code == 204
            return await super().embed(texts)

    await process(replace(resources, embedder=DeletingMeanwhile()), document["id"])
    assert (await client.get(f"{URL}/{document['id']}", headers=auth_headers)).status_code == 404
    assert await passages_of(resources, document["id"]) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(pdf(["Secret"], password="x"), "protected by a password", id="encrypted"),
        pytest.param(pdf(["Cut off"])[:400], "damaged", id="truncated"),
        pytest.param(pdf([""]), "no text", id="scan"),
        pytest.param(b"\n\n \n", "no text", id="blank"),
    ],
)
async def test_a_fault_of_the_file_is_told_and_not_tried_again(
    upload: Upload,
    run_tasks: RunTasks,
    client: httpx.AsyncClient,
    auth_headers: dict[str, str],
    resources: "Resources",
    data: bytes,
    message: str,
) -> None:
    """The task is done, the document failed, and its owner reads why."""
    document = await upload(data)
    assert await run_tasks() == ["done"]
    seen = await look(client, auth_headers, document["id"])
    assert (seen["status"], seen["passages"]) == ("failed", 0)
    assert message in seen["error"]
    assert await outbox(resources) == []


async def test_a_file_that_makes_too_many_passages_is_told(upload: Upload, resources: "Resources") -> None:
    """The bound is on passages too: each heading makes one, however short, and each costs an embedding."""
    from app.features.documents.models import Document
    from app.features.documents.service import processing
    from app.features.documents.settings import DocumentsSettings

    few = DocumentsSettings(max_passages=5)
    limited = replace(resources, settings=resources.settings.model_copy(update={"features": {DocumentsSettings: few}}))
    document = await upload(b"\n".join(b"# %d\ntext %d" % (n, n) for n in range(6)))
    await processing.process(limited, UUID(document["id"]))
    async with resources.db.read() as session:
        found = await session.get(Document, UUID(document["id"]))
        assert found
        assert (found.status, found.error) == ("failed", "The file makes more than 5 passages.")


async def test_a_file_lost_from_the_store_is_told(
    upload: Upload, run_tasks: RunTasks, client: httpx.AsyncClient, auth_headers: dict[str, str], resources: "Resources"
) -> None:
    """No repetition brings it back."""
    document = await upload(b"Text to lose.")
    await resources.storage.delete(f"documents/{document['id']}")
    assert await run_tasks() == ["done"]
    seen = await look(client, auth_headers, document["id"])
    assert seen["status"] == "failed"
    assert "lost" in seen["error"]
    await upload(b"Text to lose.")
    assert await run_tasks() == ["done"]
    assert (await look(client, auth_headers, document["id"]))["status"] == "ready"


async def test_a_provider_that_is_away_delays_and_does_not_fail(
    upload: Upload,
    without_provider: "Resources",
    run_tasks: RunTasks,
    client: httpx.AsyncClient,
    auth_headers: dict[str, str],
    resources: "Resources",
) -> None:
    """The task waits in the outbox for another attempt, and that makes the document ready."""
    from sqlalchemy import select

    from app.core.outbox import OutboxTask
    from app.core.tasks import execute
    from app.features.documents.tasks import process

    document = await upload(b"Patient text.")
    async with resources.db.read() as session:
        row = (await session.scalars(select(OutboxTask))).one()
    assert await execute(without_provider, process, row.id, row.args) == "retried"
    assert (await look(client, auth_headers, document["id"]))["status"] == "processing"
    assert await outbox(resources) == [("documents.process", "waiting")]
    await time_passes(resources)
    assert await run_tasks() == ["done"]
    assert (await look(client, auth_headers, document["id"]))["status"] == "ready"


async def test_after_the_last_attempt_the_owner_knows_and_may_try_again(
    upload: Upload,
    without_provider: "Resources",
    run_tasks: RunTasks,
    client: httpx.AsyncClient,
    auth_headers: dict[str, str],
    resources: "Resources",
) -> None:
    """Nothing stays "processing" for ever; uploading the same bytes again starts anew with the same document."""
    from sqlalchemy import select

    from app.core.outbox import OutboxTask
    from app.core.tasks import execute
    from app.features.documents.tasks import process

    document = await upload(b"Unlucky text.")
    async with resources.db.read() as session:
        row = (await session.scalars(select(OutboxTask))).one()
    # While a provider is away attempts do not count, for a day.
    tasks = without_provider.settings.tasks.model_copy(update={"patience_seconds": 0})
    impatient = replace(without_provider, settings=without_provider.settings.model_copy(update={"tasks": tasks}))
    outcomes = []
    for _ in range(process.max_attempts):
        outcomes.append(await execute(impatient, process, row.id, row.args))
        await time_passes(resources)
    assert outcomes == ["retried"] * (process.max_attempts - 1) + ["dead"]
    seen = await look(client, auth_headers, document["id"])
    assert seen["status"] == "failed"
    assert "Upload it again" in seen["error"]
    assert "127.0.0.1" not in seen["error"]

    answer = await client.post(URL, files={"file": ("again", b"Unlucky text.")}, headers=auth_headers)
    assert (answer.status_code, answer.json()["status"], answer.json()["error"]) == (202, "pending", None)
    assert answer.json()["id"] == document["id"]
    assert await run_tasks() == ["done"]
    assert (await look(client, auth_headers, document["id"]))["status"] == "ready"


async def test_an_upload_without_a_store_leaves_nothing(resources: "Resources", principal: "Principal") -> None:
    """The file is stored first: when that fails there is neither a row nor a task, and the client hears of it."""
    from app.core.pagination import Place, Rows
    from app.core.storage import Storage, StorageUnavailable
    from app.features.documents.service import library, uploads

    away = resources.settings.storage.model_copy(update={"endpoint_url": "http://127.0.0.1:9", "timeout_seconds": 0.5})
    storage = Storage(away)
    with pytest.raises(StorageUnavailable):
        await uploads.upload(replace(resources, storage=storage), principal.id, "a.txt", b"Some text.")
    await storage.close()
    async with resources.db.read() as session:
        assert await library.list_newest(session, principal.id, Place()) == Rows([], None)
    assert await outbox(resources) == []


async def test_a_large_document_lets_others_have_their_turn(
    upload: Upload,
    resources: "Resources",
    run_tasks: RunTasks,
    client: httpx.AsyncClient,
    auth_headers: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A task whose time is over keeps what it has and asks for a less urgent one, which ends the work; a file that is
    large from the start begins there."""
    from app.features.documents.service import processing
    from app.features.documents.settings import DocumentsSettings
    from app.features.documents.tasks import process

    document = await upload(TEXT.encode())
    monkeypatch.setattr(processing, "SLICE_SECONDS", 0.0)
    await process(resources, document["id"])
    assert await outbox(resources) == [("documents.process", "sent"), ("documents.process_large", "sent")]
    assert (await look(client, auth_headers, document["id"]))["passages"] > 6
    monkeypatch.setattr(processing, "SLICE_SECONDS", 20.0)
    assert await run_tasks() == ["done", "done"]
    assert (await look(client, auth_headers, document["id"]))["status"] == "ready"

    await upload(b"Large from the start. " * (resources.settings.of(DocumentsSettings).large_bytes // 20))
    assert [name for name, _ in await outbox(resources)] == ["documents.process_large"]


async def test_a_large_document_is_stored_in_time(
    ready: Upload, client: httpx.AsyncClient, auth_headers: dict[str, str]
) -> None:
    """A thousand passages go through both indexes without reaching the deadline of a statement."""
    text = " ".join(f"Sentence {n} speaks of subject{n % 977}." for n in range(26_000))
    document = await ready(text.encode())
    assert (await look(client, auth_headers, document["id"]))["passages"] > 1000


async def test_a_real_worker_makes_a_document_ready(
    upload: Upload,
    worker: "subprocess.Popen[bytes]",
    client: httpx.AsyncClient,
    auth_headers: dict[str, str],
    resources: "Resources",
) -> None:
    """From the upload through outbox, broker and a worker process of its own."""
    document = await upload(pdf(["Worked off by a real worker."]))
    deadline = time.monotonic() + 30
    while (seen := await look(client, auth_headers, document["id"]))["status"] != "ready":
        assert time.monotonic() < deadline, seen
        await asyncio.sleep(0.05)
    assert seen["sha256"] == hashlib.sha256(await resources.storage.get(f"documents/{document['id']}")).hexdigest()
