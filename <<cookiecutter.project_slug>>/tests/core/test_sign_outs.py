"""Access tokens end with their session, within the time of one look, and no look is lost."""

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import func, select, update

from app.core.db import new_id
from app.core.errors import Unavailable
from app.core.security import Principal
from app.core.sign_outs import EndedSession, SignOuts, note_ended, prune

if TYPE_CHECKING:
    from app.core.resources import Resources
    from tests.core.conftest import Without

HeadersFor = Callable[[Principal], dict[str, str]]


async def end(resources: "Resources", *ids: UUID) -> None:
    """End sessions, as a feature does."""
    async with resources.db.transaction() as session:
        note_ended(session, ids)


@pytest.fixture
def heard(resources: "Resources") -> SignOuts:
    """What a process knows that has just started."""
    return SignOuts(resources.db, resources.settings.auth)


async def test_a_token_ends_with_its_session(
    client: httpx.AsyncClient, resources: "Resources", headers_for: HeadersFor
) -> None:
    """And no other: not those of another session of the same person, nor those that name none."""
    person, over = uuid4(), new_id()
    mine, other, none = (
        headers_for(Principal(person, frozenset(), session)) for session in (str(over), str(new_id()), "")
    )

    async def statuses() -> list[int]:
        answers = [await client.post("/api/v1/realtime/tickets", headers=each) for each in (mine, other, none)]
        return [answer.status_code for answer in answers]

    assert await statuses() == [201, 201, 201]
    await end(resources, over)
    await resources.sign_outs.read()
    assert await statuses() == [401, 201, 201]


async def test_a_transaction_that_takes_long_is_heard(resources: "Resources", heard: SignOuts) -> None:
    """It ended a session before another one did, and commits after that was read."""
    slow, quick = new_id(), new_id()
    async with resources.db.transaction() as session:
        await session.scalar(select(func.now()))
        async with resources.db.primary.write() as other, other.begin():
            note_ended(other, [quick])
        await heard.read()
        assert str(quick) in heard
        note_ended(session, [slow])
    assert str(slow) not in heard
    await heard.read()
    assert str(slow) in heard


async def test_what_has_expired_anyway_is_forgotten(resources: "Resources", heard: SignOuts) -> None:
    """In the process and in the table, as soon as no token of it can be good, and not sooner."""
    old, young = new_id(), new_id()
    await end(resources, old, young)
    await heard.read()
    life = timedelta(minutes=resources.settings.auth.access_token_minutes)
    async with resources.db.transaction() as session:
        ages = {old: life + timedelta(minutes=6), young: life - timedelta(minutes=1)}
        for identity, age in ages.items():
            ended = update(EndedSession).where(EndedSession.id == identity)
            await session.execute(ended.values(created_at=func.now() - age))
    fresh = SignOuts(resources.db, resources.settings.auth)
    await fresh.read()
    assert (str(old) in fresh, str(young) in fresh) == (False, True)
    await prune(resources)
    async with resources.db.read() as session:
        assert (await session.scalars(select(EndedSession.id))).all() == [young]


async def test_without_the_database_what_is_known_holds(
    resources: "Resources", heard: SignOuts, without: "Without"
) -> None:
    """Nobody is signed out by that and nobody comes back; what ended last is heard of afterwards."""
    known, later = new_id(), new_id()
    await end(resources, known)
    await heard.read()
    with without("postgres"):
        with pytest.raises(Unavailable):
            await heard.read()
        assert (str(known) in heard, str(later) in heard) == (True, False)
