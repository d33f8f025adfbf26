"""Taking files in: sent to the API, or to the object store by a signed address and then completed.

The file goes to the object store before its row is committed, under a key made of the document's id. A crash between the
two leaves an object without a row, which `sweep` finds; the other order could leave a row without a file.

What comes by a signed address lands in quarantine. Completing reads it, judges what was read, and stores that under the
document's key: whoever has the address can still overwrite the object in quarantine, and would be too late.
"""

import asyncio
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert as insert_or
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import new_id
from app.core.errors import (
    AppError,
    Conflict,
    NotFound,
    PayloadTooLarge,
    Unavailable,
    UnprocessableContent,
    UnsupportedMediaType,
)
from app.core.resources import Resources
from app.core.storage import PLAIN_BYTES, QUARANTINE, ObjectNotFound, SignedPut
from app.core.tasks import enqueue
from app.features.documents import tasks
from app.features.documents.extraction import MediaType, UnsupportedError, detect
from app.features.documents.extraction.text import clean_line
from app.features.documents.models import Document, DocumentUpload, Status
from app.features.documents.naming import file_name_of, title_of
from app.features.documents.service.library import DocumentNotFound, key
from app.features.documents.settings import DocumentsSettings

UNFINISHED = (Status.PENDING, Status.PROCESSING)
# By then a worker has taken a few more; the clients of a full queue should not ask every second.
MINUTE = MappingProxyType({"Retry-After": "60"})


class DocumentTooLarge(PayloadTooLarge):
    """More bytes than DOCUMENTS_MAX_BYTES."""


class DocumentEmpty(UnprocessableContent):
    """A file of no bytes."""

    detail = "The file is empty."


class UnsupportedDocument(UnsupportedMediaType):
    """The bytes are of no kind that is understood, or of two at once."""


class BacklogFull(Unavailable):
    """More documents wait than DOCUMENTS_BACKLOG."""

    detail = "More documents are waiting than can be worked off soon. Try again in a minute."
    headers = MINUTE


class TooManyWaiting(AppError):
    """More documents, or uploads, of one person wait than one may have."""

    status = 429
    detail = "Too many of your documents are waiting. Try again when some are ready."
    headers = MINUTE


class UploadNotFound(NotFound):
    """No such upload of this owner."""

    detail = "There is no such upload."


class UploadExpired(AppError):
    """Completed too late."""

    status = 410
    detail = "The time for this upload is over. Begin a new one."


class UploadMissing(Conflict):
    """Completed before it was sent."""

    detail = "The file has not arrived. Send it to the signed address first."


class UploadDiffers(UnprocessableContent):
    """Other bytes arrived than were announced."""

    detail = "The file that arrived is not the one that was announced. Send it again, or begin a new upload."


@dataclass(frozen=True, slots=True)
class Begun:
    """An upload that may now be sent to the store."""

    id: UUID
    put: SignedPut
    expires_at: datetime


async def upload(resources: Resources, owner_id: UUID, file_name: str, data: bytes) -> tuple[Document, bool]:
    """Take a file in and have it processed.

    Args:
        resources: what a feature works with.
        owner_id: whose it will be.
        file_name: as the client says; title and name of the download are made of it.
        data: the whole file.

    Returns:
        The document, and whether there is work to do: False when the owner has these bytes already.

    Raises:
        DocumentEmpty, DocumentTooLarge, UnsupportedDocument: the file is not taken.
        BacklogFull, TooManyWaiting: no file is taken at the moment.
        StorageUnavailable: nothing was changed.
    """
    _check_size(resources, len(data))
    return await _accept(resources, owner_id, file_name, data)


