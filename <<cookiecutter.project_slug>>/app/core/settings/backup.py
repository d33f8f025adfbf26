"""Backups."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, Field, SecretStr, field_validator

from app.core.settings.base import NO_SECRET, Address, secret
from app.core.settings.encryption import read_keys


class Backup(BaseModel):
    """Where backups go. In production a different place from STORAGE_*, with keys of its own."""

    s3_endpoint_url: Address = Field(
        default="",
        description="Address of the store; AWS is https://s3.REGION.amazonaws.com. Empty: the same as STORAGE_ENDPOINT_URL.",
    )
    s3_region: str = Field(default="us-east-1", description="Region of the bucket.")
    s3_bucket: str = Field(default="backup", description="Bucket of the backups.")
    s3_access_key: str = Field(default="", description="Access key. Empty: the same as STORAGE_ACCESS_KEY.")
    s3_secret_key: SecretStr = secret(
        "Secret key. Empty: the same as STORAGE_SECRET_KEY.", generated=False, required=False
    )
    s3_prefix: str = Field(default="backups/", description="Beginning of every key.")
    keys: SecretStr = Field(
        default=NO_SECRET,
        description="Keys that backups are encrypted with before they leave, as in ENCRYPTION_KEYS: the first one encrypts, all of them decrypt. Keep a copy where the backups are not: without it they are lost.",
        json_schema_extra={"generated": "encryption key"},
    )
    encryption: bool = Field(
        default=True,
        description="off: backups are stored readable, and readable ones are restored also where there are BACKUP_KEYS.",
    )
    delete: bool = Field(
        default=True,
        description="Let go what is too old. off: the keys may not delete, and the bucket's own lifecycle does: docs/backup.md.",
    )
    keep_days: int = Field(default=30, ge=1, description="Dumps older than this go.")
    keep_last: int = Field(
        default=3, ge=1, description="…but never the newest so many good ones, whatever the clock says."
    )
    redis_keep_days: int = Field(default=7, ge=1, description="Snapshots of the broker older than this go.")
    objects_days: int = Field(
        default=35,
        ge=1,
        description="How long an object that was deleted or overwritten can be brought back. More than BACKUP_KEEP_DAYS, so that each dump finds the objects that it names.",
    )
    logs_keep_days: int = Field(default=400, ge=1, description="Archives of logs older than this go.")
    logs_dir: Path | None = Field(
        default=None, description="Folder of log files that the monthly archive takes in as well. Empty: none."
    )
    loki_url: Address = Field(
        default="", description="Address of Loki, whose lines the monthly archive takes in as well. Empty: none."
    )
    loki_query: str = Field(default='{service=~".+"}', description="Which lines of Loki.")
    dump_at: str = Field(
        default="0 3 * * *", description="When PostgreSQL is dumped, in UTC, as in a crontab. off: never, also below."
    )
    base_at: str = Field(default="0 2 * * *", description="When a physical backup of PostgreSQL is made.")
    redis_at: str = Field(default="5 * * * *", description="When a snapshot of the broker is taken.")
    objects_at: str = Field(
        default="20 * * * *", description="When new objects are mirrored; they are after each dump as well."
    )
    logs_at: str = Field(default="0 4 1 * *", description="When the logs of the months before are archived.")
    prove_at: str = Field(
        default="0 5 * * 0", description="When the newest backups are restored to scratch places and compared."
    )
    retry_minutes: float = Field(default=15, gt=0, description="How soon a backup that failed is tried again.")
    longest_hours: float = Field(default=12, gt=0, description="A run that takes longer is ended.")
    drain_seconds: float = Field(
        default=60, ge=0, description="How long the end of the scheduler waits for a run under way."
    )
    wal_keep_days: int = Field(
        default=7,
        ge=1,
        description="Any second of so many days can be recovered, where the log is received: docs/backup.md.",
    )
    replication_user: str = Field(
        default="replication", description="Role of the physical backups; may replicate, nothing else."
    )
    replication_password: SecretStr = secret(
        "Its password. Empty: no physical backups, as with a managed database.", required=False
    )
    replication_url: SecretStr = Field(
        default=NO_SECRET,
        description="Its whole address, where the server is reached otherwise than by DATABASE_…: past a pooler, say.",
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

    @field_validator("keys")
    @classmethod
    def keys_can_be_read(cls, value: SecretStr) -> SecretStr:
        """They are keys."""
        read_keys(value.get_secret_value())
        return value

    @field_validator("dump_at", "base_at", "redis_at", "objects_at", "logs_at", "prove_at")
    @classmethod
    def off_is_never(cls, value: str) -> str:
        """An empty variable counts as unset, so that it takes a word to say never."""
        return "" if value == "off" else value

    def keys_by_id(self) -> Mapping[str, bytes]:
        """The keys, the current one first."""
        return read_keys(self.keys.get_secret_value())

    @property
    def is_physical(self) -> bool:
        """Whether there is a role to make physical backups with; a managed database rarely gives one."""
        return bool(self.replication_password.get_secret_value() or self.replication_url.get_secret_value())
