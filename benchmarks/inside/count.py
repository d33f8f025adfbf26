"""Runs under callgrind with the baked project's Python: a child process for each case and number of requests.

Writes a line for each child: the case, its requests, its process id.
"""

import asyncio
import gc
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

FEW = 50


def main(requests: int) -> None:
    """Build everything once, then fork."""
    report = os.fdopen(os.dup(1), "w")
    # The access log is written, but not into our report.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with tempfile.TemporaryDirectory() as folder:
        # As in production: each process counts in files. Read when the client library is imported.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        cases = make_cases()
        for app, scope, body in cases.values():
            asyncio.run(ask(app, scope, body, 20))
        gc.collect()
        gc.freeze()
        for name, (app, scope, body) in cases.items():
            for count in (FEW, FEW + requests):
                pid = os.fork()
                if not pid:
                    asyncio.run(ask(app, scope, body, count))
                    os._exit(0)
                if os.waitpid(pid, 0)[1]:
                    raise SystemExit(f"{name}: the child failed")
                print(name, count, pid, sep="\t", file=report, flush=True)


def make_cases() -> dict[str, tuple[Any, dict[str, Any], bytes]]:
    """The applications, each with a request."""
    from app.core.api import add_routes, feature_router
    from app.core.errors import install_error_handlers
    from app.core.logging import configure_logging
    from app.core.middleware import install_middleware
    from app.core.settings import Environment, Http, Settings
    from fastapi import APIRouter, FastAPI
    from pydantic import BaseModel

    class Payload(BaseModel):
        status: str

    def bare() -> FastAPI:
        return FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    def with_route(app: FastAPI) -> FastAPI:
        @app.get("/trivial")
        async def trivial() -> Payload:
            return Payload(status="healthy")

        @app.post("/trivial")
        async def echo(payload: Payload) -> Payload:
            return payload

        return app

    def with_stack() -> FastAPI:
        settings = Settings(
            environment=Environment.PRODUCTION,
            http=Http(allowed_hosts=("example.com",), cors_origins=("https://app.example.com",)),
        )
        configure_logging(settings, "api")
        app = bare()
        install_error_handlers(app)
        install_middleware(app, settings)
        return with_route(app)

    async def nothing() -> None:
        """Never asked for."""

    def feature(name: str) -> APIRouter:
        router = feature_router(name)
        for path in ("", "/search", "/{key}", "/{key}/parts"):
            router.add_api_route(path, nothing, name=f"{name}{path}")
        return router

    def last() -> APIRouter:
        """The feature with the route that is asked for: at the end of the list."""
        router = feature_router("last")

        @router.get("")
        async def trivial() -> Payload:
            return Payload(status="healthy")

        return router

    def among(count: int, add: Callable[[FastAPI, list[APIRouter]], None]) -> FastAPI:
        app = bare()
        add(app, [*(feature(f"feature{number}") for number in range(count)), last()])
        return app

    def flat(app: FastAPI, routers: list[APIRouter]) -> None:
        for router in routers:
            app.router.routes.extend(router.routes)

    def included(app: FastAPI, routers: list[APIRouter]) -> None:
        for router in routers:
            app.include_router(router)

    get, post = (
        request("GET", "/trivial"),
        request("POST", "/trivial", (b"content-type", b"application/json")),
    )
    body = b'{"status":"healthy"}'
    elsewhere = request("GET", "/trivial", (b"origin", b"https://app.example.com"))
    of_feature = request("GET", "/api/v1/last")
    return {
        "bare": (with_route(bare()), get, b""),
        "stack": (with_stack(), get, b""),
        "stack, origin": (with_stack(), elsewhere, b""),
        "bare, post": (with_route(bare()), post, body),
        "stack, post": (with_stack(), post, body),
        "2 features": (among(2, add_routes), of_feature, b""),
        "40 features": (among(40, add_routes), of_feature, b""),
        "40 features, flat": (among(40, flat), of_feature, b""),
        "40 features, included": (among(40, included), of_feature, b""),
    }


def request(method: str, path: str, *more: tuple[bytes, bytes]) -> dict[str, Any]:
    """A request as it comes from nginx through uvicorn."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "client": ("203.0.113.7", 50000),
        "server": ("127.0.0.1", 8000),
        "headers": [
            (b"host", b"example.com"),
            (b"x-forwarded-for", b"203.0.113.7"),
            (b"x-forwarded-proto", b"https"),
            (b"x-request-id", b"0123456789abcdef0123456789abcdef"),
            (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64)"),
            (b"accept", b"application/json"),
            (b"accept-encoding", b"gzip, deflate, br"),
            (b"authorization", b"Bearer header.payload.signature"),
            *more,
        ],
    }


async def ask(app: Any, scope: dict[str, Any], body: bytes, count: int) -> None:
    """Send the request `count` times, and insist on 200."""
    statuses = set()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if "status" in message:
            statuses.add(message["status"])

    for _ in range(count):
        await app({**scope, "state": {}}, receive, send)
    if statuses != {200}:
        raise SystemExit(f"{scope['path']}: answered {statuses}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