async def begin(
    resources: Resources, owner_id: UUID, file_name: str, size: int, content_type: str | None, sha256: str | None
) -> Begun:
    """Sign an address for one file.

    Args:
        resources: what a feature works with.
        owner_id: whose it will be.
        file_name: as the client says.
        size: bytes announced.
        content_type: what the client takes it for; a kind that is not taken is refused now rather than after the upload.
        sha256: digest announced, in hexadecimal.

    Raises:
        DocumentEmpty, DocumentTooLarge, UnsupportedDocument: such a file is not taken.
        BacklogFull, TooManyWaiting: no file is taken at the moment.
    """
    settings = resources.settings.of(DocumentsSettings)
    _check_size(resources, size)
    if content_type and not _may_be_taken(content_type):
        raise UnsupportedDocument(str(UnsupportedError()))
    await _check_backlog(resources, owner_id)
    upload_id = new_id()
    digest = bytes.fromhex(sha256) if sha256 else None
    # Before the row: signing asks nobody, and a row without an address would only be swept.
    expires_at = datetime.now(UTC) + timedelta(seconds=settings.upload_seconds)
    put = await resources.storage.presigned_put(
        quarantine_key(upload_id), settings.upload_seconds, size=size, sha256=digest
    )
    async with resources.db.transaction() as session:
        opened = await session.scalar(
            select(func.count()).where(
                DocumentUpload.owner_id == owner_id,
                DocumentUpload.document_id.is_(None),
                DocumentUpload.expires_at > func.now(),
            )
        )
        if (opened or 0) >= settings.uploads_open:
            raise TooManyWaiting("Too many of your uploads are begun and not completed. Complete some first.")
        session.add(
            DocumentUpload(
                id=upload_id,
                owner_id=owner_id,
                file_name=clean_line(file_name),
                size=size,
                sha256=sha256,
                expires_at=expires_at,
            )
        )
    return Begun(upload_id, put, expires_at)


async def complete(resources: Resources, owner_id: UUID, upload_id: UUID) -> tuple[Document, bool]:
    """Take in what arrived at a signed address. May be repeated, with the same answer.

    Returns:
        As `upload`.

    Raises:
        UploadNotFound, UploadExpired, UploadMissing, UploadDiffers: there is nothing to take in.
        As `upload`.
    """
    async with resources.db.read() as session:
        found = await session.scalars(
            select(DocumentUpload).where(DocumentUpload.id == upload_id, DocumentUpload.owner_id == owner_id)
        )
        begun = found.one_or_none()
        if begun is None:
            raise UploadNotFound
        if begun.document_id and (known := await session.get(Document, begun.document_id)):
            return known, False
    if begun.expires_at < datetime.now(UTC):
        raise UploadExpired
    try:
        # One more byte tells that it is too large, whatever the store let through.
        data = await resources.storage.get(quarantine_key(upload_id), begun.size + 1)
    except ObjectNotFound as error:
        raise UploadMissing from error
    if len(data) != begun.size:
        raise UploadDiffers
    try:
        return await _accept(resources, owner_id, begun.file_name, data, begun)
    except UnsupportedDocument:
        async with resources.db.transaction() as session:
            await session.execute(delete(DocumentUpload).where(DocumentUpload.id == upload_id))
            enqueue(session, tasks.remove_upload, str(upload_id))
        raise


def quarantine_key(upload_id: UUID) -> str:
    """Where the object store keeps what was sent to a signed address."""
    return f"{QUARANTINE}{upload_id}"


def _check_size(resources: Resources, size: int) -> None:
    limit = resources.settings.of(DocumentsSettings).max_bytes
    if size > limit:
        raise DocumentTooLarge(f"The file is larger than {limit:,} bytes.")
    if not size:
        raise DocumentEmpty


def _may_be_taken(content_type: str) -> bool:
    """Whether what a client takes a file for could be a kind that is taken; browsers know few kinds, and guess by names."""
    declared = content_type.partition(";")[0].strip().lower()
    return declared.startswith("text/") or declared in {*MediaType, PLAIN_BYTES, "application/json"}


async def _check_backlog(resources: Resources, owner_id: UUID) -> None:
    """Refuse what would wait too long: better now, with an answer, than in a queue that only grows."""
    settings = resources.settings.of(DocumentsSettings)
    waiting = select(Document.owner_id).where(Document.status.in_(UNFINISHED)).limit(settings.backlog).subquery()
    own = func.count().filter(waiting.c.owner_id == owner_id)
    async with resources.db.read() as session:
        everybody, mine = (await session.execute(select(func.count(), own).select_from(waiting))).one()
    if mine >= settings.backlog_per_person:
        raise TooManyWaiting
    if everybody >= settings.backlog:
        raise BacklogFull


