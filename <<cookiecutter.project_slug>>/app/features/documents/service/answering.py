"""Answers: what was found becomes the sources of a model, whose words go to the client as they come.

Without a source no model is asked: it would answer from what it has read elsewhere. The passages are other people's words;
`app.core.ai.Prompt` sets them apart and tells the model that nothing in them is an instruction.
"""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.ai import Answer, Passage, Prompt
from app.core.errors import AppError, NotFound, Unavailable
from app.core.logging import request_id
from app.core.resources import Resources
from app.core.sse import Emit
from app.features.documents import retrieval
from app.features.documents.models import DocumentAnswer, Verdict
from app.features.documents.retrieval import Outcome, RetrievalEvent
from app.features.documents.search import Hit
from app.features.documents.service.citations import Citations
from app.features.documents.service.finding import Finding, find
from app.features.documents.settings import DocumentsSettings

log = structlog.get_logger(__name__)

NOTHING_FOUND = "Your documents say nothing about this."


class AnswerNotFound(NotFound):
    """No such answer to this person; whether somebody else has it is nobody's business."""

    detail = "There is no such answer."


class AnswerTooSlow(Unavailable):
    """DOCUMENTS_ANSWER_SECONDS are over."""

    detail = "The answer took too long. Try again."


class Answering:
    """One question on its way to an answer.

    Args:
        resources: what a feature works with.
        owner_id: who asks; the sources are that person's.
        question: in their words.
        finding: what was found.
        began: `time.perf_counter()` when the question came.
    """

    def __init__(self, resources: Resources, owner_id: UUID, question: str, finding: Finding, *, began: float) -> None:
        settings = resources.settings.of(DocumentsSettings)
        self.resources = resources
        self._settings = settings
        self._owner_id = owner_id
        self._question = question
        self._began = began
        self.sources = [
            hit
            for hit in finding.hits
            if hit.coverage >= settings.answer_coverage or (hit.similarity or 0.0) >= settings.answer_similarity
        ]
        self._complete = finding.complete
        self._truncated = False
        self._citations = Citations(len(self.sources))
        self.event: RetrievalEvent = retrieval.begin(
            resources.settings,
            "answer",
            question,
            self.sources,
            embedding_model=finding.model,
            embed_seconds=finding.embed_seconds,
            search_seconds=finding.search_seconds,
        )

    async def send(self, emit: Emit) -> None:
        """The whole answer as events: sources, text, text, …, and done or error."""
        # Until it has ended in another way: whatever cancels this is the client, or the end of the process.
        self.event.outcome = Outcome.DISCONNECTED
        try:
            await emit("sources", self._sources())
            try:
                async with asyncio.timeout(self._settings.answer_seconds):
                    if self.sources:
                        await self._ask(emit)
                        self.event.outcome = Outcome.ANSWERED
                    else:
                        await emit("text", {"text": NOTHING_FOUND})
                        self.event.outcome = Outcome.NOTHING
                await self._store()
                await emit("done", self._done())
            except TimeoutError:
                self.event.outcome = Outcome.TIMED_OUT
                await emit("error", _problem(AnswerTooSlow()))
            except AppError as error:
                self.event.outcome = Outcome.FAILED
                log.warning("answer_failed", error=repr(error))
                await emit("error", _problem(error))
            except Exception:
                self.event.outcome = Outcome.FAILED
                log.exception("answer_failed")
                await emit("error", _problem(AppError()))
        finally:
            self.event.milliseconds.total = self._passed()
            self.event.citations = self._citations.named
            retrieval.CITATIONS.labels("known").inc(len(self._citations.named))
            retrieval.CITATIONS.labels("invented").inc(self._citations.invented)
            retrieval.write(self.resources.settings, self.event)

    async def _ask(self, emit: Emit) -> None:
        prompt = prompt_of(self._question, self.sources)
        self.event.model = self.resources.answerer.model
        answer: Answer | None = None
        try:
            async with self.resources.answerer.answer(prompt) as answer:
                self.event.milliseconds.first_text = self._passed()
                retrieval.FIRST_TEXT_SECONDS.observe(time.perf_counter() - self._began)
                async for piece in answer:
                    if text := self._citations.feed(piece):
                        await emit("text", {"text": text})
                if text := self._citations.rest():
                    await emit("text", {"text": text})
        finally:
            # What was written is paid for, also when nobody waits for the rest.
            if answer is not None and answer.usage is not None:
                self.event.spend(answer.usage)
                self._truncated = answer.usage.truncated

    def _sources(self) -> dict[str, Any]:
        return {
            "answer_id": self.event.id,
            "complete": self._complete,
            "sources": [
                {
                    "number": number,
                    "document_id": hit.document_id,
                    "title": hit.title,
                    "page": hit.page,
                    "heading": hit.heading,
                    "passage": hit.passage,
                    "score": hit.score,
                }
                for number, hit in enumerate(self.sources, 1)
            ],
        }

    def _done(self) -> dict[str, Any]:
        event = self.event
        return {
            "answer_id": event.id,
            "outcome": event.outcome,
            "citations": self._citations.named,
            "truncated": self._truncated,
            "usage": {
                "model": event.model,
                "input_tokens": event.input_tokens or 0,
                "output_tokens": event.output_tokens or 0,
                "cost": None if event.cost is None else float(event.cost),
            },
        }

    async def _store(self) -> None:
        """Keep what feedback refers to. An answer that was given is not taken back because this failed."""
        try:
            async with self.resources.db.transaction() as session:
                session.add(
                    DocumentAnswer(
                        id=self.event.id,
                        owner_id=self._owner_id,
                        request_id=request_id.get(),
                        outcome=self.event.outcome,
                        model=self.event.model,
                        sources=[source.model_dump(mode="json") for source in self.event.sources],
                    )
                )
        except AppError as error:
            log.warning("answer_not_stored", answer_id=str(self.event.id), error=repr(error))

    def _passed(self) -> float:
        return retrieval.milliseconds(time.perf_counter() - self._began)


