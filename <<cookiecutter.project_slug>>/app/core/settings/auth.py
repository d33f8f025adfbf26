"""Sign-in tokens."""

from pydantic import BaseModel, Field, SecretStr

from app.core.settings.base import secret


class Auth(BaseModel):
    """Sign-in tokens."""

    secret_key: SecretStr = secret("Signs the tokens. Changing it signs everyone out.")
    access_token_minutes: int = Field(default=30, ge=1, description="Life of an access token.")
