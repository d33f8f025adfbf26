"""Anthropic's Messages API through its own SDK."""

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from app.core.ai.answering import Prompt
from app.core.ai.errors import AiError, AiInputTooLong, AiProviderAway, AiRefused
from app.core.ai.vendor import Connection, Report, Sdk, status_fault, word

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

BASE_URL = "https://api.anthropic.com"


class Claude(Sdk):
    """The adapter.

    Args:
        connection: base_url without a version.
        effort: how long the model thinks; empty for its own default.
    """

    provider = "claude"

    def __init__(self, connection: Connection, effort: str = "") -> None:
        super().__init__("anthropic", "AsyncAnthropic", connection)
        self._options: dict[str, Any] = {"output_config": {"effort": effort}} if effort else {}

    async def stream(self, prompt: Prompt, model: str, max_tokens: int) -> AsyncGenerator[str | Report, None]:
        """See `Vendor.stream`."""
        client: AsyncAnthropic = await self.open()
        from anthropic import AnthropicError  # loaded by `open`, off the event loop
        from httpx2 import HTTPError  # the SDK lets it through while it reads a stream

        try:
            events = await client.messages.create(
                model=model,
                max_tokens=max_tokens,
                system=prompt.system,
                messages=[{"role": "user", "content": prompt.text()}],
                stream=True,
                **self._options,
            )
            async with events:
                reading = _Reading()
                async for event in events:
                    yield reading.take(event)
                reading.check_end()
        except AnthropicError as error:
            raise _ours(error) from error
        except (
            HTTPError,
            ValueError,
            TypeError,
            AttributeError,
            LookupError,
        ) as error:  # a broken line, or no such protocol
            raise AiProviderAway(f"claude sent no answer that could be read: {type(error).__name__}") from error


class _Reading:
    """What the events of one stream add up to."""

    def __init__(self) -> None:
        self._usage: dict[str, int] = {}
        self._stop: str | None = None
        self._whole = False

    def take(self, event: Any) -> str | Report:
        """The text of an event, or a report; an empty text for everything else, thoughts for one."""
        if event.type == "content_block_delta" and event.delta.type == "text_delta":
            return str(event.delta.text)
        if event.type == "message_start":
            return self._report(event.message.usage)
        if event.type == "message_delta":
            self._stop = event.delta.stop_reason
            return self._report(event.usage)
        self._whole = self._whole or event.type == "message_stop"
        return ""

    def check_end(self) -> None:
        """Raise where the end is none, or a refusal; its report has been seen by now."""
        if not self._whole:
            # A connection that closes politely in the middle looks like an end.
            raise AiProviderAway("claude's stream ended early")
        if self._stop == "refusal":
            raise AiRefused("claude refused")
        if self._stop == "model_context_window_exceeded":
            raise AiInputTooLong("claude's context is full")

    def _report(self, usage: Any) -> Report:
        # The counts of a later event replace those before; one that is missing has not changed.
        for name in ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
            if isinstance(value := getattr(usage, name, None), int):
                self._usage[name] = value
        read = self._usage.get("cache_read_input_tokens", 0)
        written = self._usage.get("cache_creation_input_tokens", 0)
        return Report(
            # Anthropic counts what went through its cache apart from the rest.
            input_tokens=self._usage.get("input_tokens", 0) + read + written,
            output_tokens=self._usage.get("output_tokens", 0),
            read=read,
            written=written,
            final=self._stop is not None,
            truncated=self._stop == "max_tokens",
        )


def _ours(error: Exception) -> AiError:
    from anthropic import APIStatusError

    if not isinstance(error, APIStatusError):
        return AiProviderAway(f"claude was not reached: {type(error).__name__}")
    code = word(error.error_code) or word(error.type)
    return status_fault("claude", error.status_code, code, error.message, error.response.headers)
