"""Sign-ins that last: refresh tokens, each of which works once.

The tokens of one sign-in are a family. Whoever exchanges one gets the next; one that comes a second time has been copied,
and as nobody can tell the thief from the owner, the whole family ends. There is no grace for honest double sends: within
it a thief's copy would pass unnoticed. Applications renew one at a time, and sign in again if an answer got lost.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import structlog
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.audit import record
from app.core.errors import NotFound, Unauthorized
from app.core.logging import client_address
from app.core.resources import Resources
from app.core.sign_outs import note_ended
from app.features.accounts.models import RefreshToken, SignInSession, User
from app.features.accounts.settings import AccountsSettings

log = structlog.get_logger(__name__)

MAX_USER_AGENT = 200


class InvalidRefreshToken(Unauthorized):
    """Used before, expired, ended, or never ours."""

    detail = "This refresh token is not valid. Sign in again."


@dataclass(frozen=True, slots=True)
class Renewed:
    """A person with a fresh refresh token.

    Attributes:
        seconds: how long it lives.
        session_id: the family's.
    """

    user: User
    token: str
    seconds: int
    session_id: UUID


def digest(token: str) -> bytes:
    """What is kept of a token. It is random and long: nothing slower than SHA-256 would make guessing it harder."""
    return hashlib.sha256(token.encode()).digest()


async def begin(session: AsyncSession, settings: AccountsSettings, user: User, user_agent: str) -> Renewed:
    """Begin a family for somebody who has just proved who they are."""
    life = _life(settings)
    family = SignInSession(
        user_id=user.id,
        client=client_address.get(),
        user_agent=user_agent[:MAX_USER_AGENT],
        expires_at=func.now() + life,
    )
    session.add(family)
    await session.flush()
    return Renewed(user, _add_token(session, family.id), int(life.total_seconds()), family.id)


async def renew(resources: Resources, token: str) -> Renewed:
    """Exchange a refresh token for the next one.

    Raises:
        InvalidRefreshToken: it is not the newest of a living family. If it is an older one, the family has ended now.
    """
    settings = resources.settings.of(AccountsSettings)
    async with resources.db.transaction() as session:
        # One statement: of two at once, the second waits for the first and finds the token used.
        family_id = await session.scalar(
            update(RefreshToken)
            .where(RefreshToken.digest == digest(token), RefreshToken.used_at.is_(None))
            .values(used_at=func.now())
            .returning(RefreshToken.session_id)
        )
        renewed = await _extend(session, settings, family_id) if family_id else None
        copied = await _end_copied(session, token) if renewed is None else None
    if copied:
        # Whoever copied the token may be connected. The other devices come back with a fresh access token.
        await resources.events.disconnect(copied)
    if renewed is None:
        raise InvalidRefreshToken
    return renewed


async def _extend(session: AsyncSession, settings: AccountsSettings, family_id: UUID) -> Renewed | None:
    life = _life(settings)
    end = func.least(func.now() + life, SignInSession.created_at + timedelta(days=settings.session_days))
    found = (
        await session.execute(
            update(SignInSession)
            .where(SignInSession.id == family_id, SignInSession.expires_at > func.now())
            .values(expires_at=end, last_used_at=func.now(), client=client_address.get())
            .returning(SignInSession.user_id, func.extract("epoch", end - func.now()))
        )
    ).one_or_none()
    user = await session.get(User, found[0]) if found else None
    if found is None or user is None or not user.active or found[1] <= 0:
        return None
    return Renewed(user, _add_token(session, family_id), int(found[1]), family_id)


async def _end_copied(session: AsyncSession, token: str) -> UUID | None:
    """End the family of a token that has been used before; returns whose it was."""
    copied = select(RefreshToken.session_id).where(RefreshToken.digest == digest(token)).scalar_subquery()
    ended = (
        await session.execute(
            delete(SignInSession).where(SignInSession.id == copied).returning(SignInSession.id, SignInSession.user_id)
        )
    ).one_or_none()
    if ended is None:
        return None
    user_id: UUID = ended.user_id
    note_ended(session, [ended.id])
    record(session, "accounts.refresh_token_reused", actor=None, subject=str(user_id), session=str(ended.id))
    log.warning("refresh_token_reused", user=str(user_id), session=str(ended.id))
    return user_id


async def sign_out(resources: Resources, token: str) -> None:
    """End the family of a refresh token, if it has one."""
    async with resources.db.transaction() as session:
        own = select(RefreshToken.session_id).where(RefreshToken.digest == digest(token)).scalar_subquery()
        ended = (
            await session.execute(
                delete(SignInSession).where(SignInSession.id == own).returning(SignInSession.id, SignInSession.user_id)
            )
        ).one_or_none()
        if ended:
            note_ended(session, [ended.id])
            record(session, "accounts.signed_out", actor=ended.user_id)


async def end_all(session: AsyncSession, user_id: UUID) -> int:
    """End every family of a person; returns how many there were."""
    own = delete(SignInSession).where(SignInSession.user_id == user_id).returning(SignInSession.id)
    ended = (await session.scalars(own)).all()
    note_ended(session, ended)
    return len(ended)


async def end_one(session: AsyncSession, user_id: UUID, session_id: UUID) -> None:
    """End one family of a person.

    Raises:
        NotFound: it is not theirs, or is over.
    """
    own = (SignInSession.id == session_id, SignInSession.user_id == user_id)
    if await session.scalar(delete(SignInSession).where(*own).returning(SignInSession.id)) is None:
        raise NotFound
    note_ended(session, [session_id])
    record(session, "accounts.session_ended", actor=user_id, session=str(session_id))


async def living(session: AsyncSession, user_id: UUID) -> Sequence[SignInSession]:
    """The families of a person that have not ended, last used first."""
    own = select(SignInSession).where(SignInSession.user_id == user_id, SignInSession.expires_at > func.now())
    return (await session.scalars(own.order_by(SignInSession.last_used_at.desc()).limit(100))).all()


async def sweep(session: AsyncSession, settings: AccountsSettings) -> None:
    """Delete families that are over, and used tokens so old that they would have expired by now anyway."""
    await session.execute(delete(SignInSession).where(SignInSession.expires_at < func.now()))
    old = func.now() - timedelta(days=settings.refresh_token_days)
    await session.execute(delete(RefreshToken).where(RefreshToken.used_at < old))


def _life(settings: AccountsSettings) -> timedelta:
    return timedelta(days=min(settings.refresh_token_days, settings.session_days))


def _add_token(session: AsyncSession, family_id: UUID) -> str:
    token = secrets.token_urlsafe(32)
    session.add(RefreshToken(digest=digest(token), session_id=family_id))
    return token
