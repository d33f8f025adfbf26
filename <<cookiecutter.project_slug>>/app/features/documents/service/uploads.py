"""Taking files in.

The file goes to the object store before its row is committed, under a key made of the document's id. A crash between the
two leaves an object without a row, which `sweep` finds; the other order could leave a row without a file.
"""

import asyncio
import hashlib
from pathlib import PureWindowsPath
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert as insert_or
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import new_id
from app.core.errors import PayloadTooLarge, UnprocessableContent
from app.core.resources import Resources
from app.core.tasks import enqueue
from app.features.documents import tasks
from app.features.documents.extraction import detect
from app.features.documents.extraction.text import clean_line, shorten
from app.features.documents.models import Document, Status
from app.features.documents.service.library import DocumentNotFound, key
from app.features.documents.settings import DocumentsSettings

MAX_TITLE = 200


class DocumentTooLarge(PayloadTooLarge):
    """More bytes than DOCUMENTS_MAX_BYTES."""


class DocumentEmpty(UnprocessableContent):
    """A file of no bytes."""

    detail = "The file is empty."


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
                file_name=title_of(file_name),
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
