"""Answers by a model: what every call goes through, whoever the vendor is.

A free place (bulkhead), the provider's circuit, attempts with growing waits until the first piece, deadlines, and in the
end the account. Once a piece has gone out nothing is tried again: the reader would see the beginning twice.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace

import structlog

from app.core import metrics
from app.core.ai.accounting import cost, count
from app.core.ai.answering import CHARACTERS_PER_TOKEN, Answer, Prompt, Usage
from app.core.ai.errors import (
    AiBusy,
    AiError,
    AiInputTooLong,
    AiInterrupted,
    AiMisconfigured,
    AiProviderAway,
    AiRateLimited,
    AiRefused,
    AiUnavailable,
)
from app.core.ai.vendor import Report, Vendor
from app.core.backoff import backoff
from app.core.circuit import Circuit, CircuitOpen, Guard, State
from app.core.settings import Ai as AiSettings

log = structlog.get_logger(__name__)

Events = AsyncGenerator[str | Report, None]

OPERATION = "answer"
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 8.0
OUTCOMES: dict[type[BaseException], str] = {
    AiBusy: "busy",
    AiRateLimited: "rate_limited",
    AiMisconfigured: "misconfigured",
    AiInterrupted: "interrupted",
    AiProviderAway: "unavailable",
    AiUnavailable: "unavailable",
    AiRefused: "refused",
    AiInputTooLong: "too_long",
}


@dataclass(slots=True)
class _Call:
    """One question on its way.

    Attributes:
        started: on the monotonic clock, as all times here.
        opened: when the SDK was there and the deadlines began; the first question of a process waits for that.
        first_at: when the first piece came.
        written: characters that came so far.
        whole: the answer came to its end.
        failure: what ended it otherwise.
    """

    prompt: Prompt
    max_tokens: int
    started: float
    opened: float = 0.0
    first_at: float | None = None
    written: int = 0
    whole: bool = False
    failure: BaseException | None = None
    report: Report | None = None
    guard: Guard | None = None
    answer: Answer | None = None


class ModelAnswerer:
    """An `Answerer` on a vendor's model.

    Args:
        vendor: the adapter.
        settings: model, deadlines, limits, prices.
    """

    def __init__(self, vendor: Vendor, settings: AiSettings) -> None:
        self.model = settings.model
        self.circuit = Circuit(
            f"ai_{vendor.provider}", settings.circuit_failures, settings.circuit_seconds, counts=(AiProviderAway,)
        )
        self._vendor = vendor
        self._settings = settings
        self._places = asyncio.Semaphore(settings.concurrency)
        self._misconfigured: str | None = None

    @property
    def trouble(self) -> str | None:
        """Why it would fail now, as far as is known without asking; None when nothing is known."""
        if self._misconfigured:
            return self._misconfigured
        return None if self.circuit.state is State.CLOSED else f"answers: {self.circuit.state}"

    @asynccontextmanager
    async def answer(self, prompt: Prompt, *, max_tokens: int | None = None) -> AsyncIterator[Answer]:
        """See `Answerer.answer`."""
        call = _Call(prompt, max_tokens or self._settings.max_tokens, time.monotonic())
        try:
            async with AsyncExitStack() as stack:
                await self._take_place(stack)
                await self._vendor.open()
                call.opened = time.monotonic()
                first, events = await self._begin(call, stack)
                pieces = await stack.enter_async_context(aclosing(self._pieces(call, first, events)))
                call.answer = Answer(pieces)
                yield call.answer
        except BaseException as error:
            # What broke the stream counts, whatever the block made of it.
            call.failure = call.failure or error
            raise
        finally:
            self._settle(call)

    async def close(self) -> None:
        """Close the connections."""
        await self._vendor.close()

    async def _take_place(self, stack: AsyncExitStack) -> None:
        try:
            async with asyncio.timeout(self._settings.queue_seconds):
                await self._places.acquire()
        except TimeoutError:
            raise AiBusy(f"{self._settings.concurrency} answers are under way", 1) from None
        stack.callback(self._places.release)

    async def _begin(self, call: _Call, stack: AsyncExitStack) -> tuple[str, Events]:
        """Attempts until there is a first piece, all within one deadline. What stays open belongs to `stack`."""
        deadline = call.opened + self._settings.first_piece_seconds
        attempt = 0
        while True:
            try:
                return await self._attempt(call, stack, deadline)
            except CircuitOpen as error:
                raise AiProviderAway(str(error), float(error.headers["Retry-After"])) from error
            except (AiProviderAway, AiRateLimited) as error:
                attempt += 1
                wait = error.retry_after
                if wait is None:
                    wait = backoff(FIRST_WAIT_SECONDS, attempt, LONGEST_WAIT_SECONDS)
                if attempt > self._settings.max_retries or time.monotonic() + wait >= deadline:
                    raise
                log.info("ai_retried", provider=self._vendor.provider, attempt=attempt, reason=str(error))
            metrics.AI_RETRIES.labels(self._vendor.provider, OPERATION).inc()
            await asyncio.sleep(wait)

    async def _attempt(self, call: _Call, stack: AsyncExitStack, deadline: float) -> tuple[str, Events]:
        async with AsyncExitStack() as attempt:
            guard = await attempt.enter_async_context(self.circuit.guard())
            events = await attempt.enter_async_context(
                aclosing(self._vendor.stream(call.prompt, self.model, call.max_tokens))
            )
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    first = await _next(call, events)
            except TimeoutError as error:
                seconds = self._settings.first_piece_seconds
                raise AiProviderAway(f"no first piece of an answer within {seconds:g} s") from error
            if first is None:
                raise AiUnavailable("the model wrote nothing")
            guard.succeeded()
            call.guard = guard
            call.first_at = time.monotonic()
            metrics.AI_FIRST_PIECE_SECONDS.labels(self._vendor.provider).observe(call.first_at - call.started)
            stack.push_async_exit(attempt.pop_all())
            return first, events

    async def _pieces(self, call: _Call, first: str, events: Events) -> AsyncGenerator[str, None]:
        piece: str | None = first
        while piece is not None:
            call.written += len(piece)
            yield piece
            try:
                piece = await self._later(call, events)
            except (AiError, asyncio.CancelledError) as error:
                call.failure = error
                if call.guard and isinstance(error, AiProviderAway):
                    call.guard.failed(error)
                raise
        call.whole = True
        self._account(call)

    async def _later(self, call: _Call, events: Events) -> str | None:
        now = time.monotonic()
        left = min(self._settings.silence_seconds, call.opened + self._settings.answer_seconds - now)
        try:
            async with asyncio.timeout(left):
                return await _next(call, events)
        except TimeoutError as error:
            raise AiInterrupted("the provider fell silent, or the answer took too long") from error
        except AiUnavailable as error:
            raise AiInterrupted(str(error)) from error

    def _account(self, call: _Call) -> None:
        """What it took, for the caller and for the metrics. Where the provider did not say, it is estimated."""
        report = call.report
        if report is None:
            asked = len(call.prompt.system) + len(call.prompt.text())
            report = Report(asked // CHARACTERS_PER_TOKEN, call.written // CHARACTERS_PER_TOKEN)
        elif not report.final:
            report = replace(report, output_tokens=max(report.output_tokens, call.written // CHARACTERS_PER_TOKEN))
        dollars = cost(
            self._settings,
            self.model,
            input_tokens=report.input_tokens,
            output_tokens=report.output_tokens,
            read=report.read,
            written=report.written,
        )
        usage = Usage(
            provider=self._vendor.provider,
            model=self.model,
            input_tokens=report.input_tokens,
            output_tokens=report.output_tokens,
            cache_read_tokens=report.read,
            cache_write_tokens=report.written,
            cost=dollars,
            estimated=not report.final,
            truncated=report.truncated,
        )
        kinds = {
            "input": report.input_tokens - report.read - report.written,
            "output": report.output_tokens,
            "cache_read": report.read,
            "cache_write": report.written,
        }
        count(usage.provider, usage.model, kinds, dollars)
        if call.answer:
            call.answer.usage = usage

    def _settle(self, call: _Call) -> None:
        """Count the call and log it, however it ended."""
        if not call.whole and (call.written or call.report):
            self._account(call)
        outcome = "ok" if call.whole else _outcome(call.failure)
        seconds = time.monotonic() - call.started
        metrics.AI_REQUESTS.labels(self._vendor.provider, OPERATION, outcome).inc()
        metrics.AI_SECONDS.labels(self._vendor.provider, OPERATION).observe(seconds)
        usage = call.answer.usage if call.answer else None
        fields = {
            "provider": self._vendor.provider,
            "model": self.model,
            "outcome": outcome,
            "milliseconds": round(seconds * 1000, 1),
            "first_piece_milliseconds": call.first_at and round((call.first_at - call.started) * 1000, 1),
            "tokens": usage and usage.input_tokens + usage.output_tokens,
            "cost": usage and usage.cost and str(usage.cost),
        }
        if isinstance(call.failure, AiError) and not call.whole:
            fields["reason"] = str(call.failure)
        if outcome == "misconfigured":
            self._misconfigured = str(call.failure)
            log.error("ai_answer", advice="look at the key, the address and the model in AI_*", **fields)
        elif outcome in ("ok", "abandoned", "refused", "too_long"):
            # Whoever wrote so much has taken our key.
            self._misconfigured = None if call.whole else self._misconfigured
            log.info("ai_answer", **fields)
        else:
            log.warning("ai_answer", **fields)


async def _next(call: _Call, events: Events) -> str | None:
    """The next piece that is not empty; None at the end of the answer."""
    async for event in events:
        if isinstance(event, Report):
            call.report = event
        elif event:
            return event
    return None


def _outcome(failure: BaseException | None) -> str:
    """What the metrics call it; whoever asked has left where it is none of ours."""
    return OUTCOMES.get(type(failure), "abandoned") if failure else "abandoned"
