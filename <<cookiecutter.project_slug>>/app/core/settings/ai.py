"""Providers of embeddings and answers."""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Literal

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_settings import NoDecode

from app.core.settings.base import Address, secret


class Price(BaseModel):
    """US dollars for a million tokens of one model.

    Attributes:
        as_of: the day on which somebody looked it up.
        cache_read: for input found in the provider's cache; `input` unless given.
        cache_write: for input put there; `input` unless given.
        up_to: a longer prompt, in tokens, has another price, which is not known here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    as_of: date
    input: Decimal = Field(ge=0)
    output: Decimal = Field(default=Decimal(0), ge=0)
    cache_read: Decimal | None = Field(default=None, ge=0)
    cache_write: Decimal | None = Field(default=None, ge=0)
    up_to: int | None = Field(default=None, gt=0)


def _price(
    input_: str, output: str = "0", read: str | None = None, write: str | None = None, up_to: int | None = None
) -> Price:
    return Price(
        as_of=date(2026, 11, 20),
        input=Decimal(input_),
        output=Decimal(output),
        cache_read=None if read is None else Decimal(read),
        cache_write=None if write is None else Decimal(write),
        up_to=up_to,
    )


# From the vendors' price lists of that day, standard service.
KNOWN_PRICES: Mapping[str, Price] = MappingProxyType(
    {
        "claude-opus-5-5": _price("4", "20", "0.20", "5"),
        "claude-sonnet-5-5": _price("2", "10", "0.10", "2.50"),
        "claude-haiku-5-5": _price("0.10", "0.50", "0.01", "0.125", up_to=100_000),
        "gpt-6.1-sol": _price("2", "10", "0.10", "2.50", up_to=272_000),
        "gpt-6-luna": _price("0.10", "0.50", "0.01", "0.125", up_to=272_000),
        "text-embedding-3-small": _price("0.02"),
        "text-embedding-3-large": _price("0.13"),
    }
)
DEFAULT_MODELS: Mapping[str, str] = MappingProxyType({"claude": "claude-haiku-5-5", "openai": "gpt-6-luna"})


def _from_json(value: object) -> object:
    return orjson.loads(value) if isinstance(value, str) else value


class Ai(BaseModel):
    """Language models: embeddings and answers."""

    embedding_provider: Literal["offline", "openai"] = Field(
        default="offline",
        description="offline needs no network and compares words, not meaning: for development and tests. openai: that API, or any address that speaks it.",
    )
    embedding_model: str = Field(
        default="text-embedding-3-small", description="Model asked for; it must give 512 dimensions."
    )
    embedding_base_url: Address = Field(
        default="",
        description="Address of an OpenAI-compatible server for embeddings alone. Empty: AI_OPENAI_BASE_URL and its key.",
    )
    embedding_api_key: SecretStr = secret("Key of AI_EMBEDDING_BASE_URL.", generated=False, required=False)
    answer_provider: Literal["offline", "claude", "openai"] = Field(
        default="offline",
        description="offline quotes the passages that it is given and writes nothing: for development and tests. claude, openai: those APIs; openai also speaks to any compatible address.",
    )
    answer_model: str = Field(
        default="", description="Model that answers. Empty: claude-haiku-5-5 or gpt-6-luna, by the provider."
    )
    answer_effort: Literal["", "low", "medium", "high"] = Field(
        default="",
        description="How long the model thinks before it writes. Empty: the model's own default; not every model knows it.",
    )
    max_tokens: int = Field(
        default=2000, ge=16, description="Longest answer, thoughts included, where the caller names none."
    )
    claude_base_url: Address = Field(
        default="", description="Address of a server that speaks Anthropic's API. Empty: Anthropic itself."
    )
    claude_api_key: SecretStr = secret("Key of that API.", generated=False, required=False)
    openai_base_url: Address = Field(
        default="",
        description="Address of an OpenAI-compatible server, with its version: http://localhost:8080/v1. Empty: OpenAI itself.",
    )
    openai_api_key: SecretStr = secret("Key of that API.", generated=False, required=False)
    embedding_batch: int = Field(default=64, ge=1, le=2048, description="Texts in one call.")
    timeout_seconds: float = Field(default=20, gt=0, description="Deadline of one call for embeddings.")
    connect_seconds: float = Field(default=3, gt=0, description="Deadline for a new connection to a provider.")
    first_piece_seconds: float = Field(
        default=30, gt=0, description="Deadline for the first piece of an answer, all attempts together."
    )
    silence_seconds: float = Field(default=15, gt=0, description="Longest silence within an answer.")
    answer_seconds: float = Field(default=120, gt=0, description="Deadline for a whole answer.")
    max_retries: int = Field(
        default=2,
        ge=0,
        le=10,
        description="Further attempts of a failed call, with growing waits; none once an answer has begun.",
    )
    concurrency: int = Field(default=16, ge=1, description="Answers that one process has under way at once.")
    queue_seconds: float = Field(
        default=1, ge=0, description="How long a question waits for one of those places before it is refused."
    )
    circuit_failures: int = Field(
        default=5, ge=1, description="So many failures of a provider in a row, and it is not asked for a while."
    )
    circuit_seconds: float = Field(default=5, gt=0, description="That while.")
    prices: Annotated[Mapping[str, Price], NoDecode, BeforeValidator(_from_json)] = Field(
        default_factory=dict,
        description='Prices per million tokens that add to or replace the built-in ones: {"model": {"as_of": "2026-11-20", "input": 2, "output": 10, "cache_read": 0.1, "cache_write": 2.5, "up_to": 272000}}',
    )
    allow_offline: bool = Field(
        default=False,
        description="Let production run with the offline providers, which find words and not meaning, and quote instead of answering.",
    )

    @property
    def model(self) -> str:
        """The model that answers."""
        return self.answer_model or DEFAULT_MODELS.get(self.answer_provider, "")

    def price(self, model: str) -> Price | None:
        """The price of a model, if it is known."""
        return self.prices.get(model) or KNOWN_PRICES.get(model)
