"""A request finds its route by its feature first, and nobody can tell from outside."""

from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from app.core.api import PREFIX, add_routes, feature_router
from app.core.errors import install_error_handlers


class Counting(APIRoute):
    """A route that counts how often any of its kind was tried."""

    tried = 0

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """See `APIRoute.matches`."""
        Counting.tried += 1
        return super().matches(scope)


def feature(name: str) -> APIRouter:
    """A feature with the usual routes."""
    router = feature_router(name)
    router.route_class = Counting

    @router.get("")
    async def several() -> str:
        return f"all {name}"

    @router.get("/{key}", name=f"one of {name}")
    async def one(key: int, request: Request) -> str:
        return f"{name} {key} at {request.url_for(f'one of {name}', key=key).path}"

    @router.delete("/{key}")
    async def remove(key: int) -> str:
        return f"no {name} {key}"

    @router.post("/search")
    async def search() -> str:
        return f"found {name}"

    return router


def service(*features: str) -> FastAPI:
    """An application with those features, a route outside the API, and one added late."""
    app = FastAPI(redirect_slashes=False)
    install_error_handlers(app)
    outside = APIRouter()

    @outside.get("/health")
    async def health() -> str:
        return "alive"

    @outside.get("/health/ready")
    async def ready() -> str:
        return "ready"

    add_routes(app, [outside, *map(feature, features)])

    @app.get(f"{PREFIX}/{features[0]}/late/addition")
    async def late() -> str:
        return "late"

    @app.get(PREFIX + "/{anything}/shared")
    async def shared(anything: str) -> str:
        return f"shared by {anything}"

    return app


async def ask(app: FastAPI, method: str, path: str) -> httpx.Response:
    """One request, within this process."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.request(method, path)


def facts(response: httpx.Response) -> tuple[int, Any, Any]:
    """What a client can see: status, allowed methods, and the body without the id of the request."""
    body = response.json() if response.content else None
    if isinstance(body, dict):
        body.pop("request_id", None)
    return response.status_code, response.headers.get("allow"), body


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "DELETE", "PATCH"])
@pytest.mark.parametrize(
    "path",
    [
        "/health",
        "/health/",
        "/health/ready",
        "/openapi.json",
        PREFIX,
        f"{PREFIX}/ships",
        f"{PREFIX}/ships/",
        f"{PREFIX}/ships/7",
        f"{PREFIX}/ships/seven",
        f"{PREFIX}/ships/search",
        f"{PREFIX}/ships/late/addition",
        f"{PREFIX}/ships/shared",
        f"{PREFIX}/whales/shared",
        f"{PREFIX}/whales",
        "/",
        "//api/v1/ships",
        "/elsewhere",
    ],
)
async def test_looking_up_by_feature_answers_as_the_whole_table_does(method: str, path: str) -> None:
    """Parameters, HEAD, OPTIONS, 404, 405 with its Allow header, 422, and routes added afterwards or without a feature."""
    looked_up, whole = service("ships", "ports"), service("ships", "ports")
    whole.router.middleware_stack = whole.router.app
    assert facts(await ask(looked_up, method, path)) == facts(await ask(whole, method, path))


async def test_every_feature_is_reached() -> None:
    """With its parameters, and with addresses made from the names of routes."""
    app = service("ships", "ports")
    assert facts(await ask(app, "GET", f"{PREFIX}/ports/7")) == (200, None, f"ports 7 at {PREFIX}/ports/7")
    assert facts(await ask(app, "POST", f"{PREFIX}/ships/search")) == (200, None, "found ships")
    assert (await ask(app, "PATCH", f"{PREFIX}/ships/search")).status_code == 405
    assert (await ask(app, "GET", f"{PREFIX}/whales")).status_code == 404


async def test_a_method_that_is_not_taken_is_told_all_that_are() -> None:
    """A path with a route for each method names every one of them, and not those of another path."""
    answer = await ask(service("ships"), "PATCH", f"{PREFIX}/ships/7")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET")
    answer = await ask(service("ships"), "PATCH", f"{PREFIX}/ships")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


async def test_openapi_knows_every_route() -> None:
    """The whole table stays what the document is made from."""
    assert {f"{PREFIX}/ports", f"{PREFIX}/ships/{{key}}", "/health"} <= set(
        service("ships", "ports").openapi()["paths"]
    )


async def test_further_features_cost_a_request_nothing() -> None:
    """As many routes are tried for one among forty features as for one alone."""
    tried = []
    for app in (service("last"), service(*(f"feature{number}" for number in range(40)), "last")):
        Counting.tried = 0
        assert (await ask(app, "DELETE", f"{PREFIX}/last/7")).status_code == 200
        tried.append(Counting.tried)
    assert tried == [3, 3]
