"""What the owner of a document hears while it is processed."""

from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from app.core.resources import Resources
    from app.core.security import Principal
    from tests.features.documents.conftest import RunTasks, Upload


async def test_the_owner_hears_what_becomes_of_a_document(
    upload: "Upload", run_tasks: "RunTasks", resources: "Resources", principal: "Principal"
) -> None:
    """That it is read, that it is ready with so many passages, or why it failed; in this order, and nothing else."""
    before = (await resources.events.since(principal.id, None)).position
    good = await upload(b"One paragraph of text.\n\nAnd another one.")
    bad = await upload(b"\n\n \n")
    await run_tasks()
    missed = await resources.events.since(principal.id, before)
    heard: list[dict[str, Any]] = [orjson.loads(event.frame()) for event in missed.events]
    assert [event["kind"] for event in heard if event["data"]["id"] == good["id"]] == [
        "document.processing",
        "document.ready",
    ]
    failed = [event for event in heard if event["data"]["id"] == bad["id"]]
    assert [event["kind"] for event in failed] == ["document.processing", "document.failed"]
    assert "no text" in failed[1]["data"]["error"]
    (ready,) = [event for event in heard if event["kind"] == "document.ready"]
    assert ready["data"]["passages"] >= 1
    assert len(heard) == 4
