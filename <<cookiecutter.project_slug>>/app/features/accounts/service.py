"""Registering and signing in."""

import asyncio
from functools import cache
from uuid import UUID

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.errors import Conflict, Unauthorized
from app.features.accounts.models import User


class EmailTaken(Conflict):
    """Somebody has registered with this address."""

    detail = "An account with this e-mail address exists already."


class WrongCredentials(Unauthorized):
    """Unknown address or wrong password; which of the two is nobody's business."""

    detail = "E-mail address or password is wrong."


@cache
def _hasher() -> PasswordHash:
    return PasswordHash((Argon2Hasher(),))


@cache
def _decoy() -> str:
    # Checked when the address is unknown, so that the answer takes as long as for a known one.
    return _hasher().hash("nobody has this password")


async def hash_password(password: str) -> str:
    """The Argon2id hash to keep. Takes tens of milliseconds of CPU on purpose, so it runs off the event loop."""
    return await asyncio.to_thread(_hasher().hash, password)


async def register(session: AsyncSession, email: str, password_hash: str, display_name: str) -> User:
    """Make an account.

    Raises:
        EmailTaken: the address has one.
    """
    user = User(email=email, password_hash=password_hash, display_name=display_name)
    session.add(user)
    try:
        await session.flush()
    except IntegrityError as error:
        raise EmailTaken from error
    await session.refresh(user)
    return user


async def find(session: AsyncSession, email: str) -> User | None:
    """The account with this address, in lower case."""
    return (await session.scalars(select(User).where(User.email == email))).one_or_none()


async def verify(user: User | None, password: str) -> User:
    """The person, if the password is theirs and the account is active. Takes as long when there is no such person.

    Raises:
        WrongCredentials: in every other case.
    """
    hashed = user.password_hash if user else await asyncio.to_thread(_decoy)
    right = await asyncio.to_thread(_hasher().verify, password, hashed)
    if user is None or not right or not user.active:
        raise WrongCredentials
    return user


async def get_active(session: AsyncSession, user_id: UUID) -> User:
    """The person a token names.

    Raises:
        Unauthorized: deleted or switched off since the token was issued.
    """
    user = await session.get(User, user_id)
    if user is None or not user.active:
        raise Unauthorized
    return user
