"""Taking documents away."""

from uuid import UUID

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.resources import Resources
from app.core.tasks import enqueue
from app.features.documents import tasks
from app.features.documents.models import Document
from app.features.documents.service.library import DocumentNotFound, key
from app.features.documents.service.uploads import quarantine_key


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


async def remove_object(resources: Resources, document_id: UUID) -> None:
    """Delete the file of a document that is gone; one that is already deleted is no error."""
    await resources.storage.delete(key(document_id))


async def remove_upload(resources: Resources, upload_id: UUID) -> None:
    """Delete what was sent to a signed address; nothing there is no error."""
    await resources.storage.delete(quarantine_key(upload_id))
