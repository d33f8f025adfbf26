"""Routes of documents: what they answer to good, bad and hostile requests."""

import asyncio
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest

from tests.features.documents.conftest import URL, RunTasks, Upload
from tests.features.documents.samples import pdf

if TYPE_CHECKING:
    from app.core.resources import Resources
    from app.core.security import Principal

HeadersFor = Callable[["Principal"], dict[str, str]]


@pytest.fixture
def somebody_else(headers_for: HeadersFor) -> dict[str, str]:
    """The headers of another person."""
    from app.core.security import Principal

    return headers_for(Principal(uuid4(), frozenset()))


async def stored(resources: "Resources") -> list[str]:
    """The keys of all files in the object store."""
    return [item.key for item in await resources.storage.list("documents/")]


async def test_an_upload_is_taken_and_says_where_to_look(
    client: httpx.AsyncClient, auth_headers: dict[str, str], resources: "Resources", run_tasks: RunTasks
) -> None:
    """202 with the address of the document, whose file is stored unchanged; after its task it is ready."""
    data = pdf(["Parental leave is thirty days.", "Second page."])
    answer = await client.post(URL, files={"file": ("Handbook.pdf", data, "text/plain")}, headers=auth_headers)
    assert answer.status_code == 202
    document = answer.json()
    assert document | {"created_at": ""} == {
        "id": document["id"],
        "title": "Handbook",
        "media_type": "application/pdf",
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "status": "pending",
        "error": None,
        "passages": 0,
        "created_at": "",
        "processed_at": None,
    }
    assert await resources.storage.get(f"documents/{document['id']}") == data
    assert await run_tasks() == ["done"]
    found = (await client.get(answer.headers["Location"], headers=auth_headers)).json()
    assert (found["status"], found["passages"], found["error"]) == ("ready", 2, None)
    assert found["processed_at"] >= found["created_at"]


async def test_the_same_bytes_again_are_the_same_document(
    upload: Upload, resources: "Resources", client: httpx.AsyncClient, auth_headers: dict[str, str]
) -> None:
    """200 instead of 202, whatever the name; no second file is stored and no second task asked for."""
    first = await upload(b"Some text.", "one.txt")
    answer = await client.post(URL, files={"file": ("two.txt", b"Some text.")}, headers=auth_headers)
    assert answer.status_code == 200
    assert answer.json()["id"] == first["id"]
    assert answer.headers["Location"] == f"{URL}/{first['id']}"
    assert f"documents/{first['id']}" in await stored(resources)
    assert (await client.get(URL, headers=auth_headers)).json()["items"] == [first]


async def test_the_same_bytes_at_once_are_one_document(
    upload: Upload, resources: "Resources", run_tasks: RunTasks, client: httpx.AsyncClient, auth_headers: dict[str, str]
) -> None:
    """Whoever loses the race gets the winner's document, and the loser's file is deleted."""
    before = set(await stored(resources))
    documents = await asyncio.gather(*(upload(b"Raced text.") for _ in range(6)))
    assert len({document["id"] for document in documents}) == 1
    assert set(await run_tasks()) == {"done"}
    assert set(await stored(resources)) - before == {f"documents/{documents[0]['id']}"}
    assert len((await client.get(URL, headers=auth_headers)).json()["items"]) == 1


