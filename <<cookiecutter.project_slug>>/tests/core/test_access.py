"""The table of access: it knows every route, it is what lets people in, and it is refused where it is not true."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx
import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from starlette.routing import Mount

from app.core.access import Access, AccessError, guard, joined, names_of
from app.core.errors import install_error_handlers
from app.core.project import ROOT
from app.core.security import CurrentUser, Principal

if TYPE_CHECKING:
    from app.core.resources import Resources
    from app.core.settings import Settings

HeadersFor = Callable[[Principal], dict[str, str]]
ROLES = {"nobody": None, "user": frozenset[str](), "staff": frozenset({"staff"}), "superuser": frozenset({"superuser"})}


def test_every_route_of_the_service_has_a_row(application: FastAPI, settings: "Settings") -> None:
    """And every row a route: what is printed is the whole and nothing else."""
    from app.main import access_table

    routes = {name for route in application.routes for name in names_of(route)}
    assert routes == set(access_table(settings))


def test_a_route_without_a_row_is_refused() -> None:
    """At start-up, and with every fault at once."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/open")
    async def open_to_all() -> None: ...

    @app.post("/forgotten")
    async def forgotten() -> None: ...

    @app.get("/mine")
    async def mine(user: CurrentUser) -> None: ...

    @app.websocket("/live")
    async def live(socket: WebSocket) -> None: ...

    with pytest.raises(AccessError) as caught:
        guard(
            app,
            {
                "GET /open": Access.ANYONE,
                "GET /mine": Access.ANYONE,
                "GET /gone": Access.STAFF,
                "WEBSOCKET /live": Access.SIGNED_IN,
            },
        )
    assert sorted(fault.split(":")[0] for fault in caught.value.faults) == [
        *("GET /gone", "GET /mine", "POST /forgotten", "WEBSOCKET /live"),
    ]
    assert "POST /forgotten: has no row" in str(caught.value)


def test_one_route_has_one_access() -> None:
    """Two methods of one handler cannot be told apart, and no route has two rows."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.api_route("/both", methods=["GET", "POST"])
    async def both() -> None: ...

    with pytest.raises(AccessError, match="one route, so one access"):
        guard(app, {"GET /both": Access.ANYONE, "POST /both": Access.STAFF})
    with pytest.raises(AccessError, match="GET /both: has two rows"):
        joined([{"GET /both": Access.ANYONE}, {"GET /both": Access.STAFF}])


@pytest.fixture
def guarded(settings: "Settings", opened: "Resources") -> FastAPI:
    """An application with a route of each kind."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    install_error_handlers(app)
    app.state.resources = opened
    for access in Access:

        @app.post(f"/{access.name}")
        async def route() -> str:
            return "in"

    inner = APIRouter()
    app.router.routes.append(Mount("/pages", inner))
    guard(app, {f"POST /{access.name}": access for access in Access} | {"MOUNT /pages": Access.OWN})
    return app


@pytest.mark.parametrize(
    ("access", "allowed"),
    [
        (Access.ANYONE, "nobody user staff superuser"),
        (Access.OWN, "nobody user staff superuser"),
        (Access.INTERNAL, "nobody user staff superuser"),
        (Access.SIGNED_IN, "user staff superuser"),
        (Access.STAFF, "staff superuser"),
        (Access.SUPERUSER, "superuser"),
        (Access.HEALTH_TOKEN, ""),
    ],
)
async def test_who_gets_in(guarded: FastAPI, headers_for: HeadersFor, access: Access, allowed: str) -> None:
    """For each kind of access and each kind of person."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guarded), base_url="http://localhost") as client:
        for name, roles in ROLES.items():
            headers = {} if roles is None else headers_for(Principal(uuid4(), roles))
            response = await client.post(f"/{access.name}", headers=headers)
            refused = 401 if access is Access.HEALTH_TOKEN or roles is None else 403
            assert response.status_code == (200 if name in allowed.split() else refused), name
            assert (response.headers.get("www-authenticate") == "Bearer") == (response.status_code == 401)


async def test_the_health_token_opens_its_routes_only(guarded: FastAPI, settings: "Settings") -> None:
    """It is no access token, and another one is none for health."""
    token = settings.health.token.get_secret_value()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guarded), base_url="http://localhost") as client:
        headers = {"Authorization": f"Bearer {token}"}
        assert (await client.post("/HEALTH_TOKEN", headers=headers)).status_code == 200
        assert (await client.post("/SIGNED_IN", headers=headers)).status_code == 401
        for wrong in (f"Bearer {token}x", "Bearer", "Bearer ü", f"Basic {token}"):
            response = await client.post("/HEALTH_TOKEN", headers=[(b"Authorization", wrong.encode())])
            assert response.status_code == 401


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP", "Forwarded"])
async def test_what_is_internal_is_not_given_to_a_proxy(guarded: FastAPI, header: str) -> None:
    """Where nginx is not in front, the platform's own proxy must not publish it."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guarded), base_url="http://localhost") as client:
        assert (await client.post("/INTERNAL", headers={header: "for=203.0.113.7"})).status_code == 404
        assert (await client.post("/INTERNAL")).status_code == 200


async def test_a_strangers_body_is_not_read(guarded: FastAPI) -> None:
    """Refused before the framework looks at the request: a stranger cannot make it read an endless one."""
    read = 0

    async def receive() -> dict[str, object]:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/SIGNED_IN",
        "raw_path": b"/SIGNED_IN",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
        "scheme": "http",
    }
    async with asyncio.timeout(5):
        await guarded(scope, receive, send)  # type: ignore[arg-type]  # plain dictionaries are messages too
    assert sent[0]["status"] == 401
    assert read == 0


def test_the_document_says_what_the_table_says(application: FastAPI, settings: "Settings") -> None:
    """`security` of every operation, and the refusals that go with it."""
    from app.main import access_table

    document = application.openapi()
    for name, access in access_table(settings).items():
        method, path = name.split(" ")
        operation = document["paths"].get(path, {}).get(method.lower())
        if operation is None:
            continue  # outside of the document
        with_token = access in (Access.SIGNED_IN, Access.STAFF, Access.SUPERUSER)
        wanted = "access_token" if with_token else "health_token" if access is Access.HEALTH_TOKEN else None
        assert operation.get("security") == ([{wanted: []}] if wanted else None), name
        assert not with_token or "401" in operation["responses"], name
        if wanted:
            assert wanted in document["components"]["securitySchemes"]


def test_the_table_is_printed(environment: dict[str, str]) -> None:
    """`python -m app.cli access`: for whoever reviews who may ask what."""
    command = [sys.executable, "-m", "app.cli", "access"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    lines = [line.split("  ") for line in done.stdout.splitlines()]
    said = {line[0]: line[-1].strip() for line in lines}
    assert said["GET /metrics"] == "inside the network"
    assert said["GET /health"] == "anyone"
