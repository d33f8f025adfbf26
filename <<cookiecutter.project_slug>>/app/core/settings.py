"""Typed settings: the one place that reads the environment.

A variable is named GROUP_FIELD: `DATABASE_POOL_SIZE` is `settings.database.pool_size`. Every field carries its own
documentation; `.env.example` is made from it (`make generate`) and a check holds the two together. A feature brings
its own group (`FeatureSettings`), which goes when the feature goes.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar
from urllib.parse import quote

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from app.core.project import ROOT, project

ENV_FILE_VARIABLE = "ENV_FILE"
MIN_SECRET_LENGTH = 24
# What people leave in place: a secret that holds one of these words was never made fresh.
WEAK_SECRET_WORDS = (
    "change",
    "secret",
    "password",
    "example",
    "default",
    "insecure",
    "admin",
    "qwerty",
    "12345678",
)


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _without_slash(value: str) -> str:
    return value.rstrip("/")


CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Address = Annotated[str, AfterValidator(_without_slash)]
NO_SECRET = SecretStr("")


def _secret(description: str, *, generated: bool = True, required: bool = True) -> SecretStr:
    """A field for a secret.

    Args:
        description: what it protects.
        generated: `make setup` writes a fresh random value.
        required: production refuses to start without a strong one.
    """
    extra: dict[str, object] = {"generated": generated, "required": required}
    field: SecretStr = Field(default=NO_SECRET, description=description, json_schema_extra=extra)  # type: ignore[arg-type]
    return field


class Environment(StrEnum):
    """Where this process runs."""

    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"


class Log(BaseModel):
    """Logs: JSON lines on standard output."""

    level: Literal["", "DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="", description="Empty: DEBUG in development, INFO in staging, WARNING in production."
    )
    format: Literal["json", "console"] = Field(
        default="json", description="console is for reading in a terminal; everything else wants json."
    )


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
    workers: int | None = Field(
        default=None, ge=1, description="API processes, about one per core. Empty: 1 in development, 2 elsewhere."
    )
    trusted_proxies: CommaList = Field(
        default=("127.0.0.1",), description="Addresses whose X-Forwarded-For is believed: where nginx connects from."
    )
    docs: bool | None = Field(
        default=None, description="Serve /docs and /openapi.json. Empty: everywhere but in production."
    )


class Database(BaseModel):
    """PostgreSQL with pgvector."""

    url: SecretStr = Field(
        default=NO_SECRET,
        description="Whole address of a managed database, with its TLS options: postgresql://user:password@host:5432/name?sslmode=verify-full. Empty: made of the parts below.",
    )
    host: str = Field(default="127.0.0.1", description="Name or address of the server.")
    port: int = Field(default=5432, description="Port of the server.")
    user: str = Field(default="app", description="Role of the application; it owns its database and nothing else.")
    password: SecretStr = _secret("Password of that role.")
    name: str = Field(default="app", description="Name of the database.")
    pool_size: int = Field(default=5, ge=1, description="Connections kept open by each process.")
    pool_overflow: int = Field(default=5, ge=0, description="Connections a process may open beyond that under load.")
    connect_seconds: float = Field(
        default=3, gt=0, description="Deadline for a new connection, and for a free one from the pool."
    )
    statement_seconds: float = Field(default=10, gt=0, description="Deadline for one statement.")

    def dsn(self) -> str:
        """The address as libpq, asyncpg and pg_dump read it."""
        if self.url.get_secret_value():
            return self.url.get_secret_value()
        return (
            f"postgresql://{quote(self.user, safe='')}:{quote(self.password.get_secret_value(), safe='')}"
            f"@{self.host}:{self.port}/{quote(self.name, safe='')}"
        )


class _Redis(BaseModel):
    def address(self) -> str:
        """The address as redis-py reads it."""
        fields: Mapping[str, object] = self.__dict__
        url, password = fields["url"], fields["password"]
        assert isinstance(url, SecretStr)
        assert isinstance(password, SecretStr)
        if url.get_secret_value():
            return url.get_secret_value()
        return f"redis://:{quote(password.get_secret_value(), safe='')}@{fields['host']}:{fields['port']}/0"


class Cache(_Redis):
    """Redis as a cache: bounded, may forget anything at any time."""

    url: SecretStr = Field(
        default=NO_SECRET,
        description="Whole address of a managed Redis: rediss://:password@host:6379/0. Empty: made of the parts below.",
    )
    host: str = Field(default="127.0.0.1", description="Name or address of the server.")
    port: int = Field(default=6379, description="Port of the server.")
    password: SecretStr = _secret("Password of the cache.")
    ttl_seconds: int = Field(
        default=300, gt=0, description="How long a cached value lives unless the caller says otherwise."
    )


class Broker(_Redis):
    """Redis as Celery's broker: never evicts, keeps an append-only file. A server of its own, so that a full cache cannot drop a task."""

    url: SecretStr = Field(
        default=NO_SECRET,
        description="Whole address of a managed Redis with maxmemory-policy noeviction. Empty: made of the parts below.",
    )
    host: str = Field(default="127.0.0.1", description="Name or address of the server.")
    port: int = Field(default=6380, description="Port of the server.")
    password: SecretStr = _secret("Password of the broker.")


