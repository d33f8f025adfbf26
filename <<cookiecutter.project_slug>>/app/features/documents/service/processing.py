"""From a file to passages that can be found."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import structlog
from pgvector import HalfVector
from sqlalchemy import delete, func, insert, select, update

from app.core.resources import Resources
from app.core.storage import ObjectNotFound
from app.features.documents.chunking import Passage, passages
from app.features.documents.extraction import Limits, MediaType, UnreadableError, extract
from app.features.documents.models import Document, DocumentPassage, Status
from app.features.documents.service.library import key
from app.features.documents.settings import DocumentsSettings

log = structlog.get_logger(__name__)

GIVEN_UP = "The file could not be processed. Upload it again to have another try."
# Texts given to the embedder at once; between two calls the lease of the task is renewed.
EMBED_AT_ONCE = 256
# Rows in one INSERT: each goes through the HNSW index at a few milliseconds, and a statement has a deadline.
INSERT_AT_ONCE = 200


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
