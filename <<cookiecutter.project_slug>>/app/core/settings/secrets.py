"""Where secrets come from beside the environment."""

from pydantic import BaseModel, Field

from app.core.settings.base import Address


class Secrets(BaseModel):
    """AWS Secrets Manager: one secret whose text is a JSON object of variables, read once when a process starts."""

    aws_id: str = Field(default="", description="Name or ARN of that secret. Empty: AWS is not asked.")
    aws_region: str = Field(
        default="", description="Its region. Empty: AWS_REGION, AWS_DEFAULT_REGION or the profile's."
    )
    aws_endpoint_url: Address = Field(
        default="", description="Address of Secrets Manager, for an endpoint within a VPC. Empty: that of the region."
    )
