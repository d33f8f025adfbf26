"""Routes of documents. All of them see the documents of the person who asks, and no others."""

from typing import Annotated
from uuid import UUID

from fastapi import Query, Response, UploadFile

from app.core.access import Access
from app.core.api import feature_router
from app.core.errors import problem_responses
from app.core.idempotency import IDEMPOTENT
from app.core.pagination import Page, Paging
from app.core.resources import AppResources, Resources
from app.core.security import CurrentUser
from app.core.sse import EventStream
from app.features.documents import retrieval
from app.features.documents.models import Document, Status
from app.features.documents.schemas import (
    AnswerEvent,
    AskIn,
    DocumentOut,
    DownloadOut,
    FeedbackIn,
    Found,
    SearchIn,
    SearchOut,
    UploadIn,
    UploadOut,
)
from app.features.documents.service import answering, deletion, finding, library, uploads
from app.features.documents.service.finding import Finding
from app.features.documents.settings import DocumentsSettings

router = feature_router("documents")
ACCESS = {
    "POST /api/v1/documents": Access.SIGNED_IN,
    "GET /api/v1/documents": Access.SIGNED_IN,
    "POST /api/v1/documents/uploads": Access.SIGNED_IN,
    "POST /api/v1/documents/uploads/{upload_id:uuid}/complete": Access.SIGNED_IN,
    "GET /api/v1/documents/{document_id:uuid}/file": Access.SIGNED_IN,
    "POST /api/v1/documents/search": Access.SIGNED_IN,
    "POST /api/v1/documents/search/everywhere": Access.STAFF,
    "POST /api/v1/documents/answers": Access.SIGNED_IN,
    "POST /api/v1/documents/answers/{answer_id:uuid}/feedback": Access.SIGNED_IN,
    "GET /api/v1/documents/{document_id:uuid}": Access.SIGNED_IN,
    "DELETE /api/v1/documents/{document_id:uuid}": Access.SIGNED_IN,
}

_LOCATION = {"Location": {"description": "Where to ask how far it has come.", "schema": {"type": "string"}}}


@router.post(
    "",
    status_code=202,
    summary="Upload a document",
    dependencies=[IDEMPOTENT],
    response_description="Taken; it will be processed in the background.",
    responses={
        **problem_responses(401, 413, 415),
        200: {"model": DocumentOut, "description": "You have this very file already.", "headers": _LOCATION},
        202: {"headers": _LOCATION},
    },
)
async def upload(file: UploadFile, user: CurrentUser, resources: AppResources, response: Response) -> DocumentOut:
    """PDF, Word (DOCX), HTML, Markdown or plain text in UTF-8, recognised by its content. Ask for its status until it is `ready`.

    Uploading the same bytes again gives the document you have; if it had failed, it is processed again.
    """
    limit = resources.settings.of(DocumentsSettings).max_bytes
    data = await file.read(limit + 1)  # one more tells that it is too large
    document, working = await uploads.upload(resources, user.id, file.filename or "", data)
    return _taken(document, working, response)


@router.post(
    "/uploads",
    status_code=201,
    summary="Begin an upload to the object store",
    dependencies=[IDEMPOTENT],
    responses=problem_responses(401, 413, 415),
)
async def begin_upload(body: UploadIn, user: CurrentUser, resources: AppResources) -> UploadOut:
    """Signs an address to which the file is sent with PUT, past this service. Complete the upload afterwards.

    The address is good for this size only, and for these bytes when a digest is given and the store checks digests.
    """
    begun = await uploads.begin(resources, user.id, body.file_name, body.size, body.content_type, body.sha256)
    return UploadOut(id=begun.id, url=begun.put.url, headers=begun.put.headers, expires_at=begun.expires_at)


@router.post(
    "/uploads/{upload_id:uuid}/complete",
    status_code=202,
    summary="Complete an upload to the object store",
    response_description="Taken; it will be processed in the background.",
    responses={
        **problem_responses(401, 404, 409, 410, 413, 415),
        200: {"model": DocumentOut, "description": "You have this very file already.", "headers": _LOCATION},
        202: {"headers": _LOCATION},
    },
)
async def complete_upload(
    upload_id: UUID, user: CurrentUser, resources: AppResources, response: Response
) -> DocumentOut:
    """Checks what has arrived, and goes on as a direct upload does. Repeating it is safe: 200 with the same document.

    409: nothing has arrived yet. 410: too late. 422: other bytes arrived than announced. 415: not a kind that is taken;
    that ends the upload.
    """
    document, working = await uploads.complete(resources, user.id, upload_id)
    return _taken(document, working, response)