async def test_the_same_bytes_of_two_people_are_two_documents(upload: Upload, somebody_else: dict[str, str]) -> None:
    """Nobody learns from an upload whether somebody else has the file."""
    mine, theirs = await upload(b"Shared text."), await upload(b"Shared text.", headers=somebody_else)
    assert mine["id"] != theirs["id"]
    assert theirs["status"] == "pending"


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        pytest.param(b"", 422, "document_empty", id="empty"),
        pytest.param(b"\x89PNG\r\n\x1a\n\x00\x00", 415, "unsupported_document", id="binary"),
        pytest.param(pdf(["x"]) + b"PK\x05\x06" + bytes(18), 415, "unsupported_document", id="polyglot"),
    ],
)
async def test_a_file_that_is_not_taken_leaves_nothing(
    client: httpx.AsyncClient, auth_headers: dict[str, str], resources: "Resources", data: bytes, status: int, code: str
) -> None:
    """Refused before anything is stored, with a problem document that says why."""
    before = await stored(resources)
    answer = await client.post(URL, files={"file": ("innocent.txt", data, "text/plain")}, headers=auth_headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert await stored(resources) == before
    assert (await client.get(URL, headers=auth_headers)).json()["items"] == []


async def test_the_size_limit_is_exact(
    client: httpx.AsyncClient, auth_headers: dict[str, str], resources: "Resources"
) -> None:
    """A file of exactly the limit is taken; one byte more is 413 and names the limit."""
    from app.features.documents.settings import DocumentsSettings

    limit = resources.settings.of(DocumentsSettings).max_bytes
    line = b"All work and no play makes a long document. \n"
    data = line * (limit // len(line)) + b"x" * (limit % len(line))
    assert (await client.post(URL, files={"file": ("a", data)}, headers=auth_headers)).status_code == 202
    answer = await client.post(URL, files={"file": ("a", data + b"x")}, headers=auth_headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "document_too_large")
    assert f"{limit:,}" in answer.json()["detail"]
    answer = await client.post(URL, files={"file": ("a", data * 2)}, headers=auth_headers)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        pytest.param(b"", "multipart/form-data; boundary=x", id="no-parts"),
        pytest.param(b"--x--\r\n", "multipart/form-data; boundary=x", id="only-end"),
        pytest.param(b"--x\r\nnonsense", "multipart/form-data; boundary=x", id="broken-part"),
        pytest.param(b"hello", "multipart/form-data", id="no-boundary"),
        pytest.param(b'{"file": "text"}', "application/json", id="json"),
        pytest.param(b"file=text", "application/x-www-form-urlencoded", id="form"),
        pytest.param(
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nno file name\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            id="field",
        ),
    ],
)
async def test_a_malformed_upload_is_the_clients_fault(
    client: httpx.AsyncClient, auth_headers: dict[str, str], body: bytes, kind: str
) -> None:
    """Always 400 or 422 with a problem document, never a 500."""
    answer = await client.post(URL, content=body, headers=auth_headers | {"Content-Type": kind})
    assert answer.status_code in (400, 422), answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("Annual report.PDF", "Annual report"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\windows\\system32\\drivers.sys", "drivers"),
        ("C:\\Users\\ada\\notes.v2.txt", "notes.v2"),
        ("no ending", "no ending"),
        (".bashrc", ".bashrc"),
        ("...", "Untitled"),
        ("", "Untitled"),
        ("/", "Untitled"),
        ("  \t ", "Untitled"),
        ("'; DROP TABLE documents; --.txt", "'; DROP TABLE documents; --"),
        ("<script>alert(1)<.html", "<script>alert(1)<"),
        ("über uns, 文書.md", "über uns, 文書"),
        ("evil\u202efdp.exe", "evilfdp"),
        ("nul\x00byte\x01.txt", "nul byte"),
        ("line\r\nX-Header: 1.txt", "line X-Header: 1"),
        ("a" * 5000 + ".pdf", "a" * 199 + "…"),
        ("lone\ud800surrogate.txt", "lonesurrogate"),
        ("con", "con"),
    ],
)
def test_a_title_is_made_of_any_name(name: str, title: str) -> None:
    """No folders, no control characters, nothing that turns the direction of writing, and never nothing at all."""
    from app.features.documents.naming import title_of

    assert title_of(name) == title


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "'; DROP TABLE documents; --", "nul\x00byte", "line\r\nbreak", 'quo"te', "日本", "x" * 3000],
)
async def test_a_hostile_name_goes_nowhere(upload: Upload, resources: "Resources", name: str) -> None:
    """The key of the stored file is made of the id alone."""
    document = await upload(b"Text.", name)
    assert f"documents/{document['id']}" in await stored(resources)


async def test_a_list_is_newest_first_and_goes_by_pages(
    client: httpx.AsyncClient, upload: Upload, auth_headers: dict[str, str], somebody_else: dict[str, str]
) -> None:
    """Each document stands on exactly one page, also when a new one is uploaded between two pages."""
    made = [(await upload(f"Text {number}.".encode()))["id"] for number in range(5)]
    await upload(b"Not mine.", headers=somebody_else)
    page = (await client.get(URL, params={"limit": 2}, headers=auth_headers)).json()
    seen = [item["id"] for item in page["items"]]
    await upload(b"Between two pages.")
    while page["next"]:
        page = (await client.get(URL, params={"limit": 2, "cursor": page["next"]}, headers=auth_headers)).json()
        seen += [item["id"] for item in page["items"]]
    assert seen == made[::-1]


@pytest.mark.parametrize("params", [{"limit": 0}, {"limit": 101}, {"limit": "x"}, {"cursor": "x"}, {"cursor": "\x00"}])
async def test_a_list_refuses_what_makes_no_sense(
    client: httpx.AsyncClient, auth_headers: dict[str, str], params: dict[str, Any]
) -> None:
    """Bounds of a page are checked."""
    assert (await client.get(URL, params=params, headers=auth_headers)).status_code == 422


