"""Object storage."""

from pydantic import BaseModel, Field, SecretStr

from app.core.settings.base import Address, secret


class Storage(BaseModel):
    """S3-compatible object storage."""

    endpoint_url: Address = Field(
        default="http://127.0.0.1:9000", description="Address of the store; AWS is https://s3.REGION.amazonaws.com."
    )
    public_url: Address = Field(
        default="",
        description="Address at which browsers reach the store, for signed uploads and downloads. Empty: STORAGE_ENDPOINT_URL.",
    )
    region: str = Field(default="us-east-1", description="Region of the bucket.")
    bucket: str = Field(default="app", description="Bucket of the application.")
    access_key: str = Field(
        default="", description="Access key. Empty: the instance's role.", json_schema_extra={"generated": True}
    )
    secret_key: SecretStr = secret("Secret key. Empty: the instance's role.", required=False)
    timeout_seconds: float = Field(default=5, gt=0, description="Deadline to connect and between two packets.")
    deadline_seconds: float = Field(
        default=15,
        gt=0,
        description="Deadline of one call with its two further attempts. Less than HTTP_REQUEST_SECONDS.",
    )
    old_versions_days: int = Field(
        default=30, ge=1, description="How long the bucket keeps overwritten and deleted objects."
    )
