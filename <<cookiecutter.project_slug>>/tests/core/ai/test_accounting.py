"""Dollars are exact, dated and never guessed; health knows of the providers without spending any."""

from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from app.core.ai import AiUnavailable, OpenAIEmbedder, Prompt, create_answerer
from app.core.ai.accounting import cost
from app.core.health import Status, check_parts, overall
from app.core.settings import Ai, SettingsError, load_settings

if TYPE_CHECKING:
    from app.core.resources import Resources

PRICES = '{"ours": {"as_of": "2026-11-20", "input": 3, "output": "15", "cache_read": 0.3, "up_to": 1000}}'


def unpriced(model: str) -> float:
    """How often a model had no price."""
    return REGISTRY.get_sample_value("ai_unpriced_requests_total", {"model": model}) or 0.0


def test_a_cost_is_the_sum_of_its_tokens() -> None:
    """Exact to the last digit; what the cache had is cheaper, and what has no price of its own is input."""
    settings = Ai.model_validate({"prices": PRICES})
    assert cost(settings, "ours", input_tokens=100, output_tokens=10) == Decimal("0.00045")
    assert cost(settings, "ours", input_tokens=100, read=60, written=40) == Decimal("0.000138")
    assert cost(settings, "claude-opus-5-5", input_tokens=1_000_000, written=1_000_000) == Decimal(5)
    assert cost(settings, "text-embedding-3-small", input_tokens=50) == Decimal("0.000001")


def test_a_price_that_is_not_known_is_none() -> None:
    """An unheard-of model, or a prompt longer than the price holds for: counted each time, said once."""
    settings = Ai.model_validate({"prices": PRICES})
    before = unpriced("unheard-of-2"), unpriced("ours")
    with capture_logs() as lines:
        for _ in range(3):
            assert cost(settings, "unheard-of-2", input_tokens=1) is None
        assert cost(settings, "ours", input_tokens=1001) is None
    assert [line["model"] for line in lines] == ["unheard-of-2", "ours"]
    assert (unpriced("unheard-of-2"), unpriced("ours")) == (before[0] + 3, before[1] + 1)


def test_prices_are_read_from_the_environment(bare: pytest.MonkeyPatch) -> None:
    """They add to the built-in ones, with the day of each."""
    bare.setenv("AI_PRICES", PRICES)
    ai = load_settings().ai
    found = ai.price("ours")
    assert found
    assert (found.as_of, found.output) == (date(2026, 11, 20), Decimal(15))
    assert ai.price("gpt-6-luna")
    assert ai.price("unheard-of") is None


@pytest.mark.parametrize("text", ["{", '{"m": {"input": 1}}', '{"m": {"as_of": "2026-11-20", "input": -1}}', "[]"])
def test_a_wrong_price_is_refused_at_start(bare: pytest.MonkeyPatch, text: str) -> None:
    """No JSON, no date, less than nothing."""
    bare.setenv("AI_PRICES", text)
    with pytest.raises(SettingsError, match="AI_PRICES"):
        load_settings()


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"AI_ANSWER_PROVIDER": "claude"}, "AI_CLAUDE_API_KEY: missing"),
        ({"AI_ANSWER_PROVIDER": "openai"}, "AI_OPENAI_API_KEY: missing"),
        ({"AI_EMBEDDING_PROVIDER": "openai"}, "AI_OPENAI_API_KEY: missing"),
        ({"AI_ANSWER_PROVIDER": "claude", "AI_CLAUDE_BASE_URL": "http://models:8080"}, ""),
        ({"AI_EMBEDDING_PROVIDER": "openai", "AI_EMBEDDING_BASE_URL": "http://models:8080/v1"}, ""),
        ({"AI_ANSWER_PROVIDER": "offline"}, ""),
    ],
)
def test_production_wants_the_key_of_what_is_chosen(
    bare: pytest.MonkeyPatch, given: dict[str, str], fault: str
) -> None:
    """A server of one's own may need none."""
    bare.setenv("ENVIRONMENT", "production")
    bare.setenv("AI_ALLOW_OFFLINE", "true")
    for variable, value in given.items():
        bare.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    found = [line for line in caught.value.faults if line.startswith("AI_")]
    assert [line.split(";")[0] for line in found] == ([fault] if fault else [])


async def test_health_tells_of_providers_and_asks_none(resources: "Resources", dead_port: int) -> None:
    """No part without a real provider; a provider that fails makes the whole degraded, never unhealthy."""
    assert "ai" not in await check_parts(resources)
    address = f"http://127.0.0.1:{dead_port}"
    settings = Ai(answer_provider="claude", claude_base_url=address, circuit_failures=1, max_retries=0)
    answerer = create_answerer(settings)
    embedder = OpenAIEmbedder(api_key="", base_url=f"{address}/v1", model="m", max_retries=0, settings=settings)
    chosen = replace(resources, answerer=answerer, embedder=embedder)
    try:
        parts = await check_parts(chosen, only=frozenset({"ai"}))
        assert parts["ai"].status is Status.HEALTHY, "nobody was asked"
        with pytest.raises(AiUnavailable):
            async with answerer.answer(Prompt("Are you there?")):
                pass
        with pytest.raises(AiUnavailable):
            await embedder.embed(["text"])
        parts = await check_parts(chosen, only=frozenset({"ai"}))
        assert parts["ai"].error == "RuntimeError: embeddings: open; answers: open"
        assert overall(parts) is Status.DEGRADED
    finally:
        await answerer.close()
        await embedder.close()
