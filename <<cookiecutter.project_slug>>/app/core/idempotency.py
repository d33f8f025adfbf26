"""Idempotency keys: a request that creates something may be repeated, and has one effect (IETF httpapi draft).

    @router.post("", status_code=201, dependencies=[IDEMPOTENT])
    async def create(body: InvoiceIn, user: CurrentUser, resources: AppResources) -> InvoiceOut: ...

A client that makes up a key for each thing it wants, and sends it as `Idempotency-Key` with every attempt, gets

* the first time: the thing;
* again with the same request: the stored answer, marked `Idempotency-Replayed: true`;
* again with another request: 422;
* while the first attempt is under way: 409 with Retry-After.

What is promised: **the work, its tasks and messages, and the stored answer commit in one transaction.** It is opened before
the handler, whose `db.transaction()` becomes a savepoint of it, and it commits before the first byte of the answer is
sent. So whoever is killed when, either all of it happened and a repetition gets the answer, or none of it and a repetition
does the work. "Under way" is a lock of that transaction, which ends with it, and with a process that is killed too.

What follows for such a handler:

* An answer of 400 or more undoes everything, and is not stored: a repetition is a new attempt. A handler that has to keep
  something of a refusal (a counter of attempts) must not be idempotent.
* What it does outside the database is not part of the transaction: make it harmless to repeat, or let a sweep find it.
* A connection of the pool is held while it works, also while it waits for something else.
* What it does in tasks of its own (`asyncio.create_task`, `gather`) is not part of it either.
* Its answer lies in the table for HTTP_IDEMPOTENCY_HOURS. One that carries a token says `Cache-Control: no-store` and is
  never stored; do not give such a route a key at all.

Keys belong to a person and a route; those of strangers share one room, so they should be random, as UUIDs are. Of the
request itself a keyed digest (HMAC) is kept, from which nothing can be guessed.
"""

import asyncio
import hashlib
import hmac
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import structlog
from fastapi import Depends, FastAPI, Header
from sqlalchemy import DateTime, Index, LargeBinary, Text, delete, func, select
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.db import Base
from app.core.errors import Conflict, UnprocessableContent, problem_responses
from app.core.resources import Resources
from app.core.security import PRINCIPAL, Principal
from app.core.settings import Settings
from app.core.tasks import Queue, task

log = structlog.get_logger(__name__)

HEADER = "Idempotency-Key"
REPLAYED = (b"idempotency-replayed", b"true")
LONGEST_KEY = 200
# Hashing this much at once takes a millisecond; more goes to a thread.
LARGE_BODY = 1_000_000
LARGEST_ANSWER = 1_000_000


class KeyReused(UnprocessableContent):
    """The same key with another request."""

    detail = "This Idempotency-Key came with another request before. Make up a new one for each thing you want."


class RequestUnderWay(Conflict):
    """The same key while the first request is being worked on."""

    detail = "The first request with this Idempotency-Key is under way. Try again in a moment for its answer."
    headers = {"Retry-After": "1"}  # noqa: RUF012  # annotated by the base class


class IdempotentAnswer(Base):
    """The answer to a request that had a key.

    Attributes:
        digest: SHA-256 of owner, route and key.
        owner: whose it is; None for a stranger's.
        fingerprint: a keyed digest of the request.
        headers: pairs of name and value.
    """

    __tablename__ = "idempotent_answers"
    __table_args__ = (Index("ix_idempotent_answers_created_at", "created_at"),)

    digest: Mapped[str] = mapped_column(Text, primary_key=True)
    owner: Mapped[UUID | None]
    fingerprint: Mapped[str] = mapped_column(Text)
    status: Mapped[int]
    headers: Mapped[list[list[str]]] = mapped_column(JSONB)
    body: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


async def _key(
    _key: Annotated[
        str | None,
        Header(
            alias=HEADER,
            min_length=1,
            max_length=LONGEST_KEY,
            pattern=r"^[\x21-\x7e]+$",
            description="Makes repeating this request safe: the same key and the same request have one effect, and get the"
            " same answer for a day. A UUID for each thing that you want.",
            examples=["8e03978e-40d5-43e8-bc93-6894a57f9324"],
        ),
    ] = None,
) -> None:
    """Describes the header, and refuses a bad one; what it does is done around the route."""


IDEMPOTENT: Any = Depends(_key)


def install_idempotency(app: FastAPI) -> None:
    """Put what is needed around every route that has `IDEMPOTENT` among its dependencies."""
    for route in app.routes:
        if isinstance(route, Route) and IDEMPOTENT in getattr(route, "dependencies", ()):
            route.app = _Once(route.app, route.path)
            route.responses = {**problem_responses(409), **route.responses}  # type: ignore[attr-defined]  # FastAPI's


class _Refused(Exception):
    """The handler did not do what was asked: undo what it did on the way."""


