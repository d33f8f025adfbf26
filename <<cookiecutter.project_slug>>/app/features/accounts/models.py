"""Tables of accounts."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import DateTime, ForeignKey, Index, LargeBinary, Text, func
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base, CreatedAt, PrimaryId


class User(Base):
    """A person who signs in.

    Attributes:
        email: in lower case, as it is compared.
        email_verified_at: when its owner has shown that it is theirs.
        password_hash: Argon2id, with its parameters.
        roles: those of `core.security.Role`.
        active: nobody who is not gets a token.
    """

    __tablename__ = "users"

    id: Mapped[PrimaryId]
    email: Mapped[str] = mapped_column(Text, unique=True)
    email_verified_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    display_name: Mapped[str] = mapped_column(Text, default="")
    password_hash: Mapped[str] = mapped_column(Text)
    roles: Mapped[list[str]] = mapped_column(ARRAY(Text), default=list)
    active: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[CreatedAt]


class SignInSession(Base):
    """One sign-in on one device, as long as it is renewed: the family of its refresh tokens.

    Attributes:
        expires_at: when its present refresh token ends.
        client: the address of the last renewal.
        user_agent: what the device calls itself; anybody can call themselves anything.
    """

    __tablename__ = "sign_in_sessions"
    __table_args__ = (
        Index("ix_sign_in_sessions_user_id", "user_id"),
        Index("ix_sign_in_sessions_expires_at", "expires_at"),
    )

    id: Mapped[PrimaryId]
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    client: Mapped[str] = mapped_column(Text)
    user_agent: Mapped[str] = mapped_column(Text)
    created_at: Mapped[CreatedAt]
    last_used_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class RefreshToken(Base):
    """A refresh token, as its digest alone. A used one stays a while, so that its second use is noticed.

    Attributes:
        digest: SHA-256.
        used_at: when it was exchanged for the next one.
    """

    __tablename__ = "refresh_tokens"
    __table_args__ = (
        Index("ix_refresh_tokens_session_id", "session_id"),
        Index("ix_refresh_tokens_used_at", "used_at", postgresql_where="used_at IS NOT NULL"),
    )

    digest: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    session_id: Mapped[UUID] = mapped_column(ForeignKey("sign_in_sessions.id", ondelete="CASCADE"))
    used_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class MailRequest(Base):
    """Somebody asked for a mail to an address. A worker finds out whose it is: whoever asks cannot tell by the time it takes."""

    __tablename__ = "mail_requests"

    id: Mapped[PrimaryId]
    kind: Mapped[str] = mapped_column(Text)
    email: Mapped[str] = mapped_column(Text)
    created_at: Mapped[CreatedAt]


class MailedToken(Base):
    """A token that was mailed, as its digest alone; whoever brings it has read the mail. It works once."""

    __tablename__ = "mailed_tokens"
    __table_args__ = (Index("ix_mailed_tokens_user_id", "user_id"), Index("ix_mailed_tokens_expires_at", "expires_at"))

    digest: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    purpose: Mapped[str] = mapped_column(Text)
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class Throttle(Base):
    """Attempts to sign in that have not succeeded: for one account, or for one account from one address.

    Attributes:
        key: a digest: the table does not say who has an account, or from where somebody tried.
        since: when the first of them was.
    """

    __tablename__ = "sign_in_throttles"
    __table_args__ = (Index("ix_sign_in_throttles_since", "since"),)

    key: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    attempts: Mapped[int]
    since: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
