"""Who may ask what: one table of all routes, which is also what lets people in.

Every module with routes says beside them who may ask:

    ACCESS = {
        "GET /api/v1/invoices": Access.SIGNED_IN,
        "DELETE /api/v1/invoices/{invoice_id}": Access.STAFF,
    }

`create_app` joins these into one table and puts a guard before every route; `python -m app.cli access` prints it. A route
without a row, a row without a route, and a handler that takes `CurrentUser` where its row lets everybody in are refused
at start-up. The guard stands before the framework: a stranger's body is not even read, and the OpenAPI document says of
each operation what the table says.
"""

import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.errors import Forbidden, NotFound, Unauthorized, problem_responses
from app.core.rate_limit import per_user
from app.core.security import PRINCIPAL, InvalidToken, Principal, Role, bearer_of, current_user, principal_of


class Access(StrEnum):
    """Who may ask; the value is how the printed table says it."""

    ANYONE = "anyone"
    SIGNED_IN = "signed in"
    STAFF = "staff"  # and superusers
    SUPERUSER = "superuser"
    HEALTH_TOKEN = "holder of HEALTH_TOKEN"  # noqa: S105  # a name of a setting
    INTERNAL = "inside the network"
    # The route lets in by something else than an access token: a ticket, the session of a page.
    OWN = "whom the route itself lets in"


Table = Mapping[str, Access]

_WITH_TOKEN = frozenset({Access.SIGNED_IN, Access.STAFF, Access.SUPERUSER})
# What every proxy adds: nginx, load balancers, platforms. A scrape from inside the network carries none of them.
_PROXIED = frozenset({b"x-forwarded-for", b"x-real-ip", b"forwarded"})


class AccessError(Exception):
    """The table of access is not what the routes are.

    Attributes:
        faults: one line for each.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(["the table of access has faults:", *(f"  - {fault}" for fault in faults)]))


def joined(tables: Sequence[Table]) -> dict[str, Access]:
    """The tables as one.

    Raises:
        AccessError: two of them speak of the same route.
    """
    whole: dict[str, Access] = {}
    faults = []
    for table in tables:
        faults += [f"{name}: has two rows" for name in table if name in whole]
        whole.update(table)
    if faults:
        raise AccessError(faults)
    return whole


def guard(app: FastAPI, table: Table) -> None:
    """Put a guard before every route of `app`, as `table` says, and say the same in the OpenAPI document.

    Raises:
        AccessError: the table is not complete, or not true.
    """
    faults: list[str] = []
    unused = set(table)
    documented: dict[str, Access] = {}
    for route in app.routes:
        names = names_of(route)
        unused.difference_update(names)
        faults += [f"{name}: has no row" for name in names if name not in table]
        said = {table[name] for name in names if name in table}
        if len(said) > 1:
            faults.append(f"{', '.join(names)}: one route, so one access")
        elif said:
            (access,) = said
            faults += _untrue(route, names, access)
            _put_before(route, access)
            documented |= dict.fromkeys(_names(route, getattr(route, "path_format", "")), access)
    faults += [f"{name}: there is no such route" for name in sorted(unused)]
    if faults:
        raise AccessError(faults)
    _describe(app, documented)


def names_of(route: BaseRoute) -> list[str]:
    """What the rows of a route are called: "GET /path", "WEBSOCKET /path", "MOUNT /path"."""
    return _names(route, getattr(route, "path", ""))


def _names(route: BaseRoute, path: str) -> list[str]:
    if isinstance(route, Route):
        methods = sorted((route.methods or set()) - {"HEAD"})  # HEAD is a GET that keeps its answer to itself
        return [f"{method} {path}" for method in methods]
    if isinstance(route, WebSocketRoute):
        return [f"WEBSOCKET {path}"]
    return [f"MOUNT {path}"]


def _untrue(route: BaseRoute, names: Sequence[str], access: Access) -> list[str]:
    """Where a row says something else than the code."""
    if not isinstance(route, Route) and access not in (Access.ANYONE, Access.OWN, Access.INTERNAL):
        return [f"{names[0]}: a header lets nobody in here; the route has to ask by itself (Access.OWN)"]
    if access not in _WITH_TOKEN and _takes_user(getattr(route, "dependant", None)):
        return [f"{', '.join(names)}: takes the person who is signed in, and its row says {access.value!r}"]
    return []


def _takes_user(dependant: Dependant | None) -> bool:
    if dependant is None:
        return False
    return dependant.call is current_user or any(_takes_user(inner) for inner in dependant.dependencies)


class _Guarded:
    """A route's application behind its guard."""

    def __init__(self, inner: ASGIApp, access: Access) -> None:
        self.inner = inner
        self.access = access
        self._check = _CHECKS[access]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._check(scope)
        await self.inner(scope, receive, send)


