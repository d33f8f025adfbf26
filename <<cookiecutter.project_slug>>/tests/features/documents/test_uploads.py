"""Uploads past the API: signed, bound to one file, judged when completed. And what holds for every way in and out."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote
from uuid import UUID, uuid4

import httpx
import pytest

from tests.features.documents.conftest import URL, RunTasks, Upload
from tests.features.documents.samples import pdf

if TYPE_CHECKING:
    from app.core.resources import Resources
    from app.core.security import Principal

TEXT = b"Text that goes past the API."


@pytest.fixture
def other_headers(headers_for: "Callable[[Principal], dict[str, str]]") -> dict[str, str]:
    """The headers of another person."""
    from app.core.security import Principal

    return headers_for(Principal(uuid4(), frozenset()))


@pytest.fixture
async def browser() -> AsyncIterator[httpx.AsyncClient]:
    """A client without any keys."""
    async with httpx.AsyncClient() as client:
        yield client


Send = Callable[..., Any]


@pytest.fixture
def begin(client: httpx.AsyncClient, auth_headers: dict[str, str]) -> Send:
    """Begins an upload of these bytes."""

    async def send(data: bytes = TEXT, name: str = "note.txt", **other: Any) -> dict[str, Any]:
        body = {"file_name": name, "size": len(data)} | other
        answer = await client.post(f"{URL}/uploads", json=body, headers=auth_headers)
        assert answer.status_code == 201, answer.text
        begun: dict[str, Any] = answer.json()
        return begun

    return send


@pytest.fixture
def complete(client: httpx.AsyncClient, auth_headers: dict[str, str]) -> Send:
    """Completes an upload."""

    async def send(begun: dict[str, Any], headers: dict[str, str] | None = None) -> httpx.Response:
        return await client.post(f"{URL}/uploads/{begun['id']}/complete", headers=headers or auth_headers)

    return send


async def stored(resources: "Resources", prefix: str) -> list[str]:
    """The keys of files in the object store."""
    return [item.key for item in await resources.storage.list(prefix)]


def limited(resources: "Resources", **limits: Any) -> "Resources":
    """The resources with other settings of the feature."""
    from app.features.documents.settings import DocumentsSettings

    features = {DocumentsSettings: DocumentsSettings(**limits)}
    return replace(resources, settings=resources.settings.model_copy(update={"features": features}))


async def test_a_file_goes_past_the_api_and_becomes_a_document(
    begin: Send, complete: Send, browser: httpx.AsyncClient, resources: "Resources", run_tasks: RunTasks
) -> None:
    """Begin, send, complete: the same document as by a direct upload, and nothing is left in quarantine."""
    data = pdf(["Sent past the API."])
    begun = await begin(data, "Report.pdf", content_type="application/pdf", sha256=hashlib.sha256(data).hexdigest())
    assert (await browser.request(begun["method"], begun["url"], content=data, headers=begun["headers"])).is_success
    answer = await complete(begun)
    assert answer.status_code == 202
    document = answer.json()
    assert (document["title"], document["media_type"], document["status"]) == ("Report", "application/pdf", "pending")
    assert answer.headers["Location"] == f"{URL}/{document['id']}"
    assert await resources.storage.get(f"documents/{document['id']}") == data
    assert set(await run_tasks()) == {"done"}
    assert f"quarantine/{begun['id']}" not in await stored(resources, "quarantine/")

    again = await complete(begun)
    assert (again.status_code, again.json()["id"], again.json()["status"]) == (200, document["id"], "ready")


async def test_completing_at_once_makes_one_document(
    begin: Send, complete: Send, browser: httpx.AsyncClient, upload: Upload, run_tasks: RunTasks, resources: "Resources"
) -> None:
    """Also beside a direct upload of the same bytes: one document, one file, one task."""
    begun = await begin()
    await browser.put(begun["url"], content=TEXT, headers=begun["headers"])
    before = set(await stored(resources, "documents/"))
    answers = await asyncio.gather(*(complete(begun) for _ in range(3)), upload(TEXT))
    ids = {answer.json()["id"] if isinstance(answer, httpx.Response) else answer["id"] for answer in answers}
    assert len(ids) == 1
    assert set(await run_tasks()) == {"done"}
    assert set(await stored(resources, "documents/")) - before == {f"documents/{ids.pop()}"}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        pytest.param({"size": 0}, 422, "validation_failed", id="empty"),
        pytest.param({"size": 10 * 1024 * 1024 + 1}, 413, "document_too_large", id="large"),
        pytest.param({"size": 2**70}, 413, "document_too_large", id="huge"),
        pytest.param({"size": -1}, 422, "validation_failed", id="negative"),
        pytest.param({"size": 1, "sha256": "x" * 64}, 422, "validation_failed", id="digest"),
        pytest.param({"size": 1, "content_type": "image/png"}, 415, "unsupported_document", id="kind"),
        pytest.param({"size": 1, "key": "documents/x"}, 422, "validation_failed", id="unknown-field"),
    ],
)
async def test_an_upload_that_would_not_be_taken_is_refused_at_once(
    client: httpx.AsyncClient, auth_headers: dict[str, str], body: dict[str, Any], status: int, code: str
) -> None:
    """Before anything is sent."""
    answer = await client.post(f"{URL}/uploads", json={"file_name": "a"} | body, headers=auth_headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_completing_judges_what_arrived(
    begin: Send, complete: Send, resources: "Resources", run_tasks: RunTasks
) -> None:
    """Nothing, other bytes, a kind that is not taken: each has its answer, and only the last one ends the upload. The
    store's own checks are passed by here, as a store may have none."""
    begun = await begin(TEXT, sha256=hashlib.sha256(TEXT).hexdigest())
    key = f"quarantine/{begun['id']}"
    assert (await complete(begun)).json()["code"] == "upload_missing"
    for wrong in (TEXT + b"!", TEXT[:-1], TEXT.upper()):
        await resources.storage.put(key, wrong, "text/plain")
        answer = await complete(begun)
        assert (answer.status_code, answer.json()["code"]) == (422, "upload_differs")
    await resources.storage.put(key, TEXT, "text/plain")
    assert (await complete(begun)).status_code == 202

    program = b"MZ" + bytes(64)
    begun = await begin(program, "innocent.txt")
    await resources.storage.put(f"quarantine/{begun['id']}", program, "text/plain")
    answer = await complete(begun)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_document")
    assert set(await run_tasks()) == {"done"}
    assert await stored(resources, f"quarantine/{begun['id']}") == []
    assert (await complete(begun)).status_code == 404