def _taken(document: Document, working: bool, response: Response) -> DocumentOut:
    response.status_code = 202 if working else 200
    response.headers["Location"] = f"{router.prefix}/{document.id}"
    return DocumentOut.model_validate(document)


@router.get("", summary="List your documents", responses=problem_responses(401))
async def list_documents(
    user: CurrentUser,
    resources: AppResources,
    paging: Paging,
    status: Annotated[Status | None, Query(description="Only those that have come so far.")] = None,
) -> Page[DocumentOut]:
    """Newest first, a page at a time."""
    async with resources.db.read() as session:
        found = await library.list_newest(session, user.id, paging, status=status)
    return paging.page(found, DocumentOut.model_validate)


@router.post("/search", summary="Search your documents", responses=problem_responses(401))
async def search(body: SearchIn, user: CurrentUser, resources: AppResources) -> SearchOut:
    """Finds passages by meaning (nearest vectors) and by words, and ranks those that both find first.

    Meaning is compared by the embedding provider of this service; the offline one compares words and parts of words only.
    """
    return _found(resources, body, await finding.find(resources, user.id, body.query, body.limit, body.min_score))


@router.post("/search/everywhere", summary="Search the documents of everybody", responses=problem_responses(401, 403))
async def search_everywhere(body: SearchIn, user: CurrentUser, resources: AppResources) -> SearchOut:
    """The same over the documents of all owners, for staff. Each such search is on record in the audit trail."""
    found = await finding.find_everywhere(resources, user.id, body.query, body.limit, body.min_score)
    return _found(resources, body, found)


def _found(resources: Resources, body: SearchIn, found: Finding) -> SearchOut:
    event = retrieval.begin(
        resources.settings,
        "search",
        body.query,
        found.hits,
        embedding_model=found.model,
        embed_seconds=found.embed_seconds,
        search_seconds=found.search_seconds,
    )
    retrieval.write(resources.settings, event)
    return SearchOut(results=[Found.model_validate(hit) for hit in found.hits], complete=found.complete)


@router.post(
    "/answers",
    status_code=200,
    summary="Ask your documents",
    response_class=EventStream,
    responses={
        **problem_responses(401),
        200: {
            "description": "Events: `sources` (numbered, with the answer's id), `text` (pieces in order, with citations as"
            " [1]), and at the end `done` (usage, citations) or `error` (code, detail). Comments keep the connection open.",
            "content": {"text/event-stream": {"schema": AnswerEvent.model_json_schema()}},
        },
    },
)
async def ask(body: AskIn, user: CurrentUser, resources: AppResources) -> EventStream:
    """Answers from passages of your documents alone, and names them; without any that fits, it says so.

    A failure before the first event is an ordinary error, one after it the event `error`. Closing the connection stops
    the model.
    """
    prepared = await answering.prepare(resources, user.id, body.question, body.sources)
    return EventStream(prepared.send)


@router.post(
    "/answers/{answer_id:uuid}/feedback",
    status_code=204,
    summary="Say whether an answer was right",
    responses=problem_responses(401, 404),
)
async def feedback(answer_id: UUID, body: FeedbackIn, user: CurrentUser, resources: AppResources) -> None:
    """Of an answer of your own; saying it again takes the place of what you said before."""
    async with resources.db.transaction() as session:
        await answering.judge(session, user.id, answer_id, body.verdict, body.comment)


@router.get("/{document_id:uuid}", summary="Look at a document", responses=problem_responses(401, 404))
async def get(document_id: UUID, user: CurrentUser, resources: AppResources) -> DocumentOut:
    """Its status tells whether it can be found yet."""
    async with resources.db.read() as session:
        return DocumentOut.model_validate(await library.get(session, user.id, document_id))


@router.get("/{document_id:uuid}/file", summary="Fetch a document's file", responses=problem_responses(401, 404))
async def fetch(document_id: UUID, user: CurrentUser, resources: AppResources, response: Response) -> DownloadOut:
    """A signed address, good for some minutes, that gives the file as it was uploaded, to be saved.

    Not a redirect: clients would send their Authorization header on to the store, which refuses two ways to sign in.
    """
    response.headers["Cache-Control"] = "no-store"
    return DownloadOut.model_validate(await library.download(resources, user.id, document_id), from_attributes=True)


@router.delete(
    "/{document_id:uuid}", status_code=204, summary="Delete a document", responses=problem_responses(401, 404)
)
async def delete(document_id: UUID, user: CurrentUser, resources: AppResources) -> None:
    """It is not found any more from now on; its file goes in the background."""
    async with resources.db.transaction() as session:
        await deletion.remove(session, user.id, document_id)
