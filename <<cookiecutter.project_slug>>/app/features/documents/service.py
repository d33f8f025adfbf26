"""What can be done with documents.

The file goes to the object store before its row is committed, under a key made of the document's id. A crash between the
two leaves an object without a row, which `remove_orphans` finds; the other order could leave a row without a file.
"""

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import PureWindowsPath
from typing import Any
from uuid import UUID

import structlog
from pgvector import HalfVector
from sqlalchemy import Uuid, cast, delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as insert_or
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.ai import EmbeddingUnavailable
from app.core.db import new_id
from app.core.errors import NotFound, PayloadTooLarge, UnprocessableContent
from app.core.outbox import OutboxTask, State
from app.core.resources import Resources
from app.core.storage import ObjectNotFound
from app.core.tasks import enqueue
from app.features.documents import search, tasks
from app.features.documents.chunking import Passage, passages
from app.features.documents.extraction import Limits, MediaType, UnreadableError, detect, extract
from app.features.documents.extraction.text import clean_line, shorten
from app.features.documents.models import Document, DocumentPassage, Status
from app.features.documents.settings import DocumentsSettings

log = structlog.get_logger(__name__)

PREFIX = "documents/"
MAX_TITLE = 200
GIVEN_UP = "The file could not be processed. Upload it again to have another try."
# Texts given to the embedder at once; between two calls the lease of the task is renewed.
EMBED_AT_ONCE = 256
# Rows in one INSERT: each goes through the HNSW index at a few milliseconds, and a statement has a deadline.
INSERT_AT_ONCE = 200
# An object this young may belong to an upload that has not committed yet.
ORPHAN_AGE = timedelta(hours=1)
# How far back orphans are looked for; the sweep runs every hour.
ORPHAN_REACH = timedelta(days=7)


class DocumentNotFound(NotFound):
    """No such document of this owner; whether somebody else has it is nobody's business."""

    detail = "There is no such document."


class DocumentTooLarge(PayloadTooLarge):
    """More bytes than DOCUMENTS_MAX_BYTES."""


class DocumentEmpty(UnprocessableContent):
    """A file of no bytes."""

    detail = "The file is empty."


# Uploading


async def upload(resources: Resources, owner_id: UUID, file_name: str, data: bytes) -> tuple[Document, bool]:
    """Take a file in and have it processed.

    Args:
        resources: what a feature works with.
        owner_id: whose it will be.
        file_name: as the client says; only the title is made of it.
        data: the whole file.

    Returns:
        The document, and whether there is work to do: False when the owner has these bytes already.

    Raises:
        DocumentEmpty, DocumentTooLarge, UnsupportedDocument: the file is not taken.
        StorageUnavailable: nothing was changed.
    """
    limit = resources.settings.of(DocumentsSettings).max_bytes
    if len(data) > limit:
        raise DocumentTooLarge(f"The file is larger than {limit:,} bytes.")
    if not data:
        raise DocumentEmpty
    media_type, digest = await asyncio.to_thread(lambda: (detect(data), hashlib.sha256(data).hexdigest()))
    async with resources.db.read() as session:
        known = await _by_digest(session, owner_id, digest)
    if known:
        return await _again(resources, known)
    document_id = new_id()
    # No media type: a store that serves the file to a browser must not make it run what a stranger wrote.
    await resources.storage.put(key(document_id), data, "application/octet-stream")
    async with resources.db.transaction() as session:
        made = await session.scalar(
            insert_or(Document)
            .values(
                id=document_id,
                owner_id=owner_id,
                title=title_of(file_name),
                media_type=media_type,
                size=len(data),
                sha256=digest,
            )
            .on_conflict_do_nothing(index_elements=["owner_id", "sha256"])
            .returning(Document)
        )
        if made:
            enqueue(session, tasks.process, str(document_id))
            return made, True
        # The same bytes came in twice at once and the other upload won.
        enqueue(session, tasks.remove_object, str(document_id))
    async with resources.db.read() as session:
        known = await _by_digest(session, owner_id, digest)
    if known is None:
        raise DocumentNotFound("The document was deleted while it was uploaded. Upload it again.")
    return known, False


async def _again(resources: Resources, known: Document) -> tuple[Document, bool]:
    """What an upload of known bytes does: nothing, or another try when the first one failed."""
    if known.status != Status.FAILED:
        return known, False
    async with resources.db.transaction() as session:
        reset = await session.scalar(
            update(Document)
            .where(Document.id == known.id, Document.status == Status.FAILED)
            .values(status=Status.PENDING, error=None)
            .returning(Document)
        )
        if reset is None:  # somebody else was faster, with the same or with deleting it
            return known, False
        enqueue(session, tasks.process, str(known.id))
    return reset, True