async def prepare(resources: Resources, owner_id: UUID, question: str, sources: int) -> Answering:
    """Find the sources of an answer; what fails here is an error with a status, as nothing has been sent yet."""
    began = time.perf_counter()
    finding = await find(resources, owner_id, question, sources)
    return Answering(resources, owner_id, question, finding, began=began)


def prompt_of(question: str, sources: Sequence[Hit]) -> Prompt:
    """What the model is asked: the passages with where they stand, then the question."""
    return Prompt(question, [Passage(hit.passage, _place(hit)) for hit in sources])


def _place(hit: Hit) -> str:
    page = f"page {hit.page}" if hit.page else None
    return ", ".join(filter(None, (hit.title, hit.heading, page)))


def _problem(error: AppError) -> dict[str, Any]:
    """As much of a problem document as fits after the status was sent."""
    return {
        "code": error.code(),
        "detail": error.detail,
        "request_id": request_id.get(),
        "retry": isinstance(error, Unavailable),
    }


# What people think of it


async def judge(session: AsyncSession, owner_id: UUID, answer_id: UUID, verdict: Verdict, comment: str | None) -> None:
    """Keep what the person who asked thinks of an answer; a later judgement takes the place of the earlier one.

    Raises:
        AnswerNotFound: this person has no such answer.
    """
    mine = (DocumentAnswer.id == answer_id, DocumentAnswer.owner_id == owner_id)
    before = (await session.execute(select(DocumentAnswer.verdict).where(*mine).with_for_update())).one_or_none()
    if before is None:
        raise AnswerNotFound
    await session.execute(
        update(DocumentAnswer).where(*mine).values(verdict=verdict, comment=comment, judged_at=func.now())
    )
    if before.verdict != verdict:
        retrieval.FEEDBACK.labels(verdict).inc()


async def forget_old(resources: Resources) -> int:
    """Delete the answers older than DOCUMENTS_ANSWER_DAYS; returns how many."""
    days = resources.settings.of(DocumentsSettings).answer_days
    async with resources.db.transaction() as session:
        gone = await session.execute(
            delete(DocumentAnswer).where(DocumentAnswer.created_at < datetime.now(UTC) - timedelta(days=days))
        )
    return int(gone.rowcount)  # type: ignore[attr-defined]  # of a DELETE it is there
