"""Guessing is slow, and nobody can lock somebody else out."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from sqlalchemy import func, select, update

from app.features.accounts import service
from app.features.accounts.models import Throttle
from tests.features.accounts.conftest import PASSWORD, Person, token_in

if TYPE_CHECKING:
    from app.core.messages import Email
    from app.core.resources import Resources
    from app.features.accounts.sessions import Renewed

FromAddress = Callable[[str], Any]
WRONG = "wrong horse battery"


async def attempt(client: httpx.AsyncClient, email: str, password: str = WRONG) -> httpx.Response:
    """Try to sign in."""
    return await client.post("/api/v1/accounts/sign-in", json={"email": email, "password": password})


@pytest.mark.parametrize("email", ["ada@example.com", "nobody@example.com"])
async def test_a_guesser_is_held_back(client: httpx.AsyncClient, ada: Person, email: str) -> None:
    """After five wrong ones not even the right one is looked at, with or without an account; the answer says how long."""
    answers = [await attempt(client, email) for _ in range(5)]
    assert {answer.status_code for answer in answers} == {401}
    held = await attempt(client, email, PASSWORD)
    assert (held.status_code, held.json()["code"]) == (429, "too_many_attempts")
    assert 0 < int(held.headers["retry-after"]) <= 900


async def test_nobody_else_is_held_back(client: httpx.AsyncClient, ada: Person, from_address: FromAddress) -> None:
    """The owner elsewhere signs in as ever, and so do others from the guesser's own address."""
    for _ in range(8):
        await attempt(client, ada.email)
    async with from_address("203.0.113.7") as home:
        assert (await attempt(home, ada.email, PASSWORD)).status_code == 200
    assert (await attempt(client, "bob@example.com")).status_code == 401
    assert (await attempt(client, ada.email, PASSWORD)).status_code == 429


async def test_many_at_once_are_no_way_around(client: httpx.AsyncClient, ada: Person) -> None:
    """An attempt counts before its password is looked at."""
    answers = await asyncio.gather(*(attempt(client, ada.email) for _ in range(12)))
    assert sorted(answer.status_code for answer in answers) == [401] * 5 + [429] * 7


async def test_it_is_over_in_time(client: httpx.AsyncClient, ada: Person, resources: "Resources") -> None:
    """After THROTTLE_MINUTES the count begins anew, and the sweep forgets it."""
    for _ in range(6):
        await attempt(client, ada.email)
    async with resources.db.transaction() as session:
        await session.execute(update(Throttle).values(since=func.now() - timedelta(minutes=15, seconds=1)))
    assert (await attempt(client, ada.email, PASSWORD)).status_code == 200
    await attempt(client, "nobody@example.com")
    async with resources.db.transaction() as session:
        await session.execute(update(Throttle).values(since=func.now() - timedelta(minutes=15, seconds=1)))
    await service.sweep(resources)
    async with resources.db.read() as session:
        assert (await session.scalars(select(Throttle))).all() == []


async def test_who_signs_in_has_a_clean_slate(client: httpx.AsyncClient, ada: Person) -> None:
    """Typing wrong four times a day does no harm."""
    for _ in range(2):
        for _ in range(4):
            assert (await attempt(client, ada.email)).status_code == 401
        assert (await attempt(client, ada.email, PASSWORD)).status_code == 200


async def test_guesses_from_everywhere_do_not_lock_the_owner_out(
    client: httpx.AsyncClient,
    ada: Person,
    from_address: FromAddress,
    served_with: Callable[..., Any],
    begin: "Callable[[Person], Awaitable[Renewed]]",
    mails: "Callable[[], Awaitable[list[Email]]]",
) -> None:
    """A thousand addresses guess: unknown ones are held back. Known ones, refresh tokens and a mailed link go through."""
    with served_with(attempts_per_account=6):
        async with from_address("203.0.113.7") as home, from_address("192.0.2.1") as travelling:
            signed_in = await attempt(home, ada.email, PASSWORD)
            assert signed_in.status_code == 200
            for number in range(6):
                async with from_address(f"198.51.100.{number}") as guesser:
                    assert (await attempt(guesser, ada.email)).status_code == 401
            async with from_address("198.51.100.99") as guesser:
                assert (await attempt(guesser, ada.email, PASSWORD)).status_code == 429
            assert (await attempt(travelling, ada.email, PASSWORD)).status_code == 429

            assert (await attempt(home, ada.email, PASSWORD)).status_code == 200, "from where they have signed in"
            renewed = await travelling.post(
                "/api/v1/accounts/refresh", json={"refresh_token": (await begin(ada)).token}
            )
            assert renewed.status_code == 200, "a device that is signed in"
            await travelling.post("/api/v1/accounts/password/forgot", json={"email": ada.email})
            body = {"token": token_in((await mails())[0]), "password": PASSWORD}
            reset = await travelling.post("/api/v1/accounts/password/reset", json=body)
            assert reset.status_code == 200, "who reads their mail"
            async with from_address("192.0.2.2") as new_place:
                assert (await attempt(new_place, ada.email, PASSWORD)).status_code == 200, "and the count begins anew"


async def test_a_known_address_may_not_guess_either(
    ada: Person, from_address: FromAddress, served_with: Callable[..., Any], client: httpx.AsyncClient
) -> None:
    """It has its own five."""
    with served_with(attempts_per_account=1):
        async with from_address("203.0.113.7") as home:
            assert (await attempt(home, ada.email, PASSWORD)).status_code == 200
            assert [(await attempt(home, ada.email)).status_code for _ in range(6)] == [401] * 5 + [429]


async def test_an_address_of_ipv6_counts_by_its_network(ada: Person, from_address: FromAddress) -> None:
    """Who has one has 2^64 of them."""
    statuses = []
    for number in range(6):
        async with from_address(f"2001:db8:1:2::{number}") as guesser:
            statuses.append((await attempt(guesser, ada.email)).status_code)
    assert statuses == [401] * 5 + [429]
    async with from_address("2001:db8:1:3::1") as neighbour:
        assert (await attempt(neighbour, ada.email)).status_code == 401


async def test_one_address_does_not_try_many_accounts(client: httpx.AsyncClient, resources: "Resources") -> None:
    """One guess each for a thousand accounts is stopped by the limit of the route, whose window slides on meanwhile."""
    body = {"email": "not an address", "password": WRONG}
    statuses: list[int] = []
    while 429 not in statuses and len(statuses) < 3 * resources.settings.limits.sensitive:
        statuses.append((await client.post("/api/v1/accounts/sign-in", json=body)).status_code)
    assert statuses[0] == 422
    assert statuses[-1] == 429
    assert len(statuses) > resources.settings.limits.sensitive