async def test_an_upload_can_be_too_late(
    begin: Send, complete: Send, resources: "Resources", browser: httpx.AsyncClient
) -> None:
    """410, though the file has arrived."""
    from sqlalchemy import update

    from app.features.documents.models import DocumentUpload

    begun = await begin()
    await browser.put(begun["url"], content=TEXT, headers=begun["headers"])
    async with resources.db.transaction() as session:
        past = datetime.now(UTC) - timedelta(seconds=1)
        await session.execute(update(DocumentUpload).values(expires_at=past))
    assert ((await complete(begun)).status_code, (await complete(begun)).json()["code"]) == (410, "upload_expired")


async def test_nobody_completes_what_another_began(
    begin: Send, complete: Send, browser: httpx.AsyncClient, other_headers: dict[str, str]
) -> None:
    """The answer is that of an upload that never was."""
    begun = await begin()
    await browser.put(begun["url"], content=TEXT, headers=begun["headers"])
    other = await complete(begun, other_headers)
    nobody = await complete({"id": str(uuid4())}, other_headers)
    assert other.status_code == nobody.status_code == 404
    assert other.json() | {"request_id": ""} == nobody.json() | {"request_id": ""}
    assert (await complete(begun)).status_code == 202


async def test_one_person_cannot_begin_without_end(resources: "Resources", principal: "Principal") -> None:
    """Signed addresses cost nothing to ask for; what lies in the store does."""
    from app.features.documents.service import uploads

    few = limited(resources, uploads_open=2)
    for _ in range(2):
        await uploads.begin(few, principal.id, "a", 1, None, None)
    with pytest.raises(uploads.TooManyWaiting):
        await uploads.begin(few, principal.id, "a", 1, None, None)
    await uploads.begin(few, uuid4(), "a", 1, None, None)  # another may


async def test_a_backlog_is_told_instead_of_growing(
    resources: "Resources", principal: "Principal", run_tasks: RunTasks
) -> None:
    """429 for whoever has too many waiting, 503 for all when the queue is full, both with Retry-After; known bytes are
    answered all the same, and when the work is done there is room again."""
    from app.features.documents.service import uploads

    few = limited(resources, backlog=3, backlog_per_person=2)
    for number in range(2):
        await uploads.upload(few, principal.id, "a", b"Text %d." % number)
    with pytest.raises(uploads.TooManyWaiting) as mine:
        await uploads.upload(few, principal.id, "a", b"One more.")
    assert (mine.value.status, mine.value.headers["Retry-After"]) == (429, "60")
    await uploads.upload(few, uuid4(), "a", b"Somebody else's.")
    with pytest.raises(uploads.BacklogFull) as everybodys:
        await uploads.begin(few, uuid4(), "a", 1, None, None)
    assert (everybodys.value.status, everybodys.value.headers["Retry-After"]) == (503, "60")
    assert not (await uploads.upload(few, principal.id, "a", b"Text 0."))[1]
    assert set(await run_tasks()) == {"done"}
    assert (await uploads.upload(few, principal.id, "a", b"One more."))[1]


