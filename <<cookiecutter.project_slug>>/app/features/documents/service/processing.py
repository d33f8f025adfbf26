"""From a file to passages that can be found, in slices.

A document is cut into passages in one transaction, and those are embedded a batch at a time, each kept when it is made.
So a run that breaks off loses one batch at most, and one that takes long can make room: after `SLICE_SECONDS` it asks
for a further task, on the least urgent queue, and ends. Small documents never wait for all of a large one.
"""

import time
from collections.abc import Sequence
from uuid import UUID

import structlog
from pgvector import HalfVector
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as insert_or

from app.core.resources import Resources
from app.core.storage import ObjectNotFound
from app.core.tasks import enqueue
from app.features.documents import tasks
from app.features.documents.embedding import embedder_of, wanted_models
from app.features.documents.extraction import MediaType, UnreadableError
from app.features.documents.models import Document, DocumentEmbedding, DocumentPassage, EmbeddingModel, Status
from app.features.documents.service import notices, reading
from app.features.documents.service.library import LOST, key
from app.features.documents.settings import DocumentsSettings

log = structlog.get_logger(__name__)

GIVEN_UP = "The file could not be processed. Upload it again to have another try."
# How long one task embeds before it lets others have its turn.
SLICE_SECONDS = 20.0
# Texts given to the embedder at once, and kept at once.
EMBED_AT_ONCE = 256
# Rows in one INSERT: each goes through an index at up to a few milliseconds, and a statement has a deadline.
INSERT_AT_ONCE = 200


async def process(resources: Resources, document_id: UUID) -> None:
    """Make a document searchable, or go on with it: read its file, cut it into passages, embed them.

    May run any number of times, and at once; all runs together end in the same state. A fault of the file ends in the
    status "failed"; a fault of a neighbour raises, so that the task runs again and goes on where it broke off.
    """
    document = await _begin(resources, document_id)
    if document is None:
        return
    await notices.tell(resources, document.owner_id, document_id, Status.PROCESSING)
    if not document.passages:
        try:
            await _cut(resources, document)
        except UnreadableError as error:
            await fail(resources, document_id, str(error))
            return
        except ObjectNotFound:
            await fail(resources, document_id, LOST)
            return
    deadline = time.monotonic() + SLICE_SECONDS
    ready = False
    while not ready:
        async with resources.db.transaction() as session:
            models = await wanted_models(session, default=resources.embedder.model)
        for model in models:
            if not await embed(resources, document_id, model, deadline):
                async with resources.db.transaction() as session:
                    enqueue(session, tasks.process_large, str(document_id))
                return
        ready = await _finish(resources, document_id, models)


async def fail(resources: Resources, document_id: UUID, reason: str) -> None:
    """Say that a document cannot be processed, and why; one that is ready stays so. What it had of passages goes."""
    async with resources.db.transaction() as session:
        failed = await session.scalar(
            update(Document)
            .where(Document.id == document_id, Document.status != Status.READY)
            .values(status=Status.FAILED, error=reason, passages=0, processed_at=func.now())
            .returning(Document.owner_id)
        )
        if failed:
            await session.execute(delete(DocumentPassage).where(DocumentPassage.document_id == document_id))
    if failed:
        await notices.tell(resources, failed, document_id, Status.FAILED, error=reason)
    log.info("document_failed", document_id=str(document_id), reason=reason)


async def embed(resources: Resources, document_id: UUID, model: EmbeddingModel, deadline: float) -> bool:
    """Make the vectors that a document lacks of one model, in order, and keep each batch.

    Args:
        resources: what a feature works with.
        document_id: cut into passages already.
        model: whose vectors.
        deadline: of `time.monotonic()`; no batch begins after it.

    Returns:
        False when there is more to do; True as well when the document was deleted meanwhile.
    """
    reached = select(func.coalesce(func.max(DocumentEmbedding.position), -1)).where(
        DocumentEmbedding.document_id == document_id, DocumentEmbedding.slot == model.slot
    )
    missing = (
        select(DocumentPassage)
        .where(DocumentPassage.document_id == document_id, DocumentPassage.position > reached.scalar_subquery())
        .order_by(DocumentPassage.position)
        .limit(EMBED_AT_ONCE)
    )
    async with embedder_of(resources, model.name) as embedder:
        while True:
            # Not `read`, which may be a replica's: what it does not have yet would count as embedded.
            async with resources.db.transaction() as session:
                batch = (await session.scalars(missing)).all()
            if not batch:
                return True
            if time.monotonic() > deadline:
                return False
            vectors = await embedder.embed([_embedded_text(passage) for passage in batch])
            await _keep(resources, model, batch, vectors)