async def _accept(
    resources: Resources, owner_id: UUID, file_name: str, data: bytes, begun: DocumentUpload | None = None
) -> tuple[Document, bool]:
    """Judge the bytes, and make a document of them unless the owner has it."""
    try:
        digest, media_type = await asyncio.to_thread(_judge, data, begun.sha256 if begun else None)
    except UnsupportedError as error:
        raise UnsupportedDocument(str(error)) from error
    async with resources.db.read() as session:
        known = await _by_digest(session, owner_id, digest)
    if known and known.status != Status.FAILED:
        return await _known(resources, known, begun)
    await _check_backlog(resources, owner_id)
    # Also when there was an earlier try: its file may be what was lost.
    document_id = known.id if known else new_id()
    # No media type: a store that serves the file to a browser must not make it run what a stranger wrote.
    await resources.storage.put(key(document_id), data, PLAIN_BYTES)
    async with resources.db.transaction() as session:
        if known:
            made = await _reset(session, known.id)
        else:
            made = await _insert(session, document_id, owner_id, file_name, media_type, len(data), digest)
        if made:
            large = len(data) >= resources.settings.of(DocumentsSettings).large_bytes
            enqueue(session, tasks.process_large if large else tasks.process, str(document_id))
            await _close(session, begun, document_id)
            return made, True
        if not known:  # the same bytes came in twice at once, and the other upload won
            enqueue(session, tasks.remove_object, str(document_id))
    async with resources.db.read() as session:
        known = await _by_digest(session, owner_id, digest)
    if known is None:
        raise DocumentNotFound("The document was deleted while it was uploaded. Upload it again.")
    return await _known(resources, known, begun)


def _judge(data: bytes, announced: str | None) -> tuple[str, MediaType]:
    digest = hashlib.sha256(data).hexdigest()
    if announced and digest != announced:
        raise UploadDiffers
    return digest, detect(data)


async def _known(resources: Resources, known: Document, begun: DocumentUpload | None) -> tuple[Document, bool]:
    if begun:
        async with resources.db.transaction() as session:
            await _close(session, begun, known.id)
    return known, False


async def _insert(
    session: AsyncSession,
    document_id: UUID,
    owner_id: UUID,
    file_name: str,
    media_type: MediaType,
    size: int,
    digest: str,
) -> Document | None:
    """The new row, or None when the owner has these bytes by now."""
    return await session.scalar(
        insert_or(Document)
        .values(
            id=document_id,
            owner_id=owner_id,
            title=title_of(file_name),
            file_name=file_name_of(file_name, media_type),
            media_type=media_type,
            size=size,
            sha256=digest,
        )
        .on_conflict_do_nothing(index_elements=["owner_id", "sha256"])
        .returning(Document)
    )


async def _reset(session: AsyncSession, document_id: UUID) -> Document | None:
    """Have a failed document processed again; None when somebody else was faster, with this or with deleting it."""
    return await session.scalar(
        update(Document)
        .where(Document.id == document_id, Document.status == Status.FAILED)
        .values(status=Status.PENDING, error=None)
        .returning(Document)
    )


async def _close(session: AsyncSession, begun: DocumentUpload | None, document_id: UUID) -> None:
    """Note what an upload became, and have its object in quarantine deleted."""
    if begun:
        await session.execute(
            update(DocumentUpload).where(DocumentUpload.id == begun.id).values(document_id=document_id)
        )
        enqueue(session, tasks.remove_upload, str(begun.id))


async def _by_digest(session: AsyncSession, owner_id: UUID, digest: str) -> Document | None:
    found = await session.scalars(select(Document).where(Document.owner_id == owner_id, Document.sha256 == digest))
    return found.one_or_none()
