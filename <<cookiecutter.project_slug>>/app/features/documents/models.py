"""Tables of documents."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import (
    CheckConstraint,
    Computed,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, REGCONFIG, TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from app.core.ai import DIMENSIONS
from app.core.db import Base, CreatedAt, PrimaryId


class Status(StrEnum):
    """How far a document has come."""

    PENDING = "pending"
    PROCESSING = "processing"
    READY = "ready"
    FAILED = "failed"


class Document(Base):
    """A file that somebody uploaded.

    Attributes:
        id: also the key of the object that holds the file.
        owner_id: whose it is; no foreign key, as people belong to another feature.
        file_name: as a download is called; the ending is that of the media type.
        sha256: digest of the file in hexadecimal; an owner has a file once.
        status: see `Status`.
        error: for the owner: why it failed.
        passages: how many it was cut into; 0 until then.
    """

    __tablename__ = "documents"
    __table_args__ = (
        UniqueConstraint("owner_id", "sha256"),
        # Ids sort by time, so this gives an owner's newest first.
        Index("ix_documents_owner_id_id", "owner_id", "id"),
        # What is at work is counted at every upload, and is a small part of the table.
        Index("ix_documents_unfinished", "id", postgresql_where=text("status IN ('pending', 'processing')")),
    )

    id: Mapped[PrimaryId]
    owner_id: Mapped[UUID]
    title: Mapped[str] = mapped_column(Text)
    file_name: Mapped[str] = mapped_column(Text)
    media_type: Mapped[str] = mapped_column(Text)
    size: Mapped[int]
    sha256: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text, default=Status.PENDING)
    error: Mapped[str | None] = mapped_column(Text)
    passages: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[CreatedAt]
    processed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class DocumentPassage(Base):
    """A piece of a document as the search finds it.

    Attributes:
        owner_id: the document's, repeated so that one index narrows a search to its owner.
        language: PostgreSQL's text search configuration that `words` was made with.
        words: the passage for full text search; its heading counts more.
    """

    __tablename__ = "document_passages"
    __table_args__ = (
        Index("ix_document_passages_owner_id", "owner_id"),
        Index("ix_document_passages_words", "words", postgresql_using="gin"),
    )

    document_id: Mapped[UUID] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    owner_id: Mapped[UUID]
    text: Mapped[str] = mapped_column(Text)
    heading: Mapped[str | None] = mapped_column(Text)
    page: Mapped[int | None]
    language: Mapped[str] = mapped_column(REGCONFIG)
    words: Mapped[Any] = mapped_column(
        TSVECTOR,
        Computed(
            "setweight(to_tsvector(language, coalesce(heading, '')), 'A')"
            " || setweight(to_tsvector(language, text), 'B')",
            persisted=True,
        ),
    )


class ModelState(StrEnum):
    """What a model's vectors are for."""

    ACTIVE = "active"  # searched
    COMING = "coming"  # being made, to take the active one's place
    LEAVING = "leaving"  # about to be deleted


class EmbeddingModel(Base):
    """A model that has vectors here. There is room for two, so that a new one can be made beside the one that is searched.

    Attributes:
        slot: 0 or 1; vectors name their model by it, and each slot has an HNSW index of its own.
        name: as the provider calls it.
        state: at most one model has each.
        done: while coming: the last document, by id, of those that have all their vectors.
        since: when it got into this state.
    """

    __tablename__ = "embedding_models"
    __table_args__ = (CheckConstraint("slot IN (0, 1)", name="slot"),)

    slot: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(Text, unique=True)
    state: Mapped[str] = mapped_column(Text, unique=True)
    done: Mapped[UUID | None]
    since: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class DocumentEmbedding(Base):
    """The vector of a passage by one model. Apart from the text, so that a search reads nothing else.

    Attributes:
        slot: the model's.
        owner_id: the document's, repeated so that one index narrows a search to its owner.
        embedding: unit vector; half precision takes half the room and loses nothing that a search would notice.
    """

    __tablename__ = "document_embeddings"
    __table_args__ = (
        ForeignKeyConstraint(
            ["document_id", "position"],
            ["document_passages.document_id", "document_passages.position"],
            ondelete="CASCADE",
        ),
        # A search within one owner who holds a small share of the table goes by this one, and sorts exactly.
        Index("ix_document_embeddings_owner_id_slot", "owner_id", "slot"),
        # ef_construction 128 instead of 64: recall@10 0.988 instead of 0.962 on 100,000 vectors, for two thirds more
        # building time and nothing at search time.
        *(
            Index(
                f"ix_document_embeddings_slot_{slot}",
                "embedding",
                postgresql_using="hnsw",
                postgresql_with={"m": 16, "ef_construction": 128},
                postgresql_ops={"embedding": "halfvec_cosine_ops"},
                postgresql_where=text(f"slot = {slot}"),
            )
            for slot in (0, 1)
        ),
    )

    document_id: Mapped[UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    slot: Mapped[int] = mapped_column(ForeignKey("embedding_models.slot"), primary_key=True, autoincrement=False)
    owner_id: Mapped[UUID]
    embedding: Mapped[Any] = mapped_column(HALFVEC(DIMENSIONS))


class DocumentUpload(Base):
    """Leave to put one file into the object store, by an address that is signed for it.

    Attributes:
        id: also in the key of the object, until the upload is completed.
        size: bytes announced; no others are taken.
        sha256: digest announced, in hexadecimal.
        expires_at: from then on it cannot be completed, and the sweep takes it away.
        document_id: what it became, so that completing it again gives the same answer.
    """

    __tablename__ = "document_uploads"
    __table_args__ = (Index("ix_document_uploads_owner_id", "owner_id"),)

    id: Mapped[PrimaryId]
    owner_id: Mapped[UUID]
    file_name: Mapped[str] = mapped_column(Text)
    size: Mapped[int]
    sha256: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)
    document_id: Mapped[UUID | None] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"), index=True)


class DocumentSweep(Base):
    """How far the comparison of rows and files has come.

    Attributes:
        id: 1; there is one row.
        reached: the last key of the object store that was looked at; the next run goes on behind it.
    """

    __tablename__ = "document_sweep"

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    reached: Mapped[str] = mapped_column(Text)


class DocumentAnswer(Base):
    """An answer that was given. Neither the question nor the text of it is kept.

    Attributes:
        id: also the id of its retrieval event in the log.
        owner_id: who asked, and alone may judge it.
        outcome: see `retrieval.Outcome`.
        model: which one answered; None when none was asked.
        sources: document, position and score of each passage it could rest on, in the order of their numbers.
        verdict: what the owner thinks of it: see `Verdict`.
    """

    __tablename__ = "document_answers"

    id: Mapped[PrimaryId]
    owner_id: Mapped[UUID]
    request_id: Mapped[str] = mapped_column(Text)
    outcome: Mapped[str] = mapped_column(Text)
    model: Mapped[str | None] = mapped_column(Text)
    sources: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    verdict: Mapped[str | None] = mapped_column(Text)
    comment: Mapped[str | None] = mapped_column(Text)
    judged_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now(), index=True)


class Verdict(StrEnum):
    """What somebody thinks of an answer."""

    HELPFUL = "helpful"
    WRONG = "wrong"
