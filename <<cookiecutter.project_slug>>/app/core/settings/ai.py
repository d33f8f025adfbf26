"""Providers of embeddings."""

from typing import Literal

from pydantic import BaseModel, Field, SecretStr

from app.core.settings.base import Address, secret


class Ai(BaseModel):
    """Embeddings."""

    embedding_provider: Literal["offline", "openai"] = Field(
        default="offline",
        description="offline needs no network and compares words, not meaning: for development and tests. openai: that API, or any address that speaks it.",
    )
    embedding_model: str = Field(
        default="text-embedding-3-small", description="Model asked for; it must give 512 dimensions."
    )
    openai_base_url: Address = Field(
        default="", description="Address of an OpenAI-compatible server. Empty: OpenAI itself."
    )
    openai_api_key: SecretStr = secret("Key of that API.", generated=False, required=False)
    embedding_batch: int = Field(default=64, ge=1, le=2048, description="Texts in one call.")
    timeout_seconds: float = Field(default=20, gt=0, description="Deadline of one call.")
    max_retries: int = Field(
        default=2, ge=0, le=10, description="Further attempts of a failed call, with growing waits."
    )
    allow_offline: bool = Field(
        default=False, description="Let production run with the offline provider, which finds words and not meaning."
    )