class Tasks(BaseModel):
    """Background tasks. Each is a row of `task_outbox` until it is done, so none is lost with a process or the broker."""

    concurrency: int = Field(default=4, ge=1, description="Processes of one worker.")
    sweep_seconds: float = Field(
        default=5, gt=0, description="How often tasks are looked for that were never sent, or whose worker died."
    )
    send_grace_seconds: float = Field(
        default=15, gt=0, description="How long after the commit a task may still be unsent before the sweep sends it."
    )
    lease_seconds: float = Field(
        default=60,
        gt=0,
        description="A running task renews its lease three times in this time; one whose lease ran out runs again.",
    )
    redeliver_seconds: float = Field(
        default=900,
        gt=0,
        description="A task that was sent and never started by then is sent again: longer than the longest queue.",
    )
    limit_seconds: float = Field(default=600, gt=0, description="Deadline of a task that names none.")
    retry_seconds: float = Field(
        default=5, gt=0, description="Wait before the second attempt; doubles each time, up to an hour, with jitter."
    )


class Storage(BaseModel):
    """S3-compatible object storage."""

    endpoint_url: Address = Field(
        default="http://127.0.0.1:9000", description="Address of the store. Empty: AWS S3 itself."
    )
    region: str = Field(default="us-east-1", description="Region of the bucket.")
    bucket: str = Field(default="app", description="Bucket of the application.")
    access_key: str = Field(
        default="", description="Access key. Empty: the instance's role.", json_schema_extra={"generated": True}
    )
    secret_key: SecretStr = _secret("Secret key. Empty: the instance's role.", required=False)
    timeout_seconds: float = Field(default=10, gt=0, description="Deadline to connect and between two packets.")
    old_versions_days: int = Field(
        default=30, ge=1, description="How long the bucket keeps overwritten and deleted objects."
    )


class Backup(BaseModel):
    """Where dumps of the database go. In production a different place from STORAGE_*, with keys of its own."""

    s3_endpoint_url: Address = Field(
        default="",
        description="Address of the store; AWS is https://s3.REGION.amazonaws.com. Empty: the same as STORAGE_ENDPOINT_URL.",
    )
    s3_region: str = Field(default="us-east-1", description="Region of the bucket.")
    s3_bucket: str = Field(default="backup", description="Bucket of the dumps.")
    s3_access_key: str = Field(default="", description="Access key. Empty: the same as STORAGE_ACCESS_KEY.")
    s3_secret_key: SecretStr = _secret(
        "Secret key. Empty: the same as STORAGE_SECRET_KEY.", generated=False, required=False
    )
    s3_prefix: str = Field(default="backups/", description="Beginning of every key.")
    keep_days: int = Field(default=30, ge=1, description="Dumps older than this go.")
    keep_last: int = Field(
        default=3, ge=1, description="…but never the newest so many good ones, whatever the clock says."
    )
    admin_url: SecretStr = Field(
        default=NO_SECRET,
        description="Address of a role that may create and rename databases; only a restore needs it. Empty: the application's own role is tried.",
    )
    pg_bin: Path | None = Field(
        default=None, description="Folder of pg_dump and pg_restore. Empty: PATH, then the stack without Docker."
    )
    metrics_file: Path | None = Field(
        default=None,
        description="File for the last run's metrics, read by node_exporter's textfile collector. Empty: none.",
    )


class Auth(BaseModel):
    """Sign-in tokens."""

    secret_key: SecretStr = _secret("Signs the tokens. Changing it signs everyone out.")
    access_token_minutes: int = Field(default=30, ge=1, description="Life of an access token.")


class Health(BaseModel):
    """Who may see the state of every part."""

    token: SecretStr = _secret("Bearer token of /health/detailed. Empty: nobody sees the details.", required=False)


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
    openai_api_key: SecretStr = _secret("Key of that API.", generated=False, required=False)
    embedding_batch: int = Field(default=64, ge=1, le=2048, description="Texts in one call.")
    timeout_seconds: float = Field(default=20, gt=0, description="Deadline of one call.")
    max_retries: int = Field(
        default=2, ge=0, le=10, description="Further attempts of a failed call, with growing waits."
    )
    allow_offline: bool = Field(
        default=False, description="Let production run with the offline provider, which finds words and not meaning."
    )


