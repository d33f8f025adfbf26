"""Answers by a model, over real HTTP with the vendors' own SDKs, against a stand-in that fails in every way it is told to."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from prometheus_client import REGISTRY
from pydantic import SecretStr
from structlog.testing import capture_logs

from app.core.ai import (
    AiBusy,
    AiError,
    AiInputTooLong,
    AiInterrupted,
    AiMisconfigured,
    AiProviderAway,
    AiRateLimited,
    AiRefused,
    AiUnavailable,
    Answer,
    ModelAnswerer,
    Passage,
    Prompt,
    create_answerer,
)
from app.core.circuit import State
from app.core.settings import Ai
from devstack.standin_ai import Behaviour, StandInAi

Eventually = Callable[..., Awaitable[Any]]

KEY = "sk-very-private-0123456789"
PROMPT = Prompt(
    "How long is the notice?", [Passage("Three months.", "contract.pdf, page 2"), Passage("Lunch is free.")]
)
WHOLE = "You asked: How long is the notice? The stand-in found it in the passages [1]."


@pytest.fixture(params=["claude", "openai"])
def provider(request: pytest.FixtureRequest) -> str:
    """Each vendor in turn."""
    name: str = request.param
    return name


@pytest.fixture
async def server() -> AsyncIterator[StandInAi]:
    """A stand-in that wants the right key."""
    async with StandInAi(key=KEY) as server:
        yield server


@asynccontextmanager
async def answerer(provider: str, server: StandInAi, **options: Any) -> AsyncIterator[ModelAnswerer]:
    """An answerer on the stand-in."""
    settings = Ai.model_validate(
        {
            "answer_provider": provider,
            "claude_api_key": SecretStr(KEY),
            "openai_api_key": SecretStr(KEY),
            "claude_base_url": server.claude_url,
            "openai_base_url": server.openai_url,
            "first_piece_seconds": 10,
            "silence_seconds": 10,
            "max_retries": 0,
            **options,
        }
    )
    made = create_answerer(settings)
    assert isinstance(made, ModelAnswerer)
    try:
        yield made
    finally:
        await made.close()


async def ask(model: ModelAnswerer, **options: Any) -> tuple[str, Answer]:
    """The whole text of an answer, and the answer."""
    async with model.answer(PROMPT, **options) as answer:
        return "".join([piece async for piece in answer]), answer


def sample(name: str, **labels: str) -> float:
    """A metric of this process; 0 when it has none yet."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


# Good


async def test_an_answer_comes_in_pieces_and_is_accounted(provider: str, server: StandInAi) -> None:
    """Text as it is written, then tokens and dollars, in the answer and in the metrics."""
    server.always = Behaviour(read=300, written=100)
    model = {"claude": "claude-haiku-5-5", "openai": "gpt-6-luna"}[provider]
    dollars = sample("ai_cost_usd_total", provider=provider, model=model)
    cached = sample("ai_tokens_total", provider=provider, model=model, kind="cache_read")
    good = sample("ai_requests_total", provider=provider, operation="answer", outcome="ok")
    async with answerer(provider, server) as found, found.answer(PROMPT) as answer:
        pieces = [piece async for piece in answer]
    assert "".join(pieces) == WHOLE
    assert len(pieces) > 10
    usage = answer.usage
    assert usage
    assert (usage.provider, usage.model, usage.estimated, usage.truncated) == (provider, model, False, False)
    plain = len(f"{PROMPT.system} {PROMPT.text()}".split())
    assert (usage.input_tokens, usage.output_tokens) == (plain + 400, len(pieces))
    assert (usage.cache_read_tokens, usage.cache_write_tokens) == (300, 100)
    # Both models cost the same that day.
    expected = Decimal("0.10") * plain + Decimal("0.01") * 300 + Decimal("0.125") * 100 + Decimal("0.50") * len(pieces)
    assert usage.cost == expected / 1_000_000
    assert sample("ai_cost_usd_total", provider=provider, model=model) - dollars == pytest.approx(float(usage.cost))
    assert sample("ai_tokens_total", provider=provider, model=model, kind="cache_read") - cached == 300
    assert sample("ai_requests_total", provider=provider, operation="answer", outcome="ok") - good == 1


