"""Traces to an OpenTelemetry collector, when OTEL_EXPORTER_OTLP_ENDPOINT is set. The SDK is loaded only then.

One trace follows a request from the API through its SQL into every task it asks for, in whichever process that runs:
the trace's context is kept with the task in the outbox. A span holds the request's id that nginx made, and a log line
the trace's. Spans are sent by a thread; when the collector is away or too slow they are dropped, and nobody waits.
"""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.logging import request_id, trace_id
from app.core.masking import masked_text
from app.core.project import project
from app.core.settings import Settings
from app.core.tasks import CARRIERS

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from app.core.resources import Resources

EXPORT_SECONDS = 5.0
# What is left when a process ends gets this long, then it is dropped.
FLUSH_SECONDS = 3.0
_QUIET_PATHS = frozenset({"/health", "/health/ready", "/metrics"})


class Tracing:
    """The traces of one process. To be made after the fork, as it starts a thread.

    Args:
        settings: collector and sampling.
        service: which process speaks: api, worker.
    """

    def __init__(self, settings: Settings, service: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, TraceIdRatioBased

        ratio = TraceIdRatioBased(settings.traces_sample_rate)
        self.provider: TracerProvider = TracerProvider(
            # Whoever calls the API from outside may name a trace, but not have every request of theirs recorded.
            sampler=ParentBased(ratio, remote_parent_sampled=ratio if service == "api" else ALWAYS_ON),
            resource=Resource.create(
                {
                    "service.name": settings.otel.service_name or project().name,
                    "service.version": project().version,
                    "service.component": service,
                    "deployment.environment.name": settings.environment.value,
                }
            ),
            shutdown_on_exit=False,  # it would wait for the collector as long as that likes
        )
        exporter = OTLPSpanExporter(
            endpoint=f"{settings.otel.exporter_otlp_endpoint}/v1/traces",
            headers=_headers(settings.otel.exporter_otlp_headers.get_secret_value()),
            timeout=EXPORT_SECONDS,
        )
        self.provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracer = self.provider.get_tracer("app")
        CARRIERS.append(self)

    def instrument(self, resources: "Resources") -> None:
        """Make a span of every statement: its text with placeholders, never its values."""
        from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor

        engines = [engine.sync_engine for engine in resources.db.engines]
        # Its list of tried versions lags behind SQLAlchemy's; tests/core/test_tracing.py tries it with ours.
        SQLAlchemyInstrumentor().instrument(engines=engines, tracer_provider=self.provider, skip_dep_check=True)

    def inject(self, context: dict[str, str]) -> None:
        """Keep the present span with a task: see `tasks.Carrier`."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(context)

    @contextmanager
    def around(self, task: str, context: Mapping[str, str]) -> Iterator[None]:
        """A span for one attempt, below the request that asked for the task."""
        with self.span(f"task {task}", "CONSUMER", context, {"messaging.destination.name": task}):
            yield

    @contextmanager
    def span(self, name: str, kind: str, context: Mapping[str, str], attributes: Mapping[str, str]) -> "Iterator[Span]":
        """A span below the one that `context` names in the form of W3C; its id is in the log lines meanwhile.

        Args:
            name: low in variety: a route, a task.
            kind: SERVER or CONSUMER.
            context: may hold a `traceparent`.
            attributes: what is known from the beginning.
        """
        from opentelemetry.trace import SpanKind, format_trace_id
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(context)
        with self.tracer.start_as_current_span(
            name,
            parent,
            SpanKind[kind],
            {**attributes, "request.id": request_id.get()},
            # The text of an error may quote what a person sent: see `mark_failed`.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            token = trace_id.set(format_trace_id(span.get_span_context().trace_id))
            try:
                yield span
            finally:
                # The access log is written after the span has ended; a worker's next task has a context of its own.
                if kind != "SERVER":
                    trace_id.reset(token)

    async def close(self) -> None:
        """Send what is left, if that takes no longer than FLUSH_SECONDS."""
        CARRIERS.remove(self)
        sending = threading.Thread(target=self.provider.shutdown, daemon=True)
        sending.start()
        await asyncio.to_thread(sending.join, FLUSH_SECONDS)


class Traced:
    """A span around every request that is not a probe, within `Edge`."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self.app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _QUIET_PATHS:
            await self.app(scope, receive, send)
            return
        context = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in (b"traceparent", b"tracestate")
        }
        attributes = {"http.request.method": scope["method"], "url.path": masked_text(scope["path"])}
        with self._tracing.span(scope["method"], "SERVER", context, attributes) as span:

            async def send_noting(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        _fail(span, str(message["status"]))
                await send(message)

            try:
                await self.app(scope, receive, send_noting)
            finally:
                if route := getattr(scope.get("route"), "path", None):
                    span.update_name(f"{scope['method']} {route}")
                    span.set_attribute("http.route", route)


def mark_failed(error: BaseException) -> None:
    """Mark the present span as failed, by the kind of error alone."""
    from opentelemetry import trace

    _fail(trace.get_current_span(), type(error).__name__)


def configure_tracing(settings: Settings, service: str) -> Tracing | None:
    """Have this process send traces; None without a collector."""
    return Tracing(settings, service) if settings.otel.exporter_otlp_endpoint else None


def _fail(span: "Span", kind: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", kind)


def _headers(text: str) -> dict[str, str]:
    """`name=value,name=value`, as the SDK's own variable is written."""
    pairs: list[Any] = [part.split("=", 1) for part in text.split(",") if "=" in part]
    return {name.strip(): value.strip() for name, value in pairs}