async def _by_digest(session: AsyncSession, owner_id: UUID, digest: str) -> Document | None:
    found = await session.scalars(select(Document).where(Document.owner_id == owner_id, Document.sha256 == digest))
    return found.one_or_none()


def title_of(file_name: str) -> str:
    """A title made of a client's file name: without folders, ending, control characters or marks that turn writing."""
    name = clean_line(file_name.replace("/", "\\"))
    path = PureWindowsPath(name.rstrip("\\. "))
    stem = path.stem if path.suffix and len(path.suffix) <= 6 else path.name
    return shorten(stem.strip(), MAX_TITLE) or "Untitled"


def key(document_id: UUID) -> str:
    """Where the object store keeps the file."""
    return f"{PREFIX}{document_id}"


# Looking and deleting


async def get(session: AsyncSession, owner_id: UUID, document_id: UUID) -> Document:
    """One document.

    Raises:
        DocumentNotFound: the owner has no such document.
    """
    found = await session.scalars(select(Document).where(Document.id == document_id, Document.owner_id == owner_id))
    document = found.one_or_none()
    if document is None:
        raise DocumentNotFound
    return document


async def list_newest(
    session: AsyncSession, owner_id: UUID, *, limit: int, before: UUID | None
) -> tuple[Sequence[Document], UUID | None]:
    """A page of the owner's documents, newest first, and where the next page begins, if there is one.

    Args:
        session: for reading.
        owner_id: whose.
        limit: at most so many.
        before: the `next` of the page before.
    """
    query = select(Document).where(Document.owner_id == owner_id).order_by(Document.id.desc()).limit(limit + 1)
    if before:
        query = query.where(Document.id < before)
    found = (await session.scalars(query)).all()
    return found[:limit], found[limit - 1].id if len(found) > limit else None


async def remove(session: AsyncSession, owner_id: UUID, document_id: UUID) -> None:
    """Delete a document with its passages, and have its file deleted.

    Raises:
        DocumentNotFound: the owner has no such document.
    """
    gone = await session.scalar(
        delete(Document).where(Document.id == document_id, Document.owner_id == owner_id).returning(Document.id)
    )
    if gone is None:
        raise DocumentNotFound
    enqueue(session, tasks.remove_object, str(document_id))


# Searching


async def find(resources: Resources, owner_id: UUID, query: str, limit: int) -> tuple[list[search.Hit], bool]:
    """The passages of an owner that fit best, and whether the search was whole.

    When the embedding provider is away, or slower than DOCUMENTS_SEARCH_SECONDS, words alone decide and the search was
    not whole.
    """
    settings = resources.settings.of(DocumentsSettings)
    vector: list[float] | None = None
    try:
        async with asyncio.timeout(settings.search_seconds):
            vector = (await resources.embedder.embed([query]))[0]
    except (EmbeddingUnavailable, TimeoutError) as error:
        log.warning("search_without_vectors", error=repr(error))
    hits = await search.search(
        resources.db, owner_id=owner_id, query=query, vector=vector, language=settings.language, limit=limit
    )
    return hits, vector is not None


# Processing


async def process(resources: Resources, document_id: UUID) -> None:
    """Make a document searchable: read its file, cut it into passages, embed them, store them.

    May run any number of times, and at once; each run ends in the same state. A fault of the file ends in the status
    "failed"; a fault of a neighbour raises, so that the task runs again.
    """
    document = await _begin(resources, document_id)
    if document is None:
        return
    try:
        data = await resources.storage.get(key(document_id))
        settings = resources.settings.of(DocumentsSettings)
        found = await asyncio.to_thread(_read, data, MediaType(document.media_type), settings)
    except UnreadableError as error:
        await fail(resources, document_id, str(error))
        return
    except ObjectNotFound:
        await fail(resources, document_id, "The file is lost. Upload it again.")
        return
    vectors: list[HalfVector] = []
    for start in range(0, len(found), EMBED_AT_ONCE):
        texts = [_embedded_text(passage) for passage in found[start : start + EMBED_AT_ONCE]]
        vectors += map(HalfVector, await resources.embedder.embed(texts))
    await _store(resources, document, found, vectors)
    log.info("document_ready", document_id=str(document_id), passages=len(found))


async def fail(resources: Resources, document_id: UUID, reason: str) -> None:
    """Say that a document cannot be processed, and why; one that is ready stays so."""
    async with resources.db.transaction() as session:
        await session.execute(
            update(Document)
            .where(Document.id == document_id, Document.status != Status.READY)
            .values(status=Status.FAILED, error=reason, processed_at=func.now())
        )
    log.info("document_failed", document_id=str(document_id), reason=reason)


