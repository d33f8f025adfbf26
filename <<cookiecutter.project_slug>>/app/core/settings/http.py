"""The API process."""

from pydantic import BaseModel, Field

from app.core.settings.base import CommaList


class Http(BaseModel):
    """The API process."""

    allowed_hosts: CommaList = Field(
        default=(),
        description="Host names answered to, comma-separated; *.example.com allows subdomains. Empty: localhost and the project's domain.",
    )
    cors_origins: CommaList = Field(
        default=(),
        description="Origins of browser applications on other hosts, comma-separated: https://app.example.com",
    )
    max_body_bytes: int = Field(
        default=11 * 1024 * 1024,
        gt=0,
        description="Largest request body. A little over the largest upload; nginx has the same limit.",
    )
    request_seconds: float = Field(
        default=20,
        gt=0,
        description="Deadline until an answer begins, counted from the end of the request's body. Less than nginx waits (30 s).",
    )
    upload_seconds: float = Field(default=300, gt=0, description="Deadline for a request's body to come in.")
    workers: int | None = Field(
        default=None, ge=1, description="API processes, about one per core. Empty: 1 in development, 2 elsewhere."
    )
    trusted_proxies: CommaList = Field(
        default=("127.0.0.1",),
        description="Addresses and networks whose X-Forwarded-For is believed: where nginx connects from. * takes its first entry, which a proxy that only appends lets anybody write.",
    )
    client_header: str = Field(
        default="",
        description="Header in which whatever stands in front names the client, always by itself: X-Real-IP, CF-Connecting-IP. Empty: X-Forwarded-For.",
    )
    https_only: bool = Field(
        default=False,
        description="Send clients to HTTPS that came without it, by X-Forwarded-Proto. nginx does that; elsewhere not everything in front does.",
    )
    docs: bool | None = Field(
        default=None, description="Serve /docs and /openapi.json. Empty: everywhere but in production."
    )
    idempotency_hours: float = Field(
        default=24,
        gt=0,
        description="How long the answer to a request with an Idempotency-Key is kept for its repetition.",
    )
