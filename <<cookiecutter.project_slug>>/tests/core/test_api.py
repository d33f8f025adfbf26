"""The shape of the API: flat, documented, the same in every feature."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.routing import APIRoute
from starlette.routing import Route, WebSocketRoute

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.core.settings import Settings

METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture
def document(application: "FastAPI") -> dict[str, Any]:
    """The OpenAPI document of the service as it is."""
    return application.openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every operation by "METHOD path"."""
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in METHODS
    ]


def test_the_route_table_is_flat(application: "FastAPI") -> None:
    """Each level of `include_router` costs every request as much as the whole framework does."""
    assert all(isinstance(route, Route | WebSocketRoute) for route in application.routes), application.routes


def test_no_route_hides_another(application: "FastAPI") -> None:
    """The same method and path twice would leave the second dead."""
    pairs = [
        (method, route.path)
        for route in application.routes
        if isinstance(route, Route | APIRoute)
        for method in route.methods or ()
    ]
    assert len(pairs) == len(set(pairs))


def test_features_are_versioned_under_their_own_name(application: "FastAPI", document: dict[str, Any]) -> None:
    """/api/v1/<feature>, and the tag is the feature. Core has one room of this kind itself."""
    from app.features import FEATURES

    for name, operation in operations(document):
        path = name.split(" ")[1]
        if not path.startswith("/health"):
            prefix, version, feature = path.split("/")[1:4]
            assert (prefix, version) == ("api", "v1")
            assert feature in (*FEATURES, "realtime")
            assert operation["tags"] == [feature]


def test_every_operation_is_documented(document: dict[str, Any]) -> None:
    """A summary, a description, an id of its own, and what can go wrong."""
    ids = []
    for name, operation in operations(document):
        assert operation.get("summary"), name
        assert operation.get("description"), name
        ids.append(operation["operationId"])
        if name.split(" ")[1].startswith("/api/"):
            assert {"422", "429", "503"} <= set(operation["responses"]), name
            if operation.get("security"):
                assert "401" in operation["responses"], name
    assert len(ids) == len(set(ids))


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    """Structure of OpenAPI 3.1: the mandatory parts are there and nothing points into the void."""
    assert document["openapi"].startswith("3.1")
    assert document["info"]["title"]
    assert document["info"]["version"]

    def look(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(reference := node.get("$ref"), str):
                target: Any = document
                for part in reference.removeprefix("#/").split("/"):
                    target = target[part]
            for value in node.values():
                look(value)
        elif isinstance(node, list):
            for value in node:
                look(value)

    look(document)
    for name, operation in operations(document):
        wanted = {part[1:-1] for part in name.split("/") if part.startswith("{")}
        given = {parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "path"}
        assert wanted == given, name
        assert any(status.startswith("2") for status in operation["responses"]), name


def test_what_is_sent_has_examples(document: dict[str, Any]) -> None:
    """Each field of a JSON body shows what may stand there."""
    looked = 0
    for name, operation in operations(document):
        body = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if body:
            schema = document["components"]["schemas"][body["schema"]["$ref"].rsplit("/", 1)[1]]
            for field, described in schema["properties"].items():
                assert "examples" in described or "default" in described, f"{name}: {field}"
                looked += 1
    if looked == 0:
        pytest.skip("no feature takes a JSON body")


def test_internal_routes_are_not_in_the_document(document: dict[str, Any]) -> None:
    """What nginx lets nobody through to is nobody's business."""
    assert "/metrics" not in document["paths"]


def test_assembling_twice_gives_the_same(make_app: "Callable[[Settings], FastAPI]", settings: "Settings") -> None:
    """Two applications in one process do not disturb each other, nor stand before each other's routes."""

    def layers(app: "FastAPI") -> list[int]:
        found = []
        for route in app.routes:
            depth, inner = 0, getattr(route, "app", None)
            while (inner := getattr(inner, "inner", None)) is not None:
                depth += 1
            found.append(depth)
        return found

    one = make_app(settings)
    before = layers(one)
    other = make_app(settings)
    assert layers(other) == before
    assert [route.path for route in one.routes if isinstance(route, Route | APIRoute)] == [
        route.path for route in other.routes if isinstance(route, Route | APIRoute)
    ]
    assert one.openapi() == other.openapi()
