"""What an owner has: looking a document up, listing, fetching its file, and where that is kept."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.errors import NotFound
from app.core.pagination import Place, Rows, fetch
from app.core.resources import Resources
from app.core.storage import ObjectNotFound
from app.features.documents.models import Document, Status
from app.features.documents.naming import attachment
from app.features.documents.settings import DocumentsSettings

PREFIX = "documents/"
LOST = "The file is lost. Upload it again."


class DocumentNotFound(NotFound):
    """No such document of this owner; whether somebody else has it is nobody's business."""

    detail = "There is no such document."


class FileLost(NotFound):
    """The document is there, and its file is not."""

    detail = LOST


@dataclass(frozen=True, slots=True)
class Download:
    """Where a file can be fetched, by anyone who has the address."""

    url: str
    file_name: str
    expires_at: datetime


def key(document_id: UUID) -> str:
    """Where the object store keeps the file."""
    return f"{PREFIX}{document_id}"


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
    session: AsyncSession, owner_id: UUID, place: Place, *, status: Status | None = None
) -> Rows[Document]:
    """A page of the owner's documents, newest first.

    Args:
        session: for reading.
        owner_id: whose.
        place: which page.
        status: only those that have come so far.

    Raises:
        BadCursor: the cursor is of another list.
    """
    query = select(Document).where(Document.owner_id == owner_id)
    if status:
        query = query.where(Document.status == status)
    return await fetch(session, query, place, by=(Document.id,))


async def download(resources: Resources, owner_id: UUID, document_id: UUID) -> Download:
    """An address for a document's file. The store is asked first: an address to nothing would be found out too late.

    Raises:
        DocumentNotFound: the owner has no such document.
        FileLost: the document has no file.
        StorageUnavailable: the store does not answer.
    """
    async with resources.db.read() as session:
        document = await get(session, owner_id, document_id)
    seconds = resources.settings.of(DocumentsSettings).download_seconds
    expires_at = datetime.now(UTC) + timedelta(seconds=seconds)
    try:
        await resources.storage.head(key(document_id))
    except ObjectNotFound as error:
        raise FileLost from error
    # The type is safe to say because the answer is saved and never shown.
    url = await resources.storage.presigned_url(
        key(document_id),
        seconds,
        content_type=document.media_type,
        disposition=attachment(document.file_name),
    )
    return Download(url, document.file_name, expires_at)
