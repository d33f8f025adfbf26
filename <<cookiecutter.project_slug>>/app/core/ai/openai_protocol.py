"""OpenAI's Chat Completions through its own SDK: the vendor's service, or any address that speaks the same."""

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from app.core.ai.answering import Prompt
from app.core.ai.errors import AiError, AiProviderAway, AiRefused
from app.core.ai.vendor import Connection, Report, Sdk, status_fault, word

if TYPE_CHECKING:
    from openai import AsyncOpenAI

BASE_URL = "https://api.openai.com/v1"


class OpenAI(Sdk):
    """The adapter.

    Args:
        connection: base_url including the version.
        effort: how long the model thinks; empty for its own default.
    """

    provider = "openai"

    def __init__(self, connection: Connection, effort: str = "") -> None:
        super().__init__("openai", "AsyncOpenAI", connection)
        self._options: dict[str, Any] = {"reasoning_effort": effort} if effort else {}
        # OpenAI's newer models refuse the old name, and not every compatible server knows the new one.
        self._limit = "max_completion_tokens" if connection.base_url == BASE_URL else "max_tokens"

    async def stream(self, prompt: Prompt, model: str, max_tokens: int) -> AsyncGenerator[str | Report, None]:
        """See `Vendor.stream`."""
        client: AsyncOpenAI = await self.open()
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
