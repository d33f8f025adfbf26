"""Settings of the accounts feature."""

from typing import ClassVar

from pydantic import Field

from app.core.settings import Address, CommaList, FeatureSettings


class AccountsSettings(FeatureSettings):
    """Who may come in, and for how long."""

    prefix: ClassVar[str] = "ACCOUNTS_"

    registration: bool = Field(default=True, description="Whether people may register by themselves.")
    email_domains: CommaList = Field(
        default=(),
        description="Domains whose addresses may register, comma-separated, subdomains not included. Empty: any.",
    )
    verified_email: bool | None = Field(
        default=None,
        description="Whether signing in needs an e-mail address that has been confirmed. Without it, whoever registers an address and signs in learns whether it was taken. Empty: only in production.",
    )
    link_base_url: Address = Field(
        default="",
        description="Address of the pages that mailed links lead to: https://app.example.com. They get the token behind a #. Empty: the mail holds the token alone.",
    )
    refresh_token_days: int = Field(
        default=7, ge=1, le=90, description="Life of a refresh token; each use gives a new one."
    )
    session_days: int = Field(
        default=90, ge=1, le=366, description="After so many days people sign in again, however often they came."
    )
    verification_hours: int = Field(default=48, ge=1, description="Life of the link that confirms an address.")
    reset_minutes: int = Field(default=60, ge=5, description="Life of the link that sets a new password.")
    mail_pause_seconds: int = Field(
        default=60, ge=0, description="How long nobody can have another mail of the same kind sent to the same person."
    )
    throttle_minutes: int = Field(
        default=15, ge=1, description="The time in which failed attempts to sign in are counted, and held back."
    )
    attempts_per_client: int = Field(
        default=5, ge=1, description="Failed attempts for one account from one address in that time."
    )
    attempts_per_account: int = Field(
        default=50,
        ge=1,
        description="Failed attempts for one account from everywhere; then only addresses that it has signed in from may try.",
    )
    argon2_memory_kib: int = Field(default=65536, ge=8192, description="Memory of one password hash.")
    argon2_passes: int = Field(
        default=3, ge=1, description="Passes over that memory. People's hashes are renewed when they sign in."
    )
    argon2_lanes: int = Field(default=4, ge=1, description="Lanes of one password hash.")