def _put_before(route: BaseRoute, access: Access) -> None:
    assert isinstance(route, Route | WebSocketRoute | Mount)
    if access not in (Access.ANYONE, Access.OWN):
        route.app = _Guarded(route.app, access)


async def _signed_in(scope: Scope) -> Principal:
    resources = scope["app"].state.resources
    principal = principal_of(resources.settings.auth, scope)
    if principal.session in resources.sign_outs:
        raise InvalidToken
    scope[PRINCIPAL] = principal
    if resources.settings.limits.per_user:
        await resources.limiter.take(per_user(resources.settings.limits), str(principal.id))
    return principal


async def _staff(scope: Scope) -> None:
    if (await _signed_in(scope)).roles.isdisjoint((Role.STAFF, Role.SUPERUSER)):
        raise Forbidden


async def _superuser(scope: Scope) -> None:
    if Role.SUPERUSER not in (await _signed_in(scope)).roles:
        raise Forbidden


async def _health_token(scope: Scope) -> None:
    token = scope["app"].state.resources.settings.health.token.get_secret_value()
    if not token:
        raise NotFound  # nobody can hold it
    if not hmac.compare_digest(bearer_of(scope).encode(), token.encode()):
        raise Unauthorized


async def _internal(scope: Scope) -> None:
    """Nginx lets nobody through to these; where something else stands in front, its headers give it away."""
    if any(name in _PROXIED for name, _ in scope["headers"]):
        raise NotFound


_CHECKS: Mapping[Access, Callable[[Scope], Awaitable[object]]] = {
    Access.SIGNED_IN: _signed_in,
    Access.STAFF: _staff,
    Access.SUPERUSER: _superuser,
    Access.HEALTH_TOKEN: _health_token,
    Access.INTERNAL: _internal,
}


# How the OpenAPI document calls what is shown at the door.
_SCHEMES = {
    "access_token": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "An access token, as signing in gives one.",
    },
    "health_token": {"type": "http", "scheme": "bearer", "description": "HEALTH_TOKEN."},
}


def _describe(app: FastAPI, documented: Table) -> None:
    described = app.openapi

    def openapi() -> dict[str, Any]:
        document = described()
        used = set()
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                access = documented.get(f"{method.upper()} {path}", Access.ANYONE)
                if access in _WITH_TOKEN:
                    used.add("access_token")
                    operation["security"] = [{"access_token": []}]
                    refusals = (401,) if access is Access.SIGNED_IN else (401, 403)
                    _add_problems(operation, *refusals)
                elif access is Access.HEALTH_TOKEN:
                    _add_problems(operation, 401, 404)
                    used.add("health_token")
                    operation["security"] = [{"health_token": []}]
        if used:
            document["components"]["securitySchemes"] = {name: _SCHEMES[name] for name in sorted(used)}
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to change the document


def _add_problems(operation: dict[str, Any], *statuses: int) -> None:
    for status, response in problem_responses(*statuses).items():
        response.pop("model")  # the schema is there: every route has a problem to tell
        operation["responses"].setdefault(str(status), response)
