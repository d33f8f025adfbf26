"""Passwords that change, and the mails about it: each token works once, for what it is for, and for nobody else."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from sqlalchemy import Text, cast, func, literal_column, select, update

from app.core.db import Base
from app.core.security import Principal
from app.features.accounts import service
from app.features.accounts.models import MailedToken, MailRequest, User
from tests.features.accounts.conftest import PASSWORD, Person, token_in

if TYPE_CHECKING:
    from app.core.audit import AuditEntry
    from app.core.messages import Email
    from app.core.resources import Resources
    from app.features.accounts.sessions import Renewed

Begin = Callable[[Person], Awaitable["Renewed"]]
MakePerson = Callable[..., Awaitable[Person]]
HeadersFor = Callable[[Principal], dict[str, str]]
Mails = Callable[[], Awaitable["list[Email]"]]
Trail = Callable[[Person], Awaitable["list[AuditEntry]"]]

NEW = "another long password"


async def post(
    client: httpx.AsyncClient, path: str, headers: dict[str, str] | None = None, **body: str
) -> httpx.Response:
    """Send a body of JSON to a route of accounts."""
    return await client.post(f"/api/v1/accounts/{path}", json=body, headers=headers)


async def signs_in(client: httpx.AsyncClient, email: str, password: str) -> bool:
    """Whether somebody gets in with it."""
    return (await post(client, "sign-in", email=email, password=password)).status_code == 200


async def test_change_password(
    client: httpx.AsyncClient, ada: Person, begin: Begin, headers_for: HeadersFor, mails: Mails, trail: Trail
) -> None:
    """By the present one; every other device is signed out, this one goes on, and a mail tells."""
    elsewhere = (await begin(ada)).token
    headers = headers_for(Principal(ada.id, frozenset()))
    wrong = await post(client, "password", headers, present="wrong horse battery", new=NEW)
    assert (wrong.status_code, wrong.json()["code"]) == (400, "wrong_password")
    assert (await post(client, "password", headers, present=PASSWORD, new="short")).status_code == 422
    changed = await post(client, "password", headers, present=PASSWORD, new=NEW)
    assert changed.status_code == 200
    assert (await post(client, "refresh", refresh_token=elsewhere)).status_code == 401
    assert (await post(client, "refresh", refresh_token=changed.json()["refresh_token"])).status_code == 200
    assert not await signs_in(client, ada.email, PASSWORD)
    assert await signs_in(client, ada.email, NEW)
    (mail,) = await mails()
    assert (mail.to, "password was changed" in mail.subject) == (ada.email, True)
    actions = [entry.action for entry in await trail(ada)]
    assert actions[:2] == ["accounts.password_change_refused", "accounts.password_changed"]


async def test_a_stolen_access_token_does_not_guess_the_password(
    client: httpx.AsyncClient, ada: Person, headers_for: HeadersFor
) -> None:
    """Changing it is held back like signing in."""
    headers = headers_for(Principal(ada.id, frozenset()))
    statuses = [(await post(client, "password", headers, present=f"guess {n}", new=NEW)).status_code for n in range(6)]
    assert statuses == [400] * 5 + [429]
    assert (await post(client, "password", headers, present=PASSWORD, new=NEW)).status_code == 429


async def test_forgotten_password(
    client: httpx.AsyncClient, ada: Person, begin: Begin, mails: Mails, trail: Trail
) -> None:
    """A mailed token sets a new one and signs in; every device is out, and the token does not work again."""
    elsewhere = (await begin(ada)).token
    assert (await post(client, "password/forgot", email="ADA@example.com")).status_code == 202
    (mail,) = await mails()
    assert mail.to == ada.email
    token = token_in(mail)
    reset = await post(client, "password/reset", token=token, password=NEW)
    assert reset.status_code == 200
    assert (await post(client, "refresh", refresh_token=elsewhere)).status_code == 401
    assert (await post(client, "refresh", refresh_token=reset.json()["refresh_token"])).status_code == 200
    again = await post(client, "password/reset", token=token, password="yet another password")
    assert (again.status_code, again.json()["code"]) == (400, "mailed_token_invalid")
    assert await signs_in(client, ada.email, NEW)
    assert (await mails())[-1].subject.endswith("your password was changed")
    assert [entry.action for entry in await trail(ada)] == ["accounts.password_reset", "accounts.signed_in"]


async def test_one_token_resets_one_password(client: httpx.AsyncClient, ada: Person, mails: Mails) -> None:
    """Also when it comes twice at the same moment."""
    await post(client, "password/forgot", email=ada.email)
    token = token_in((await mails())[0])
    answers = await asyncio.gather(
        *(post(client, "password/reset", token=token, password=f"{NEW} {number}") for number in range(2))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 400]


async def test_asking_for_a_mail_tells_nothing(
    client: httpx.AsyncClient, ada: Person, make_person: MakePerson, statements: Callable[[], Any], mails: Mails
) -> None:
    """Answer and work are the same for every address: a worker finds out whose it is."""
    idle = await make_person("idle@example.com", active=False)
    for path in ("password/forgot", "email/verify/again"):
        seen = []
        for email in (ada.email, idle.email, "nobody@example.com"):
            async with statements() as sent:
                response = await post(client, path, email=email)
            seen.append((response.status_code, response.json(), sent))
        assert seen[0][0] == 202
        assert seen[0] == seen[1] == seen[2]
    assert [mail.to for mail in await mails()] == [ada.email], "a new password, and there was nothing to confirm"


async def test_the_owner_of_a_taken_address_is_told(client: httpx.AsyncClient, ada: Person, mails: Mails) -> None:
    """With a way in, in case it was them; and not with anything that the stranger wrote."""
    await client.post(
        "/api/v1/accounts/register",
        json={"email": ada.email, "password": NEW, "display_name": "Cheap pills at spam.example"},
    )
    (mail,) = await mails()
    assert mail.subject.endswith("you have an account already")
    assert "spam" not in mail.model_dump_json()
    assert "Lovelace" not in mail.model_dump_json()
    assert (await post(client, "password/reset", token=token_in(mail), password=NEW)).status_code == 200


@pytest.mark.parametrize("path", ["password/forgot", "email/verify/again"])
@pytest.mark.parametrize(
    "email", ["ada@example.com\r\nBcc: eve@example.com", "ada@example.com,eve@example.com", "Ada\n <ada@example.com>"]
)
async def test_nobody_adds_a_receiver(client: httpx.AsyncClient, path: str, email: str) -> None:
    """An address is one address in one line."""
    assert (await post(client, path, email=email)).status_code == 422


async def test_links_lead_where_the_settings_say(
    client: httpx.AsyncClient,
    ada: Person,
    resources_with: "Callable[..., Resources]",
    served_with: Callable[..., Any],
    resources: "Resources",
) -> None:
    """Whatever the Host header says; the token stands behind the #, which no server sees."""
    from app.core.messages import Channel, Email, kept
    from app.features.accounts import mails as sending

    forged = {"X-Forwarded-Host": "evil.example.net", "Host": "localhost"}
    await post(client, "password/forgot", forged, email=ada.email)
    async with resources.db.read() as session:
        (request,) = (await session.scalars(select(MailRequest))).all()
    await sending.deliver(resources_with(link_base_url="https://app.example.com"), request.id)
    async with resources.db.read() as session:
        (mail,) = await kept(session, Channel.EMAIL)
    assert isinstance(mail, Email)
    assert f"https://app.example.com/reset-password#token={token_in(mail)}" in mail.text
    assert "evil" not in mail.text