class Sentry(BaseModel):
    """Error tracking."""

    dsn: SecretStr = Field(default=NO_SECRET, description="Address of the Sentry project. Empty: off.")
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


class FeatureSettings(BaseModel):
    """Base of a feature's own group; its variables begin with `prefix`."""

    prefix: ClassVar[str]
    # Whether production has to choose an embedding provider because of this feature.
    compares_meaning: ClassVar[bool] = False


F = TypeVar("F", bound=FeatureSettings)


class Settings(BaseModel):
    """Everything that can be set. `load_settings()` reads it; constructing it directly takes nothing but its arguments."""

    model_config = ConfigDict(frozen=True)

    environment: Environment = Field(default=Environment.DEVELOPMENT, description="development, staging or production.")
    log: Log = Log()
    http: Http = Http()
    database: Database = Database()
    cache: Cache = Cache()
    broker: Broker = Broker()
    tasks: Tasks = Tasks()
    storage: Storage = Storage()
    backup: Backup = Backup()
    auth: Auth = Auth()
    health: Health = Health()
    ai: Ai = Ai()
    sentry: Sentry = Sentry()
    metrics: Metrics = Metrics()
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
    def api_workers(self) -> int:
        """How many processes serve the API."""
        return self.http.workers or (1 if self.environment is Environment.DEVELOPMENT else 2)

    @property
    def docs_enabled(self) -> bool:
        """Whether /docs is served."""
        return not self.production if self.http.docs is None else self.http.docs

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """Host names that the API answers to."""
        return self.http.allowed_hosts or ("localhost", "127.0.0.1", "[::1]", project().domain)


class _FromEnvironment(Settings, BaseSettings):
    model_config = SettingsConfigDict(
        env_nested_delimiter="_", env_nested_max_split=1, env_ignore_empty=True, extra="ignore", frozen=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then `.env`."""
        for source in (env_settings, dotenv_settings):
            assert isinstance(source, EnvSettingsSource)
            # Other programs set variables too: one that is called like a group (CACHE, LOG) is not meant for us, and
            # would be read as JSON.
            source.env_vars = {
                name: value
                for name, value in source.env_vars.items()
                if name == "environment" or name not in Settings.model_fields
            }
        return init_settings, env_settings, dotenv_settings


class SettingsError(Exception):
    """The environment cannot be used.

    Attributes:
        faults: one line for each fault, naming the variable and what to do.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(["the settings have faults:", *(f"  - {fault}" for fault in faults)]))


def env_file() -> Path | None:
    """The file read beside the environment: ENV_FILE, or `.env`; None when ENV_FILE is set and empty."""
    named = os.environ.get(ENV_FILE_VARIABLE)
    if named is None:
        return ROOT / ".env"
    return Path(named) if named else None


def load_settings(features: Iterable[type[FeatureSettings]] = ()) -> Settings:
    """Read the settings from the environment, and what is not there from the env file.

    Args:
        features: the groups of the features in use.

    Raises:
        SettingsError: every fault of every group at once.
    """
    faults: list[str] = []
    groups: dict[type[FeatureSettings], FeatureSettings] = {}
    for group in features:
        # The feature's class is wrapped only here, so that a test can build one from plain values.
        reader = type(
            group.__name__,
            (group, BaseSettings),
            {"__module__": group.__module__, "model_config": _feature_config(group)},
        )
        try:
            groups[group] = reader(_env_file=env_file())
        except ValidationError as error:
            faults += [_line(group.prefix + _name(fault["loc"]), fault["msg"]) for fault in error.errors()]
    try:
        settings = _read(groups)
    except ValidationError as error:
        faults += [_line(_name(fault["loc"]), fault["msg"]) for fault in error.errors()]
        # Read again with the bad values put aside, so that what else is wrong is said in the same breath.
        settings = _read(groups, **_replacements(error))
    faults += production_faults(settings)
    if faults:
        raise SettingsError(faults)
    return settings


def _read(groups: Mapping[type[FeatureSettings], FeatureSettings], **replaced: object) -> Settings:
    return _FromEnvironment(_env_file=env_file(), features=groups, **replaced)  # type: ignore[arg-type]  # checked by pydantic


def _replacements(error: ValidationError) -> dict[str, object]:
    replaced: dict[str, object] = {}
    for fault in error.errors():
        group, *rest = (str(part) for part in fault["loc"])
        if group == "environment":
            replaced[group] = Environment.PRODUCTION  # unknown: judge by the strictest rules
        elif rest:
            default = getattr(Settings.model_fields[group].default, rest[0])
            fields = replaced.setdefault(group, {})
            assert isinstance(fields, dict)
            fields[rest[0]] = default
        else:
            replaced[group] = Settings.model_fields[group].default
    return replaced


