"""Error tracking, traces and metrics."""

from pydantic import BaseModel, Field, SecretStr

from app.core.settings.base import NO_SECRET, Address, secret


class Sentry(BaseModel):
    """Error tracking."""

    dsn: SecretStr = Field(default=NO_SECRET, description="Address of the Sentry project. Empty: off.")
    traces_sample_rate: float | None = Field(
        default=None, ge=0, le=1, description="Share of requests traced. Empty: 0.1 in production, 1.0 elsewhere."
    )


class Otel(BaseModel):
    """Traces by OpenTelemetry. Other OTEL_* variables are read by its SDK itself: OTEL_BSP_MAX_QUEUE_SIZE, for one."""

    exporter_otlp_endpoint: Address = Field(
        default="", description="Address of a collector that takes OTLP over HTTP: http://collector:4318. Empty: off."
    )
    exporter_otlp_headers: SecretStr = secret(
        "Headers for the collector: name=value,name=value.", generated=False, required=False
    )
    service_name: str = Field(default="", description="Name of this service there. Empty: the project's.")
    traces_sample_rate: float | None = Field(
        default=None, ge=0, le=1, description="Share of requests traced. Empty: 0.1 in production, 1.0 elsewhere."
    )


class Metrics(BaseModel):
    """Prometheus metrics. The API serves its own at /metrics, which nginx does not let through."""

    worker_host: str = Field(
        default="127.0.0.1",
        description="Where the worker's metrics listen; in a container 0.0.0.0, inside its network.",
    )
    worker_port: int = Field(default=9101, description="Port of the worker's metrics; 0 turns them off.")
    backup_host: str = Field(default="127.0.0.1", description="The same for the metrics of the backups.")
    backup_port: int = Field(default=9102, description="Port of the backups' metrics; 0 turns them off.")