async def test_nobody_is_flooded_with_mails(
    client: httpx.AsyncClient, ada: Person, mails: Mails, resources: "Resources"
) -> None:
    """One of a kind in MAIL_PAUSE_SECONDS; a later one makes the former worthless."""
    for _ in range(3):
        await post(client, "password/forgot", email=ada.email)
    (first,) = await mails()
    async with resources.db.transaction() as session:
        await session.execute(update(MailedToken).values(created_at=func.now() - timedelta(seconds=61)))
    await post(client, "password/forgot", email=ada.email)
    _, second = await mails()
    assert (await post(client, "password/reset", token=token_in(first), password=NEW)).status_code == 400
    assert (await post(client, "password/reset", token=token_in(second), password=NEW)).status_code == 200


async def test_confirming_an_address(
    client: httpx.AsyncClient, mails: Mails, served_with: Callable[..., Any], resources: "Resources"
) -> None:
    """Where signing in needs it, it works from then on; the mail can be asked for again."""
    with served_with(verified_email=True):
        await post(client, "register", email="eva@example.com", password=PASSWORD)
        assert not await signs_in(client, "eva@example.com", PASSWORD)
        (mail,) = await mails()
        assert mail.subject.endswith("confirm your e-mail address")
        async with resources.db.transaction() as session:
            await session.execute(update(MailedToken).values(expires_at=func.now()))
        assert (await post(client, "email/verify", token=token_in(mail))).status_code == 400, "too late"
        async with resources.db.transaction() as session:
            await session.execute(update(MailedToken).values(created_at=func.now() - timedelta(seconds=61)))
        await post(client, "email/verify/again", email="eva@example.com")
        _, mail = await mails()
        assert (await post(client, "email/verify", token=token_in(mail))).status_code == 204
        assert (await post(client, "email/verify", token=token_in(mail))).status_code == 400, "once"
        assert await signs_in(client, "eva@example.com", PASSWORD)


