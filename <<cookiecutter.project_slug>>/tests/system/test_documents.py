"""A document goes in at one end and is found at the other, whatever is killed on the way."""

import json
from collections.abc import Callable
from typing import Any

import httpx
from fpdf import FPDF
from websockets.sync.client import ClientConnection, connect

from devstack import Stack
from tests.system.conftest import Service
from tests.system.helpers import Person, assert_problem, eventually

LEAVE = "Parents may take up to thirty days of paid leave in the year after a birth."
PAGES = (
    "Employee handbook. Working hours are agreed with the team; the office opens at seven.",
    f"Leave. {LEAVE} Ask your manager three weeks ahead.",
    "Travel. Trains are booked second class, and hotels through the agency.",
)


def pdf(*pages: str) -> bytes:
    """A real PDF with one page for each text."""
    document = FPDF()
    document.set_font("helvetica", size=12)
    for text in pages:
        document.add_page()
        document.multi_cell(0, 8, text)
    return bytes(document.output())


def upload(person: Person, name: str, data: bytes) -> dict[str, Any]:
    """Send a file; returns the document as first answered."""
    response = person.client.post("/api/v1/documents", files={"file": (name, data)})
    assert response.status_code == 202, response.text
    made: dict[str, Any] = response.json()
    return made


def status(client: httpx.Client, document: dict[str, Any]) -> str:
    """How far a document has come."""
    response = client.get(f"/api/v1/documents/{document['id']}")
    assert response.status_code == 200, response.text
    state: str = response.json()["status"]
    return state


def until_ready(person: Person, document: dict[str, Any]) -> None:
    """Wait until a document can be found."""
    eventually(lambda: status(person.client, document), lambda state: state in ("ready", "failed"), "processed")
    assert status(person.client, document) == "ready"


def search(person: Person, query: str) -> list[dict[str, Any]]:
    """What a person finds, best first."""
    response = person.client.post("/api/v1/documents/search", json={"query": query})
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["results"]
    return found


def test_the_journey_of_a_pdf(new_person: Callable[[], Person]) -> None:
    """Uploaded, processed, found with its page; by its owner and by nobody else."""
    ada, grace = new_person(), new_person()
    hers = upload(ada, "Employee handbook.pdf", pdf(*PAGES))
    assert hers["status"] == "pending"
    assert hers["title"] == "Employee handbook"
    his = upload(grace, "garden.txt", b"Tomatoes want sun, water and patience.")
    until_ready(ada, hers)
    until_ready(grace, his)

    best = search(ada, "how much paid leave do parents get after a birth")[0]
    assert best["document_id"] == hers["id"]
    assert "thirty days of paid leave" in " ".join(best["passage"].split())
    assert best["page"] == 2
    assert best["title"] == "Employee handbook"

    assert all(found["document_id"] != hers["id"] for found in search(grace, "paid leave parents birth"))
    assert_problem(grace.client.get(f"/api/v1/documents/{hers['id']}"), 404)
    assert_problem(grace.client.delete(f"/api/v1/documents/{hers['id']}"), 404)
    assert [item["id"] for item in grace.client.get("/api/v1/documents").json()["items"]] == [his["id"]]


def test_an_answer_comes_through_nginx_as_a_stream(new_person: Callable[[], Person]) -> None:
    """Events in order, none of them held back until the last, never kept by a cache; then what one thinks of it."""
    ada = new_person()
    until_ready(ada, upload(ada, "Employee handbook.pdf", pdf(*PAGES)))
    question = {"question": "How much paid leave do parents get after a birth?"}
    names: list[str] = []
    done: dict[str, Any] = {}
    with ada.client.stream("POST", "/api/v1/documents/answers", json=question) as response:
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Transfer-Encoding"] == "chunked"
        for line in response.iter_lines():
            if line.startswith("event: "):
                names.append(line.removeprefix("event: "))
            elif line.startswith("data: "):
                done = json.loads(line.removeprefix("data: "))
    assert names[0] == "sources"
    assert "text" in names
    assert names[-1] == "done"
    assert done["citations"] == [1]
    feedback = f"/api/v1/documents/answers/{done['answer_id']}/feedback"
    assert ada.client.post(feedback, json={"verdict": "helpful"}).status_code == 204
    assert_problem(new_person().client.post(feedback, json={"verdict": "wrong"}), 404)


