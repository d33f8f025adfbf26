"""The shape of the API: where features hang their routes, and how a request finds its own."""

from collections import defaultdict
from collections.abc import Iterable
from copy import copy

from fastapi import APIRouter, FastAPI
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from app.core.errors import problem_responses

PREFIX = "/api/v1"
# As many parts of a path as name a feature: of /api/v1/<name>/more, what stands before /more.
_PARTS = PREFIX.count("/") + 2


def feature_router(name: str) -> APIRouter:
    """A router for the feature `name`, at /api/v1/<name>, that documents the errors every route can give."""
    return APIRouter(prefix=f"{PREFIX}/{name}", tags=[name], responses=problem_responses(400, 422, 429, 503))


def add_routes(app: FastAPI, routers: Iterable[APIRouter]) -> None:
    """Put the routes of `routers` into the table of `app` itself, and look them up by feature first.

    `include_router` would nest them, and each level costs every request about 425,000 instructions in FastAPI 0.165.
    """
    for router in routers:
        # Copies: what an application puts around its routes is not around those of another one in the same process.
        app.router.routes.extend(copy(route) for route in router.routes)
    app.router.middleware_stack = FeatureTables(app.router)


class FeatureTables:
    """A small route table for each feature in front of the whole one.

    The router tries its routes one after the other, at about 9,000 instructions each, so that every feature would slow
    down all others. Each small table is a router too, so that parameters, HEAD, 405 and the rest are the library's; what
    it does not know goes on to the whole table, which knows every route and is what OpenAPI is made from.
    """

    def __init__(self, whole: APIRouter) -> None:
        self._whole = whole
        routes: dict[str, list[BaseRoute]] = defaultdict(list)
        for route in whole.routes:
            name = _feature(getattr(route, "path", "{}"))
            if "{" not in name:  # a parameter in the feature's place could be any feature
                routes[name].append(route)
        self._tables = {
            name: APIRouter(routes=found, default=whole.app, redirect_slashes=whole.redirect_slashes)
            for name, found in routes.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        table = self._whole if scope["type"] == "lifespan" else self._tables.get(_feature(scope["path"]), self._whole)
        scope.setdefault("router", self._whole)
        await table.app(scope, receive, send)


def _feature(path: str) -> str:
    return "/".join(path.split("/", _PARTS)[:_PARTS])
