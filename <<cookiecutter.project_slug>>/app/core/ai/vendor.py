"""What a vendor's adapter is to the rest: one streamed attempt, and the translation of its faults into ours."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from importlib import import_module
from time import time
from typing import Any, Protocol

import structlog

from app.core.ai.answering import Prompt
from app.core.ai.errors import (
    AiError,
    AiInputTooLong,
    AiMisconfigured,
    AiProviderAway,
    AiRateLimited,
    AiRefused,
)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """What the provider says of a call so far; the last report of a stream holds.

    Attributes:
        input_tokens: everything read, what came from or went to its cache included.
        output_tokens: everything written, thoughts included.
        read: of the input, found in the cache.
        written: of the input, put there.
        final: the whole call is counted.
        truncated: it stopped because `max_tokens` were written.
    """

    input_tokens: int
    output_tokens: int
    read: int = 0
    written: int = 0
    final: bool = False
    truncated: bool = False


class Vendor(Protocol):
    """An adapter to one vendor's SDK."""

    @property
    def provider(self) -> str:
        """Name in metrics and logs."""

    async def open(self) -> object:
        """Load the SDK and make its client, once; that takes a second or two of CPU and asks nobody."""

    def stream(self, prompt: Prompt, model: str, max_tokens: int) -> AsyncGenerator[str | Report, None]:
        """One attempt: pieces of text, possibly empty as a sign of life, and reports. It ends when the answer is whole.

        Raises:
            AiUnavailable, AiRefused, AiInputTooLong: whatever happens, in our terms.
        """

    async def close(self) -> None:
        """Close the connections."""


@dataclass(frozen=True, slots=True)
class Connection:
    """How an SDK reaches its service.

    Attributes:
        api_key: of the account; some local servers need none.
        base_url: address, with what the SDK expects of a version in it.
        connect_seconds: deadline for a connection.
        longest_seconds: after this long without a byte the SDK gives up; deadlines proper are kept outside.
        max_retries: by the SDK itself; none where they are made outside, where the deadline is known.
    """

    api_key: str = field(repr=False)
    base_url: str
    connect_seconds: float
    longest_seconds: float
    max_retries: int = 0


class Sdk:
    """A vendor's own SDK, loaded when it is first used.

    Args:
        package: what to import; that takes a second or two of CPU.
        client: name of its class.
        connection: where to.
    """

    def __init__(self, package: str, client: str, connection: Connection) -> None:
        self._package = package
        self._class = client
        self._connection = connection
        self._client: Any = None
        self._opening = asyncio.Lock()

    async def open(self) -> Any:
        """The client of that class; see `Vendor.open`."""
        async with self._opening:
            if self._client is None:
                sdk = await asyncio.to_thread(import_module, self._package)  # not on the event loop
                self._client = getattr(sdk, self._class)(
                    # The SDKs refuse an empty key, or look for one in the environment and on disk.
                    api_key=self._connection.api_key or "none",
                    base_url=self._connection.base_url,
                    timeout=sdk.Timeout(self._connection.longest_seconds, connect=self._connection.connect_seconds),
                    max_retries=self._connection.max_retries,
                )
            return self._client

    async def close(self) -> None:
        """Close the connections, if any were opened."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


# Codes with which a 429 or a 400 says that no money is left, which no waiting mends.
OUT_OF_MONEY = frozenset({"insufficient_quota", "billing_hard_limit_reached", "enforced_spend_limit_reached"})
TOO_LONG = frozenset({"context_length_exceeded", "string_above_max_length"})
AGAINST_THE_RULES = frozenset({"content_filter", "content_policy_violation"})


def status_fault(provider: str, status: int, code: str, message: str, headers: Any) -> AiError:
    """Our error for an HTTP status.

    Args:
        provider: who answered.
        status: the HTTP status; an error within a stream comes with 200, and its code says what it is.
        code: the vendor's word for it.
        message: looked at and not passed on.
        headers: of the answer; `Retry-After` is believed.
    """
    reason = f"{provider} answered HTTP {status}" + (f" ({code})" if code else "")
    if code in OUT_OF_MONEY:
        return AiMisconfigured(reason)
    if status == 429 or code == "rate_limit_error":
        return AiRateLimited(reason, retry_after(headers))
    if status == 413 or code in TOO_LONG or "prompt is too long" in message:
        return AiInputTooLong(reason)
    if code in AGAINST_THE_RULES:
        return AiRefused(reason)
    if status in (408, 409) or status >= 500 or status < 300:
        return AiProviderAway(reason, retry_after(headers))
    # Our key, account, address, model or request: a person has to look after it.
    return AiMisconfigured(reason)


def retry_after(headers: Any) -> float | None:
    """Seconds that the provider asks us to wait; None when it says nothing that makes sense."""
    for name, scale in (("retry-after-ms", 1000), ("retry-after", 1)):
        given = headers.get(name)
        try:
            return max(0.0, float(given) / scale)
        except (TypeError, ValueError):
            continue
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after")).timestamp() - time())
    except (TypeError, ValueError):
        return None


def word(value: object) -> str:
    """A vendor's code if it is one: letters and underscores. A message could quote anything."""
    return value if isinstance(value, str) and value.replace("_", "").isalnum() and len(value) <= 64 else ""
