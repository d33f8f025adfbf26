"""All groups together."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

from app.core.project import project
from app.core.settings.admin import Admin
from app.core.settings.ai import Ai
from app.core.settings.audit import Audit
from app.core.settings.auth import Auth
from app.core.settings.backup import Backup
from app.core.settings.base import FeatureSettings
from app.core.settings.database import Database
from app.core.settings.encryption import Encryption
from app.core.settings.health import Health
from app.core.settings.http import Http
from app.core.settings.limits import Limits
from app.core.settings.log import Log
from app.core.settings.messages import Messages
from app.core.settings.redis import Broker, Cache
from app.core.settings.secrets import Secrets
from app.core.settings.storage import Storage
from app.core.settings.tasks import Tasks
from app.core.settings.telemetry import Metrics, Otel, Sentry
from app.core.settings.ws import Ws

F = TypeVar("F", bound=FeatureSettings)


class Environment(StrEnum):
    """Where this process runs."""

    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"


class Settings(BaseModel):
    """Everything that can be set. `load_settings()` reads it; constructing it directly takes nothing but its arguments."""

    model_config = ConfigDict(frozen=True)

    environment: Environment = Field(default=Environment.DEVELOPMENT, description="development, staging or production.")
    log: Log = Log()
    http: Http = Http()
    database: Database = Database()
    limits: Limits = Limits()
    ws: Ws = Ws()
    cache: Cache = Cache()
    broker: Broker = Broker()
    tasks: Tasks = Tasks()
    storage: Storage = Storage()
    backup: Backup = Backup()
    auth: Auth = Auth()
    encryption: Encryption = Encryption()
    audit: Audit = Audit()
    admin: Admin = Admin()
    health: Health = Health()
    ai: Ai = Ai()
    messages: Messages = Messages()
    sentry: Sentry = Sentry()
    otel: Otel = Otel()
    metrics: Metrics = Metrics()
    secrets: Secrets = Secrets()
    features: Mapping[type[FeatureSettings], FeatureSettings] = Field(default_factory=dict, exclude=True)

    def of(self, group: type[F]) -> F:
        """The settings of a feature, by their class."""
        found = self.features[group]
        assert isinstance(found, group)
        return found

    @property
    def production(self) -> bool:
        """Whether the strict rules hold."""
        return self.environment is Environment.PRODUCTION

    @property
    def log_level(self) -> str:
        """The level asked for, or the default of the environment."""
        defaults = {Environment.DEVELOPMENT: "DEBUG", Environment.STAGING: "INFO", Environment.PRODUCTION: "WARNING"}
        return self.log.level or defaults[self.environment]

    @property
    def traces_sample_rate(self) -> float:
        """Share of requests that OpenTelemetry traces."""
        rate = self.otel.traces_sample_rate
        return rate if rate is not None else (0.1 if self.production else 1.0)

    @property
    def api_workers(self) -> int:
        """How many processes serve the API."""
        return self.http.workers or (1 if self.environment is Environment.DEVELOPMENT else 2)

    @property
    def sandboxed(self) -> bool:
        """Whether messages to people are kept instead of sent."""
        return not self.production if self.messages.mode is None else self.messages.mode == "sandbox"

    @property
    def docs_enabled(self) -> bool:
        """Whether /docs is served."""
        return not self.production if self.http.docs is None else self.http.docs

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """Host names that the API answers to."""
        return self.http.allowed_hosts or ("localhost", "127.0.0.1", "[::1]", project().domain)
