"""Somebody uploads a file, hears when it can be found, finds it, asks it something, and deletes it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from uuid import uuid4

from load.objectives import Step

if TYPE_CHECKING:
    from load.person import Person

UPLOAD = Step("documents: upload")
# From the answer of the upload to the event: a queue, a worker, a socket. Waiting longer than that, people ask what is wrong.
PROCESSED = Step("documents: processed", p95=10)
LOOK = Step("documents: look")
SEARCH = Step("documents: search")
# The sources are there. What follows is at the pace of the model, whatever that is.
ANSWER_BEGINS = Step("documents: answer begins", p95=3)
ANSWER = Step("documents: answer", p95=30)
FEEDBACK = Step("documents: feedback")
DELETE = Step("documents: delete")
STEPS = (UPLOAD, PROCESSED, LOOK, SEARCH, ANSWER_BEGINS, ANSWER, FEEDBACK, DELETE)

PAGES = (
    "Employee handbook. Working hours are agreed with the team; the office opens at seven.",
    "Leave. Parents may take up to thirty days of paid leave in the year after a birth. Ask your manager three weeks ahead.",
    "Travel. Trains are booked second class, and hotels through the agency. Receipts are handed in within a month.",
)
QUESTION = "How many days of paid leave do parents get after a birth?"


def walk(person: Person) -> None:
    """From the file to its end."""
    with person.listening() as socket:
        # A file that nobody has sent before: the same one again would only be recognised.
        text = "\n\n".join((*PAGES, f"Copy {uuid4()}."))
        document = person.ask(UPLOAD, "POST", "/api/v1/documents", 202, files={"file": ("handbook.txt", text.encode())})
        own = f"/api/v1/documents/{document['id']}"
        with person.timing(PROCESSED):
            heard = socket.hear(
                lambda message: (
                    message.get("kind") in ("document.ready", "document.failed")
                    and message["data"]["id"] == document["id"]
                )
            )
            person.insist(heard["kind"] == "document.ready", f"processing ended in {heard['kind']}")
    person.ask(LOOK, "GET", own)
    found = person.ask(SEARCH, "POST", "/api/v1/documents/search", json={"query": "paid leave after a birth"})
    person.insist(bool(found["results"]), "what was uploaded is not found", SEARCH)
    events = person.stream(ANSWER_BEGINS, ANSWER, "/api/v1/documents/answers", json={"question": QUESTION})
    person.insist(events[-1][0] == "done", f"the answer ended in {events[-1][0]}", ANSWER)
    answer = json.loads(events[-1][1])["answer_id"]
    person.ask(FEEDBACK, "POST", f"/api/v1/documents/answers/{answer}/feedback", 204, json={"verdict": "helpful"})
    person.ask(DELETE, "DELETE", own, 204)
