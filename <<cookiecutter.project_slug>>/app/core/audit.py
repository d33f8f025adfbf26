"""The audit trail: who did what that matters to security, when, and from where.

    async with db.transaction() as session:
        record(session, "accounts.password_changed", actor=user.id)

A row is written in the transaction of the act, so neither is there without the other. The database itself refuses to
change a row, and to delete one that is younger than `KEEP_AT_LEAST_DAYS`; older ones go after AUDIT_KEEP_DAYS, because an
address is personal data. Whoever owns the table can take these triggers away, so this guards against a fault in our code
and a hole in a query, not against whoever has the database: ship the log elsewhere for that.

Details never hold a secret, an e-mail address or what a message says: they are masked as logs are.
"""

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Index, Text, delete, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base, CreatedAt, PrimaryId
from app.core.logging import client_address, request_id
from app.core.masking import masked
from app.core.resources import Resources
from app.core.tasks import Queue, task


class AuditEntry(Base):
    """One act.

    Attributes:
        action: `feature.what_happened`.
        actor: who did it; None when nobody was signed in.
        subject: to whom or what it was done: an id, never a name.
        client: the address that the request came from.
        details: anything further that is neither secret nor personal.
    """

    __tablename__ = "audit_log"
    __table_args__ = (
        Index("ix_audit_log_actor_created_at", "actor", "created_at"),
        Index("ix_audit_log_created_at", "created_at"),
        {"info": {"append_only": True}},
    )

    id: Mapped[PrimaryId]
    created_at: Mapped[CreatedAt]
    action: Mapped[str] = mapped_column(Text)
    actor: Mapped[UUID | None]
    subject: Mapped[str] = mapped_column(Text)
    client: Mapped[str] = mapped_column(Text)
    request_id: Mapped[str] = mapped_column(Text)
    details: Mapped[dict[str, Any]] = mapped_column(JSONB)


def record(session: AsyncSession, action: str, /, *, actor: UUID | None, subject: str = "", **details: Any) -> None:
    """Note an act in the session's transaction.

    Args:
        session: of the transaction that does it.
        action: `feature.what_happened`.
        actor: who did it; None when nobody was signed in.
        subject: the id of what it was done to, when that is not the actor.
        details: further facts that JSON can hold.
    """
    session.add(
        AuditEntry(
            action=action,
            actor=actor,
            subject=subject,
            client=client_address.get(),
            request_id=request_id.get(),
            details=masked(details),
        )
    )


@task("core.prune_audit", queue=Queue.LOW, durable=False)
async def prune(resources: Resources) -> None:
    """Delete what is older than AUDIT_KEEP_DAYS."""
    oldest = func.now() - timedelta(days=resources.settings.audit.keep_days)
    async with resources.db.transaction() as session:
        await session.execute(delete(AuditEntry).where(AuditEntry.created_at < oldest))
