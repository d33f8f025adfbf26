"""A hostile file costs a limited process, and never the worker."""

import asyncio
import contextlib
import io
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from tests.features.documents.conftest import Upload
from tests.features.documents.samples import combining_marks, paragraph, raw_docx

if TYPE_CHECKING:
    from app.core.resources import Resources

HTML = b"<h1>Guide</h1><p>Some text.</p>"


def order(**changed: Any) -> dict[str, Any]:
    """What the process is asked to do."""
    limits = {"pages": 5, "characters": 100_000, "unpacked": 100_000_000, "seconds": 60}
    return {"media_type": "text/html", "limits": limits, "characters": 500, "overlap": 0, "most": 5} | changed


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (HTML, {"passages": [[0, "Some text.", "Guide", None]]}),
        (b"<p></p>", {"unreadable": "The file holds no text."}),
        (b"<h1>x</h1>" * 6, {"unreadable": "The file makes more than 5 passages."}),
    ],
)
def test_the_process_answers_in_json(data: bytes, expected: dict[str, Any]) -> None:
    """Passages, or why there are none."""
    from app.features.documents.extraction.__main__ import run

    target = io.BytesIO()
    run(order(), io.BytesIO(data), target)
    assert json.loads(target.getvalue()) == expected


def settings(**limits: Any) -> Any:
    """The feature's settings with other limits."""
    from app.features.documents.settings import DocumentsSettings

    return DocumentsSettings(**limits)


@pytest.mark.parametrize(
    ("data", "kind", "limits"),
    [
        # One normalisation of this, in C and with the interpreter's lock held, takes minutes.
        pytest.param(combining_marks(400_000), "text/plain", {"extract_seconds": 1}, id="processor"),
        pytest.param(b"<html>" + b"<a>" * 199_000, "text/html", {"extract_memory_mb": 128}, id="memory"),
    ],
)
async def test_what_takes_too_much_is_ended(data: bytes, kind: str, limits: dict[str, Any]) -> None:
    """The kernel ends the process; the owner reads why, and this process had time for others meanwhile."""
    from app.features.documents.extraction import MediaType, UnreadableError
    from app.features.documents.service.reading import read

    longest = 0.0

    async def others() -> None:
        nonlocal longest
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - began)

    beside = asyncio.create_task(others())
    began = time.monotonic()
    with pytest.raises(UnreadableError, match="too complex"):
        await read(data, MediaType(kind), settings(**limits))
    assert time.monotonic() - began < 30
    beside.cancel()
    assert longest < 2


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at processes as Linux shows them")
async def test_the_process_knows_nothing_and_ends_with_its_task() -> None:
    """No setting and no secret is in its environment, where a parser that was taken over would look first; and when its
    task is cancelled, at a deadline or when a worker is drained, it ends at once."""
    from app.features.documents.extraction import MediaType
    from app.features.documents.service.reading import read

    reading = asyncio.create_task(read(combining_marks(400_000), MediaType.TEXT, settings()))
    while not (found := children()):
        assert not reading.done()
        await asyncio.sleep(0.02)
    environment = Path(f"/proc/{found[0]}/environ").read_bytes()
    names = {line.partition(b"=")[0].decode() for line in environment.split(b"\0") if line}
    assert names <= {"PATH", "LD_LIBRARY_PATH", "LC_CTYPE"}
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert children() == []


def children() -> list[int]:
    """The processes of this one that read a file."""
    folder = Path("/proc")
    found = {int(path.name): path for path in folder.glob("[0-9]*")}
    reader = b"app.features.documents.extraction"
    alive = []
    for pid, path in found.items():
        with contextlib.suppress(OSError):  # ended while we looked
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and reader in (path / "cmdline").read_bytes():
                alive.append(pid)
    return alive


async def test_a_document_that_breaks_its_reader_fails_and_the_next_is_read(
    upload: Upload, resources: "Resources"
) -> None:
    """Its owner reads why; nothing is tried again."""
    from app.features.documents.models import Document
    from app.features.documents.service.processing import process
    from app.features.documents.settings import DocumentsSettings

    hurried = {DocumentsSettings: settings(extract_seconds=1)}
    limited = replace(resources, settings=resources.settings.model_copy(update={"features": hurried}))
    made = [
        await upload(combining_marks(400_000), "marks.txt"),
        await upload(raw_docx(paragraph("Readable.")), "b.docx"),
    ]
    for document in made:
        await process(limited, UUID(document["id"]))
    async with resources.db.read() as session:
        broken, read = [await session.get(Document, UUID(document["id"])) for document in made]
    assert broken
    assert read
    assert (broken.status, broken.error) == ("failed", "The file is too complex to be read.")
    assert (read.status, read.passages, read.file_name) == ("ready", 1, "b.docx")
