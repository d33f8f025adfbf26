"""What people do with their documents."""

import re
from uuid import uuid4

import httpx

from tests.system.faults import Operation, World, answer_of, down
from tests.system.helpers import eventually

# Counted only when it happens.
RARE = {"documents_swept_total"}

TEXT = "Parents may take up to thirty days of paid leave in the year after a birth."


def client(world: World) -> httpx.Client:
    """Of the person who is signed in."""
    made = world.new_client()
    made.headers["Authorization"] = f"Bearer {world.token}"
    return made


def prepare(world: World) -> None:
    """A document that can be found."""
    assert upload(world) == "202"
    afterwards(world)


def afterwards(world: World) -> None:
    """Whatever was taken in becomes ready, also when nobody could work on it for a while."""
    with client(world) as asking:

        def unready() -> list[str]:
            items = asking.get("/api/v1/documents", params={"limit": 100}).json()["items"]
            return [item["status"] for item in items if item["status"] != "ready"]

        eventually(unready, lambda found: not found, "every document that was taken in is ready", 60)


def upload(world: World) -> str:
    """A file that nobody has sent before."""
    with client(world) as asking:
        data = f"{TEXT} {uuid4()}".encode()
        return answer_of(asking.post("/api/v1/documents", files={"file": ("leave.txt", data)}))


def search(world: World) -> str:
    """By meaning and words; for what nobody has asked before, as the answer of the provider is remembered."""
    with client(world) as asking:
        query = f"paid leave after a birth {uuid4()}"
        response = asking.post("/api/v1/documents/search", json={"query": query})
    if response.status_code == 200:
        assert response.json()["results"]
        return "200" if response.json()["complete"] else "200 by words alone"
    return answer_of(response)


def load(world: World) -> None:
    """A question, its answer, and a verdict on it."""
    with client(world) as asking:
        body = {"question": "How many days of paid leave do parents get after a birth?"}
        answer = asking.post("/api/v1/documents/answers", json=body)
        assert answer.status_code == 200, answer.text
        found = re.search(r'"answer_id": ?"([^"]+)"', answer.text)
        assert found, answer.text
        judged = asking.post(f"/api/v1/documents/answers/{found[1]}/feedback", json={"verdict": "helpful"})
        assert judged.status_code == 204, judged.text


AWAY = down("503 database_unavailable", "PostgreSQL")
OPERATIONS = [
    Operation("upload", "`POST /api/v1/documents`", upload, "202", {**AWAY, **down("503 storage_unavailable", "S3")}),
    Operation(
        "search",
        "`POST /api/v1/documents/search`",
        search,
        "200",
        {**AWAY, **down("200 by words alone", "AI provider")},
    ),
]