class _Once:
    """A route that has one effect for each key."""

    def __init__(self, inner: ASGIApp, path: str) -> None:
        self.inner = inner
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        keys = [value for name, value in scope["headers"] if name == b"idempotency-key"]
        # One that is no key is refused by the route itself.
        if len(keys) != 1 or not 1 <= len(keys[0]) <= LONGEST_KEY:
            await self.inner(scope, receive, send)
            return
        resources: Resources = scope["app"].state.resources
        principal: Principal | None = scope.get(PRINCIPAL)
        owner = principal.id if principal else None
        named = f"{owner or ''}\n{scope['method']} {self._path}\n".encode() + keys[0]
        digest = hashlib.sha256(named).hexdigest()
        body = await _whole_body(receive)
        fingerprint = await _fingerprint(resources.settings, scope, body)
        answer = _Answer()
        try:
            async with resources.db.whole() as session:
                known = await _claim(session, resources.settings, digest, fingerprint)
                if known is None:
                    await self.inner(scope, _replaying(body, receive), answer.take)
                    if answer.status >= 400:
                        raise _Refused
                    await _keep(session, answer, digest, owner, fingerprint)
        except _Refused:
            known = None
        if known is None:
            await answer.send(send)
            return
        log.info("request_repeated", route=self._path)
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in known.headers]
        await send({"type": "http.response.start", "status": known.status, "headers": [*headers, REPLAYED]})
        await send({"type": "http.response.body", "body": known.body})


class _Answer:
    """Holds an answer back until what it says is true."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""

    async def take(self, message: Message) -> None:
        """In place of `send`."""
        self._messages.append(message)
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message.get("headers", ()))
        else:
            self.body += message.get("body", b"")

    async def send(self, send: Send) -> None:
        """Now."""
        for message in self._messages:
            await send(message)


async def _whole_body(receive: Receive) -> bytes:
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return body  # nobody waits for the answer; what came is judged as what it is
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


def _replaying(body: bytes, receive: Receive) -> Receive:
    """The body once more, and then whatever comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _fingerprint(settings: Settings, scope: Scope, body: bytes) -> str:
    """What makes a request the same: its address and its content, whatever separates the parts of a form."""
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    _, _, boundary = kind.partition(b"boundary=")
    if kind.startswith(b"multipart/") and (boundary := boundary.split(b";")[0].strip(b'" ')):
        # Every client makes up a new one for each attempt.
        kind, body = kind.replace(boundary, b""), body.replace(boundary, b"")
    secret = settings.auth.secret_key.get_secret_value() or settings.auth.private_key.get_secret_value()
    digest = hmac.new(secret.encode(), b"idempotency\n", hashlib.sha256)
    for part in (scope["path"].encode(), scope["query_string"], kind):
        digest.update(part + b"\n")
    if len(body) > LARGE_BODY:
        await asyncio.to_thread(digest.update, body)
    else:
        digest.update(body)
    return digest.hexdigest()


async def _claim(session: AsyncSession, settings: Settings, digest: str, fingerprint: str) -> IdempotentAnswer | None:
    """The answer that there is; None when the work is ours to do.

    Raises:
        RequestUnderWay: somebody else is doing it.
        KeyReused: it was another request.
    """
    number = int(digest[:16], 16) - (1 << 63)
    # A second statement sees what was committed before the lock was given.
    if not await session.scalar(select(func.pg_try_advisory_xact_lock(number))):
        raise RequestUnderWay
    life = timedelta(hours=settings.http.idempotency_hours)
    known = await session.scalar(
        select(IdempotentAnswer).where(
            IdempotentAnswer.digest == digest, IdempotentAnswer.created_at > func.now() - life
        )
    )
    if known and not hmac.compare_digest(known.fingerprint, fingerprint):
        raise KeyReused
    return known


async def _keep(session: AsyncSession, answer: _Answer, digest: str, owner: UUID | None, fingerprint: str) -> None:
    headers = dict(answer.headers)
    if (
        b"set-cookie" in headers
        or b"no-store" in headers.get(b"cache-control", b"")
        or len(answer.body) > LARGEST_ANSWER
    ):
        log.error("answer_not_stored", detail="an idempotent route gave an answer that may not be kept")
        return
    values = {
        "owner": owner,
        "fingerprint": fingerprint,
        "status": answer.status,
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in answer.headers],
        "body": answer.body,
        "created_at": func.now(),
    }
    statement = insert(IdempotentAnswer).values(digest=digest, **values)
    # One that is there has expired.
    await session.execute(statement.on_conflict_do_update(index_elements=["digest"], set_=values))


@task("core.prune_answers", queue=Queue.LOW, durable=False)
async def prune(resources: Resources) -> None:
    """Forget the answers whose time is over."""
    life = timedelta(hours=resources.settings.http.idempotency_hours)
    async with resources.db.transaction() as session:
        await session.execute(delete(IdempotentAnswer).where(IdempotentAnswer.created_at < func.now() - life))
