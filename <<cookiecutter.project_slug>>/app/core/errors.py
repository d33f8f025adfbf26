"""Errors as the client sees them: RFC 9457 problem documents, with the request's id.

The class is the public code and the status sits on the class; a feature adds its own by subclassing. One function
renders them all, and nothing that a client sends becomes a 500.
"""

import re
from collections.abc import Mapping
from http import HTTPStatus
from math import ceil
from types import MappingProxyType
from typing import Any, ClassVar

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Route

from app.core.logging import request_id

MEDIA_TYPE = "application/problem+json"


class AppError(Exception):
    """Root of every error that has an answer of its own.

    Attributes:
        status: HTTP status of the answer.
        detail: one sentence for the person who made the request; never an internal fact.
        headers: further headers of the answer.
    """

    status: ClassVar[int] = 500
    detail: str = "Something went wrong on our side."
    headers: Mapping[str, str] = MappingProxyType({})

    def __init__(self, detail: str = "") -> None:
        self.detail = detail or type(self).detail
        super().__init__(self.detail)

    @classmethod
    def code(cls) -> str:
        """The class as a word for programs: `DocumentNotFound` is `document_not_found`."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()


class BadRequest(AppError):
    """The request makes no sense as it is."""

    status = 400
    detail = "The request could not be understood."


class Unauthorized(AppError):
    """Nobody is signed in, or no longer."""

    status = 401
    detail = "Sign in first."
    headers: Mapping[str, str] = MappingProxyType({"WWW-Authenticate": "Bearer"})


class Forbidden(AppError):
    """Signed in, but not allowed."""

    status = 403
    detail = "You may not do this."


class NotFound(AppError):
    """No such thing, or none that the asker may know of."""

    status = 404
    detail = "There is nothing here."


class MethodNotAllowed(AppError):
    """The address exists, and does not do this."""

    status = 405
    detail = "This method is not allowed here."


class Conflict(AppError):
    """The request does not fit the present state."""

    status = 409
    detail = "This is already there."


class PayloadTooLarge(AppError):
    """More bytes than are taken."""

    status = 413
    detail = "The request is too large."


class UnsupportedMediaType(AppError):
    """A kind of content that is not handled."""

    status = 415
    detail = "This kind of content is not supported."


class UnprocessableContent(AppError):
    """Understood, but the content does not fit."""

    status = 422
    detail = "The content does not fit."


class TooManyRequests(AppError):
    """More often than is allowed.

    Args:
        seconds: after how long it makes sense to try again.
    """

    status = 429
    detail = "Too many requests. Wait a little."

    def __init__(self, seconds: float = 1) -> None:
        super().__init__()
        self.headers = {"Retry-After": str(max(1, ceil(seconds)))}


class Unavailable(AppError):
    """A part that is needed does not answer; trying again later may work."""

    status = 503
    detail = "This is not available at the moment. Try again shortly."
    headers: Mapping[str, str] = MappingProxyType({"Retry-After": "5"})


class FieldFault(BaseModel):
    """One field that does not fit."""

    field: str = Field(examples=["body.email"])
    message: str = Field(examples=["value is not a valid email address"])


class Problem(BaseModel):
    """An error, as RFC 9457 defines it."""

    type: str = Field(default="about:blank", description="A page about this kind of error, or about:blank.")
    title: str = Field(description="The status in words.", examples=["Not Found"])
    status: int = Field(description="The HTTP status again.", examples=[404])
    detail: str = Field(description="What went wrong, for a person.", examples=["There is nothing here."])
    code: str = Field(description="What went wrong, for a program.", examples=["not_found"])
    request_id: str = Field(description="Name this when you ask for help; the logs know it.", examples=["6f1d…"])
    errors: list[FieldFault] | None = Field(default=None, description="The fields that do not fit.")


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` argument of a route for the errors it can give."""
    return {
        status: {
            "description": _title(status),
            "model": Problem,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def problem(status: int, code: str, detail: str, errors: list[dict[str, str]] | None = None) -> bytes:
    """A problem document as bytes."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": _title(status),
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id.get(),
    }
    if errors is not None:
        document["errors"] = errors
    return orjson.dumps(document)


# As RFC 9110 calls them; the standard library does so only from Python 3.13 on.
_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}


def _title(status: int) -> str:
    return _TITLES.get(status) or HTTPStatus(status).phrase


def install_error_handlers(app: FastAPI) -> None:
    """Make every error of `app` a problem document. What no handler knows is answered by the outermost middleware."""

    async def app_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, AppError)
        return _response(error.status, error.code(), error.detail, error.headers)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        phrase = HTTPStatus(error.status_code).phrase
        known = _BY_STATUS.get(error.status_code)
        code = known.code() if known else re.sub(r"\W+", "_", phrase).lower()
        detail = known.detail if known and error.detail == phrase else error.detail
        headers = dict(error.headers or {})
        if error.status_code == MethodNotAllowed.status:
            headers["Allow"] = ", ".join(_methods(app, request))
        return _response(error.status_code, code, detail, headers)

    async def validation_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        faults = [
            {"field": ".".join(map(str, fault["loc"])), "message": _printable(fault["msg"])} for fault in error.errors()
        ]
        body = problem(422, "validation_failed", "Some fields do not fit; see errors.", faults)
        return Response(body, 422, media_type=MEDIA_TYPE)

    described = app.openapi

    def openapi() -> dict[str, Any]:
        document = described()
        # FastAPI adds the media type of the route's good answer, JSON or a stream, to every documented model.
        for operation in (entry for path in document["paths"].values() for entry in path.values()):
            for response in operation["responses"].values():
                if MEDIA_TYPE in response.get("content", ()):
                    response["content"] = {MEDIA_TYPE: response["content"][MEDIA_TYPE]}
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to change the document
    app.add_exception_handler(AppError, app_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, validation_error)


# The frameworks' own errors have our codes: the words of a status change with Python's version.
_BY_STATUS = {
    kind.status: kind
    for kind in (
        BadRequest,
        Unauthorized,
        Forbidden,
        NotFound,
        MethodNotAllowed,
        Conflict,
        PayloadTooLarge,
        UnsupportedMediaType,
        UnprocessableContent,
        Unavailable,
    )
}


def _methods(app: FastAPI, request: Request) -> list[str]:
    """What a path takes. One path may have a route for each method, and the router names those of the first alone."""
    return sorted(
        {
            method
            for route in app.routes
            if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
            for method in route.methods or ()
        }
    )


def _response(status: int, code: str, detail: str, headers: Mapping[str, str]) -> Response:
    if status in (204, 304):
        return Response(status_code=status, headers=dict(headers))
    return Response(problem(status, code, detail), status, headers=dict(headers), media_type=MEDIA_TYPE)


def _printable(text: str) -> str:
    # A message may quote what the client sent, and lone surrogates cannot be written as JSON.
    return text.encode("utf-8", "replace").decode("utf-8")
