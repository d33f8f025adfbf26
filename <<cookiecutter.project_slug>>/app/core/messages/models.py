"""Tables of messages."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import DateTime, Index, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base, CreatedAt, PrimaryId
from app.core.encryption import Sealed


class State(StrEnum):
    """Where a message stands; the last three are for good."""

    QUEUED = "queued"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    SANDBOXED = "sandboxed"


class MessageRow(Base):
    """A message, and afterwards the memory of it.

    Attributes:
        id: also what the provider is given to recognise a repetition by.
        key: given by the sender; a second message with the same key is not made.
        receiver: masked.
        sealed: the whole message as JSON, encrypted, only as long as it may still go out or lies in the sandbox.
        content: the same in plain text, as versions before `sealed` wrote it; read, never written, and dropped one day.
        attempts: how often it was handed to the provider, or was about to be.
        due_at: queued: when it may go out; sending: when whoever sends it counts as dead.
        expires_at: later than that it is of no use any more.
        error: the last failure, without anything personal.
        provider_id: what the provider calls it.
        receipt_due_at: when the provider is asked what became of it (push only).
        settled_at: when it was over.
        request_id: of the request that it came from, for the logs.
    """

    __tablename__ = "messages"
    __table_args__ = (
        Index("ix_messages_due", "channel", "due_at", postgresql_where="state IN ('queued', 'sending')"),
        Index("ix_messages_settled_at", "settled_at", postgresql_where="settled_at IS NOT NULL"),
        Index("ix_messages_receipt_due_at", "receipt_due_at", postgresql_where="receipt_due_at IS NOT NULL"),
    )

    id: Mapped[PrimaryId]
    channel: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text, default=State.QUEUED)
    key: Mapped[str | None] = mapped_column(Text, unique=True)
    receiver: Mapped[str] = mapped_column(Text)
    sealed: Mapped[bytes | None] = mapped_column(Sealed)
    content: Mapped[str | None] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    error: Mapped[str | None] = mapped_column(Text)
    provider_id: Mapped[str | None] = mapped_column(Text)
    receipt_due_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    request_id: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[CreatedAt]
    settled_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class Lane(Base):
    """What all processes know of a channel together.

    Attributes:
        failures: of the channel itself, in a row; 0 when it works.
        paused_until: nobody tries it before.
        down_since: when the first of those failures was.
        told_at: when the admin was told of this outage.
        owner: the run that works it off now, until `owned_until` at most.
    """

    __tablename__ = "message_lanes"

    channel: Mapped[str] = mapped_column(Text, primary_key=True)
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    paused_until: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    down_since: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    told_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    error: Mapped[str | None] = mapped_column(Text)
    owner: Mapped[UUID | None]
    owned_until: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class DeviceGone(Base):
    """A mobile device that no longer takes notifications; the provider asks senders to stop.

    Attributes:
        token_digest: SHA-256 of its token, in hexadecimal.
    """

    __tablename__ = "message_devices_gone"

    token_digest: Mapped[str] = mapped_column(Text, primary_key=True)
    gone_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
