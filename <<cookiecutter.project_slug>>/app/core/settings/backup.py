"""Backups."""

from pathlib import Path

from pydantic import BaseModel, Field, SecretStr

from app.core.settings.base import NO_SECRET, Address, secret


class Backup(BaseModel):
    """Where dumps of the database go. In production a different place from STORAGE_*, with keys of its own."""

    s3_endpoint_url: Address = Field(
        default="",
        description="Address of the store; AWS is https://s3.REGION.amazonaws.com. Empty: the same as STORAGE_ENDPOINT_URL.",
    )
    s3_region: str = Field(default="us-east-1", description="Region of the bucket.")
    s3_bucket: str = Field(default="backup", description="Bucket of the dumps.")
    s3_access_key: str = Field(default="", description="Access key. Empty: the same as STORAGE_ACCESS_KEY.")
    s3_secret_key: SecretStr = secret(
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
