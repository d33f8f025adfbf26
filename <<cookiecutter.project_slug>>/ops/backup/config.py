"""What a run needs to know, out of the service's settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from app.core.settings import Settings, SettingsError, Storage
from ops.backup.manifest import Kind

# Of physical backups two at least: while the newest is being proven wrong, the log leads on from the one before.
BASES = 2


@dataclass(frozen=True)
class Keep:
    """How long backups of a kind are kept.

    Attributes:
        days: older ones go,
        last: but never the newest so many good ones.
        reaches: the newest one that is too old stays as well, because from it the log leads to all younger moments.
    """

    days: int
    last: int
    reaches: bool = False


@dataclass(frozen=True)
class LogSources:
    """Where logs lie beside the audit trail; each may be missing."""

    folder: Path | None = None
    loki: str = ""
    query: str = ""


@dataclass(frozen=True)
class Config:
    """The database, the store, and how long backups are kept.

    Attributes:
        dsn: the database as the application reaches it.
        admin_dsn: the same server as a role that may create and rename databases.
        replication_dsn: the same server as a role with REPLICATION; empty where there are no physical backups.
        keys: encrypt what is stored, the first one; all of them decrypt. None: it is stored as it is.
        encrypts: whether what is not encrypted is refused as well, where there are keys.
        may_delete: let what is too old go; otherwise that is the bucket's own lifecycle's work.
        files: the application's own bucket.
        broker: address of the broker.
        objects_days: how long deleted and overwritten objects can be brought back.
        logs: what the monthly archive takes in beside the audit trail.
        may_make_bucket: make a missing bucket. Elsewhere than in development it is the operator's, with its own rules.
    """

    dsn: str
    admin_dsn: str
    store: Storage
    prefix: str
    keep: Mapping[Kind, Keep]
    replication_dsn: str = ""
    keys: Mapping[str, bytes] = field(default_factory=dict)
    encrypts: bool = True
    may_delete: bool = True
    pg_bin: Path | None = None
    metrics_file: Path | None = None
    may_make_bucket: bool = False
    files: Storage = field(default_factory=Storage)
    broker: str = ""
    objects_days: int = 35
    logs: LogSources = field(default_factory=LogSources)

    @classmethod
    def from_settings(cls, settings: Settings) -> "Config":
        """The part of the settings that counts here; where the backup names no store of its own, it is the files'.

        Raises:
            SettingsError: production would store readable backups, and nobody said that it may.
        """
        backup, files = settings.backup, settings.storage
        if settings.production and backup.encryption and not backup.keys_by_id():
            raise SettingsError([NO_KEYS])
        store = Storage(
            endpoint_url=backup.s3_endpoint_url or files.endpoint_url,
            region=backup.s3_region,
            bucket=backup.s3_bucket,
            access_key=backup.s3_access_key or files.access_key,
            secret_key=backup.s3_secret_key if backup.s3_secret_key.get_secret_value() else files.secret_key,
            timeout_seconds=60,  # a store may take its time to put the parts of a large dump together
        )
        return cls(
            dsn=settings.database.dsn(),
            admin_dsn=backup.admin_url.get_secret_value() or settings.database.dsn(),
            store=store,
            prefix=backup.s3_prefix,
            keep={
                "dump": Keep(backup.keep_days, backup.keep_last),
                "redis": Keep(backup.redis_keep_days, backup.keep_last),
                # The newest alone reaches back BACKUP_OBJECTS_DAYS; the others are there in case it is damaged.
                "objects": Keep(OBJECT_LISTS_DAYS, backup.keep_last),
                "logs": Keep(backup.logs_keep_days, backup.keep_last),
                "base": Keep(backup.wal_keep_days, BASES, reaches=True),
                "proof": Keep(backup.keep_days, backup.keep_last),
            },
            replication_dsn=backup.replication_url.get_secret_value() or _replication_dsn(settings),
            keys=backup.keys_by_id(),
            encrypts=backup.encryption,
            may_delete=backup.delete,
            pg_bin=backup.pg_bin,
            metrics_file=backup.metrics_file,
            may_make_bucket=settings.environment == "development",
            files=settings.storage.model_copy(update={"timeout_seconds": 60}),
            broker=settings.broker.address(),
            objects_days=backup.objects_days,
            logs=LogSources(backup.logs_dir, backup.loki_url, backup.loki_query),
        )


OBJECT_LISTS_DAYS = 3


def _replication_dsn(settings: Settings) -> str:
    """The application's server as the replication role; where that has no password there are no physical backups."""
    backup = settings.backup
    password = backup.replication_password.get_secret_value()
    if not password:
        return ""
    parts = urlsplit(settings.database.dsn())
    user = f"{quote(backup.replication_user, safe='')}:{quote(password, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}"))


NO_KEYS = (
    "BACKUP_KEYS: missing; make one: python -m app.cli encryption new-key, and keep a copy where the backups are not;"
    " BACKUP_ENCRYPTION=off stores them readable"
)
