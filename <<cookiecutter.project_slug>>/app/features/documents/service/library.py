"""What an owner has: looking a document up, listing, and where its file is kept."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.errors import NotFound
from app.features.documents.models import Document

PREFIX = "documents/"


class DocumentNotFound(NotFound):
    """No such document of this owner; whether somebody else has it is nobody's business."""

    detail = "There is no such document."


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