async def _begin(resources: Resources, document_id: UUID) -> Document | None:
    """Show that work is under way; None when there is none, for the document is gone or ready."""
    async with resources.db.transaction() as session:
        return await session.scalar(
            update(Document)
            .where(Document.id == document_id, Document.status != Status.READY)
            .values(status=Status.PROCESSING, error=None)
            .returning(Document)
        )


def _read(data: bytes, media_type: MediaType, settings: DocumentsSettings) -> list[Passage]:
    limits = Limits(pages=settings.max_pages, characters=settings.max_characters)
    found: list[Passage] = []
    for passage in passages(
        extract(data, media_type, limits), characters=settings.passage_characters, overlap=settings.passage_overlap
    ):
        if len(found) == settings.max_passages:
            raise UnreadableError(f"The file makes more than {settings.max_passages:,} passages.")
        found.append(passage)
    return found


def _embedded_text(passage: Passage) -> str:
    return f"{passage.heading}\n{passage.text}" if passage.heading else passage.text


async def _store(
    resources: Resources, document: Document, found: Sequence[Passage], vectors: Sequence[HalfVector]
) -> None:
    """Replace a document's passages and call it ready, in one transaction."""
    language = resources.settings.of(DocumentsSettings).language
    async with resources.db.transaction() as session:
        # The lock keeps a second run of this task, and a deletion, waiting until the passages are whole.
        locked = await session.scalar(select(Document.id).where(Document.id == document.id).with_for_update())
        if locked is None:  # deleted meanwhile
            return
        await session.execute(delete(DocumentPassage).where(DocumentPassage.document_id == document.id))
        rows: list[dict[str, Any]] = [
            {
                "document_id": document.id,
                "position": passage.position,
                "owner_id": document.owner_id,
                "text": passage.text,
                "heading": passage.heading,
                "page": passage.page,
                "language": language,
                "embedding": vector,
            }
            for passage, vector in zip(found, vectors, strict=True)
        ]
        for start in range(0, len(rows), INSERT_AT_ONCE):
            await session.execute(insert(DocumentPassage), rows[start : start + INSERT_AT_ONCE])
        await session.execute(
            update(Document)
            .where(Document.id == document.id)
            .values(
                status=Status.READY,
                error=None,
                passages=len(found),
                embedding_model=resources.embedder.model,
                processed_at=func.now(),
            )
        )


# Keeping in step what a crash leaves apart


async def fail_abandoned(resources: Resources) -> int:
    """Fail the documents that wait for a task which is dead or gone; returns how many.

    Document and task are written in one transaction, so there are none unless a worker was killed just after it had
    given a task up.
    """
    at_work = select(cast(OutboxTask.args[0].astext, Uuid)).where(
        OutboxTask.name == tasks.process.name, OutboxTask.state != State.DEAD
    )
    async with resources.db.transaction() as session:
        failed = await session.scalars(
            update(Document)
            .where(Document.status.in_([Status.PENDING, Status.PROCESSING]), Document.id.not_in(at_work))
            .values(status=Status.FAILED, error=GIVEN_UP, processed_at=func.now())
            .returning(Document.id)
        )
        found = failed.all()
    for document_id in found:
        log.warning("document_abandoned", document_id=str(document_id))
    return len(found)


async def remove_object(resources: Resources, document_id: UUID) -> None:
    """Delete the file of a document that is gone; one that is already deleted is no error."""
    await resources.storage.delete(key(document_id))


async def remove_orphans(resources: Resources, now: datetime | None = None) -> int:
    """Delete files without a document, which a crash during an upload left behind; returns how many.

    Ids tell when they were made, so only recent keys are listed, however many objects there are.
    """
    now = now or datetime.now(UTC)
    removed = 0
    for prefix in _recent_prefixes(now):
        stored = await resources.storage.list(prefix)
        old = {found for item in stored if item.modified < now - ORPHAN_AGE and (found := _id_of(item.key))}
        if not old:
            continue
        async with resources.db.read() as session:
            known = set(await session.scalars(select(Document.id).where(Document.id.in_(old))))
        for orphan in old - known:
            await resources.storage.delete(key(orphan))
            log.warning("orphan_removed", document_id=str(orphan))
            removed += 1
    return removed


def _recent_prefixes(now: datetime) -> Iterator[str]:
    """Beginnings of the keys of recent ids: their first 24 bits count spans of 2**24 milliseconds, four and a half hours."""
    first, last = (int((now - age).timestamp() * 1000) >> 24 for age in (ORPHAN_REACH, ORPHAN_AGE))
    for span in range(first, last + 1):
        yield f"{PREFIX}{span:06x}"


def _id_of(name: str) -> UUID | None:
    try:
        return UUID(name.removeprefix(PREFIX))
    except ValueError:
        return None  # not one of ours