async def _begin(resources: Resources, document_id: UUID) -> Document | None:
    """Show that work is under way; None when there is none, for the document is gone or ready."""
    async with resources.db.transaction() as session:
        return await session.scalar(
            update(Document)
            .where(Document.id == document_id, Document.status != Status.READY)
            .values(status=Status.PROCESSING, error=None)
            .returning(Document)
        )


async def _cut(resources: Resources, document: Document) -> None:
    """Store the passages of a document, in one transaction."""
    data = await resources.storage.get(key(document.id))
    settings = resources.settings.of(DocumentsSettings)
    found = await reading.read(data, MediaType(document.media_type), settings)
    async with resources.db.transaction() as session:
        # The lock keeps a second run of this task, and a deletion, waiting until the passages are whole.
        cut = await session.scalar(select(Document.passages).where(Document.id == document.id).with_for_update())
        if cut != 0:  # cut by another run, or deleted
            return
        await session.execute(delete(DocumentPassage).where(DocumentPassage.document_id == document.id))
        rows = [
            {
                "document_id": document.id,
                "position": passage.position,
                "owner_id": document.owner_id,
                "text": passage.text,
                "heading": passage.heading,
                "page": passage.page,
                "language": settings.language,
            }
            for passage in found
        ]
        for start in range(0, len(rows), INSERT_AT_ONCE):
            await session.execute(insert(DocumentPassage), rows[start : start + INSERT_AT_ONCE])
        await session.execute(update(Document).where(Document.id == document.id).values(passages=len(found)))


def _embedded_text(passage: DocumentPassage) -> str:
    return f"{passage.heading}\n{passage.text}" if passage.heading else passage.text


async def _keep(
    resources: Resources, model: EmbeddingModel, batch: Sequence[DocumentPassage], vectors: Sequence[list[float]]
) -> None:
    """Store the vectors of a batch, all or none; those that another run has stored meanwhile stay."""
    rows = [
        {
            "document_id": passage.document_id,
            "position": passage.position,
            "slot": model.slot,
            "owner_id": passage.owner_id,
            "embedding": HalfVector(vector),
        }
        for passage, vector in zip(batch, vectors, strict=True)
    ]
    document_id = batch[0].document_id
    async with resources.db.transaction() as session:
        # A deletion waits, so that the vectors do not miss their passages.
        locked = select(Document.id).where(Document.id == document_id).with_for_update(read=True, key_share=True)
        if await session.scalar(locked) is None:
            return
        for start in range(0, len(rows), INSERT_AT_ONCE):
            await session.execute(
                insert_or(DocumentEmbedding).on_conflict_do_nothing(), rows[start : start + INSERT_AT_ONCE]
            )


async def _finish(resources: Resources, document_id: UUID, models: Sequence[EmbeddingModel]) -> bool:
    """Call a document ready that has the vectors of `models`; False when others are wanted by now."""
    async with resources.db.transaction() as session:
        wanted = await wanted_models(session, default=resources.embedder.model, lock=True)
        if {(model.slot, model.name) for model in wanted} - {(model.slot, model.name) for model in models}:
            return False
        found = await session.execute(
            update(Document)
            .where(Document.id == document_id, Document.status != Status.READY)
            .values(status=Status.READY, error=None, processed_at=func.now())
            .returning(Document.owner_id, Document.passages)
        )
        done = found.one_or_none()
    if done:
        log.info("document_ready", document_id=str(document_id), passages=done.passages)
        await notices.tell(resources, done.owner_id, document_id, Status.READY, passages=done.passages)
    return True