async def test_a_deleted_document_is_gone_with_its_passages_and_its_file(
    client: httpx.AsyncClient, ready: Upload, auth_headers: dict[str, str], resources: "Resources", run_tasks: RunTasks
) -> None:
    """At once for whoever asks, and after its task in the object store; deleting again is 404."""
    document = await ready(b"The zebra crosses the savanna.")
    where = f"{URL}/{document['id']}"
    answer = await client.delete(where, headers=auth_headers)
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await client.get(where, headers=auth_headers)).status_code == 404
    assert (await client.get(URL, headers=auth_headers)).json()["items"] == []
    search = await client.post(f"{URL}/search", json={"query": "zebra"}, headers=auth_headers)
    assert search.json()["results"] == []
    assert (await client.delete(where, headers=auth_headers)).json()["code"] == "document_not_found"
    assert await run_tasks() == ["done"]
    assert f"documents/{document['id']}" not in await stored(resources)


async def test_a_deleted_document_can_be_uploaded_again(
    client: httpx.AsyncClient, ready: Upload, auth_headers: dict[str, str], run_tasks: RunTasks
) -> None:
    """A new document with a new file, which the old one's deletion does not touch."""
    first = await ready(b"Phoenix text.")
    await client.delete(f"{URL}/{first['id']}", headers=auth_headers)
    second = await ready(b"Phoenix text.")
    assert second["id"] != first["id"]
    found = (await client.get(f"{URL}/{second['id']}", headers=auth_headers)).json()
    assert found["status"] == "ready"


async def test_a_document_of_somebody_else_does_not_exist(
    client: httpx.AsyncClient, ready: Upload, auth_headers: dict[str, str], somebody_else: dict[str, str]
) -> None:
    """Looking, deleting and searching find nothing, with the very answer of an id that was never given."""
    document = await ready(b"My secret recipe for marmalade.")
    for method in ("GET", "DELETE"):
        other = await client.request(method, f"{URL}/{document['id']}", headers=somebody_else)
        nobody = await client.request(method, f"{URL}/{uuid4()}", headers=somebody_else)
        assert other.status_code == nobody.status_code == 404
        assert other.json() | {"request_id": ""} == nobody.json() | {"request_id": ""}
    found = await client.post(f"{URL}/search", json={"query": "secret recipe marmalade"}, headers=somebody_else)
    assert found.json()["results"] == []
    page = await client.get(URL, headers=somebody_else)
    assert page.json()["items"] == []
    assert (await client.get(f"{URL}/{document['id']}", headers=auth_headers)).json()["status"] == "ready"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", ""),
        ("GET", ""),
        ("POST", "/search"),
        ("POST", "/uploads"),
        ("POST", "/uploads/00000000-0000-0000-0000-000000000000/complete"),
        ("GET", "/00000000-0000-0000-0000-000000000000/file"),
        ("GET", "/00000000-0000-0000-0000-000000000000"),
        ("DELETE", "/00000000-0000-0000-0000-000000000000"),
    ],
)
async def test_every_route_wants_to_know_who_asks(client: httpx.AsyncClient, method: str, path: str) -> None:
    """Without a token: 401."""
    answer = await client.request(method, URL + path)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"query": ""}', id="empty"),
        pytest.param(b'{"query": "  \\u0000\\u0001 "}', id="invisible"),
        pytest.param(b'{"query": "' + b"x" * 1001 + b'"}', id="too-long"),
        pytest.param(b'{"query": 5}', id="number"),
        pytest.param(b'{"query": "a", "limit": 0}', id="limit-0"),
        pytest.param(b'{"query": "a", "limit": 51}', id="limit-51"),
        pytest.param(b'{"query": "a", "owner_id": "x"}', id="unknown-field"),
        pytest.param(b'{"query": "\\ud800"}', id="lone-surrogate"),
        pytest.param(b"{}", id="nothing"),
        pytest.param(b"[" * 5000, id="nested"),
        pytest.param(b"\xff\xfe", id="no-utf-8"),
    ],
)
async def test_a_query_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, auth_headers: dict[str, str], body: bytes
) -> None:
    """422 with a problem document, never a 500."""
    answer = await client.post(
        f"{URL}/search", content=body, headers=auth_headers | {"Content-Type": "application/json"}
    )
    assert answer.status_code in (400, 422), answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"


async def test_the_documentation_tells_the_answers(client: httpx.AsyncClient) -> None:
    """OpenAPI knows both good answers of an upload, its errors, and gives an example of a search."""
    document = (await client.get("/openapi.json")).json()
    routes = document["paths"]
    upload = routes[URL]["post"]
    assert set(upload["responses"]) >= {"200", "202", "401", "413", "415", "422", "503"}
    assert "Location" in upload["responses"]["202"]["headers"]
    assert "multipart/form-data" in upload["requestBody"]["content"]
    assert set(routes[f"{URL}/{{document_id}}"]["get"]["responses"]) >= {"200", "401", "404"}
    assert document["components"]["schemas"]["SearchIn"]["properties"]["query"]["examples"]
    for path, methods in routes.items():
        if path.startswith(URL):
            assert all(route["summary"] and route["tags"] == ["documents"] for route in methods.values())
