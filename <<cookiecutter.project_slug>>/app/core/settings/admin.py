"""The admin page."""

from pydantic import BaseModel, Field, SecretStr

from app.core.settings.base import secret


class Admin(BaseModel):
    """The admin page at /admin, for superusers. nginx lets nobody through to it unless NGINX_ADMIN=on as well."""

    enabled: bool = Field(default=False, description="Serve it.")
    secret_key: SecretStr = secret("Signs its cookies. Changing it signs everyone out there.", required=False)
    idle_minutes: int = Field(default=15, ge=1, le=480, description="Who does nothing for so long is signed out.")
