"""Somebody registers, signs in, looks at themselves, comes back after a while and signs out."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from load.journeys import Entry
from load.objectives import Step

if TYPE_CHECKING:
    from load.person import Person

REGISTER = Step("accounts: register")
SIGN_IN = Step("accounts: sign in")
PROFILE = Step("accounts: profile")
REFRESH = Step("accounts: refresh")
SIGN_OUT = Step("accounts: sign out")

STEPS = (PROFILE,)


def enter(person: Person) -> None:
    """Somebody whom nobody knows yet."""
    email, password = f"load-{uuid4().hex}@{person.mail_domain}", f"pass-{uuid4()}"
    person.ask(REGISTER, "POST", "/api/v1/accounts/register", 202, json={"email": email, "password": password})
    _keep(person, person.ask(SIGN_IN, "POST", "/api/v1/accounts/sign-in", json={"email": email, "password": password}))


def walk(person: Person) -> None:
    """Who am I?"""
    person.ask(PROFILE, "GET", "/api/v1/accounts/me")


def leave(person: Person) -> None:
    """The access token is renewed, as after half an hour; then all ends."""
    body = {"refresh_token": person.kept["refresh_token"]}
    _keep(person, person.ask(REFRESH, "POST", "/api/v1/accounts/refresh", json=body))
    person.ask(SIGN_OUT, "POST", "/api/v1/accounts/sign-out", 204, json={"refresh_token": person.kept["refresh_token"]})


def _keep(person: Person, tokens: dict[str, str]) -> None:
    person.token = tokens["access_token"]
    person.kept["refresh_token"] = tokens["refresh_token"]


ENTRY = Entry(enter, leave, (REGISTER, SIGN_IN), (REFRESH, SIGN_OUT))
