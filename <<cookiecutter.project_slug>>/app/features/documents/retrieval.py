"""What is kept of a search or an answer: one line in the log, and metrics. Neither holds a question, a passage or an answer.

The line is written whatever LOG_LEVEL says: it is data, from which people see what is asked often, what finds nothing,
what is slow and what it costs. A question is in it as a keyed hash: the same one can be counted, and whoever reads the log
cannot try out which one it was.
"""

import hmac
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Literal
from uuid import UUID

import structlog
from prometheus_client import Counter, Histogram
from pydantic import BaseModel, ConfigDict

from app.core.ai import Usage
from app.core.db import new_id
from app.core.logging import json_line, request_id, user_id
from app.core.settings import Settings
from app.features.documents.search import Hit

log = structlog.get_logger(__name__)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
RETRIEVALS = Counter("retrievals_total", "Searches and answers, by outcome.", ["kind", "outcome"])
RETRIEVAL_SECONDS = Histogram(
    "retrieval_duration_seconds", "Time of the parts of a search: embed, search.", ["part"], buckets=SECONDS
)
FIRST_TEXT_SECONDS = Histogram(
    "answer_first_token_seconds", "Time from the question to the first text of its answer.", buckets=SECONDS
)
CITATIONS = Counter("answer_citations_total", "Sources that answers named: known ones, and invented ones.", ["kind"])
FEEDBACK = Counter("answer_feedback_total", "What people thought of answers: helpful, wrong.", ["verdict"])


class Outcome(StrEnum):
    """How a search or an answer ended."""

    FOUND = "found"  # a search with results
    NOTHING = "nothing"  # no passage that says anything about it: no model was asked
    ANSWERED = "answered"
    FAILED = "failed"  # the provider's fault, or ours
    TIMED_OUT = "timed_out"
    DISCONNECTED = "disconnected"  # the client went


class Milliseconds(BaseModel):
    """Where the time went."""

    model_config = ConfigDict(extra="forbid")

    embed: float
    search: float
    first_text: float | None = None
    total: float


class Source(BaseModel):
    """A passage that was found, by its place."""

    model_config = ConfigDict(extra="forbid")

    document_id: UUID
    chunk: int
    rank: int
    score: float


class RetrievalEvent(BaseModel):
    """One search or answer.

    Attributes:
        id: also of the stored answer, which feedback refers to.
        question: HMAC-SHA256 of it; the key is derived from the one that signs tokens.
        embedding_model: whose vectors were compared; None when words alone decided.
        model: which one answered.
        cost: US dollars; None when no price is known.
        citations: numbers of the sources that the answer names.
    """

    model_config = ConfigDict(extra="forbid")

    id: UUID
    kind: Literal["search", "answer"]
    outcome: Outcome
    request_id: str
    user_id: str
    question: str
    embedding_model: str | None
    milliseconds: Milliseconds
    sources: list[Source]
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: Decimal | None = None
    citations: list[int] = []

    def spend(self, usage: Usage) -> None:
        """Note what the model took."""
        self.model, self.cost = usage.model, usage.cost
        self.input_tokens, self.output_tokens = usage.input_tokens, usage.output_tokens


def begin(
    settings: Settings,
    kind: Literal["search", "answer"],
    question: str,
    hits: Sequence[Hit],
    *,
    embedding_model: str | None,
    embed_seconds: float,
    search_seconds: float,
) -> RetrievalEvent:
    """The event of what was found; `write` it when all is over."""
    RETRIEVAL_SECONDS.labels("embed").observe(embed_seconds)
    RETRIEVAL_SECONDS.labels("search").observe(search_seconds)
    total = embed_seconds + search_seconds
    return RetrievalEvent(
        id=new_id(),
        kind=kind,
        outcome=Outcome.FOUND if hits else Outcome.NOTHING,
        request_id=request_id.get(),
        user_id=user_id.get(),
        question=question_hash(settings, question),
        embedding_model=embedding_model,
        milliseconds=Milliseconds(
            embed=milliseconds(embed_seconds), search=milliseconds(search_seconds), total=milliseconds(total)
        ),
        sources=[
            Source(document_id=hit.document_id, chunk=hit.position, rank=rank, score=hit.score)
            for rank, hit in enumerate(hits, 1)
        ],
    )


def write(settings: Settings, event: RetrievalEvent) -> None:
    """Log and count it."""
    RETRIEVALS.labels(event.kind, event.outcome).inc()
    fields = event.model_dump(mode="json")
    if settings.log.format == "json":
        # Straight to bytes, as the access log: every field is known to hold no personal data.
        line = {"event": "retrieval", "level": "info", "service": "api", "timestamp": datetime.now(UTC), **fields}
        sys.stdout.buffer.write(json_line(line) + b"\n")
        sys.stdout.buffer.flush()
    else:
        log.info("retrieval", **fields)


def question_hash(settings: Settings, question: str) -> str:
    """The question as the log may know it: equal for equal questions, and useless without the key."""
    secret = settings.auth.secret_key.get_secret_value() or settings.auth.private_key.get_secret_value()
    key = hmac.digest(secret.encode(), b"documents: hashes of questions", "sha256")
    return hmac.digest(key, " ".join(question.casefold().split()).encode(), "sha256").hex()


def milliseconds(seconds: float) -> float:
    """Rounded for the log."""
    return round(seconds * 1000, 2)
