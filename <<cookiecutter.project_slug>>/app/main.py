"""The API, assembled. `create_app` opens nothing: that is the lifespan's work."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType

import structlog
from fastapi import APIRouter, FastAPI, Response
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse

from app.core import admin, health, jwks, metrics
from app.core.access import Access, guard, joined
from app.core.api import add_routes
from app.core.errors import install_error_handlers
from app.core.idempotency import install_idempotency
from app.core.logging import announce, configure_logging
from app.core.messages import sample_messages
from app.core.middleware import install_middleware
from app.core.outbox import sample_outbox
from app.core.project import project
from app.core.realtime import api as realtime
from app.core.realtime.hub import open_hub
from app.core.resources import AppResources, open_resources
from app.core.settings import Settings, load_settings, redacted
from app.core.telemetry import configure_sentry
from app.core.tracing import Traced, configure_tracing
from app.features import modules, settings_of_features

log = structlog.get_logger(__name__)

router = APIRouter(include_in_schema=False)
ACCESS = {"GET /metrics": Access.INTERNAL}
DOCS_ACCESS = {"GET /openapi.json": Access.ANYONE, "GET /docs": Access.ANYONE}


@router.get("/metrics")
async def scrape(resources: AppResources) -> Response:
    """For Prometheus, inside the network: nginx lets nobody through to here."""
    metrics.observe(resources)
    sampled = await metrics.sampled(resources, samplers())
    return Response(metrics.exposition(sampled), media_type=metrics.CONTENT_TYPE)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application.

    Args:
        settings: read from the environment unless given.

    Raises:
        SettingsError: the environment cannot be used.
        AccessError: a route is not in the table of access.
    """
    settings = settings or load_settings(settings_of_features())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_resources(settings) as resources, open_hub(settings, resources.events) as hub:
            app.state.resources = resources
            app.state.hub = hub
            metrics.note_build(settings)
            if tracing:
                tracing.instrument(resources)
            watching = [asyncio.create_task(one) for one in (metrics.watch(resources), resources.sign_outs.watch())]
            loading = asyncio.create_task(resources.storage.load())  # the first question about health should not pay
            announce("started", settings=redacted(settings))
            yield
            announce("stopping")
            for one in watching:
                one.cancel()
            await loading
        if tracing:
            await tracing.close()

    configure_logging(settings, "api")
    configure_sentry(settings, "api")
    tracing = configure_tracing(settings, "api")
    app = FastAPI(
        title=project().title,
        description=project().description,
        version=project().version,
        lifespan=lifespan,
        openapi_url="/openapi.json" if settings.docs_enabled else None,
        docs_url=None,
        redoc_url=None,
        # A slash too many is a wrong address; a redirect would drop the body and name an internal host.
        redirect_slashes=False,
    )
    install_error_handlers(app)
    install_middleware(app, settings, [Middleware(Traced, tracing=tracing)] if tracing else [])
    add_routes(app, [router, *(module.router for module in modules_with_routes())])
    if settings.docs_enabled:
        add_docs(app)
    install_idempotency(app)
    pages = admin.mount(app, settings, modules("admin")) if settings.admin.enabled else {}
    guard(app, joined([access_table(settings), pages]))
    return app


def samplers() -> list[metrics.Sampler]:
    """Who is asked at every scrape, core first: a feature's is `sample` in its `metrics.py`."""
    return [
        metrics.sample_broker,
        sample_outbox,
        sample_messages,
        *(module.sample for module in modules("metrics") if hasattr(module, "sample")),
    ]


def modules_with_routes() -> list[ModuleType]:
    """Every module that has a `router` and says in `ACCESS` who may ask it."""
    return [health, jwks, realtime, *modules("api")]


def access_table(settings: Settings) -> dict[str, Access]:
    """Who may ask what, for every route of the service."""
    docs = DOCS_ACCESS if settings.docs_enabled else {}
    return joined([ACCESS, docs, *(module.ACCESS for module in modules_with_routes())])


def add_docs(app: FastAPI) -> None:
    """Serve /docs, the one page that may run scripts: Swagger UI comes from its usual CDN, in development and staging."""
    from fastapi.openapi.docs import get_swagger_ui_html

    policy = "default-src 'self'; script-src 'self' 'unsafe-inline' cdn.jsdelivr.net; style-src 'self' 'unsafe-inline' cdn.jsdelivr.net; img-src 'self' data: fastapi.tiangolo.com; frame-ancestors 'none'"

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        page = get_swagger_ui_html(openapi_url="/openapi.json", title=app.title)
        page.headers["Content-Security-Policy"] = policy
        return page
