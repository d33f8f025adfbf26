"""Documents for tests: uploaded through the API, processed by the code that a worker runs."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from app.core.resources import Resources

URL = "/api/v1/documents"

Upload = Callable[..., Awaitable[dict[str, Any]]]
RunTasks = Callable[[], Awaitable[list[str]]]


@pytest.fixture(autouse=True)
def unknown_landscape(request: pytest.FixtureRequest) -> None:
    """No search goes by what an earlier test's tables were like."""
    if "resources" in request.fixturenames:
        from app.features.documents.landscape import forget

        resources: Resources = request.getfixturevalue("opened")
        forget(resources.db)


@pytest.fixture
def upload(client: httpx.AsyncClient, auth_headers: dict[str, str]) -> Upload:
    """Uploads bytes as `principal`, or as whom `headers` name, and returns the document."""

    async def send(data: bytes, name: str = "file", headers: dict[str, str] | None = None) -> dict[str, Any]:
        answer = await client.post(URL, files={"file": (name, data)}, headers=headers or auth_headers)
        assert answer.status_code in (200, 202), answer.text
        document: dict[str, Any] = answer.json()
        return document

    return send


@pytest.fixture
def ready(upload: Upload, run_tasks: RunTasks) -> Upload:
    """Uploads bytes and processes them."""

    async def send(data: bytes, name: str = "file", headers: dict[str, str] | None = None) -> dict[str, Any]:
        document = await upload(data, name, headers)
        assert set(await run_tasks()) <= {"done"}
        return document

    return send
