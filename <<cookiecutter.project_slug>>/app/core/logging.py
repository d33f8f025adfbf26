"""Logs: one JSON line for each event, on standard output.

Loggers of libraries pass through the same chain as our own, because a filter on the root logger would not see what
child loggers write. The chain masks personal data and secrets before anything is rendered.
"""

import json
import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from datetime import date
from typing import Any
from uuid import UUID

import orjson
import structlog

from app.core.settings import Settings

request_id: ContextVar[str] = ContextVar("request_id", default="")
user_id: ContextVar[str] = ContextVar("user_id", default="")
client_address: ContextVar[str] = ContextVar("client_address", default="")

MASK = "***"
_SECRET_KEY = re.compile(r"password|passwd|secret|token|authorization|cookie|api_?key|credential|dsn", re.IGNORECASE)
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
_URL_PASSWORD = re.compile(r"(?<=://)([^:/?#\s]*):[^@/\s]+@")
# Keys that only sound secret.
_HARMLESS_KEYS = frozenset({"tokens", "prompt_tokens", "completion_tokens", "token_count"})


# What is written as it is.
_PLAIN = (bool, int, float, date, UUID)


def masked(value: Any) -> Any:
    """`value` with secrets and personal data replaced by `***`, at any depth."""
    if isinstance(value, str):
        if "@" in value:
            value = _URL_PASSWORD.sub(r"\1:" + MASK + "@", value)
            value = _EMAIL.sub(MASK, value)
        return _BEARER.sub(r"\1 " + MASK, value)
    if isinstance(value, Mapping):
        return {key: MASK if _secret_name(key) and item else masked(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [masked(item) for item in value]
    # Anything else is written as its repr, which may quote what a person sent: an exception does.
    return value if value is None or isinstance(value, _PLAIN) else masked(repr(value))


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


def _secret_name(key: object) -> bool:
    return isinstance(key, str) and key not in _HARMLESS_KEYS and _SECRET_KEY.search(key) is not None


def _add_context(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if current := request_id.get():
        event.setdefault("request_id", current)
    if user := user_id.get():
        event.setdefault("user_id", user)
    return event


def _mask(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.pop("color_message", None)  # uvicorn says its line a second time, for terminals
    for key, value in event.items():
        if key in ("_record", "_from_structlog"):
            continue
        event[key] = MASK if _secret_name(key) and value else masked(value)
    return event


def _render_json(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    return json_line(event).decode()
