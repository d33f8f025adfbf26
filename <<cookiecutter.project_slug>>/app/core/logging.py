"""Logs: one JSON line for each event, on standard output.

Loggers of libraries pass through the same chain as our own, because a filter on the root logger would not see what
child loggers write. The chain masks personal data and secrets before anything is rendered.
"""

import json
import logging
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

import orjson
import structlog

from app.core.masking import masked_item
from app.core.settings import Settings

request_id: ContextVar[str] = ContextVar("request_id", default="")
user_id: ContextVar[str] = ContextVar("user_id", default="")
trace_id: ContextVar[str] = ContextVar("trace_id", default="")
client_address: ContextVar[str] = ContextVar("client_address", default="")

_lifecycle = logging.getLogger("app.lifecycle")


def announce(event: str, **fields: Any) -> None:
    """Log the start or the end of a process, whatever LOG_LEVEL says: production's WARNING would hide both."""
    _lifecycle.info(event, extra=fields)


def json_line(event: MutableMapping[str, Any]) -> bytes:
    """An event as one line of JSON; what JSON does not know becomes its repr."""
    try:
        return orjson.dumps(event, default=repr, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS)
    except TypeError:  # half a surrogate pair, or an integer of more than 64 bits: a line all the same
        return json.dumps(event, default=repr, skipkeys=True, ensure_ascii=False).encode("utf-8", "replace")


def configure_logging(settings: Settings, service: str) -> None:
    """Set up structlog and the standard library's logging for this process.

    Args:
        settings: level and format.
        service: which process speaks: api, worker, beat.
    """

    def add_service(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service
        return event

    shared: list[structlog.types.Processor] = [
        _add_context,
        add_service,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _mask,
    ]
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer() if settings.log.format == "console" else _render_json
    )
    level = logging.getLevelName(settings.log_level)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # The DEBUG of libraries is about themselves and would drown ours.
    root.setLevel(max(level, logging.INFO))
    logging.getLogger("app").setLevel(level)
    _lifecycle.setLevel(logging.INFO)
    for name in ("uvicorn", "uvicorn.error", "celery", "celery.task", "alembic"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # We write these lines ourselves, with the fields we want: see middleware and tasks.
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It writes whole addresses, and a webhook's is its secret.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("celery.beat").addFilter(lambda record: "Sending due task" not in str(record.msg))


def _add_context(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if current := request_id.get():
        event.setdefault("request_id", current)
    if user := user_id.get():
        event.setdefault("user_id", user)
    if trace := trace_id.get():
        event.setdefault("trace_id", trace)
    return event


def _mask(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.pop("color_message", None)  # uvicorn says its line a second time, for terminals
    for key, value in event.items():
        if key in ("_record", "_from_structlog"):
            continue
        event[key] = masked_item(key, value)
    return event


def _render_json(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    return json_line(event).decode()
