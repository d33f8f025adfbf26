"""Superusers: how there comes to be one, and what they may do to others."""

import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from app.core.project import ROOT
from app.core.security import Principal
from app.features.accounts.models import User
from tests.features.accounts.conftest import PASSWORD, Person

if TYPE_CHECKING:
    from app.core.audit import AuditEntry
    from app.core.resources import Resources
    from app.features.accounts.sessions import Renewed

Begin = Callable[[Person], Awaitable["Renewed"]]
MakePerson = Callable[..., Awaitable[Person]]
Trail = Callable[[Person], Awaitable["list[AuditEntry]"]]


@pytest.fixture
async def boss(make_person: MakePerson) -> Person:
    """A superuser."""
    return await make_person(roles=["superuser"])


@pytest.fixture
def as_boss(boss: Person, headers_for: Callable[[Principal], dict[str, str]]) -> dict[str, str]:
    """What they show."""
    return headers_for(Principal(boss.id, frozenset({"superuser"})))


async def change(client: httpx.AsyncClient, person: Person, headers: dict[str, str], **body: object) -> httpx.Response:
    """Change somebody."""
    return await client.patch(f"/api/v1/accounts/people/{person.id}", json=body, headers=headers)


async def test_roles_change(
    client: httpx.AsyncClient, ada: Person, boss: Person, as_boss: dict[str, str], begin: Begin, trail: Trail
) -> None:
    """A new one counts from the next refresh on; a lost one ends every session. Both are on record, with by whom."""
    token = (await begin(ada)).token
    promoted = await change(client, ada, as_boss, roles=["staff"])
    assert (promoted.status_code, promoted.json()["roles"]) == (200, ["staff"])
    renewed = await client.post("/api/v1/accounts/refresh", json={"refresh_token": token})
    assert renewed.status_code == 200
    assert (await change(client, ada, as_boss, roles=[])).json()["roles"] == []
    body = {"refresh_token": renewed.json()["refresh_token"]}
    assert (await client.post("/api/v1/accounts/refresh", json=body)).status_code == 401
    entries = await trail(ada)
    assert [(entry.action, entry.actor, entry.details) for entry in entries] == [
        ("accounts.roles_changed", boss.id, {"before": [], "after": ["staff"]}),
        ("accounts.roles_changed", boss.id, {"before": ["staff"], "after": []}),
    ]


async def test_somebody_is_switched_off_and_on(
    client: httpx.AsyncClient,
    resources: "Resources",
    ada: Person,
    as_boss: dict[str, str],
    begin: Begin,
    trail: Trail,
) -> None:
    """Signed out everywhere, also from sockets; and nothing happens when nothing changes."""
    token = (await begin(ada)).token
    assert (await change(client, ada, as_boss, active=False)).json()["active"] is False
    assert await resources.events.gate(ada.id) != "", "their sockets are ended"
    assert (await client.post("/api/v1/accounts/refresh", json={"refresh_token": token})).status_code == 401
    assert (await change(client, ada, as_boss, active=True)).json()["active"] is True
    assert (await change(client, ada, as_boss, active=True)).status_code == 200
    assert (await change(client, ada, as_boss)).status_code == 200
    assert [entry.action for entry in await trail(ada)] == ["accounts.deactivated", "accounts.activated"]


async def test_what_a_superuser_cannot_do(
    client: httpx.AsyncClient, ada: Person, boss: Person, as_boss: dict[str, str]
) -> None:
    """Lock themselves out, change nobody, invent a role."""
    assert (await change(client, boss, as_boss, active=False)).json()["code"] == "not_yourself"
    assert (await change(client, Person(uuid4(), ""), as_boss, active=False)).status_code == 404
    assert (await change(client, ada, as_boss, roles=["emperor"])).status_code == 422
    assert (await change(client, ada, as_boss, email="x@example.com")).status_code == 422


async def test_others_may_not(
    client: httpx.AsyncClient, ada: Person, headers_for: Callable[[Principal], dict[str, str]]
) -> None:
    """Not even staff."""
    for roles in (frozenset[str](), frozenset({"staff"})):
        headers = headers_for(Principal(ada.id, roles))
        assert (await client.get("/api/v1/accounts/people", headers=headers)).status_code == 403
        assert (await change(client, ada, headers, roles=["superuser"])).status_code == 403


async def test_people_are_listed(client: httpx.AsyncClient, ada: Person, boss: Person, as_boss: dict[str, str]) -> None:
    """The newest first, or one by address; never with a hash."""
    everybody = await client.get("/api/v1/accounts/people", headers=as_boss)
    assert [one["email"] for one in everybody.json()] == [boss.email, ada.email]
    assert "argon2" not in everybody.text
    assert len((await client.get("/api/v1/accounts/people?limit=1", headers=as_boss)).json()) == 1
    found = await client.get("/api/v1/accounts/people", params={"email": "ADA@example.com"}, headers=as_boss)
    assert [one["id"] for one in found.json()] == [str(ada.id)]
    assert (await client.get("/api/v1/accounts/people?email=x@example.com", headers=as_boss)).status_code == 404


def command(environment: dict[str, str], *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run `create-superuser`."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli", "create-superuser", *arguments],
        cwd=ROOT,
        env=environment,
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_create_superuser(
    client: httpx.AsyncClient,
    resources: "Resources",
    environment: dict[str, str],
    tmp_path: Path,
    trail: Trail,
    begin: Begin,
) -> None:
    """From standard input or a file; an account that is there is taken over with whatever it had."""
    made = command(environment, "Root@example.com", "--password-file", "-", given=f"{PASSWORD}\n")
    assert (made.returncode, made.stdout.splitlines()[-1]) == (0, "create-superuser: made root@example.com"), (
        made.stderr
    )
    body = {"email": "root@example.com", "password": PASSWORD}
    assert (await client.post("/api/v1/accounts/sign-in", json=body)).status_code == 200
    async with resources.db.read() as session:
        user = (await session.scalars(select(User))).one()
    assert (user.roles, user.email_verified_at is not None) == (["superuser"], True)
    root = Person(user.id, user.email)
    device = (await begin(root)).token
    file = tmp_path / "password"
    file.write_text("another long password\r\nand a second line\n")
    taken = command(environment, "root@example.com", "--password-file", str(file))
    assert taken.stdout.splitlines()[-1] == "create-superuser: took over root@example.com", taken.stderr
    assert (await client.post("/api/v1/accounts/sign-in", json=body)).status_code == 401
    assert (await client.post("/api/v1/accounts/refresh", json={"refresh_token": device})).status_code == 401
    assert [entry.action for entry in await trail(root)].count("accounts.superuser_created") == 2
    assert PASSWORD not in made.stdout + made.stderr


@pytest.mark.parametrize(
    ("arguments", "given", "code", "said"),
    [
        (["a@example.com", "--password-file", "-"], "short\n", 1, "password: "),
        (["nobody", "--password-file", "-"], f"{PASSWORD}\n", 1, "email: "),
        (["a@example.com", "--password-file", "/no/such/file"], "", 1, "No such file"),
        (["a@example.com"], f"{PASSWORD}\nanother one\n", 1, "do not match"),
        (["a@example.com", PASSWORD], "", 2, "unexpected extra argument"),
    ],
)
def test_create_superuser_refuses(
    environment: dict[str, str], arguments: list[str], given: str, code: int, said: str
) -> None:
    """A weak password, no address, no file, two that differ; and there is no way to give the password as an argument."""
    from app.features.accounts.commands import cli

    result = CliRunner().invoke(cli, arguments, input=given)
    assert result.exit_code == code
    assert said in result.output
    assert given.strip() not in result.output or not given