def production_faults(settings: Settings) -> list[str]:
    """What must be mended before `settings` may serve in production; empty elsewhere."""
    if not settings.production:
        return []
    faults: list[str] = []
    # The whole address of a managed service carries its password.
    managed = {
        f"{name}_PASSWORD".upper()
        for name, group in settings
        if (url := getattr(group, "url", None)) and url.get_secret_value()
    }
    for variable, field, value in _fields(settings):
        if _extra(field).get("required") and isinstance(value, SecretStr) and variable not in managed:
            faults += secret_faults(variable, value)
    if settings.storage.access_key:
        faults += secret_faults("STORAGE_SECRET_KEY", settings.storage.secret_key)
    if "*" in settings.http.cors_origins:
        faults.append("HTTP_CORS_ORIGINS: * lets every site in; name the origins")
    if "*" in settings.allowed_hosts:
        faults.append("HTTP_ALLOWED_HOSTS: * answers to any name; name the hosts")
    meaning = any(group.compares_meaning for group in settings.features)
    if meaning and settings.ai.embedding_provider == "offline" and not settings.ai.allow_offline:
        faults.append(
            "AI_EMBEDDING_PROVIDER: offline finds words, not meaning; choose openai, or accept it with AI_ALLOW_OFFLINE=true"
        )
    if settings.ai.embedding_provider == "openai" and not (
        settings.ai.openai_api_key.get_secret_value() or settings.ai.openai_base_url
    ):
        faults.append("AI_OPENAI_API_KEY: missing; set it, or AI_OPENAI_BASE_URL for a server of your own")
    return faults


def secret_faults(variable: str, value: SecretStr) -> list[str]:
    """Why a secret is too weak for production; empty when it is not."""
    secret = value.get_secret_value()
    advice = "make one: openssl rand -hex 32"
    if not secret:
        return [f"{variable}: missing; {advice}"]
    if len(secret) < MIN_SECRET_LENGTH:
        return [f"{variable}: shorter than {MIN_SECRET_LENGTH} characters; {advice}"]
    if len(set(secret)) < 8 or any(word in secret.lower() for word in WEAK_SECRET_WORDS):
        return [f"{variable}: a default or easily guessed value; {advice}"]
    return []


def redacted(settings: Settings) -> dict[str, object]:
    """The settings for the log: secrets as `**********`, or empty where none is set."""
    return {
        variable.lower(): str(value) if isinstance(value, SecretStr) else value
        for variable, _, value in _fields(settings)
    }


def documented(
    features: Iterable[type[FeatureSettings]],
) -> Iterable[tuple[str, str, list[tuple[str, FieldInfo]]]]:
    """Every group as (heading, text, [(variable, field)]), in the order of `.env.example`."""
    yield "General", "", [("ENVIRONMENT", Settings.model_fields["environment"])]
    for name, group in Settings.model_fields.items():
        if isinstance(kind := group.annotation, type) and issubclass(kind, BaseModel):
            fields = [(f"{name}_{key}".upper(), field) for key, field in kind.model_fields.items()]
            yield name.capitalize(), _first_line(kind), fields
    for feature in features:
        fields = [(f"{feature.prefix}{key.upper()}", field) for key, field in feature.model_fields.items()]
        yield feature.prefix.rstrip("_").capitalize(), _first_line(feature), fields


def default_text(field: FieldInfo) -> str:
    """The default of a field as it is written in an env file."""
    value = field.default
    if value is PydanticUndefined or value is None:
        return ""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def is_generated(field: FieldInfo) -> bool:
    """Whether `make setup` makes a fresh random value for this field."""
    return bool(_extra(field).get("generated"))


def _feature_config(group: type[FeatureSettings]) -> SettingsConfigDict:
    return SettingsConfigDict(env_prefix=group.prefix, env_ignore_empty=True, extra="ignore", frozen=True)


def _fields(settings: Settings) -> Iterable[tuple[str, FieldInfo, object]]:
    for name, group in settings:
        if isinstance(group, BaseModel):
            for key, field in type(group).model_fields.items():
                yield f"{name}_{key}".upper(), field, getattr(group, key)
    for feature in settings.features.values():
        for key, field in type(feature).model_fields.items():
            yield f"{feature.prefix}{key}".upper(), field, getattr(feature, key)


def _extra(field: FieldInfo) -> dict[str, object]:
    return dict(field.json_schema_extra) if isinstance(field.json_schema_extra, dict) else {}


def _name(location: tuple[int | str, ...]) -> str:
    return "_".join(str(part) for part in location).upper()


def _line(variable: str, message: str) -> str:
    return f"{variable}: {message[0].lower()}{message[1:]}"


def _first_line(thing: type) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0]
