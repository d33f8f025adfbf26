"""OpenAI's Chat Completions through its own SDK: the vendor's service, or any address that speaks the same."""

import asyncio
from collections.abc import AsyncGenerator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from app.core.ai.answering import Prompt
from app.core.ai.errors import AiError, AiProviderAway, AiRefused
from app.core.ai.vendor import Report, status_fault, word

if TYPE_CHECKING:
    from openai import AsyncOpenAI

BASE_URL = "https://api.openai.com/v1"


class OpenAI:
    """The adapter.

    Args:
        api_key: of the account; some local servers need none.
        base_url: address including the version.
        connect_seconds: deadline for a connection.
        longest_seconds: after this long without a byte the SDK gives up; deadlines proper are kept outside.
        effort: how long the model thinks; empty for its own default.
    """

    provider = "openai"

    def __init__(
        self, *, api_key: str, base_url: str, connect_seconds: float, longest_seconds: float, effort: str = ""
    ) -> None:
        self._api_key = api_key
        self._base_url = base_url
        self._connect_seconds = connect_seconds
        self._longest_seconds = longest_seconds
        self._options: dict[str, Any] = {"reasoning_effort": effort} if effort else {}
        # OpenAI's newer models refuse the old name, and not every compatible server knows the new one.
        self._limit = "max_completion_tokens" if base_url == BASE_URL else "max_tokens"
        self._client: AsyncOpenAI | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> "AsyncOpenAI":
        """See `Vendor.open`."""
        async with self._opening:
            if self._client is None:
                sdk = await asyncio.to_thread(import_module, "openai")  # 1 s of CPU: not on the event loop
                self._client = sdk.AsyncOpenAI(
                    # The SDK refuses an empty key, and would look for one in the environment.
                    api_key=self._api_key or "none",
                    base_url=self._base_url,
                    timeout=sdk.Timeout(self._longest_seconds, connect=self._connect_seconds),
                    max_retries=0,  # done outside, where the deadline is known
                )
            return self._client

    async def stream(self, prompt: Prompt, model: str, max_tokens: int) -> AsyncGenerator[str | Report, None]:
        """See `Vendor.stream`."""
        client = await self.open()
        from openai import OpenAIError  # loaded by `open`, off the event loop

        try:
            chunks: Any = await client.chat.completions.create(
                model=model,
                messages=[{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.text()}],
                stream=True,
                stream_options={"include_usage": True},
                **self._options | {self._limit: max_tokens},
            )
            async with chunks:
                finish = ""
                async for chunk in chunks:
                    for choice in chunk.choices:
                        finish = choice.finish_reason or finish
                        if getattr(choice.delta, "refusal", None):
                            finish = "content_filter"
                        yield choice.delta.content or ""
                    if chunk.usage:
                        yield _report(chunk.usage, finish)
                if not finish:
                    # A connection that closes politely in the middle looks like an end.
                    raise AiProviderAway("openai's stream ended early")
                if finish == "content_filter":
                    raise AiRefused("openai refused")
        except OpenAIError as error:
            raise _ours(error) from error
        except (ValueError, TypeError, AttributeError, LookupError) as error:  # a broken line, or no such protocol
            raise AiProviderAway(f"openai sent no answer that could be read: {type(error).__name__}") from error

    async def close(self) -> None:
        """Close the connections, if any were opened."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def _report(usage: Any, finish: str) -> Report:
    details = getattr(usage, "prompt_tokens_details", None)
    return Report(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        read=getattr(details, "cached_tokens", None) or 0,
        written=getattr(details, "cache_write_tokens", None) or 0,
        final=True,
        truncated=finish == "length",
    )


def _ours(error: Exception) -> AiError:
    from openai import APIError, APIStatusError

    if isinstance(error, APIStatusError):
        code = word(error.code) or word(error.type)
        return status_fault("openai", error.status_code, code, error.message, error.response.headers)
    if isinstance(error, APIError) and error.body is not None:  # an error within the stream
        return status_fault("openai", 200, word(error.code) or word(error.type), error.message, {})
    return AiProviderAway(f"openai was not reached: {type(error).__name__}")