async def test_the_request_is_the_vendors(server: StandInAi) -> None:
    """Model, instructions, passages, limit and effort stand where each protocol wants them."""
    options = {"answer_model": "some-model", "answer_effort": "low", "max_tokens": 77}
    for provider in ("claude", "openai"):
        async with answerer(provider, server, **options) as model:
            await ask(model)
    claude, openai = (request.body for request in server.requests)
    assert claude["system"] == PROMPT.system
    assert claude["messages"] == [{"role": "user", "content": PROMPT.text()}]
    assert claude["output_config"] == {"effort": "low"}
    assert openai["messages"] == [
        {"role": "system", "content": PROMPT.system},
        {"role": "user", "content": PROMPT.text()},
    ]
    assert openai["reasoning_effort"] == "low"
    assert openai["stream_options"] == {"include_usage": True}
    for body in (claude, openai):
        assert (body["model"], body["stream"], body["max_tokens"]) == ("some-model", True, 77)
        assert "temperature" not in body, "the newer models of both refuse it"


async def test_a_cut_by_the_limit_is_told(provider: str, server: StandInAi) -> None:
    """The caller can say that there would be more."""
    async with answerer(provider, server) as model:
        text, answer = await ask(model, max_tokens=5)
    assert WHOLE.startswith(text)
    assert answer.usage
    assert answer.usage.truncated