async def test_a_body_that_never_ends_is_cut_off(client: httpx.AsyncClient, auth_headers: dict[str, str]) -> None:
    """A client that announces no length and sends for ever is answered when the limit is reached."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
        while sent < 100_000_000:
            sent += 1_000_000
            yield b"x" * 1_000_000

    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = await client.post(URL, content=endless(), headers=auth_headers | kind)
    assert answer.status_code == 413
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert sent < 20_000_000


# The way out


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("Handbook.txt", "Handbook.txt"),
        ("über uns, 文書.txt", "über uns, 文書.txt"),
        ('a"; filename="evil.exe', "a__ filename=_evil.exe.txt"),
        ("line\r\nSet-Cookie: x=1.txt", "line Set-Cookie_ x=1.txt"),
        ("../../etc/passwd", "passwd.txt"),
        ("run\u202etxt.exe", "runtxt.exe.txt"),
        ("", "Untitled.txt"),
        ("..", "Untitled.txt"),
    ],
)
async def test_a_file_comes_back_under_a_safe_name(
    resources: "Resources",
    principal: "Principal",
    client: httpx.AsyncClient,
    auth_headers: dict[str, str],
    browser: httpx.AsyncClient,
    name: str,
    called: str,
) -> None:
    """As an attachment with the kind that was found, whatever the client called it; nothing of a name becomes a header."""
    from app.features.documents.service import uploads

    document, _ = await uploads.upload(resources, principal.id, name, TEXT)
    answer = await client.get(f"{URL}/{document.id}/file", headers=auth_headers)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    assert answer.json()["file_name"] == called
    file = await browser.get(answer.json()["url"])
    assert (file.content, file.headers["Content-Type"]) == (TEXT, "text/plain")
    assert "set-cookie" not in file.headers
    saved = re.fullmatch(
        r"attachment; filename=\"([ -~]+)\"; filename\*=UTF-8''(\S+)", file.headers["Content-Disposition"]
    )
    assert saved
    assert unquote(saved[2]) == called
    assert '"' not in saved[1]


async def test_only_the_owner_gets_the_file(
    upload: Upload, client: httpx.AsyncClient, other_headers: dict[str, str]
) -> None:
    """To anyone else it does not exist."""
    document = await upload(TEXT)
    other = await client.get(f"{URL}/{document['id']}/file", headers=other_headers)
    nobody = await client.get(f"{URL}/{uuid4()}/file", headers=other_headers)
    assert other.status_code == nobody.status_code == 404
    assert other.json() | {"request_id": ""} == nobody.json() | {"request_id": ""}


async def test_a_lost_file_and_a_store_that_is_away_are_told_apart(
    upload: Upload,
    client: httpx.AsyncClient,
    auth_headers: dict[str, str],
    resources: "Resources",
    principal: "Principal",
) -> None:
    """404 with a reason, and 503 with Retry-After; never an address that leads nowhere."""
    from app.core.storage import Storage, StorageUnavailable
    from app.features.documents.service import library, uploads

    document = await upload(TEXT)
    begun = await uploads.begin(resources, principal.id, "a", 1, None, None)
    away = resources.settings.storage.model_copy(update={"endpoint_url": "http://127.0.0.1:9", "timeout_seconds": 0.3})
    without = replace(resources, storage=Storage(away))
    with pytest.raises(StorageUnavailable) as told:
        await library.download(without, principal.id, UUID(document["id"]))
    assert (told.value.status, "Retry-After" in told.value.headers) == (503, True)
    with pytest.raises(StorageUnavailable):
        await uploads.complete(without, principal.id, begun.id)
    await without.storage.close()

    await resources.storage.delete(f"documents/{document['id']}")
    answer = await client.get(f"{URL}/{document['id']}/file", headers=auth_headers)
    assert (answer.status_code, answer.json()["code"]) == (404, "file_lost")


async def test_a_list_can_be_of_one_status(
    ready: Upload, upload: Upload, client: httpx.AsyncClient, auth_headers: dict[str, str]
) -> None:
    """Those that have come so far, and a status that is none is refused."""
    done, waiting = await ready(b"Done."), await upload(b"Waiting.")
    for status, expected in (("ready", [done["id"]]), ("pending", [waiting["id"]]), ("failed", [])):
        page = await client.get(URL, params={"status": status}, headers=auth_headers)
        assert [item["id"] for item in page.json()["items"]] == expected
    assert (await client.get(URL, params={"status": "x"}, headers=auth_headers)).status_code == 422
