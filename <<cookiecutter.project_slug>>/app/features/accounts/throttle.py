"""Slows down whoever guesses passwords, and cannot be used to lock anybody out.

An attempt counts before its password is looked at, so that many at once are as good as one after the other. It counts
twice: for the account and the address that it comes from, and for the account from everywhere. The first keeps one
guesser at bay and nobody else. The second is for guesses from a thousand addresses: then those may still try that the
account has signed in from, refresh tokens go on working, and a mailed link signs in and begins the count anew.
"""

import hashlib
from datetime import timedelta
from math import ceil

from sqlalchemy import case, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.errors import TooManyRequests
from app.core.logging import client_address
from app.core.rate_limit import network
from app.features.accounts.models import SignInSession, Throttle, User
from app.features.accounts.settings import AccountsSettings


class TooManyAttempts(TooManyRequests):
    """Too many passwords were wrong; the next one is not even looked at."""

    detail = "Too many attempts. Wait a little, or set a new password by e-mail."


async def begin(session: AsyncSession, settings: AccountsSettings, email: str) -> float:
    """Count an attempt for the account of `email`, whether there is one or not, from the address of this request.

    Returns:
        0, or the seconds for which no password is looked at.
    """
    window = timedelta(minutes=settings.throttle_minutes)
    client, account = _keys(email)
    over = Throttle.since < func.now() - window
    written = insert(Throttle).values([{"key": key, "attempts": 1} for key in sorted((client, account))])
    counted = await session.execute(
        written.on_conflict_do_update(
            index_elements=[Throttle.key],
            set_={
                "attempts": case((over, 1), else_=Throttle.attempts + 1),
                "since": case((over, func.now()), else_=Throttle.since),
            },
        ).returning(Throttle.key, Throttle.attempts, func.extract("epoch", Throttle.since + window - func.now()))
    )
    seen = {key: (attempts, float(seconds)) for key, attempts, seconds in counted}
    if seen[client][0] > settings.attempts_per_client:
        return ceil(seen[client][1])
    # Asked whether it is needed or not, so that it costs the same for every address.
    known = await _known(session, email)
    if seen[account][0] > settings.attempts_per_account and not known:
        return ceil(seen[account][1])
    return 0


async def succeed(session: AsyncSession, email: str) -> None:
    """The attempt was right: it takes back its own count, and with it those of this address."""
    client, account = _keys(email)
    await session.execute(delete(Throttle).where(Throttle.key == client))
    # Not those of others: a person who signs in during an attack does not help the attacker.
    await session.execute(update(Throttle).where(Throttle.key == account).values(attempts=Throttle.attempts - 1))


async def forgive(session: AsyncSession, email: str) -> None:
    """Somebody has shown by a mailed token that the account is theirs: it begins anew."""
    await session.execute(delete(Throttle).where(Throttle.key.in_(_keys(email))))


async def sweep(session: AsyncSession, settings: AccountsSettings) -> None:
    """Delete what counts no longer."""
    await session.execute(
        delete(Throttle).where(Throttle.since < func.now() - timedelta(minutes=settings.throttle_minutes))
    )


async def _known(session: AsyncSession, email: str) -> bool:
    """Whether the account has a live sign-in from the address of this request."""
    query = select(SignInSession.id).join(User, User.id == SignInSession.user_id)
    here = query.where(
        User.email == email, SignInSession.client == client_address.get(), SignInSession.expires_at > func.now()
    )
    return await session.scalar(here.limit(1)) is not None


def _keys(email: str) -> tuple[bytes, bytes]:
    return _digest("client", email, network(client_address.get())), _digest("account", email)


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\n".join(parts).encode()).digest()