async def test_what_the_provider_does_not_count_is_estimated(provider: str, server: StandInAi) -> None:
    """Some compatible servers say nothing of tokens."""
    server.always = Behaviour(uncounted=True)
    async with answerer("openai", server, answer_model="unheard-of") as model:
        text, answer = await ask(model)
    assert answer.usage
    assert (answer.usage.estimated, answer.usage.output_tokens) == (True, len(text) // 4)
    assert answer.usage.cost is None


# Faults before the first piece


@pytest.mark.parametrize(
    "fault",
    [
        Behaviour("status", status=429, code="rate_limit_error", retry_after=0),
        Behaviour("status", status=500, retry_after=0),
        Behaviour("status", status=529, code="overloaded_error", retry_after=0),
        Behaviour("reset"),
        Behaviour("cut", pieces=0),
        Behaviour("end", pieces=0),
        Behaviour("malformed", pieces=0),
        Behaviour("error", code="overloaded_error", pieces=0),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
async def test_a_passing_fault_is_tried_again(provider: str, server: StandInAi, fault: Behaviour) -> None:
    """Nothing has been shown yet, so the reader sees one whole answer."""
    server.script.append(fault)
    retries = sample("ai_retries_total", provider=provider, operation="answer")
    async with answerer(provider, server, max_retries=2) as model:
        assert (await ask(model))[0] == WHOLE
    assert len(server.requests) == 2
    assert sample("ai_retries_total", provider=provider, operation="answer") - retries == 1


async def test_it_waits_as_long_as_it_is_told_to(provider: str, server: StandInAi) -> None:
    """`Retry-After` is obeyed where there is time for it, and passed on where there is none."""
    server.script.append(Behaviour("status", status=429, retry_after=0.4))
    async with answerer(provider, server, max_retries=1) as model:
        began = time.monotonic()
        await ask(model)
        assert time.monotonic() - began >= 0.4
        server.always = Behaviour("status", status=429, retry_after=33)
        with pytest.raises(AiRateLimited, match="429") as caught:
            await ask(model)
    assert (caught.value.status, caught.value.headers["Retry-After"]) == (503, "33")
    assert len(server.requests) == 3


async def test_a_lasting_fault_is_given_up_after_the_retries(provider: str, server: StandInAi) -> None:
    """The number of attempts is the one that was set."""
    server.always = Behaviour("status", status=500, retry_after=0)
    async with answerer(provider, server, max_retries=2) as model:
        with pytest.raises(AiProviderAway, match="HTTP 500"):
            await ask(model)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "code", "expected", "http"),
    [
        (401, "authentication_error", AiMisconfigured, 503),
        (403, "permission_error", AiMisconfigured, 503),
        (404, "not_found_error", AiMisconfigured, 503),
        (402, "billing_error", AiMisconfigured, 503),
        (400, "invalid_request_error", AiMisconfigured, 503),
        (429, "insufficient_quota", AiMisconfigured, 503),
        (413, "request_too_large", AiInputTooLong, 422),
        (400, "context_length_exceeded", AiInputTooLong, 422),
        (400, "content_filter", AiRefused, 422),
    ],
)
async def test_what_no_attempt_mends_is_told_at_once(
    provider: str, server: StandInAi, status: int, code: str, expected: type[AiError], http: int
) -> None:
    """Our key and our money are our affair: the client is told 503, never 401."""
    server.always = Behaviour("status", status=status, code=code)
    async with answerer(provider, server, max_retries=2) as model:
        with pytest.raises(expected) as caught:
            await ask(model)
        assert type(caught.value) is expected
        assert model.circuit.state is State.CLOSED
    assert caught.value.status == http
    assert len(server.requests) == 1


async def test_a_refused_key_is_loud_and_secret(provider: str, server: StandInAi) -> None:
    """An error in the log that says where to look, a part of health that is not well, and the key nowhere."""
    server.key = "another"
    outcome = {"provider": provider, "operation": "answer", "outcome": "misconfigured"}
    before = sample("ai_requests_total", **outcome)
    async with answerer(provider, server) as model:
        with capture_logs() as lines, pytest.raises(AiMisconfigured) as caught:
            await ask(model)
        assert [line["log_level"] for line in lines if line["event"] == "ai_answer"] == ["error"]
        assert "HTTP 401" in str(model.trouble)
        assert KEY not in f"{lines} {caught.value} {caught.value!r} {caught.value.detail} {model.trouble}"
        assert sample("ai_requests_total", **outcome) - before == 1
        server.key = KEY
        await ask(model)
        assert model.trouble is None


async def test_a_hanging_provider_costs_the_deadline_and_no_more(provider: str, server: StandInAi) -> None:
    """It accepted, and never answered: further attempts share the same deadline."""
    server.always = Behaviour("hang")
    async with answerer(provider, server, first_piece_seconds=0.3, max_retries=5) as model:
        began = time.monotonic()
        with pytest.raises(AiProviderAway, match=r"within 0\.3 s") as caught:
            await ask(model)
        assert time.monotonic() - began < 3
    assert caught.value.status == 503


async def test_a_provider_that_is_not_there_is_an_error_of_ours(provider: str, server: StandInAi) -> None:
    """Connection refused."""
    async with StandInAi() as gone:
        pass
    async with answerer(provider, gone) as model:
        with pytest.raises(AiProviderAway, match="APIConnectionError"):
            await ask(model)


async def test_thoughts_alone_are_no_answer(provider: str, server: StandInAi) -> None:
    """The limit was used up before the first word; what it cost is counted all the same."""
    server.always = Behaviour("think")
    async with answerer(provider, server) as model:
        labels = {"provider": provider, "model": model.model, "kind": "input"}
        before = sample("ai_tokens_total", **labels)
        with pytest.raises(AiUnavailable, match="wrote nothing"):
            await ask(model)
        assert sample("ai_tokens_total", **labels) > before


# Faults within the answer


@pytest.mark.parametrize("kind", ["cut", "end", "malformed", "error"])
async def test_a_broken_answer_is_never_tried_again(provider: str, server: StandInAi, kind: str) -> None:
    """The reader has its beginning; that it broke off is an error and not an end."""
    server.always = Behaviour(kind, pieces=3)
    async with answerer(provider, server, max_retries=2) as model, model.answer(PROMPT) as answer:
        assert [await anext(answer.pieces) for _ in range(3)] == ["You ", "asked: ", "How "]
        with pytest.raises(AiInterrupted):
            await anext(answer.pieces)
    assert len(server.requests) == 1
    assert answer.usage
    assert answer.usage.estimated


async def test_silence_within_an_answer_ends_it(provider: str, server: StandInAi) -> None:
    """A provider that stops in the middle does not hold the reader."""
    server.always = Behaviour("silent")
    async with answerer(provider, server, silence_seconds=0.2) as model:
        began = time.monotonic()
        with pytest.raises(AiInterrupted, match="silent"):
            await ask(model)
        assert time.monotonic() - began < 3


async def test_a_slow_answer_is_an_answer_until_its_time_is_over(provider: str, server: StandInAi) -> None:
    """Trickling pieces are fine as long as they come; the whole has a deadline of its own."""
    server.always = Behaviour(pause=0.02)
    async with answerer(provider, server, silence_seconds=1) as model:
        assert (await ask(model))[0] == WHOLE
    async with answerer(provider, server, silence_seconds=1, answer_seconds=0.15) as model:
        with pytest.raises(AiInterrupted, match="too long"):
            await ask(model)


async def test_a_refusal_is_the_askers(provider: str, server: StandInAi) -> None:
    """It comes after some words, or before any; either way it is no outage."""
    server.always = Behaviour("refuse")
    async with answerer(provider, server) as model:
        with pytest.raises(AiRefused) as caught:
            await ask(model)
        assert model.circuit.state is State.CLOSED
    assert caught.value.status == 422


# Those who leave


async def test_who_leaves_hangs_up_on_the_provider(provider: str, server: StandInAi, eventually: Eventually) -> None:
    """A cancelled request stops the writing, which would cost money; its place is free again, its cost estimated."""
    server.always = Behaviour(pause=0.02)
    begun = asyncio.Event()
    seen: list[Answer] = []

    async def read(model: ModelAnswerer) -> None:
        async with model.answer(PROMPT) as answer:
            seen.append(answer)
            async for _ in answer:
                begun.set()

    async with answerer(provider, server, concurrency=1) as model:
        left = {"provider": provider, "operation": "answer", "outcome": "abandoned"}
        before = sample("ai_requests_total", **left)
        reader = asyncio.create_task(read(model))
        await begun.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await eventually(lambda: server.hung_up == 1, 5)
        assert seen[0].usage
        assert seen[0].usage.estimated
        async with model.answer(PROMPT) as answer:  # one who only looks at the beginning
            assert await anext(aiter(answer)) == "You "
        await eventually(lambda: server.hung_up == 2, 5)
        assert sample("ai_requests_total", **left) - before == 2
        assert model.circuit.state is State.CLOSED


async def test_no_more_than_so_many_at_once(provider: str, server: StandInAi) -> None:
    """A slow provider fills its places and nothing else; who finds none is told soon, and when to come again."""
    async with answerer(provider, server, concurrency=1, queue_seconds=0.05) as model, model.answer(PROMPT) as answer:
        with pytest.raises(AiBusy) as caught:
            await ask(model)
        assert (caught.value.status, caught.value.headers["Retry-After"]) == (503, "1")
        assert "".join([piece async for piece in answer]) == WHOLE
    async with answerer(provider, server, concurrency=1, queue_seconds=5) as model:
        answers = await asyncio.gather(*(ask(model) for _ in range(3)))
        assert [text for text, _ in answers] == [WHOLE] * 3


# The circuit


async def test_a_dead_provider_is_left_alone_and_found_again(
    provider: str, server: StandInAi, eventually: Eventually
) -> None:
    """After some failures nobody is asked; once it is back, answers come by themselves."""
    server.always = Behaviour("status", status=500)
    async with answerer(provider, server, circuit_failures=2, circuit_seconds=0.2) as model:
        for _ in range(2):
            with pytest.raises(AiProviderAway, match="HTTP 500"):
                await ask(model)
        with pytest.raises(AiProviderAway, match="is open") as caught:
            await ask(model)
        assert caught.value.headers["Retry-After"] == "1"
        assert len(server.requests) == 2
        assert model.trouble == "answers: open"
        server.always = Behaviour()
        await eventually(lambda: model.circuit.state is State.HALF_OPEN, 5)
        assert (await ask(model))[0] == WHOLE
        assert model.trouble is None


async def test_answers_that_always_break_off_open_the_circuit_too(provider: str, server: StandInAi) -> None:
    """Also when whoever reads them makes the best of it."""
    server.always = Behaviour("cut")
    async with answerer(provider, server, circuit_failures=2) as model:
        for _ in range(2):
            async with model.answer(PROMPT) as answer:
                with pytest.raises(AiInterrupted):
                    _ = [piece async for piece in answer]
        assert model.circuit.state is State.OPEN


# The stand-in as a process


async def test_the_stand_in_is_a_program_that_is_told_how_to_fail() -> None:
    """Drills and development start it as a process and tell it by a request."""
    import httpx

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "devstack.standin_ai", "--key", KEY, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout
        address = (await process.stdout.readline()).decode().split()[-1]
        port = int(address.rpartition(":")[2])
        there = StandInAi(port=port)
        async with httpx.AsyncClient(base_url=there.claude_url) as control:
            told = await control.post("/control", json={"always": {"kind": "status", "status": 529}})
            assert told.json()["always"]["status"] == 529
            async with answerer("claude", there) as model:
                with pytest.raises(AiProviderAway, match="529"):
                    await ask(model)
                await control.post("/control", json={"always": {"kind": "good"}})
                assert (await ask(model))[0] == WHOLE
            assert (await control.get("/control")).json()["requests"] == 2
            assert (await control.get("/elsewhere")).status_code == 404
    finally:
        process.terminate()
        await process.wait()