def test_a_deleted_document_is_not_found_any_more(person: Person) -> None:
    """From the moment of the answer."""
    document = upload(person, "leave.txt", LEAVE.encode())
    until_ready(person, document)
    assert search(person, "paid leave")
    assert person.client.delete(f"/api/v1/documents/{document['id']}").status_code == 204
    assert not search(person, "paid leave")
    assert_problem(person.client.get(f"/api/v1/documents/{document['id']}"), 404)


def test_what_cannot_be_read_is_refused_or_failed_with_a_reason(person: Person) -> None:
    """A picture is refused at once; a broken PDF fails in the background and says why."""
    picture = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
    assert_problem(person.client.post("/api/v1/documents", files={"file": ("a.pdf", picture)}), 415)
    broken = upload(person, "broken.pdf", pdf(*PAGES)[:400])
    eventually(lambda: status(person.client, broken), lambda state: state == "failed", "the broken one fails")
    assert person.client.get(f"/api/v1/documents/{broken['id']}").json()["error"]


def test_documents_are_for_people_who_are_signed_in(client: httpx.Client) -> None:
    """Every route of them."""
    some = "/api/v1/documents/01934f2c-7a1e-7c43-9d1b-5b0f6a2e8c11"
    assert_problem(client.get("/api/v1/documents"), 401)
    assert_problem(client.get(some), 401)
    assert_problem(client.delete(some), 401)
    assert_problem(client.post("/api/v1/documents", files={"file": ("a.txt", b"text")}), 401)
    assert_problem(client.post("/api/v1/documents/search", json={"query": "text"}), 401)


def test_a_worker_killed_in_the_middle_loses_nothing(stack: Stack, person: Person) -> None:
    """`kill -9` while a document is being processed: another worker takes over when the lease has run out."""
    storage, worker = stack.processes["storage"], stack.processes["worker"]
    worker.stop()
    document = upload(person, "handbook.pdf", pdf(*PAGES))
    # The store hangs, so the worker has begun and cannot finish: the kill comes in the middle, every time.
    storage.pause()
    try:
        worker.start()
        eventually(lambda: status(person.client, document), lambda state: state == "processing", "it has begun")
        worker.kill()
    finally:
        storage.resume()
    assert status(person.client, document) == "processing"
    worker.start()
    until_ready(person, document)
    assert search(person, "paid leave after a birth")[0]["document_id"] == document["id"]


def test_an_api_killed_between_commit_and_send_loses_nothing(stack: Stack, person: Person) -> None:
    """The row is committed and the message never sent: the sweep finds it."""
    api, broker, worker = stack.processes["api"], stack.processes["broker"], stack.processes["worker"]
    # Without a broker nothing can be sent after the commit, and with the process its memory goes too.
    broker.stop()
    document = upload(person, "handbook.pdf", pdf(*PAGES))
    api.kill()
    broker.start()
    assert worker.alive
    api.start()
    eventually(lambda: person.client.get("/health").status_code, lambda code: code == 200, "nginx finds the API")
    until_ready(person, document)
    assert search(person, "paid leave after a birth")[0]["document_id"] == document["id"]


def test_a_broker_that_loses_everything_loses_no_document(stack: Stack, person: Person) -> None:
    """Messages are only a hint; what is to be done stands in the database."""
    broker, worker = stack.processes["broker"], stack.processes["worker"]
    worker.stop()
    document = upload(person, "handbook.pdf", pdf(*PAGES))
    broker.kill()
    for file in (stack.data / "broker").rglob("*.aof"):
        file.unlink()
    broker.start()
    worker.start()
    until_ready(person, document)


def test_the_owner_hears_when_a_document_is_ready(service: Service, new_person: Callable[[], Person]) -> None:
    """Over a WebSocket, from the worker's process; whoever else is connected hears nothing."""

    def enter(person: Person, client: ClientConnection) -> None:
        ticket = person.client.post("/api/v1/realtime/tickets").json()["ticket"]
        client.send(json.dumps({"type": "hello", "ticket": ticket}))
        assert json.loads(client.recv(30))["type"] == "ready"

    address = service.url.replace("http", "ws", 1) + "/ws"
    owner, stranger = new_person(), new_person()
    with connect(address) as mine, connect(address) as others:
        enter(owner, mine)
        enter(stranger, others)
        document = upload(owner, "handbook.pdf", pdf(*PAGES))
        heard = [json.loads(mine.recv(60)) for _ in range(2)]
        assert [event["kind"] for event in heard] == ["document.processing", "document.ready"]
        assert {event["data"]["id"] for event in heard} == {document["id"]}
        assert status(owner.client, document) == "ready"
        others.send('{"type":"ping"}')
        assert json.loads(others.recv(30)) == {"type": "pong"}
