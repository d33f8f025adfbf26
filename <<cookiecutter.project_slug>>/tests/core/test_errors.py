"""Errors: every one is a problem document, and nothing that a client sends is our fault."""

import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException
from httpx import ASGITransport

from app.core import errors
from app.core.errors import MEDIA_TYPE, AppError, NotFound, Unauthorized, Unavailable, install_error_handlers

KINDS = sorted(
    (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AppError)),
    key=lambda kind: kind.status,
)


class TooManyLegs(NotFound):
    """An error as a feature would make it."""

    detail = "No animal has so many."


async def answer_to(error: Exception) -> httpx.Response:
    """What a client sees when a route raises this."""
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/")
    async def fail() -> None:
        raise error

    async with httpx.AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as client:
        return await client.get("/")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_every_error_is_a_problem_document(kind: type[AppError]) -> None:
    """Status, code and words come from the class."""
    response = await answer_to(kind())
    assert response.status_code == kind.status
    assert response.headers["content-type"] == MEDIA_TYPE
    assert response.json() == {
        "type": "about:blank",
        # RFC 9110's names, on every Python.
        "title": {413: "Content Too Large", 422: "Unprocessable Content"}.get(kind.status, response.reason_phrase),
        "status": kind.status,
        "detail": kind.detail,
        "code": kind.code(),
        "request_id": "",
    }


def test_statuses_are_different() -> None:
    """Two classes of core with the same status would make the code of a framework's own error a matter of chance."""
    assert len({kind.status for kind in KINDS}) == len(KINDS)


async def test_a_features_error_has_a_code_of_its_own() -> None:
    """The class is the code; words may be more precise where it is raised."""
    response = await answer_to(TooManyLegs("Nine?"))
    assert response.status_code == 404
    assert (response.json()["code"], response.json()["detail"]) == ("too_many_legs", "Nine?")
    assert (await answer_to(TooManyLegs())).json()["detail"] == "No animal has so many."


async def test_headers_that_belong_to_the_status() -> None:
    """A client is told how to sign in and when to come again."""
    assert (await answer_to(Unauthorized())).headers["www-authenticate"] == "Bearer"
    assert (await answer_to(Unavailable())).headers["retry-after"] == "5"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "bad_request"),
        (404, "not_found"),
        (405, "method_not_allowed"),
        (413, "payload_too_large"),
        (418, "i_m_a_teapot"),
    ],
)
async def test_frameworks_errors_have_the_same_form(status: int, code: str) -> None:
    """Starlette and FastAPI raise HTTPException; its code here is the same on every Python."""
    response = await answer_to(HTTPException(status, headers={"X-Thing": "1"}))
    assert (response.status_code, response.json()["code"], response.headers["x-thing"]) == (status, code, "1")
    own = await answer_to(HTTPException(status, "Own words."))
    assert own.json()["detail"] == "Own words."


async def test_an_empty_answer_stays_empty() -> None:
    """304 must have no body."""
    response = await answer_to(HTTPException(304))
    assert (response.status_code, response.content) == (304, b"")


async def test_validation_names_the_fields(web: httpx.AsyncClient) -> None:
    """Where and why, in path, query and body, and never the value: it may be a password."""
    body = await web.post("/api/v1/probe/things", json={"name": "x" * 101, "count": "hunter2", "legs": 1})
    assert body.status_code == 422
    problem = body.json()
    assert problem["code"] == "validation_failed"
    assert {fault["field"] for fault in problem["errors"]} == {"body.name", "body.count", "body.legs"}
    assert "hunter2" not in body.text
    path = await web.get("/api/v1/probe/things/x?at_most=1000")
    assert {fault["field"] for fault in path.json()["errors"]} == {"path.number", "query.at_most"}


HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "no json": b"{",
    "not utf-8": b'{"name": "\xff"}',
    "an array": b"[]",
    "a string": b'"x"',
    "null": b"null",
    "a lone surrogate": b'{"name": "\\ud800"}',
    "a lone surrogate as a name": b'{"name": "x", "\\ud800": 1}',
    "a lone surrogate anywhere": b'{"name": "x", "anything": "\\ud800"}',
    "a lone surrogate as a key": b'{"name": "x", "anything": {"\\ud800": 1}}',
    "a lone surrogate as a number": b'{"name": "x", "count": "\\ud800"}',
    "NUL": b'{"name": "\\u0000"}',
    "a huge integer": b'{"name": "x", "count": ' + b"9" * 400 + b"}",
    "an integer beyond 4300 digits": b'{"name": "x", "count": ' + b"9" * 5000 + b"}",
    "digits beyond 4300 as text": b'{"name": "x", "count": "' + b"9" * 5000 + b'"}',
    "a huge integer anywhere": b'{"name": "x", "anything": ' + b"9" * 40 + b"}",
    "infinity": b'{"name": "x", "share": Infinity}',
    "a float beyond all": b'{"name": "x", "share": 1e999}',
    "not a number": b'{"name": "x", "anything": NaN}',
    "deep": b'{"name": "x", "anything": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "less deep": b'{"name": "x", "anything": ' + b"[" * 900 + b"]" * 900 + b"}",
    "the same name twice": b'{"name": "x", "name": 1}',
    "prototype": b'{"name": "x", "__class__": 1}',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
async def test_no_body_is_our_fault(web: httpx.AsyncClient, body: bytes) -> None:
    """Whatever arrives is answered, and an error is the client's (4xx) and says so as a problem document."""
    response = await web.post("/api/v1/probe/things", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code < 500, response.text
    json.loads(response.content.decode("utf-8"))
    if response.status_code >= 400:
        assert response.headers["content-type"] == MEDIA_TYPE


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/plain",
        "application/xml",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
        "multipart/form-data; boundary=ü",
        "x",
        "application/json; charset=utf-16",
    ],
)
@pytest.mark.parametrize("path", ["things", "files"])
async def test_no_content_type_is_our_fault(web: httpx.AsyncClient, kind: str, path: str) -> None:
    """The same for what the body claims to be."""
    for body in (
        b"",
        b'{"name": "x"}',
        b"--x\r\n\r\n\r\n--x--",
        b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--x--',
    ):
        response = await web.post(f"/api/v1/probe/{path}", content=body, headers=[(b"Content-Type", kind.encode())])
        assert response.status_code < 500, (kind, body, response.text)


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/probe/things/" + "9" * 5000,
        "/api/v1/probe/things/%00",
        "/api/v1/probe/things/%FF",
        "/api/v1/probe/things/%ED%A0%80",
        "/api/v1/probe/things/1?at_most=%ED%A0%80",
        "/api/v1/probe/things/1?" + "&".join(f"at_most={n}" for n in range(1500)),
        "/api/v1/probe/things/1?at_most=%",
        "//api/v1/probe/things/1",
        "/../../etc/passwd",
        "/" + "x" * 8000,
    ],
    ids=lambda path: path[:40],
)
async def test_no_address_is_our_fault(web: httpx.AsyncClient, path: str) -> None:
    """The same for addresses."""
    response = await web.get(path)
    assert 400 <= response.status_code < 500, response.text


async def test_the_document_tells_of_errors(web: httpx.AsyncClient) -> None:
    """OpenAPI shows each documented error as a problem document and as nothing else."""
    document: dict[str, Any] = (await web.get("/openapi.json")).json()
    shown = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                if path.startswith("/api/") and int(status) >= 400:
                    assert list(response["content"]) == [MEDIA_TYPE], (method, path, status)
                    assert response["content"][MEDIA_TYPE]["schema"] == {"$ref": "#/components/schemas/Problem"}
                    shown += 1
    assert shown > 10
    assert "HTTPValidationError" not in document["components"]["schemas"]
