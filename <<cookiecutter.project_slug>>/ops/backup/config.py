"""What a run needs to know, out of the service's settings."""

from dataclasses import dataclass
from pathlib import Path

from app.core.settings import Settings, Storage


@dataclass(frozen=True)
class Config:
    """The database, the store, and how long backups are kept.

    Attributes:
        dsn: the database as the application reaches it.
        admin_dsn: the same server as a role that may create and rename databases.
        may_make_bucket: make a missing bucket. Elsewhere than in development it is the operator's, with its own rules.
    """

    dsn: str
    admin_dsn: str
    store: Storage
    prefix: str
    keep_days: int
    keep_last: int
    pg_bin: Path | None = None
    metrics_file: Path | None = None
    may_make_bucket: bool = False

    @classmethod
    def from_settings(cls, settings: Settings) -> "Config":
        """The part of the settings that counts here; where the backup names no store of its own, it is the files'."""
        backup, files = settings.backup, settings.storage
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
            keep_days=backup.keep_days,
            keep_last=backup.keep_last,
            pg_bin=backup.pg_bin,
            metrics_file=backup.metrics_file,
            may_make_bucket=settings.environment == "development",
        )