async def test_a_token_is_good_for_one_purpose(client: httpx.AsyncClient, mails: Mails, ada: Person) -> None:
    """The one that confirms an address sets no password, and neither is an access token."""
    await post(client, "register", email="eva@example.com", password=PASSWORD)
    confirm = token_in((await mails())[0])
    assert (await post(client, "password/reset", token=confirm, password=NEW)).status_code == 400
    assert (await client.get("/api/v1/accounts/me", headers={"Authorization": f"Bearer {confirm}"})).status_code == 401
    await post(client, "password/forgot", email=ada.email)
    reset = token_in((await mails())[-1])
    assert (await post(client, "email/verify", token=reset)).status_code == 400
    assert (await post(client, "refresh", refresh_token=reset)).status_code == 401


async def test_a_reset_takes_an_account_back_from_who_registered_it_first(
    client: httpx.AsyncClient, mails: Mails, resources: "Resources"
) -> None:
    """Somebody registers my address with their password. When I come, a mail leads me in and them out."""
    await post(client, "register", email="eva@example.com", password="the password of mallory")
    mallory = (await post(client, "sign-in", email="eva@example.com", password="the password of mallory")).json()
    await post(client, "register", email="eva@example.com", password=PASSWORD)
    _, mail = await mails()
    assert (await post(client, "password/reset", token=token_in(mail), password=PASSWORD)).status_code == 200
    assert (await post(client, "refresh", refresh_token=mallory["refresh_token"])).status_code == 401
    assert not await signs_in(client, "eva@example.com", "the password of mallory")
    async with resources.db.read() as session:
        assert (await session.scalars(select(User.email_verified_at))).one(), "whoever read the mail has the address"


async def test_a_mailed_token_is_nowhere_in_the_database(
    client: httpx.AsyncClient, ada: Person, mails: Mails, resources: "Resources"
) -> None:
    """Before its mail is sent: whoever reads the database, or a backup of it, cannot set a password."""
    await post(client, "password/forgot", email=ada.email)
    token = token_in((await mails())[0])
    async with resources.db.read() as session:
        everything = [
            row
            for table in Base.metadata.sorted_tables
            for row in await session.scalars(select(cast(literal_column(table.name), Text)).select_from(table))
        ]
    assert any(ada.email in row for row in everything)
    assert not [row for row in everything if token in row or token.encode().hex() in row]


async def test_only_digests_of_mailed_tokens_are_kept(
    client: httpx.AsyncClient, ada: Person, mails: Mails, resources: "Resources"
) -> None:
    """And expired ones are swept, with requests that nobody worked off."""
    await post(client, "password/forgot", email=ada.email)
    token = token_in((await mails())[0])
    async with resources.db.transaction() as session:
        (kept,) = (await session.scalars(select(MailedToken))).all()
        assert token.encode() not in kept.digest
        await session.execute(update(MailedToken).values(expires_at=func.now() - timedelta(seconds=1)))
        session.add(MailRequest(kind="reset", email=ada.email, created_at=func.now() - timedelta(days=2)))
    await service.sweep(resources)
    async with resources.db.read() as session:
        assert (await session.scalars(select(MailedToken))).all() == []
        assert (await session.scalars(select(MailRequest))).all() == []
